"""JSON responses and entity tags (RFC 9110, section 13) of the calls outside the prediction path."""

import hashlib
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from understudy.http.asgi import encode


def json_response(document: object, headers: Mapping[str, str] | None = None) -> Response:
    """A response with a document as JSON."""
    return Response(encode(document), headers=headers, media_type="application/json")


def tag_of(body: bytes, revision: int | None = None) -> str:
    """An entity tag that changes with the content. With a revision it starts with it, so `If-Match` accepts it as one."""
    digest = hashlib.blake2b(body, digest_size=12).hexdigest()
    return f'"{digest}"' if revision is None else f'"{revision}-{digest}"'


def has_tag(request: Request, tag: str) -> bool:
    """Whether the client already has the content with this tag (`If-None-Match`, compared weakly)."""
    tags = request.headers.get("if-none-match", "").split(",")
    return tag in [each.strip().removeprefix("W/") for each in tags]


def tagged(request: Request, body: bytes, tag: str | None = None) -> Response:
    """JSON that clients poll, or 304 if the client has it. Only this client may cache it, and it revalidates each time.

    Args:
        tag: of the body; computed if absent.
    """
    headers = {"etag": tag or tag_of(body), "cache-control": "private, no-cache"}
    if has_tag(request, headers["etag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")
