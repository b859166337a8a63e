"""Bodies are read under limits of size and time; what is no JSON is refused in words; problems have one shape."""

import asyncio
import itertools
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as st

from understudy.api.access import json_object
from understudy.errors import (
    BodyTimeout,
    InvalidInput,
    MalformedRequest,
    Overloaded,
    TooLarge,
    Unauthorized,
    UnderstudyError,
    WrongMediaType,
)
from understudy.http.asgi import ClientGone, header, peer, problem_details, read_body, require_json, respond


class Caller:
    """A caller that sends the given messages and then, unless it hangs up, nothing more."""

    def __init__(self, messages: Iterable[dict[str, Any]]) -> None:
        self.messages = list(messages)
        self.asked = 0

    async def __call__(self) -> dict[str, Any]:
        self.asked += 1
        if not self.messages:
            await asyncio.sleep(3600)
        return self.messages.pop(0)


GONE = {"type": "http.disconnect"}


def part(body: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def scope(**headers: str) -> dict[str, Any]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}


def read(
    caller: Callable[[], Any], *, max_bytes: int = 10, timeout_s: float = 0.02, loop: Any = None, **headers: str
) -> bytes:
    async def main() -> bytes:
        async with asyncio.timeout(2):  # a test that would hang fails instead
            return await read_body(scope(**headers), caller, max_bytes=max_bytes, timeout_s=timeout_s)

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main())


@example(b"0123456789", [5], 10)
@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=5), st.integers(0, 40))
def test_a_body_arrives_whole_however_it_is_cut_or_is_too_large(body: bytes, cuts: list[int], limit: int) -> None:
    """In one message or in many, empty ones among them; exactly `limit` bytes still fit."""
    edges = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    pieces = [body[a:b] for a, b in itertools.pairwise(edges)] or [b""]
    caller = Caller(part(piece, more=i < len(pieces) - 1) for i, piece in enumerate(pieces))

    if len(body) <= limit:
        assert read(caller, max_bytes=limit) == body
    else:
        with pytest.raises(TooLarge, match=f"the limit is {limit} "):
            read(caller, max_bytes=limit)


def test_a_body_that_is_declared_too_large_is_not_read() -> None:
    """413 after the first piece: the rest is not waited for."""
    caller = Caller([part(b"abc", more=True), part(b"def", more=False)])

    with pytest.raises(TooLarge, match=r"has 11 bytes or more; the limit is 10 \(UNDERSTUDY_BODY_MAX_BYTES\)"):
        read(caller, content_length="11")
    assert caller.asked == 1


def test_a_body_that_is_larger_than_declared_is_not_kept() -> None:
    """Sent without a length, or with a false one: reading stops where the limit is passed."""
    for declared in ({}, {"content_length": "3"}, {"content_length": "many"}):
        caller = Caller(part(b"abcd", more=True) for _ in range(100))
        with pytest.raises(TooLarge):
            read(caller, **declared)
        assert caller.asked == 3


LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@LOOPS
@pytest.mark.parametrize("sent", [[], [part(b"abc", more=True)]], ids=["nothing", "half"])
def test_a_body_that_does_not_arrive_is_given_up(sent: list[dict[str, Any]], loop: Any) -> None:
    """A slow caller holds no worker: 408 after the limit, whether the body stops half way or never begins."""
    with pytest.raises(BodyTimeout, match=r"not complete after 0\.02 s"):
        read(Caller(sent), loop=loop, content_length="6")


class Slow(Caller):
    """Each message only after a while: some turns of the loop, then a timer, with what a coroutine may do meanwhile."""

    async def __call__(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            await asyncio.sleep(0.001)
        return await super().__call__()


class Future(Caller):
    """An application that hands out futures instead of coroutines: any awaitable will do."""

    def __call__(self) -> Any:
        return asyncio.ensure_future(super().__call__())


@LOOPS
@pytest.mark.parametrize("kind", [Slow, Future])
@pytest.mark.parametrize("pieces", [[b"abc"], [b"a", b"b", b"c"]], ids=["whole", "in pieces"])
def test_a_body_that_arrives_late_is_read(loop: Any, kind: type[Caller], pieces: list[bytes]) -> None:
    """Waiting for the first piece is no different from waiting for the others."""
    messages = [part(piece, more=i < len(pieces) - 1) for i, piece in enumerate(pieces)]

    assert read(kind(messages), loop=loop, timeout_s=5) == b"abc"
    with pytest.raises(ClientGone):
        read(kind([GONE]), loop=loop, timeout_s=5)
    with pytest.raises(BodyTimeout):
        read(kind([]), loop=loop)


@pytest.mark.parametrize("late", [False, True])
def test_what_receive_raises_comes_through(late: bool) -> None:
    """At once, or after it has waited."""

    async def broken() -> dict[str, Any]:
        if late:
            await asyncio.sleep(0)
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"):
        read(broken)


def test_a_reader_that_is_cancelled_leaves_nothing_waiting() -> None:
    """The server's own coroutine hears of it, and cleans up."""
    told: list[str] = []

    async def receive() -> dict[str, Any]:
        try:
            await asyncio.sleep(3600)
        finally:
            told.append("cancelled")
        raise AssertionError

    async def main() -> None:
        reader = asyncio.create_task(read_body(scope(), receive, max_bytes=10, timeout_s=60))
        await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader

    asyncio.run(main())
    assert told == ["cancelled"]


def test_a_body_that_is_here_costs_no_timer() -> None:
    """Most are: a timer for each would cost more than reading them."""
    coroutine = read_body(scope(), Caller([part(b"abc", more=False)]), max_bytes=10, timeout_s=1)

    with pytest.raises(StopIteration) as finished:  # without an event loop, hence without a timer
        coroutine.send(None)
    assert finished.value.value == b"abc"


@pytest.mark.parametrize("sent", [[GONE], [part(b"abc", more=True), GONE]], ids=["at once", "half way"])
def test_a_caller_that_hangs_up_is_nobody_to_answer(sent: list[dict[str, Any]]) -> None:
    """It is no error of ours, and not a body either."""
    with pytest.raises(ClientGone):
        read(Caller(sent))


@pytest.mark.parametrize(
    "kind",
    [None, "application/json", "application/json; charset=utf-8", "Application/JSON", "application/problem+json"],
)
def test_json_is_taken(kind: str | None) -> None:
    """And a body that says nothing of its kind is taken at its word."""
    require_json(scope() if kind is None else scope(content_type=kind))


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/octet-stream", "application/jsonp", "json", "text/x+json", ""]
)
def test_another_kind_is_refused_by_its_name(kind: str) -> None:
    """415, with what was sent."""
    with pytest.raises(WrongMediaType) as caught:
        require_json(scope(content_type=kind))
    assert repr(kind) in caught.value.detail
    assert int(caught.value.status) == 415


def test_headers_are_found_by_their_lower_case_name() -> None:
    """The first one where there are two; bytes beyond ASCII do no harm."""
    made = {"headers": [(b"x-rollout-key", b"caf\xe9"), (b"x-rollout-key", b"second")]}

    assert header(made, b"x-rollout-key") == "café"
    assert header(made, b"x-rollout") is None


@pytest.mark.parametrize(
    ("client", "address"), [(("10.0.0.1", 5000), "10.0.0.1"), (("::1", 1, 0, 0), "::1"), (None, None), (("", 0), None)]
)
def test_the_peer_is_an_address_or_nobody_on_a_unix_socket(client: Any, address: str | None) -> None:
    """Whatever a proxy's header may say."""
    assert peer({"client": client, "headers": [(b"x-forwarded-for", b"127.0.0.1")]}) == address
    assert peer({"headers": []}) is None


@pytest.mark.parametrize(("body", "found"), [(b"", {}), (b" \n", {}), (b"{}", {}), (b'{"weight": 5}', {"weight": 5})])
def test_a_small_object_is_read_and_nothing_is_an_empty_one(body: bytes, found: dict[str, Any]) -> None:
    """An order without a body is one without a reason."""
    assert json_object(body) == found


@pytest.mark.parametrize(
    "body", [b"[]", b"1", b'"x"', b"null", b"{", b"\xff", b'{"a": "\xff"}', b"[" * 100_000, b"NaN"]
)
def test_what_is_no_object_is_malformed(body: bytes) -> None:
    """400, never an exception of the parser's own."""
    with pytest.raises(MalformedRequest, match="body"):
        json_object(body)


def sent_by(send: Any) -> tuple[int, dict[bytes, bytes], bytes]:
    """What `send(asgi_send)` sent: status, headers, body."""
    messages: list[Any] = []

    async def take(message: Any) -> None:
        messages.append(message)

    asyncio.run(send(take))
    start, body = messages
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    return start["status"], dict(start["headers"]), body["body"]


def test_an_answer_is_complete_in_two_messages() -> None:
    """With its length, its kind and the headers that were asked for."""
    status, headers, body = sent_by(lambda send: respond(send, 201, [(b"content-type", b"text/plain")], b"abc"))

    assert (status, body) == (201, b"abc")
    assert headers == {b"content-type": b"text/plain", b"content-length": b"3"}


@pytest.mark.parametrize(
    ("error", "status", "more"),
    [
        (MalformedRequest("no"), 400, {}),
        (Overloaded("full", retry_after_s=7), 429, {b"retry-after": b"7"}),
        (Unauthorized("who?", headers={"WWW-Authenticate": "Bearer"}), 401, {b"www-authenticate": b"Bearer"}),
        (UnderstudyError("a bug"), 500, {}),
    ],
)
def test_a_problem_is_rfc_9457(error: UnderstudyError, status: int, more: dict[bytes, bytes]) -> None:
    """`type`, `title`, `status`, `detail`, with the status of the answer and the headers of the error."""
    got, headers, body = sent_by(lambda send: respond(send, *problem_details(error)))
    said = json.loads(body)

    assert got == said["status"] == status
    assert said.keys() == {"type", "title", "status", "detail"}
    assert (said["type"], said["detail"]) == (f"urn:understudy:problem:{error.kind}", error.detail)
    assert headers[b"content-type"] == b"application/problem+json"
    assert more.items() <= headers.items()


def test_of_many_problems_the_first_are_listed_and_the_rest_are_counted() -> None:
    """So that a body with a thousand bad rows gets a short answer."""
    errors = [{"row": i, "field": "x", "problem": "is missing"} for i in range(25)]
    _, _, body = sent_by(lambda send: respond(send, *problem_details(InvalidInput(errors))))
    said = json.loads(body)

    assert said["errors"] == errors[:20]
    assert said["detail"] == "row 0, field 'x': is missing (and 24 more; the first 20 are listed)"
