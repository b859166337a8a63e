"""What the prediction path needs of ASGI: request headers, a body under limits of size and time, complete responses."""

import asyncio
import functools
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Protocol, TypeAlias

import msgspec
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from understudy.errors import BodyTimeout, TooLarge, UnderstudyError, WrongMediaType, unexpected_error

__all__ = ["ASGIApp", "Message", "Receive", "Scope", "Send"]

Headers: TypeAlias = list[tuple[bytes, bytes]]
Reply: TypeAlias = tuple[int, Headers, bytes]
"""A complete response: status, headers (the content length is added when it is sent) and body."""
ErrorFormat: TypeAlias = Callable[[UnderstudyError], Reply]
"""Renders an error as a response."""


class CompleteRequest(Protocol):
    """A request whose whole body has arrived, and the way to reply to it."""

    body: bytes

    @property
    def scope(self) -> Scope:
        """Headers as in ASGI's scope, and the client (see `peer`). Other keys are present only if the request came through ASGI."""
        ...

    @property
    def alone(self) -> bool:
        """Whether no other connection is open, so no other request can arrive in this iteration of the event loop."""
        ...

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a complete response. The content length is added to the headers."""
        ...


DirectHandler: TypeAlias = Callable[[CompleteRequest], None]
"""Handles a complete request without ASGI and replies to it, at once or later."""

ErrorReply: TypeAlias = Callable[[str, Exception], Reply]
"""The response to a request for a path that failed with an error."""

log = structlog.get_logger(__name__)
encode = msgspec.json.Encoder().encode


class ClientGone(Exception):
    """The client disconnected before the body was complete, so there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive, *, max_bytes: int, timeout_s: float) -> bytes:
    """Read the request's body.

    `receive` is stepped once by hand. A timer is started only if it has to wait, because most bodies are already complete.

    Raises:
        TooLarge: more than `max_bytes`, declared or sent.
        BodyTimeout: not complete within `timeout_s`.
        ClientGone: the client disconnected.
    """
    first = receive()
    if isinstance(first, types.CoroutineType):
        try:
            first = _resumed(first, first.send(None))
        except StopIteration as finished:
            message = finished.value
            if message["type"] == "http.request" and not message.get("more_body"):
                body: bytes = message.get("body", b"")
                if len(body) > max_bytes:
                    raise _too_large(len(body), max_bytes) from None
                return body
            first = _immediately(message)
    try:
        async with asyncio.timeout(timeout_s):
            return await _pieces(scope, first, receive, max_bytes)
    except TimeoutError:
        raise BodyTimeout(f"the body was not complete after {timeout_s:g} s") from None


async def _pieces(scope: Scope, first: Awaitable[Message], receive: Receive, max_bytes: int) -> bytes:
    """Join a body that arrives in one or more messages; `first` yields the first of them."""
    message = await first
    declared = header(scope, b"content-length")
    if declared and declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(int(declared), max_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > max_bytes:
            raise _too_large(size, max_bytes)
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()


async def _immediately(message: Message) -> Message:
    return message


@types.coroutine
def _resumed(coroutine: Coroutine[object, object, Message], waits_for: object) -> Generator[object, object, Message]:
    """Run the rest of a coroutine that was stepped once by hand and then yielded `waits_for` to the event loop."""
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:  # noqa: BLE001 - cancellation and all else that the loop throws goes to the coroutine
            step: Callable[[], object] = functools.partial(coroutine.throw, error)
        else:
            step = functools.partial(coroutine.send, sent)
        try:
            waits_for = step()
        except StopIteration as finished:
            message: Message = finished.value
            return message


class BufferedRequest:
    """A complete request whose body was read through ASGI."""

    alone = False

    def __init__(self, scope: Scope, body: bytes) -> None:
        self.scope, self.body = scope, body
        self._reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """See `CompleteRequest.reply`."""
        if not self._reply.done():  # it is done when the task that waits for it was cancelled
            self._reply.set_result((status, headers, body))

    async def respond(self, send: Send) -> None:
        """Wait for the reply, and send it."""
        await respond(send, *await self._reply)


def header(scope: Scope, name: bytes) -> str | None:
    """The first request header with this name (in lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def headers_under(scope: Scope, prefix: bytes) -> dict[bytes, str]:
    """The request headers whose names start with `prefix` (in lower case); the first of each name."""
    headers: dict[bytes, str] = {}
    for key, value in scope["headers"]:
        if key.startswith(prefix):
            headers.setdefault(key, str(value, "latin-1"))
    return headers


def text_of(value: str) -> str:
    """Decode a header's value as UTF-8 if its bytes are valid UTF-8, else as Latin-1, so that it equals the text in a body.

    >>> text_of("é".encode().decode("latin-1")), text_of("é")
    ('é', 'é')
    """
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value


def peer(scope: Scope) -> str | None:
    """The client's IP address; None on a Unix socket.

    A `CompleteRequest` has a function `caller` instead of `client`: finding the client in a proxy's headers takes as long as a
    small model's run, and few requests need it.
    """
    caller = scope.get("caller")
    client = scope.get("client") if caller is None else caller()
    return client[0] if client and client[0] else None


def require_json(scope: Scope) -> None:
    """Reject a body with a content type other than JSON. A request without a content type is accepted.

    Raises:
        WrongMediaType: names the content type that was sent.
    """
    content_type = header(scope, b"content-type")
    if content_type is None or content_type == "application/json":
        return
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise WrongMediaType(f"the content type is {content_type!r}; send application/json")


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a complete response. The content length is added to the headers."""
    head = [(b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


def problem_details(error: UnderstudyError) -> Reply:
    """An error as RFC 9457 problem details."""
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return int(error.status), [(b"content-type", b"application/problem+json"), *headers], encode(error.problem())


def unexpected_error_reply(path: str, error: Exception) -> Reply:
    """Log a bug, and return the problem details that its caller gets."""
    log.error("a bug: please report it", path=path, exc_info=error)
    return problem_details(unexpected_error())


def reply_problem(request: CompleteRequest, error: UnderstudyError) -> None:
    """Reply with an error as RFC 9457 problem details."""
    request.reply(*problem_details(error))


def check_size(body: bytes, max_bytes: int) -> None:
    """Reject a body that is too large.

    Raises:
        TooLarge: names the limit.
    """
    if len(body) > max_bytes:
        raise _too_large(len(body), max_bytes)


def _too_large(size: int, limit: int) -> TooLarge:
    return TooLarge(f"the body has {size} bytes or more; the limit is {limit} (UNDERSTUDY_BODY_MAX_BYTES)")
