"""The other calls of the contract: labels, the rollout's state, orders, health and the API document."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from understudy.api import dashboard, openapi
from understudy.api.feedback import FeedbackDecoder
from understudy.api.loadtest import Launch
from understudy.api.parts import ApiParts
from understudy.api.predict import Predict
from understudy.api.v2.handlers import ProtocolV2, tell
from understudy.domain import LabelReport, Variant
from understudy.errors import Forbidden, InvalidInput, MalformedRequest, NotReady
from understudy.http.asgi import (
    Direct,
    Handler,
    Receive,
    Routes,
    Scope,
    Send,
    Teller,
    answer,
    encode,
    header,
    json_object,
    peer,
    read_body,
    require_json,
)
from understudy.http.auth import Actor
from understudy.http.etag import knows, tag_of, tagged
from understudy.observability import timeline
from understudy.rollout.phases import Order
from understudy.serving.plan import REASON_MAX_CHARS
from understudy.serving.policy_document import about

ORDERS = {
    "promote": Order.PROMOTE,
    "pause": Order.PAUSE,
    "resume": Order.RESUME,
    "abort": Order.ABORT,
    "retry": Order.RETRY,
    "undo": Order.UNDO,
}
"""The operator's orders by path; `promote` with `{"full": true}` skips the steps that are left."""

TELLERS: Mapping[str, Teller] = {"/v2": tell}
"""Who tells of errors where they are not problem details."""


class Rest:
    """The handlers of the answering process.

    Args:
        ready: whether every worker is; document: BentoML's own OpenAPI document.
    """

    def __init__(self, parts: ApiParts, ready: Callable[[], bool], document: Callable[[], Mapping[str, Any]]) -> None:
        self._parts, self._ready, self._document = parts, ready, document
        self._feedback = FeedbackDecoder(
            parts.cards[Variant.PRIMARY],
            parts.settings.labels_max,
            parts.cards.get(Variant.CANDIDATE),
            parts.policy.task,
            parts.settings.time_limits(),
        )
        self._clock = parts.clock
        self._predict = Predict(parts)
        self._v2 = ProtocolV2(parts, self._check_ready)

    def direct(self) -> Mapping[str, Direct]:
        """Who takes complete requests directly from the connection, by path."""
        return {"/predict": self._predict.take, **self._v2.direct()}

    def routes(self) -> Routes:
        """Path → method → handler."""
        return {
            **self._v2.routes(),
            "/predict": {"POST": self._predict},
            "/feedback": {"POST": self.feedback},
            "/rollout": {"GET": self.rollout},
            "/rollout/events": {"GET": self.events},
            "/rollout/evidence": {"GET": self.evidence},
            "/rollout/traffic": {"GET": self.traffic},
            "/rollout/policy": {"GET": self.policy},
            "/rollout/access": {"GET": self.access},
            "/rollout/drift": {"GET": self.drift},
            "/rollout/audit": {"GET": self.audit},
            "/rollout/verdict": {"GET": self.verdict},
            "/rollout/gate": {"POST": self.gate},
            "/rollout/weight": {"POST": self.weight},
            **Launch(self._parts).routes(),
            **{f"/rollout/{name}": {"POST": self._order(name)} for name in ORDERS},
            "/livez": {"GET": self.alive},
            "/healthz": {"GET": self.alive},
            "/readyz": {"GET": self.ready},
            "/docs.json": {"GET": self.docs},
            **dashboard.assets(),
        }

    async def feedback(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /feedback`: labels. They are on disk when this answers."""
        require_json(scope)
        body = await read_body(scope, receive, **self._parts.body_limits)
        now = self._clock.now()
        try:
            reports: list[LabelReport] = self._feedback.decode(body, now)
        except InvalidInput as error:
            self._parts.metrics.labels.labels(result="invalid").inc(len(error.errors))
            raise
        receipt = await self._parts.add_labels(reports)
        await answer(send, 200, encode(receipt.counts))

    async def rollout(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /rollout`."""
        self._viewer(scope)
        state = await self._state()
        body = encode(state)
        await tagged(scope, send, body, tag_of(body, state["revision"]))

    async def events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /rollout/events?after=&limit=`."""
        self._viewer(scope)
        query = _query(scope)
        try:
            after, limit = int(query.get("after", 0)), int(query.get("limit", 100))
        except ValueError:
            raise MalformedRequest("`after` and `limit` are whole numbers") from None
        await answer(send, 200, encode(await self._parts.control.events(after, max(1, min(limit, 1000)))))

    async def evidence(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /rollout/evidence`: the bands are long, and only read for whoever does not have them."""
        self._viewer(scope)
        control = self._parts.control
        tag = tag_of(encode(await control.evidence_mark()))
        await tagged(scope, send, b"" if knows(scope, tag) else encode(await control.evidence()), tag)

    async def traffic(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /rollout/traffic?span=&after=`."""
        self._viewer(scope)
        query = _query(scope)
        span = query.get("span", timeline.SPANS[0])
        try:
            after = float(query.get("after", 0))
        except ValueError:
            raise MalformedRequest("`after` is a time in Unix seconds") from None
        if span not in timeline.SPANS:
            raise MalformedRequest(f"`span` is {' or '.join(timeline.SPANS)}")
        await tagged(scope, send, encode(await self._parts.control.traffic(span, after)))

    async def audit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /rollout/audit`: the predictions whose label an audit of missing labels waits for, the oldest first."""
        self._viewer(scope)
        await answer(send, 200, encode(await self._parts.control.audit()))

    async def policy(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /rollout/policy`."""
        self._viewer(scope)
        parts = self._parts
        found = about(parts.policy, parts.fields, parts.decoder.context, parts.cards)
        await answer(send, 200, encode(found))

    async def access(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /rollout/access`: who is asking, and what they may do."""
        tokens = self._parts.tokens
        actor = tokens.actor(header(scope, b"authorization"), peer(scope))
        await answer(send, 200, encode({"name": actor.name, "role": actor.role, "tokens": tokens.configured}))

    async def drift(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /rollout/drift`."""
        self._viewer(scope)
        await tagged(scope, send, encode(await asyncio.to_thread(self._parts.watch.shown)))

    async def verdict(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /rollout/verdict`: for Argo Rollouts' web metric. Neither ok nor inconclusive is a failure."""
        self._viewer(scope)
        state = await self._state()
        answer_, phase = state["verdict"]["answer"], state["phase"]
        bad = answer_ == "rollback" or phase == "aborted"
        good = answer_ == "advance" or phase == "promoted"
        data = {"ok": good and not bad, "inconclusive": not good and not bad, "reason": state["verdict"]["reason"]}
        await answer(send, 200, encode({"data": data}))

    async def gate(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /rollout/gate`: for Flagger's webhooks. 200 to go on, 403 with the reason to stop."""
        self._viewer(scope)
        await read_body(scope, receive, **self._parts.body_limits)
        state = await self._state()
        if state["verdict"]["answer"] == "rollback" or state["phase"] in {"aborted", "paused"}:
            raise Forbidden(f"{state['phase']}: {state['verdict']['reason']}")
        await answer(send, 200, encode({"phase": state["phase"], "reason": state["verdict"]["reason"]}))

    def _order(self, name: str) -> Handler:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            actor = self._operator(scope)
            order = json_object(await read_body(scope, receive, **self._parts.body_limits))
            full, force = (name == "promote" and order.pop(key, False) is True for key in ("full", "force"))
            if unknown := order.keys() - {"reason"}:
                raise InvalidInput(
                    [{"row": None, "field": n, "problem": "unknown; it takes `reason`"} for n in unknown]
                )
            await self._parts.control.order(
                Order.PROMOTE_FULL if full else ORDERS[name],
                actor=actor.name,
                reason=str(order.get("reason", ""))[:REASON_MAX_CHARS],
                expected_revision=_if_match(scope),
                force=force,
            )
            await self._told(send)

        return handler

    async def weight(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /rollout/weight`: an operator's order."""
        actor = self._operator(scope)
        require_json(scope)
        order = json_object(await read_body(scope, receive, **self._parts.body_limits))
        force = order.pop("force", False) is True
        if unknown := order.keys() - {"weight", "reason"}:
            raise InvalidInput(
                [
                    {"row": None, "field": n, "problem": "unknown; it takes `weight`, `reason` and `force`"}
                    for n in unknown
                ]
            )
        if "weight" not in order:
            raise InvalidInput(
                [{"row": None, "field": "weight", "problem": "is missing; it takes a number of percent, 0 to 100"}]
            )
        await self._parts.control.order_weight(
            order["weight"],
            actor=actor.name,
            reason=str(order.get("reason", ""))[:REASON_MAX_CHARS],
            expected_revision=_if_match(scope),
            force=force,
        )
        await self._told(send)

    async def _told(self, send: Send) -> None:
        """An order's answer: the new state, whatever the caller has seen."""
        state = await self._state()
        body = encode(state)
        await answer(send, 200, body, [(b"etag", tag_of(body, state["revision"]))])

    async def _state(self) -> dict[str, Any]:
        state = await self._parts.control.state(candidate_up=self._parts.slots.remote_up)
        if state["candidate"] is not None:
            remote = self._parts.slots.remote
            state["candidate"]["reason"] = None if remote is None or remote.up else remote.why
        return state | {"files": [each.as_dict() for each in self._parts.files.changed]}

    async def alive(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /livez`, `GET /healthz`: the event loop turns."""
        await answer(send, 200, b"\n", content_type=b"text/plain; charset=utf-8")

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /readyz`: every worker has the primary, and the store is the one it opened. The candidate is never asked."""
        self._check_ready()
        await answer(send, 200, b"\n", content_type=b"text/plain; charset=utf-8")

    async def docs(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /docs.json`: OpenAPI of the front door's calls and of BentoML's own."""
        base = self._document()
        await answer(
            send, 200, encode(openapi.document(base, self._parts.policy, self._parts.fields, self._parts.cards))
        )

    def _check_ready(self) -> None:
        if not self._ready():
            raise NotReady("a worker is still loading")
        if (lost := self._parts.store_lost()) is not None:
            raise NotReady(lost)

    def _viewer(self, scope: Scope) -> None:
        tokens = self._parts.tokens
        if tokens.configured:
            tokens.actor(header(scope, b"authorization"), peer(scope))

    def _operator(self, scope: Scope) -> Actor:
        tokens = self._parts.tokens
        tokens.own_page(header(scope, b"origin"), header(scope, b"host"))
        return tokens.operator(header(scope, b"authorization"), peer(scope))


def _query(scope: Scope) -> dict[str, str]:
    return dict(part.partition("=")[::2] for part in scope["query_string"].decode("latin-1").split("&") if part)


def _if_match(scope: Scope) -> int | None:
    """The revision that an order is for: itself, or the tag of `GET /rollout`, which begins with it."""
    value = header(scope, b"if-match")
    if value is None or value == "*":
        return None
    try:
        return int(value.removeprefix("W/").strip('"').partition("-")[0])
    except ValueError:
        raise MalformedRequest(f"If-Match is {value!r}; it takes the revision that GET /rollout showed") from None
