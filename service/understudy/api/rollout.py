"""The calls that show the rollout: its state, audit log, evidence, traffic, drift, policy and verdict."""

import asyncio
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from understudy import loading
from understudy.api.access import actor, read, require_viewer
from understudy.api.documents import Access, ArgoMeasurement, ArgoVerdict, Gate
from understudy.api.parts import ApiParts
from understudy.documents import FileChange, Rollout
from understudy.domain import Phase
from understudy.errors import Forbidden, MalformedRequest
from understudy.http.asgi import encode
from understudy.http.responses import has_tag, json_response, tag_of, tagged
from understudy.http.router import route
from understudy.observability import timeline
from understudy.serving.policy_document import about


class RolloutCalls:
    """Handlers of `/rollout` that change nothing."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts, self._away = parts, loading.candidate_away()

    def routes(self) -> Sequence[Route]:
        """Starlette's routes."""
        looks = (
            self.events,
            self.evidence,
            self.traffic,
            self.policy,
            self.access,
            self.drift,
            self.audit,
            self.verdict,
        )
        return [
            route("/rollout", self.rollout, "GET"),
            *(route(f"/rollout/{look.__name__}", look, "GET") for look in looks),
            route("/rollout/gate", self.gate, "POST"),
        ]

    async def state(self) -> Rollout:
        """The document of `GET /rollout`."""
        slots = self._parts.slots
        state = await self._parts.control.state(candidate_up=slots.remote_up)
        if state.candidate is not None:
            remote = slots.remote
            state.candidate.reason = None if remote is None or remote.up else remote.why
        state.files = [FileChange(each.role, each.file, each.problem) for each in self._parts.files.changed]
        if self._away:
            standing = state.headline if state.candidate else f"{state.primary.name} answers every request"
            state.headline = f"{standing}; the candidate was left out at the start: {self._away}"
        return state

    async def rollout(self, request: Request) -> Response:
        """`GET /rollout`."""
        require_viewer(self._parts, request)
        state = await self.state()
        body = encode(state)
        return tagged(request, body, tag_of(body, state.revision))

    async def events(self, request: Request) -> Response:
        """`GET /rollout/events?after=&limit=`."""
        require_viewer(self._parts, request)
        query = request.query_params
        try:
            after, limit = int(query.get("after", 0)), int(query.get("limit", 100))
        except ValueError:
            raise MalformedRequest("`after` and `limit` are whole numbers") from None
        return json_response(await self._parts.control.events(after, max(1, min(limit, 1000))))

    async def evidence(self, request: Request) -> Response:
        """`GET /rollout/evidence`. The bands are long, and are read only for a client that does not have them."""
        require_viewer(self._parts, request)
        control = self._parts.control
        tag = tag_of(encode(await control.evidence_mark()))
        return tagged(request, b"" if has_tag(request, tag) else encode(await control.evidence()), tag)

    async def traffic(self, request: Request) -> Response:
        """`GET /rollout/traffic?span=&after=`."""
        require_viewer(self._parts, request)
        span = request.query_params.get("span", timeline.SPANS[0])
        try:
            after = float(request.query_params.get("after", 0))
        except ValueError:
            raise MalformedRequest("`after` is a time in Unix seconds") from None
        if span not in timeline.SPANS:
            raise MalformedRequest(f"`span` is {' or '.join(timeline.SPANS)}")
        return tagged(request, encode(await self._parts.control.traffic(span, after)))

    async def audit(self, request: Request) -> Response:
        """`GET /rollout/audit`: the predictions whose label an audit of missing labels waits for, the oldest first."""
        require_viewer(self._parts, request)
        return json_response(await self._parts.control.audit())

    async def policy(self, request: Request) -> Response:
        """`GET /rollout/policy`."""
        require_viewer(self._parts, request)
        parts = self._parts
        return json_response(about(parts.policy, parts.fields, parts.decoder.context, parts.cards))

    async def access(self, request: Request) -> Response:
        """`GET /rollout/access`: the caller's name and role."""
        user = actor(self._parts, request)
        return json_response(Access(name=user.name, role=user.role, tokens=self._parts.tokens.configured))

    async def drift(self, request: Request) -> Response:
        """`GET /rollout/drift`."""
        require_viewer(self._parts, request)
        return tagged(request, encode(await asyncio.to_thread(self._parts.watch.shown)))

    async def verdict(self, request: Request) -> Response:
        """`GET /rollout/verdict`, for Argo Rollouts' web metric. Neither ok nor inconclusive means failure."""
        require_viewer(self._parts, request)
        state = await self.state()
        answer, reason = state.verdict["answer"], state.verdict["reason"]
        bad = answer == "rollback" or state.phase is Phase.ABORTED
        good = answer == "advance" or state.phase is Phase.PROMOTED
        measurement = ArgoMeasurement(ok=good and not bad, inconclusive=not good and not bad, reason=reason)
        return json_response(ArgoVerdict(data=measurement))

    async def gate(self, request: Request) -> Response:
        """`POST /rollout/gate`, for Flagger's webhooks: 200 to continue, 403 with the reason to stop."""
        require_viewer(self._parts, request)
        await read(self._parts, request)
        state = await self.state()
        reason = state.verdict["reason"]
        if state.verdict["answer"] == "rollback" or state.phase in {Phase.ABORTED, Phase.PAUSED}:
            raise Forbidden(f"{state.phase}: {reason}")
        return json_response(Gate(phase=state.phase, reason=reason))
