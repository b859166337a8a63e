"""The generator's connection: kept from one request to the next, opened anew where the server let go of it, and never silently."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Self

import pytest

from tests.support.waiting import until
from understudy.loadtest.client import Broken, Connection

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
REQUEST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


class Server:
    """Accepts connections one after the other; `serve` says what becomes of each, by its number."""

    def __init__(self, serve: Callable[[int, socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = self.closed = 0
        self._serve = serve
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                if connection.recv(1, socket.MSG_PEEK) == b"!":
                    return
                self.accepted += 1
                self._serve(self.accepted, connection)
            self.closed += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.create_connection(self._listener.getsockname()) as last:
            last.sendall(b"!")
            self._thread.join()
        self._listener.close()


@contextlib.contextmanager
def talking(serve: Callable[[int, socket.socket], None]) -> Iterator[tuple[Server, Connection]]:
    with Server(serve) as server:
        connection = Connection(server.url)
        try:
            yield server, connection
        finally:
            connection.close()


def answers(n: int, answer: bytes = ANSWER) -> Callable[[int, socket.socket], None]:
    """Each connection gets `n` answers, and is closed then."""

    def serve(_: int, connection: socket.socket) -> None:
        for _ in range(n):
            if not connection.recv(65_536):
                return
            connection.sendall(answer)

    return serve


def test_a_connection_is_kept() -> None:
    """A generator that connects anew each time measures connecting, and is itself the first thing that is full."""
    with talking(answers(1_000)) as (server, connection):
        for _ in range(50):
            assert connection.ask(REQUEST, 2.0) == 200
            assert connection.body == b"ok"
        assert server.accepted == 1


def test_a_connection_that_the_server_let_go_of_is_opened_anew() -> None:
    with talking(answers(2)) as (server, connection):
        for asked in range(1, 7):
            assert connection.ask(REQUEST, 2.0) == 200
            until(lambda closed=asked // 2: server.closed == closed)
        assert server.accepted == 3


def test_an_answer_that_says_so_is_the_last_on_its_connection() -> None:
    closing = ANSWER.replace(b"content-length", b"connection: close\r\ncontent-length")
    with talking(answers(1, closing)) as (server, connection):
        for _ in range(3):
            assert connection.ask(REQUEST, 2.0) == 200
        assert server.accepted == 3


def test_a_server_that_dies_with_a_request_is_an_error_on_a_kept_connection_too() -> None:
    def serve(_: int, connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(ANSWER)
        connection.recv(65_536)  # taken, and never answered

    with talking(serve) as (server, connection):
        assert connection.ask(REQUEST, 2.0) == 200
        with pytest.raises(OSError, match=r"before the response was complete|reset"):
            connection.ask(REQUEST, 2.0)
        assert server.accepted == 1


@pytest.mark.parametrize("part", [b"", ANSWER[:-1]])
def test_what_breaks_within_its_first_answer_or_in_the_middle_of_one_is_an_error(part: bytes) -> None:
    """It may have been taken: to ask again would hide that, and could count twice."""

    def serve(number: int, connection: socket.socket) -> None:
        connection.recv(65_536)
        if number == 1 and part:
            connection.sendall(ANSWER)
            connection.recv(65_536)
        connection.sendall(part)

    with talking(serve) as (server, connection):
        if part:
            assert connection.ask(REQUEST, 2.0) == 200
        with pytest.raises(Broken, match="before the response was complete"):
            connection.ask(REQUEST, 2.0)
        assert server.accepted == 1


def test_an_answer_that_does_not_come_is_a_timeout_and_its_connection_is_not_used_again() -> None:
    def serve(_: int, connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(ANSWER)
        connection.recv(65_536)
        connection.recv(65_536)

    with talking(serve) as (server, connection):
        assert connection.ask(REQUEST, 2.0) == 200
        with pytest.raises(TimeoutError, match="no response within 100 ms"):
            connection.ask(REQUEST, 0.1)
        assert connection.ask(REQUEST, 2.0) == 200
        assert server.accepted == 2
