"""One request on a connection and its response: through ASGI messages (`Cycle`), or at once (`CompleteRequest`)."""

import asyncio
import re
from collections.abc import Sized
from typing import Protocol

import structlog
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from understudy.errors import unexpected_error
from understudy.http.asgi import ASGIApp, Headers, Message, Scope, problem_details, respond

log = structlog.get_logger(__name__)

_CONTROL_CHARACTERS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""Characters that no header may contain (RFC 9110, section 5.5)."""
JOIN_MAX = 256 * 1024
"""Bodies from this size on are written by themselves: to copy one of 100 MB takes a tenth of a second."""
_WITHOUT_BODY = frozenset({204, 304})


class ConnectionLike(Protocol):
    """What a request needs of its connection. The attributes are those of uvicorn's protocol."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl
    tasks: set[asyncio.Task[None]]
    client: tuple[str, int] | None
    expect_100_continue: bool

    @property
    def connections(self) -> Sized:
        """All open connections of this server."""
        ...

    def caller(self, headers: Headers) -> tuple[str, int] | None:
        """The client's address, given the request's headers."""
        ...

    def defaults(self) -> bytes:
        """The headers of every response, encoded."""
        ...

    def on_response_complete(self) -> None:
        """Called when a response has been sent."""
        ...


class CompleteRequest:
    """A complete request, and its response. uvicorn's protocol sees it as its own request cycle.

    Attributes:
        body: the whole body.
    """

    __slots__ = ("_connection", "_headers", "body", "disconnected", "keep_alive", "response_complete")

    def __init__(self, connection: ConnectionLike, headers: Headers, body: bytes, *, keep_alive: bool) -> None:
        self._connection, self._headers, self.body, self.keep_alive = connection, headers, body, keep_alive
        self.disconnected = self.response_complete = False

    @property
    def scope(self) -> Scope:
        """See `understudy.http.asgi.CompleteRequest`."""
        return {"headers": self._headers, "caller": self._caller}

    def _caller(self) -> tuple[str, int] | None:
        return self._connection.caller(self._headers)

    @property
    def alone(self) -> bool:
        """See `understudy.http.asgi.CompleteRequest.alone`."""
        return len(self._connection.connections) == 1

    @property
    def message_event(self) -> "CompleteRequest":
        """Uvicorn calls its `set` when the client disconnects."""
        return self

    def set(self) -> None:
        """Do nothing: no task waits for the disconnection."""

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Send the response with its length, unless the client has disconnected."""
        if self.disconnected or self.response_complete:
            return
        connection = self._connection
        parts = [STATUS_LINE[status], connection.defaults()]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"content-length: ", str(len(body)).encode(), b"\r\n")
        parts.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        if len(body) < JOIN_MAX:
            parts.append(body)
            connection.transport.write(b"".join(parts))
        else:
            _write(connection.transport, b"".join(parts), body)
        self.response_complete = True
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()


class Cycle:
    """One request and its response. The public attributes are those of uvicorn's own cycle, which its protocol uses."""

    def __init__(self, connection: ConnectionLike, scope: Scope, *, keep_alive: bool) -> None:
        self._connection, self.scope, self.keep_alive = connection, scope, keep_alive
        self.pieces: list[bytes] = []  # of the body, not yet returned by `receive`
        self.waiting = 0  # bytes in `pieces`
        self.more_body, self.disconnected, self.response_complete = True, False, False
        self._continue = connection.expect_100_continue
        self._fresh = False  # whether something has changed since the last `receive`
        self._event: asyncio.Event | None = None
        self._status = 0  # of a response that has started
        self._headers: Headers = []
        self._head_sent = False
        self._left: int | None = None  # bytes of the response's body still to send; None if it is chunked

    @property
    def message_event(self) -> "Cycle":
        """Uvicorn calls its `set` when the client disconnects."""
        return self

    def set(self) -> None:
        """Wake `receive`: the client has disconnected."""
        self.wake()

    def wake(self) -> None:
        """Let `receive` look again at what has changed."""
        self._fresh = True
        if self._event is not None:
            self._event.set()

    def start(self, app: ASGIApp) -> None:
        """Run the application in a task. A server that stops waits for it."""
        connection = self._connection
        self._task = connection.loop.create_task(self._run(app))
        connection.tasks.add(self._task)

    async def _run(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self.receive, self.send)
            if not (self.response_complete or self.disconnected):
                raise RuntimeError("the application returned before its response was complete")
        except BaseException as error:
            log.exception("a request failed outside its handler", path=self.scope["path"])
            await self._fail()
            if not isinstance(error, Exception):
                raise
        finally:
            self._connection.tasks.discard(self._task)
            del self._task  # breaks a reference cycle, which only the garbage collector would free

    async def _fail(self) -> None:
        """Answer 500, or close the connection if a response has started."""
        if self._head_sent:
            self._connection.transport.close()
        elif not (self.response_complete or self.disconnected):
            self._status = 0
            status, headers, body = problem_details(unexpected_error())
            await respond(self.send, status, [*headers, (b"connection", b"close")], body)

    async def receive(self) -> Message:
        """ASGI's `receive`: new pieces of the body, or the end of the request (disconnected or answered)."""
        connection = self._connection
        if self._continue and not connection.transport.is_closing():
            connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._continue = False
        while not (self._fresh or self.disconnected or self.response_complete):
            connection.flow.resume_reading()
            self._event = self._event or asyncio.Event()
            self._event.clear()
            await self._event.wait()
        self._fresh = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces, self.waiting = [], 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """ASGI's `send`. The head is sent together with the first piece of the body.

        Raises:
            RuntimeError: messages out of order, a header with control characters, or a body that does not have its declared length.
        """
        connection = self._connection
        if connection.flow.write_paused and not self.disconnected:
            await connection.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self._status:
            self._status, self._headers = message["status"], message.get("headers", [])
            self._continue = False
            return
        if kind != "http.response.body" or not self._status or self.response_complete:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")
        body, more = message.get("body", b""), message.get("more_body", False)
        head = b"" if self._head_sent else self._head()
        if self.scope["method"] == "HEAD":
            body, self._left = b"", 0
        if self._left is None:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        else:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body is not as long as its content-length")
        _write(connection.transport, head, body)
        self._head_sent = True
        if not more:
            self.response_complete = True
            self.wake()
            if not self.keep_alive:
                connection.transport.close()
            connection.on_response_complete()

    def _head(self) -> bytes:
        """The encoded head of the response."""
        parts = [STATUS_LINE[self._status], self._connection.defaults()]
        length: int | None = 0 if self._status in _WITHOUT_BODY else None
        chunked = closes = False
        for name, value in self._headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = value.lower() == b"chunked"
            elif name == b"connection":
                closes = b"close" in value.lower()
            if _CONTROL_CHARACTERS.search(value) or _CONTROL_CHARACTERS.search(name):
                raise RuntimeError(f"the header {name!r} cannot be sent")
            parts += (name, b": ", value, b"\r\n")
        self._left = None if chunked else length
        if self._left is None and not chunked and self.scope["method"] != "HEAD":
            parts.append(b"transfer-encoding: chunked\r\n")
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)


def _write(transport: asyncio.Transport, head: bytes, body: bytes) -> None:
    if len(body) < JOIN_MAX:
        transport.write(head + body)
    else:
        transport.write(head)
        transport.write(body)
