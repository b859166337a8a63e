"""The few pieces of ASGI that the front door needs: reading a body under limits, answering, and problem details."""

import asyncio
import functools
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, MutableMapping
from typing import Any, Protocol, TypeAlias

import msgspec

from understudy.errors import BodyTimeout, MalformedRequest, TooLarge, UnderstudyError, WrongMediaType

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]
Handler: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Routes: TypeAlias = dict[str, dict[str, Handler]]
"""Path → method → handler."""
Teller: TypeAlias = Callable[[Send, UnderstudyError], Awaitable[None]]
"""Answers with an error."""


class CompleteRequest(Protocol):
    """A request whose body is here, and how to answer it."""

    body: bytes

    @property
    def scope(self) -> Scope:
        """Its headers and its client, as in ASGI's scope; the other keys only where it came by ASGI's messages."""
        ...

    @property
    def alone(self) -> bool:
        """Whether no other connection is open: then no other request can be on its way into this turn of the event loop."""
        ...

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a complete answer; its length is added to the headers."""
        ...


Direct: TypeAlias = Callable[[CompleteRequest], None]
"""Takes a request and replies to it, now or later."""

encode = msgspec.json.Encoder().encode


class ClientGone(Exception):
    """The caller hung up before the body was complete; there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive, *, max_bytes: int, timeout_s: float) -> bytes:
    """The request's body.

    A body that is already here costs no timer: `receive` is stepped once by hand, and only if it waits does the clock run.

    Raises:
        TooLarge: more than `max_bytes`, declared or sent.
        BodyTimeout: not complete within `timeout_s`.
        ClientGone: the caller hung up.
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
            first = _known(message)
    try:
        async with asyncio.timeout(timeout_s):
            return await _pieces(scope, first, receive, max_bytes)
    except TimeoutError:
        raise BodyTimeout(f"the body was not complete after {timeout_s:g} s") from None


async def _pieces(scope: Scope, first: Awaitable[Message], receive: Receive, max_bytes: int) -> bytes:
    """A body of one or more messages, of which `first` brings the first."""
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


async def _known(message: Message) -> Message:
    return message


@types.coroutine
def _resumed(coroutine: Coroutine[Any, Any, Message], waits_for: Any) -> Generator[Any, Any, Message]:
    """The rest of a coroutine that was stepped once by hand and then yielded `waits_for` to the event loop."""
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:  # noqa: BLE001 - whatever the loop throws in, cancellation too, is the coroutine's
            step: Callable[[], Any] = functools.partial(coroutine.throw, error)
        else:
            step = functools.partial(coroutine.send, sent)
        try:
            waits_for = step()
        except StopIteration as finished:
            message: Message = finished.value
            return message


class Arrived:
    """A request that came by ASGI's messages and is here whole now."""

    alone = False

    def __init__(self, scope: Scope, body: bytes) -> None:
        self.scope, self.body = scope, body
        self._answer: asyncio.Future[tuple[int, Headers, bytes]] = asyncio.get_running_loop().create_future()

    def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """See `Whole.reply`."""
        if not self._answer.done():  # else the caller's task was cancelled
            self._answer.set_result((status, headers, body))

    async def respond(self, send: Send) -> None:
        """Wait for the answer, and send it."""
        await respond(send, *await self._answer)


def header(scope: Scope, name: bytes) -> str | None:
    """One request header (names in lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def headers_under(scope: Scope, prefix: bytes) -> dict[bytes, str]:
    """The request headers whose names begin so (in lower case); of several with one name the first."""
    found: dict[bytes, str] = {}
    for key, value in scope["headers"]:
        if key.startswith(prefix):
            found.setdefault(key, str(value, "latin-1"))
    return found


def text_of(value: str) -> str:
    """A header's value as text: UTF-8 where its bytes are that, else Latin-1, so that it equals the same text in a body.

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
    """The caller's IP address; None on a Unix socket."""
    client = scope.get("client")
    return client[0] if client and client[0] else None


def require_json(scope: Scope) -> None:
    """Refuse a body that says it is something else than JSON; one that says nothing is taken at its word.

    Raises:
        WrongMediaType: naming what was sent.
    """
    content_type = header(scope, b"content-type")
    if content_type is None or content_type == "application/json":
        return
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise WrongMediaType(f"the content type is {content_type!r}; send application/json")


def json_object(body: bytes) -> dict[str, Any]:
    """A small JSON object; an empty body is an empty object.

    Raises:
        MalformedRequest: for anything else.
    """
    if not body.strip():
        return {}
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise MalformedRequest("the body must be an object")
    return data


async def answer(
    send: Send,
    status: int,
    body: bytes,
    headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    content_type: bytes = b"application/json",
) -> None:
    """Send a complete answer of that type."""
    await respond(send, status, [(b"content-type", content_type), *headers], body)


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a complete answer; its length is added to the headers."""
    head = [(b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def problem(send: Send, error: UnderstudyError) -> None:
    """Answer with RFC 9457 problem details."""
    await respond(send, int(error.status), *_problem(error))


def reply_problem(whole: CompleteRequest, error: UnderstudyError) -> None:
    """As `problem`."""
    whole.reply(int(error.status), *_problem(error))


def _problem(error: UnderstudyError) -> tuple[Headers, bytes]:
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return [(b"content-type", b"application/problem+json"), *headers], encode(error.problem())


def check_size(body: bytes, max_bytes: int) -> None:
    """Refuse a body that is too large.

    Raises:
        TooLarge: naming the limit.
    """
    if len(body) > max_bytes:
        raise _too_large(len(body), max_bytes)


def _too_large(size: int, limit: int) -> TooLarge:
    return TooLarge(f"the body has {size} bytes or more; the limit is {limit} (UNDERSTUDY_BODY_MAX_BYTES)")
