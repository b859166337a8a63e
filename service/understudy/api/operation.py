"""One call, as OpenAPI describes it."""

from dataclasses import dataclass
from typing import TypeAlias

from understudy.domain import JsonObject
from understudy.errors import (
    BodyTimeout,
    Forbidden,
    InvalidInput,
    MalformedRequest,
    TooLarge,
    Unauthorized,
    UnderstudyError,
    WrongMediaType,
)

Errors: TypeAlias = tuple[type[UnderstudyError], ...]
Body: TypeAlias = type | str
"""A type that a schema is generated from; the name of a schema that depends on the model; or the media type of a text."""

BODY_ERRORS: Errors = (MalformedRequest, BodyTimeout, TooLarge, WrongMediaType, InvalidInput)
ACCESS_ERRORS: Errors = (Unauthorized, Forbidden)


def parameter(name: str, description: str, place: str = "header", kind: str = "string", **schema: object) -> JsonObject:
    """An OpenAPI parameter."""
    return {"in": place, "name": name, "description": description, "schema": {"type": kind, **schema}}


IF_MATCH = parameter(
    "If-Match", "reject the order if the revision is another one: the revision, or the `ETag` of GET /rollout"
)
IF_NONE_MATCH = parameter("If-None-Match", "the `ETag` of a cached response; 304 if nothing has changed")
KEY = parameter("X-Rollout-Key", "routing key: keeps a caller on one variant")


@dataclass(frozen=True, slots=True)
class Operation:
    """One call.

    Attributes:
        call: method and path.
        request: the body, None without one; `optional` if it may be absent.
        errors: those of access are added if the call is `secure`.
        secure: whether it needs a token where the service has tokens.
        headers: of the response, with their descriptions.
    """

    call: str
    name: str
    summary: str
    response: Body
    response_text: str = "done"
    description: str = ""
    request: Body | None = None
    optional: bool = False
    parameters: tuple[JsonObject, ...] = ()
    errors: Errors = ()
    secure: bool = True
    headers: tuple[tuple[str, str], ...] = ()
