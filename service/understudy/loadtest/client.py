"""A minimal HTTP/1.1 connection on gevent, so that the generator's own CPU does not limit what it measures.

CPU per request, measured on one core with one-row flights at 16 connections: 15 µs here, 38 µs with geventhttpclient, 73 µs with
locust's `FastHttpUser`. `FastHttpUser` also has ten connections per user, and an eleventh request waits uncounted. In an open loop
that wait is latency, so the generator has its own pool and counts what waits.
"""

import socket as plain
import ssl
from urllib.parse import urlsplit

import gevent
import httptools
from gevent import socket

RECEIVE_BYTES = 65_536


class Broken(OSError):
    """The connection was closed before the response was complete."""


class Connection:
    """A keep-alive connection with one request at a time.

    Attributes:
        status: the HTTP status of the last response.
        body: the body of the last response.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._secure, self._host = parts.scheme == "https", parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if self._secure else 80)
        self._socket: socket.socket | None = None
        self.status = 0
        self.body = b""
        self._parts: list[bytes] = []
        self._complete = False
        self._parser = httptools.HttpResponseParser(self)
        self._keep = True

    def ask(self, data: bytes, timeout_s: float) -> int:
        """Send an encoded request and read the response.

        Returns:
            The HTTP status.

        Raises:
            TimeoutError: there was no response in time; the connection is closed.
            OSError: the connection could not be opened, or broke.
        """
        try:
            with gevent.Timeout(timeout_s, TimeoutError(f"no response within {timeout_s * 1000:g} ms")):
                return self._ask(data)
        except BaseException:
            self.close()
            raise

    def _ask(self, data: bytes) -> int:
        connected = self._socket
        if connected is None or self._closed_by_server(connected):
            self.close()
            connected = self._socket = self._connect()
        self._parts, self._complete = [], False
        self._parser = parser = httptools.HttpResponseParser(self)
        connected.sendall(data)
        while not self._complete:
            received = connected.recv(RECEIVE_BYTES)
            if not received:
                raise Broken("the connection was closed before the response was complete")
            parser.feed_data(received)
        self.status = parser.get_status_code()
        self.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if not self._keep:
            self.close()
        return self.status

    def _closed_by_server(self, connected: socket.socket) -> bool:
        """Whether the server has closed this idle connection, as it may. After a request was sent that is an error."""
        if self._secure:
            return False
        try:
            flags = plain.MSG_PEEK | plain.MSG_DONTWAIT
            return not connected._sock.recv(1, flags)  # noqa: SLF001 - gevent's own `recv` would wait
        except BlockingIOError:
            return False  # nothing to read: the connection is open
        except OSError:
            return True

    def _connect(self) -> socket.socket:
        opened = socket.create_connection((self._host, self._port))
        opened.setsockopt(plain.IPPROTO_TCP, plain.TCP_NODELAY, 1)
        return ssl.create_default_context().wrap_socket(opened, server_hostname=self._host) if self._secure else opened

    def on_body(self, body: bytes) -> None:
        """Called by the parser with a part of the body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser, which only knows now whether the connection is kept alive."""
        self._complete, self._keep = True, self._parser.should_keep_alive()

    def close(self) -> None:
        """Close the socket; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
