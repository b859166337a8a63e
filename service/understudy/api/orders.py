"""Operators' orders: `POST /rollout/promote`, `pause`, `resume`, `abort`, `retry`, `undo` and `weight`."""

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from understudy.api.access import json_object, read, require_operator
from understudy.api.parts import ApiParts
from understudy.documents import Rollout
from understudy.errors import InvalidInput, MalformedRequest
from understudy.http.asgi import encode, require_json
from understudy.http.responses import tag_of
from understudy.http.router import route
from understudy.rollout.phases import Order
from understudy.serving.plan import REASON_MAX_CHARS

ORDERS = {
    "promote": Order.PROMOTE,
    "pause": Order.PAUSE,
    "resume": Order.RESUME,
    "abort": Order.ABORT,
    "retry": Order.RETRY,
    "undo": Order.UNDO,
}
"""Orders by the last segment of their path. `promote` with `{"full": true}` skips the remaining steps."""


class OrderCalls:
    """Handlers of the orders.

    Args:
        state: the document of `GET /rollout`, which every order answers with.
    """

    def __init__(self, parts: ApiParts, state: Callable[[], Awaitable[Rollout]]) -> None:
        self._parts, self._state = parts, state

    def routes(self) -> Sequence[Route]:
        """Starlette's routes."""
        orders = [route(f"/rollout/{name}", self._handler(name), "POST") for name in ORDERS]
        return [*orders, route("/rollout/weight", self.weight, "POST")]

    def _handler(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            actor = require_operator(self._parts, request)
            options = json_object(await read(self._parts, request))
            full, force = (name == "promote" and options.pop(key, False) is True for key in ("full", "force"))
            _reject_unknown(options, {"reason"}, "`reason`")
            await self._parts.control.order(
                Order.PROMOTE_FULL if full else ORDERS[name],
                actor=actor.name,
                reason=_reason(options),
                expected_revision=_expected_revision(request),
                force=force,
            )
            return await self._new_state()

        return handle

    async def weight(self, request: Request) -> Response:
        """`POST /rollout/weight`."""
        actor = require_operator(self._parts, request)
        require_json(request.scope)
        options = json_object(await read(self._parts, request))
        force = options.pop("force", False) is True
        _reject_unknown(options, {"weight", "reason"}, "`weight`, `reason` and `force`")
        if "weight" not in options:
            raise InvalidInput(
                [{"row": None, "field": "weight", "problem": "is missing; it takes a number of percent, 0 to 100"}]
            )
        await self._parts.control.order_weight(
            options["weight"],
            actor=actor.name,
            reason=_reason(options),
            expected_revision=_expected_revision(request),
            force=force,
        )
        return await self._new_state()

    async def _new_state(self) -> Response:
        """The state after an order, in full whatever the client has cached."""
        state = await self._state()
        body = encode(state)
        return Response(body, headers={"etag": tag_of(body, state.revision)}, media_type="application/json")


def _reject_unknown(options: dict[str, object], known: set[str], names: str) -> None:
    """Reject members of an order that it does not take.

    Raises:
        InvalidInput: names each of them.
    """
    if unknown := options.keys() - known:
        raise InvalidInput([{"row": None, "field": n, "problem": f"unknown; it takes {names}"} for n in unknown])


def _reason(options: dict[str, object]) -> str:
    return str(options.get("reason", ""))[:REASON_MAX_CHARS]


def _expected_revision(request: Request) -> int | None:
    """The revision in `If-Match`: the number itself, or the entity tag of `GET /rollout`, which starts with it.

    Raises:
        MalformedRequest: the header has no revision.
    """
    value = request.headers.get("if-match")
    if value is None or value == "*":
        return None
    try:
        return int(value.removeprefix("W/").strip('"').partition("-")[0])
    except ValueError:
        raise MalformedRequest(f"If-Match is {value!r}; it takes the revision that GET /rollout showed") from None
