"""Who may use the calls outside the prediction path, and the small JSON bodies that operators send."""

import msgspec
from starlette.requests import Request

from understudy.api.parts import ApiParts
from understudy.errors import MalformedRequest, TooLarge
from understudy.http.asgi import peer, read_body
from understudy.http.auth import Actor

SMALL_MAX = 128 * 1024
"""Bytes of an order or another small object. Decoding 8 MiB of anything would hold all callers for seconds."""


def actor(parts: ApiParts, request: Request) -> Actor:
    """Who sends this request.

    Raises:
        Unauthorized: no token, or an unknown one.
        Forbidden: there are no tokens, and the client is not on the loopback interface.
    """
    return parts.tokens.actor(request.headers.get("authorization"), peer(request.scope))


def require_viewer(parts: ApiParts, request: Request) -> None:
    """Require a known token, if the service has tokens. Without tokens everybody may look.

    Raises:
        Unauthorized: no token, or an unknown one.
    """
    if parts.tokens.configured:
        actor(parts, request)


def require_operator(parts: ApiParts, request: Request) -> Actor:
    """Require an operator, and that no other site's page sent this request.

    Raises:
        Unauthorized: no token, or an unknown one.
        Forbidden: the actor is no operator, or the request comes from a page of another origin.
    """
    parts.tokens.own_page(request.headers.get("origin"), request.headers.get("host"))
    return parts.tokens.operator(request.headers.get("authorization"), peer(request.scope))


async def read(parts: ApiParts, request: Request) -> bytes:
    """Read the request's body under the limits of the settings."""
    return await read_body(request.scope, request.receive, **parts.body_limits)


def json_object(body: bytes, max_bytes: int = SMALL_MAX) -> dict[str, object]:
    """Decode a small JSON object. An empty body is an empty object.

    Args:
        body: the text.
        max_bytes: the largest body that is decoded.

    Raises:
        TooLarge: it is not small.
        MalformedRequest: for anything else.
    """
    if len(body) > max_bytes:
        raise TooLarge(f"the body has {len(body)} bytes; this call takes at most {max_bytes}")
    if not body.strip():
        return {}
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise MalformedRequest("the body must be an object")
    return document
