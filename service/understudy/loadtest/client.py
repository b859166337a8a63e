"""One HTTP/1.1 connection on gevent, as cheap as it can be: a generator must not be the limit of what it measures.

Measured beside locust's own clients on one machine, one core, one-row flights at 16 connections: 15 µs of CPU a request here,
38 with geventhttpclient, 73 with `FastHttpUser`. That client also keeps ten connections a user and makes the eleventh request
wait in silence, which an open loop must not have: here the pool is the generator's own, and what waits is counted.
"""

import socket as plain
import ssl
from typing import Any
from urllib.parse import urlsplit

import gevent
import httptools
from gevent import socket

RECEIVE_BYTES = 65_536


class Broken(OSError):
    """The connection ended before the answer did."""


class Connection:
    """A kept-alive connection that asks one request at a time.

    Attributes:
        status: the last answer's HTTP status; body: its bytes.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._secure, self._host = parts.scheme == "https", parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if self._secure else 80)
        self._socket: Any = None
        self.status = 0
        self.body = b""
        self._parts: list[bytes] = []
        self._complete = False
        self._parser: Any = None
        self._keep = True

    def ask(self, data: bytes, timeout_s: float) -> int:
        """Send a whole request and read the whole answer; returns its status.

        Raises:
            TimeoutError: no answer by then; the connection is closed.
            OSError: it could not be connected, or broke.
        """
        try:
            with gevent.Timeout(timeout_s, TimeoutError(f"no answer within {timeout_s * 1000:g} ms")):
                return self._ask(data)
        except BaseException:
            self.close()
            raise

    def _ask(self, data: bytes) -> int:
        if self._socket is None or self._let_go():
            self.close()
            self._connect()
        self._parts, self._complete = [], False
        self._parser = parser = httptools.HttpResponseParser(self)
        self._socket.sendall(data)
        while not self._complete:
            received = self._socket.recv(RECEIVE_BYTES)
            if not received:
                raise Broken("the connection was closed before the answer ended")
            parser.feed_data(received)
        self.status = parser.get_status_code()
        self.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if not self._keep:
            self.close()
        return self.status

    def _let_go(self) -> bool:
        """Whether the server has closed an idle connection, as it may. What breaks once a request is sent is an error."""
        if self._secure:
            return False
        try:
            return not self._socket._sock.recv(1, plain.MSG_PEEK | plain.MSG_DONTWAIT)  # noqa: SLF001 - gevent's own would wait
        except BlockingIOError:
            return False  # nothing is there to read, as it should be
        except OSError:
            return True

    def _connect(self) -> None:
        opened = socket.create_connection((self._host, self._port))
        opened.setsockopt(plain.IPPROTO_TCP, plain.TCP_NODELAY, 1)
        self._socket = (
            ssl.create_default_context().wrap_socket(opened, server_hostname=self._host) if self._secure else opened
        )

    def on_body(self, body: bytes) -> None:
        """A part of the answer's body: called by the parser."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """The answer is here: called by the parser, which forgets afterwards whether the connection goes on."""
        self._complete, self._keep = True, self._parser.should_keep_alive()

    def close(self) -> None:
        """Let go of the socket; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
