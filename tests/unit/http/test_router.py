"""Which part answers a request, and that every error becomes one response in the format of its path."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from understudy.errors import Overloaded
from understudy.http.asgi import ClientGone, respond
from understudy.http.responses import json_response
from understudy.http.router import AppRouter, route


class Bento:
    """BentoML's application: it answers its own paths, and raises after its answer where it has a bug."""

    routes = (SimpleNamespace(path="/metrics"), SimpleNamespace(path="/livez"), SimpleNamespace(path="/static"))

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        await respond(send, 200, [], b"bento")
        if scope["path"] == "/static/bug":
            raise RuntimeError("as it happens")


async def look(request: Request) -> Response:
    return json_response({"name": request.path_params.get("name"), "method": request.method})


def failing(error: Exception) -> Callable[[Request], Awaitable[Response]]:
    async def fail(_request: Request) -> Response:
        raise error

    return fail


async def predict(_scope: Any, _receive: Any, send: Any) -> None:
    await respond(send, 200, [], b"prediction")


def router() -> AppRouter:
    made = AppRouter(Bento())
    made.open(
        [
            route("/look", look, "GET"),
            route("/both", look, "POST", "GET"),
            route("/named/{name}", look, "GET"),
            route("/livez", look, "GET"),
            route("/predict", predict, "POST"),
            route("/full", failing(Overloaded("full", retry_after_s=7)), "GET"),
            route("/bug", failing(RuntimeError("as it happens")), "GET"),
            route("/v2/bug", failing(RuntimeError("as it happens")), "GET"),
            route("/gone", failing(ClientGone()), "GET"),
        ],
        {"/predict": predict},
        error_formats={"/v2": lambda error: (int(error.status), [], b"v2")},
    )
    return made


def call(path: str, method: str = "GET", made: AppRouter | None = None) -> tuple[int, dict[str, str], bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "path": path, "method": method, "headers": [], "query_string": b""}
    asyncio.run((made or router())(scope, receive, send))
    if not sent:
        return 0, {}, b""
    assert len(sent) == 2
    head = {name.decode(): value.decode() for name, value in sent[0].get("headers", ())}
    return sent[0]["status"], head, sent[1]["body"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/look", b'{"name":null,"method":"GET"}'),
        ("POST", "/both", b'{"name":null,"method":"POST"}'),
        ("GET", "/named/ada", b'{"name":"ada","method":"GET"}'),
        ("POST", "/predict", b"prediction"),
        ("GET", "/metrics", b"bento"),
        ("GET", "/static/a.js", b"bento"),
        ("GET", "/livez", b'{"name":null,"method":"GET"}'),
    ],
)
def test_each_path_has_one_part_that_answers(method: str, path: str, body: bytes) -> None:
    """Our own routes come before BentoML's."""
    assert call(path, method)[::2] == (200, body)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("HEAD", "/look", "GET"), ("PUT", "/both", "GET, POST"), ("GET", "/predict", "POST"), ("POST", "/livez", "GET")],
)
def test_another_method_is_405_and_learns_which_are_allowed(method: str, path: str, allow: str) -> None:
    """As problem details, in the order of the alphabet."""
    status, head, body = call(path, method)

    assert (status, head["allow"], json.loads(body)["detail"]) == (405, allow, f"{path} takes {allow}")


@pytest.mark.parametrize("path", ["/look/", "/named/", "/named/a/b", "/statics", "/", ""])
def test_a_path_that_nobody_has_is_404(path: str) -> None:
    """No redirect to a similar one."""
    status, head, body = call(path)

    assert (status, head["content-type"]) == (404, "application/problem+json")
    assert repr(path) in json.loads(body)["detail"]


def test_errors_keep_their_status_and_headers() -> None:
    """An error that was raised on purpose."""
    status, head, body = call("/full")

    assert (status, head["retry-after"], json.loads(body)["detail"]) == (429, "7", "full")


def test_a_bug_is_a_500_without_a_traceback_in_the_format_of_its_path() -> None:
    """Also for a request that skipped ASGI, whose connection uses the same method."""
    status, head, body = call("/bug")
    said = json.loads(body)

    assert (status, head["content-type"]) == (500, "application/problem+json")
    assert said["detail"] == "an unexpected error; the log has the details"
    assert router().error_reply("/bug", RuntimeError("as it happens"))[::2] == (500, body)
    assert call("/v2/bug")[::2] == (500, b"v2")


def test_a_client_that_has_gone_gets_no_response() -> None:
    """And neither is it an error."""
    assert call("/gone") == (0, {}, b"")


def test_a_bug_of_bentoml_s_is_not_answered_twice() -> None:
    """BentoML has answered when it raises; the connection logs what it raised."""
    with pytest.raises(RuntimeError, match="as it happens"):
        call("/static/bug")


def test_a_process_that_drains_closes_its_connections() -> None:
    """Each with its next response, whoever answers it."""
    made = router()
    made.direct[b"/predict"] = lambda request: None
    made.drain()

    assert made.direct == {}
    for path, method in (("/look", "GET"), ("/predict", "POST"), ("/metrics", "GET"), ("/nothing", "GET")):
        assert call(path, method, made)[1]["connection"] == "close"
