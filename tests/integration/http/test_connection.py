"""Our connection beside uvicorn's own, over real sockets: the same bytes in, the same answers out; and what is taken directly."""

import asyncio
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.support.waiting import until
from understudy.http.asgi import CompleteRequest, peer
from understudy.http.connection import GATHER_S, READ_AHEAD, Connection

KEEP_ALIVE_S = 1
BUG = b'"detail":"an unexpected error; the log has the details"'
SILENCE_S = 0.3
"""An exchange is over when nothing more comes for so long after the first bytes; those may take as long as a busy machine does."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers in the ways that an application may."""
    path, body, more = scope["path"], b"", True
    while more and path != "/early":
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    if path == "/slow":
        await asyncio.sleep(0.05)
    elif path == "/raises":
        raise RuntimeError("as it happens")
    elif path == "/nothing":
        return
    headers = [(b"content-type", b"text/plain"), *SENT.get(path, [])]
    if path not in {"/chunks", "/empty"}:
        told = b" ".join(
            (scope["method"].encode(), scope["raw_path"], scope["query_string"], scope["path"].encode(), body)
        )
        headers.append((b"content-length", str(len(told) + (path == "/short")).encode()))
    await send({"type": "http.response.start", "status": 204 if path == "/empty" else 200, "headers": headers})
    if path == "/chunks":
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})
    else:
        await send({"type": "http.response.body", "body": b"" if path == "/empty" else told})


SENT = {
    "/injected": [(b"x-a", b"b\r\nx-c: d")],
    "/last": [(b"connection", b"close")],
}


class Taker:
    """An application that takes some requests directly."""

    def __init__(self) -> None:
        self.direct = {b"/direct": self.take}
        self.seen: list[bytes] = []
        self.answered: list[bytes] = []
        self.clients: list[str | None] = []

    def take(self, whole: CompleteRequest) -> None:
        self.seen.append(whole.body)
        self.clients.append(peer(whole.scope))
        if whole.body == b"bug":
            raise RuntimeError("as it happens")

        def answer() -> None:
            whole.reply(200, [(b"x-taken", b"1")], b"taken " + whole.body)
            self.answered.append(whole.body)

        if whole.body == b"later":
            asyncio.get_running_loop().call_later(0.05, answer)
        else:
            answer()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.clients.append(peer(scope))
        await app(scope, receive, send)


class Served:
    """A uvicorn in a thread."""

    def __init__(self, application: Any, protocol: Any) -> None:
        config = uvicorn.Config(
            application,
            port=0,
            http=protocol,
            ws="none",
            lifespan="off",
            log_level="critical",
            timeout_keep_alive=KEEP_ALIVE_S,
            server_header=False,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        until(lambda: self.server.started or not self.thread.is_alive())
        assert self.server.started
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def exchange(self, *pieces: bytes, pause_s: float = 0.02) -> bytes:
        """What comes back for bytes that are sent in pieces, until the server closes or is silent; without the date."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause_s)
            got = b""
            try:
                while part := connection.recv(65536):
                    got += part
                    connection.settimeout(SILENCE_S)
                got += b"<closed>"
            except TimeoutError:
                pass
        return re.sub(rb"date: [^\r]*\r\n", b"", got)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(5)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Served, Served]]:
    """uvicorn's own, and ours."""
    servers = Served(app, HttpToolsProtocol), Served(app, Connection)
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def direct() -> Iterator[tuple[Served, Taker]]:
    taker = Taker()
    server = Served(taker, Connection)
    yield server, taker
    server.stop()


def post(path: str, body: bytes = b"", version: str = "1.1", extra: str = "") -> bytes:
    return f"POST {path} HTTP/{version}\r\nHost: h\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


LARGE = post("/direct", b"x" * 300_000)
LARGER = post("/direct", b"x" * (READ_AHEAD + 1))


@pytest.mark.parametrize(
    "pieces",
    [
        [post("/a", b"body")],
        [post("/a?x=1&y=%20", b"body")],
        [post("/%C3%A6%20b", b"body")],
        [b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"],
        [b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n"],
        [b"HEAD /chunks HTTP/1.1\r\nHost: h\r\n\r\n"],
        [post("/a", b"x" * 200_000)],
        [post("/a", b"one"), post("/a", b"two")],
        [post("/slow", b"one") + post("/a", b"two") + post("/slow", b"three")],
        [post("/a", b"half")[:-2], b"lf"],
        [post("/a", b"half")[:20], post("/a", b"half")[20:]],
        [b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n"],
        [post("/chunks")],
        [post("/empty")],
        [post("/a", b"old", version="1.0")],
        [post("/a", b"end", extra="Connection: close\r\n"), post("/a", b"never")],
        [post("/last", b"x")],
        [post("/early", b"x" * 10)],
        [post("/a", b"x", extra="Expect: 100-continue\r\n")],
        [post("/a", b"x", extra="Upgrade: websocket\r\nConnection: Upgrade\r\n")],
        [b"nonsense\r\n\r\n"],
        [post("/a", b"x"), b"\x00\x01\x02"],
    ],
    ids=lambda pieces: repr(b"".join(pieces)[:40]),
)
def test_the_same_bytes_get_the_same_answer(both: tuple[Served, Served], pieces: list[bytes]) -> None:
    """Whatever the client does: in pieces, in a row, in chunks, in HTTP/1.0, or not in HTTP at all."""
    uvicorns, ours = (server.exchange(*pieces) for server in both)

    assert ours
    assert ours == uvicorns


@pytest.mark.parametrize("path", ["/raises", "/nothing", "/injected", "/short"])
def test_an_application_that_breaks_the_rules_is_a_500_or_a_cut_answer(both: tuple[Served, Served], path: str) -> None:
    """And a header that a caller made up never becomes two."""
    got = both[1].exchange(post(path))

    assert b"x-c" not in got
    assert got.startswith(b"HTTP/1.1 500") or got == b"<closed>"
    assert b"Traceback" not in got


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(both: tuple[Served, Served]) -> None:
    """After the time for which it may be idle, counted from its last answer."""
    with both[1].connect() as connection:
        for _ in range(3):
            connection.sendall(post("/a", b"x"))
            assert b"200 OK" in connection.recv(65536)
            time.sleep(KEEP_ALIVE_S * 0.6)
        started = time.monotonic()
        assert connection.recv(65536) == b""
        assert time.monotonic() - started < KEEP_ALIVE_S + 0.5


def test_a_request_that_is_here_whole_is_taken_directly(direct: tuple[Served, Taker]) -> None:
    """Now or later, and what comes behind it waits for it."""
    server, _ = direct
    taken = b"HTTP/1.1 200 OK\r\nx-taken: 1\r\ncontent-length: %d\r\n\r\ntaken %b"
    assert server.exchange(post("/direct", b"a")) == taken % (7, b"a")
    assert server.exchange(post("/direct", b"later")) == taken % (11, b"later")
    both = server.exchange(post("/direct", b"later") + post("/a", b"b") + post("/direct", b"c"))
    assert both.startswith(taken % (11, b"later") + b"HTTP/1.1 200 OK\r\ncontent-type")
    assert both.count(b"HTTP/1.1 200") == 3
    assert server.exchange(post("/direct", b"x", version="1.0")).endswith(b"connection: close\r\n\r\ntaken x<closed>")


@pytest.mark.parametrize(
    "pieces",
    [
        [post("/direct", b"in two")[:-3], b"two"],
        [LARGE[:100], LARGE[100:]],
        [LARGER],
        [b"GET /direct HTTP/1.1\r\nHost: h\r\n\r\n"],
        [post("/direct?x", b"")],
        [post("/direct", b"x", extra="Expect: 100-continue\r\n")],
        [post("/slow", b"x") + post("/direct", b"x")],
    ],
    ids=["slow", "slow and large", "larger", "method", "query", "continue", "behind"],
)
def test_everything_else_goes_the_way_of_asgi(direct: tuple[Served, Taker], pieces: list[bytes]) -> None:
    """What is slow to come or too large to be gathered, and what waits for another."""
    server, taker = direct
    taker.seen.clear()
    got = server.exchange(*pieces, pause_s=5 * GATHER_S)

    assert b" /direct" in got
    assert b"x-taken" not in got
    assert taker.seen == []


@pytest.mark.parametrize(
    ("extra", "client"),
    [
        ("", "127.0.0.1"),
        ("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"),
        ("X-Forwarded-For: 192.0.2.1, 198.51.100.7\r\n", "198.51.100.7"),
        ("X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 198.51.100.7, 127.0.0.1\r\n", "198.51.100.7"),
        ("X-Forwarded-Proto: https\r\n", "127.0.0.1"),
    ],
)
def test_a_proxied_request_is_taken_directly_and_its_client_is_the_proxys_word(
    direct: tuple[Served, Taker], extra: str, client: str
) -> None:
    """A proxy on this machine is trusted, as by uvicorn; a request that comes in pieces has the same client by ASGI."""
    server, taker = direct
    taker.clients.clear()
    server.exchange(post("/direct", b"a", extra=extra))
    server.exchange(post("/direct", b"in two", extra=extra)[:-3], b"two", pause_s=5 * GATHER_S)

    assert taker.clients == [client, client]


def test_a_body_that_comes_in_pieces_is_taken_directly(direct: tuple[Served, Taker]) -> None:
    """And so is what comes behind it; who hangs up in the middle leaves nothing."""
    server, taker = direct
    taker.seen.clear()
    got = server.exchange(LARGE[:100], LARGE[100:100_000], LARGE[100_000:] + post("/direct", b"a"), pause_s=0.002)
    with server.connect() as connection:
        connection.sendall(LARGE[:1_000])
    time.sleep(2 * GATHER_S)  # no longer than this is anything gathered; nothing must come of it

    assert got.count(b"x-taken: 1") == 2
    assert [len(body) for body in taker.seen] == [300_000, 1]


def test_a_server_that_stops_answers_what_has_begun_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is not cut while a body that would be taken directly is on its way."""
    monkeypatch.setattr("understudy.http.connection.GATHER_S", 10.0)
    server = Served(Taker(), Connection)
    with server.connect() as connection:
        connection.sendall(LARGE[:1_000])
        connections = server.server.server_state.connections
        until(lambda: connections)
        (served,) = connections
        until(lambda: served._gathered)
        server.server.should_exit = True
        until(lambda: served._handler is None)  # the server has shut the connection down: the request is a task now
        connection.sendall(LARGE[1_000:])
        connection.settimeout(3)
        got = connection.recv(65536)
    server.stop()

    assert got.startswith(b"HTTP/1.1 200 OK")


def test_a_bug_in_a_taker_is_a_500(direct: tuple[Served, Taker]) -> None:
    """And the connection goes on."""
    server, _ = direct
    got = server.exchange(post("/direct", b"bug"), post("/direct", b"a"))

    assert got.startswith(b"HTTP/1.1 500 Internal Server Error")
    assert BUG in got
    assert got.endswith(b"taken a")


def test_a_bug_is_the_same_problem_through_asgi(both: tuple[Served, Served]) -> None:
    """If no handler has turned it into a response; the connection is closed then."""
    got = both[1].exchange(post("/raises"))

    assert got.startswith(b"HTTP/1.1 500 Internal Server Error")
    assert BUG in got
    assert b"connection: close" in got


def test_a_caller_who_has_gone_is_not_told(direct: tuple[Served, Taker]) -> None:
    """The answer comes to nobody, and nothing breaks."""
    server, taker = direct
    taker.seen.clear()
    taker.answered.clear()
    with server.connect() as connection:
        connection.sendall(post("/direct", b"later"))
        until(lambda: taker.seen)
    until(lambda: taker.answered)

    assert taker.seen == [b"later"]
    assert server.exchange(post("/direct", b"a")).endswith(b"taken a")
