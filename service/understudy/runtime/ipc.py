"""Calls another process of this service: small HTTP/1.1 requests over keep-alive connections to its Unix socket.

A bare asyncio protocol around httptools, because calls of the candidate are on the request path.
"""

import asyncio
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import httptools

JOIN_MAX = 256 * 1024
"""Bodies from this size on are written by themselves, without a copy."""
_HEAD = "POST %s HTTP/1.1\r\nHost: understudy\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n"


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[tuple[int, bytes]] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []

    @property
    def open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"it sent a response that is not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionError(f"it closed the connection{f': {exc}' if exc else ''}"))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status, body = self._parser.get_status_code(), b"".join(self._body)
        self._body = []
        self._parser = httptools.HttpResponseParser(self)
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result((status, body))

    async def ask(self, request: bytes, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request, and a large body behind it; returns status and body.

        Close the connection after a cancellation: a response is still to come.
        """
        assert self.transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        if body:
            self.transport.write(body)
        return await self._waiter

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _fail(self, error: ConnectionError) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
        self.close()


class Channel:
    """Calls one process. Not thread-safe: it belongs to one event loop.

    Args:
        url: `file:///path/to.sock` or `http://host:port`.
        connections_max: concurrent calls; further ones wait.
        media_type: the content type of request bodies.
        headers: additional headers of every request.
    """

    def __init__(
        self, url: str, *, connections_max: int, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self._parts = urlsplit(url)
        self._media_type = media_type
        self._idle: list[_Connection] = []
        self._slots = asyncio.Semaphore(connections_max)
        self._closed = False

    async def post(self, path: str, body: bytes, headers: str = "") -> tuple[int, bytes]:
        """Send a request; returns status and body.

        Args:
            path: the request's path.
            body: its body.
            headers: additional headers of this request, each with its line end.

        Raises:
            OSError: the process is unavailable, closed the connection, or does not speak HTTP.
        """
        async with self._slots:
            connection = await self._connect()
            try:
                head = (_HEAD % (path, self._media_type, self._headers + headers, len(body))).encode()
                if len(body) < JOIN_MAX:
                    answer = await connection.ask(head + body)
                else:
                    answer = await connection.ask(head, body)
            except BaseException:
                connection.close()  # a late response would be taken for that of the next request
                raise
            if connection.open and not self._closed:
                self._idle.append(connection)
            return answer

    def hang_up(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def close(self) -> None:
        """Close all connections; those in use are closed when their call ends."""
        self._closed = True
        self.hang_up()

    async def _connect(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        loop = asyncio.get_running_loop()
        if self._parts.scheme == "file":
            _, made = await loop.create_unix_connection(_Connection, unquote(self._parts.path))
        else:
            _, made = await loop.create_connection(
                _Connection, self._parts.hostname or "127.0.0.1", self._parts.port or 80
            )
        return made
