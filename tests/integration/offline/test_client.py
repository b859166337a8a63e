"""The client says who is asking, passes revisions on, and turns whatever goes wrong into one error in words."""

import contextlib
import json
import socket
from typing import Any

import pytest

from tests.support.http_stub import nowhere, serving
from understudy.errors import NotAllowedNow
from understudy.offline.client import CallFailed, Client, headers


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDERSTUDY_TOKEN", raising=False)


def test_it_gets_json_and_text_and_posts_json() -> None:
    """With parameters in the query; a trailing slash of the address does not matter."""
    with serving(
        GET_rollout_events=(200, {"events": []}),
        GET_metrics=(200, b"a 1\n"),
        POST_rollout_weight=(200, {"revision": 3}),
    ) as stub:
        client = Client(stub.url + "/")
        assert client.get("/rollout/events", after=1, limit=2) == {"events": []}
        assert client.text("/metrics") == "a 1\n"
        assert client.post("/rollout/weight", {"weight": 5}) == {"revision": 3}
        client.close()

    assert [one.path for one in stub.asked] == ["/rollout/events?after=1&limit=2", "/metrics", "/rollout/weight"]
    assert json.loads(stub.asked[2].body) == {"weight": 5}
    assert not [one for one in stub.asked if "authorization" in one.headers or "if-match" in one.headers]


def test_a_revision_is_sent_as_if_match() -> None:
    """Quoted, as an entity tag is."""
    with serving(POST_rollout_weight=(200, {})) as stub, contextlib.closing(Client(stub.url)) as client:
        client.post("/rollout/weight", {}, revision=0)

    assert stub.asked[0].headers["if-match"] == '"0"'


def test_the_token_is_the_one_given_or_the_environment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is given wins; an empty one is none."""
    assert headers(None) == headers("") == {}
    monkeypatch.setenv("UNDERSTUDY_TOKEN", "from-env")
    assert headers("given") == {"Authorization": "Bearer given"}
    with serving(GET_rollout=(200, {})) as stub, contextlib.closing(Client(stub.url)) as client:
        client.get("/rollout")

    assert stub.asked[0].headers["authorization"] == "Bearer from-env"


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (409, NotAllowedNow("revision 3 is in force, not 1").problem(), "409 revision 3 is in force, not 1"),
        (502, b"<html>bad gateway</html>", "502 <html>bad gateway</html>"),
        (500, b"[1, 2]", "500 [1, 2]"),
        (500, {"title": "no detail"}, '500 {"title": "no detail"}'),
        (500, b"x" * 1000, "500 " + "x" * 300),
    ],
)
def test_a_refusal_is_said_in_the_service_s_own_words(status: int, body: Any, says: str) -> None:
    """Problem details where there are any, else the beginning of what came."""
    with (
        serving(GET_rollout=(status, body)) as stub,
        contextlib.closing(Client(stub.url)) as client,
        pytest.raises(CallFailed) as caught,
    ):
        client.get("/rollout")

    assert caught.value.detail == f"GET /rollout: {says}"


def test_a_service_that_is_not_there_is_said_with_the_way_to_start_it() -> None:
    """Nothing listens, or it hangs up, or it takes too long."""
    url = nowhere()
    with (
        contextlib.closing(Client(url)) as client,
        pytest.raises(CallFailed, match="`understudy serve` starts it") as caught,
    ):
        client.get("/rollout")
    assert caught.value.detail.startswith(f"{url} does not answer")
    with (
        serving(GET_rollout=(200, None)) as stub,
        contextlib.closing(Client(stub.url)) as client,
        pytest.raises(CallFailed, match="does not answer"),
    ):
        client.get("/rollout")


def test_an_answer_that_does_not_come_is_given_up() -> None:
    """After the client's time limit."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        client = Client(f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout_s=0.05)
        with contextlib.closing(client), pytest.raises(CallFailed, match="timed out"):
            client.get("/rollout")
