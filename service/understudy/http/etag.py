"""Conditional requests (RFC 9110, section 13): an answer with a tag, or 304 to whoever has it already."""

import hashlib

from understudy.http.asgi import Headers, Scope, Send, answer, header


def tag_of(body: bytes, revision: int | None = None) -> bytes:
    """An entity tag that changes with the content; with a revision it begins with that, and `If-Match` takes it for one."""
    digest = hashlib.blake2b(body, digest_size=12).hexdigest()
    return f'"{digest}"'.encode() if revision is None else f'"{revision}-{digest}"'.encode()


def knows(scope: Scope, tag: bytes) -> bool:
    """Whether the caller has what the tag stands for (`If-None-Match`, compared weakly)."""
    known = (header(scope, b"if-none-match") or "").split(",")
    return tag.decode() in [each.strip().removeprefix("W/") for each in known]


async def unchanged(send: Send, headers: Headers) -> None:
    """Answer 304: without a length, which would be that of the whole answer (RFC 9110, section 8.6)."""
    await send({"type": "http.response.start", "status": 304, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def tagged(scope: Scope, send: Send, body: bytes, tag: bytes | None = None) -> None:
    """Answer with JSON that is asked for again and again. Kept for this caller alone, and never used unasked.

    Args:
        tag: of this body; made of it, if left out.
    """
    tag = tag or tag_of(body)
    headers: Headers = [(b"etag", tag), (b"cache-control", b"private, no-cache")]
    if knows(scope, tag):
        await unchanged(send, headers)
    else:
        await answer(send, 200, body, headers)
