"""One request on a connection and its answer: by the messages of ASGI (`Cycle`), or at once (`CompleteRequest`)."""

import asyncio
import re
from collections.abc import Sized
from typing import Protocol

import structlog
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from understudy.http.asgi import ASGIApp, Headers, Message, Scope

log = structlog.get_logger(__name__)

_UNFIT = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""What no header may hold (RFC 9110, section 5.5)."""
_BODILESS = frozenset({204, 304})


class ConnectionLike(Protocol):
    """What a request needs of the connection it came on; the attributes are those of uvicorn's protocol."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl
    tasks: set[asyncio.Task[None]]
    client: tuple[str, int] | None
    expect_100_continue: bool

    @property
    def connections(self) -> Sized:
        """All that are open on this server."""
        ...

    def caller(self, headers: Headers) -> tuple[str, int] | None:
        """The client's address, where a request has these headers."""
        ...

    def defaults(self) -> bytes:
        """The headers of every answer, as they are sent."""
        ...

    def on_response_complete(self) -> None:
        """An answer has been sent."""
        ...


class CompleteRequest:
    """A request that is here whole, and its answer; to uvicorn's protocol it is what a `Cycle` is.

    Attributes:
        body: all of it.
    """

    __slots__ = ("_connection", "_headers", "body", "disconnected", "keep_alive", "response_complete")

    def __init__(self, connection: ConnectionLike, headers: Headers, body: bytes, *, keep_alive: bool) -> None:
        self._connection, self._headers, self.body, self.keep_alive = connection, headers, body, keep_alive
        self.disconnected = self.response_complete = False

    @property
    def scope(self) -> Scope:
        """See `understudy.http.asgi.CompleteRequest`."""
        return {"headers": self._headers, "client": self._connection.caller(self._headers)}

    @property
    def alone(self) -> bool:
        """See `understudy.http.asgi.CompleteRequest`."""
        return len(self._connection.connections) == 1

    @property
    def message_event(self) -> "CompleteRequest":
        """What uvicorn sets when the caller hangs up."""
        return self

    def set(self) -> None:
        """See `message_event`: nobody waits for it."""

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Send the answer, with its length. A caller that has gone is not told."""
        if self.disconnected or self.response_complete:
            return
        connection = self._connection
        parts = [STATUS_LINE[status], connection.defaults()]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (b"content-length: ", str(len(body)).encode(), b"\r\n")
        parts += (b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n", body)
        connection.transport.write(b"".join(parts))
        self.response_complete = True
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()


class Cycle:
    """One request and its answer. The attributes without an underscore are what uvicorn's own cycle has and its protocol uses."""

    def __init__(self, connection: ConnectionLike, scope: Scope, *, keep_alive: bool) -> None:
        self._connection, self.scope, self.keep_alive = connection, scope, keep_alive
        self.pieces: list[bytes] = []  # of the body, as far as `receive` has not told of them
        self.waiting = 0
        self.more_body, self.disconnected, self.response_complete = True, False, False
        self._continue = connection.expect_100_continue
        self._fresh = False  # there is something that `receive` has not told yet
        self._event: asyncio.Event | None = None
        self._status = 0  # of an answer that has begun
        self._headers: Headers = []
        self._head_sent = False
        self._left: int | None = None  # bytes of the body that are still to come; None: in chunks

    @property
    def message_event(self) -> "Cycle":
        """What uvicorn sets when the caller hangs up."""
        return self

    def set(self) -> None:
        """See `message_event`."""
        self.wake()

    def wake(self) -> None:
        """Something has changed that `receive` may wait for."""
        self._fresh = True
        if self._event is not None:
            self._event.set()

    def start(self, app: ASGIApp) -> None:
        """Begin to answer, in a task that the server waits for when it stops."""
        connection = self._connection
        self._task = connection.loop.create_task(self._run(app))
        connection.tasks.add(self._task)

    async def _run(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self.receive, self.send)
            if not (self.response_complete or self.disconnected):
                raise RuntimeError("the application returned before its answer was complete")
        except BaseException as error:
            log.exception("a request failed outside its handler", path=self.scope["path"])
            await self._give_up()
            if not isinstance(error, Exception):
                raise
        finally:
            self._connection.tasks.discard(self._task)
            del self._task  # it knows this cycle: neither would go without the garbage collector

    async def _give_up(self) -> None:
        if self._head_sent:
            self._connection.transport.close()
        elif not (self.response_complete or self.disconnected):
            self._status = 0
            head = [(b"content-type", b"text/plain"), (b"content-length", b"21"), (b"connection", b"close")]
            await self.send({"type": "http.response.start", "status": 500, "headers": head})
            await self.send({"type": "http.response.body", "body": b"Internal Server Error"})

    async def receive(self) -> Message:
        """ASGI's `receive`: what has come of the body since the last call, or that the caller has gone or been answered."""
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
        """ASGI's `send`. The head goes out with the first piece of the body.

        Raises:
            RuntimeError: the messages are not an answer: out of order, a header that cannot be sent, a body of another
                length than was said.
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
        connection.transport.write(head + body)
        self._head_sent = True
        if not more:
            self.response_complete = True
            self.wake()
            if not self.keep_alive:
                connection.transport.close()
            connection.on_response_complete()

    def _head(self) -> bytes:
        """The answer's head as it is sent."""
        parts = [STATUS_LINE[self._status], self._connection.defaults()]
        length: int | None = 0 if self._status in _BODILESS else None
        chunked = closes = False
        for name, value in self._headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = value.lower() == b"chunked"
            elif name == b"connection":
                closes = b"close" in value.lower()
            if _UNFIT.search(value) or _UNFIT.search(name):
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
