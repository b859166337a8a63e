"""`/rollout/loadtest`: what a load test must measure, and the record that lets a step start."""

import asyncio
from collections.abc import Sequence

import pydantic
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from understudy import loading
from understudy.api.access import json_object, read, require_operator, require_viewer
from understudy.api.documents import LoadTest, LoadTestFiled, PlanSummary, RequirementState
from understudy.api.parts import ApiParts
from understudy.domain import Event
from understudy.errors import InvalidInput, TooLarge
from understudy.http.asgi import require_json
from understudy.http.responses import json_response
from understudy.http.router import route
from understudy.observability import host
from understudy.rollout.loadtest import LOADTEST, Record
from understudy.serving.plan import REASON_MAX_CHARS


class LoadTestCalls:
    """Handlers of `/rollout/loadtest`."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts

    def routes(self) -> Sequence[Route]:
        """Starlette's routes."""
        return [route("/rollout/loadtest", self.loadtest, "GET", "POST")]

    async def loadtest(self, request: Request) -> Response:
        """`GET /rollout/loadtest`, `POST /rollout/loadtest`."""
        return await (self.show(request) if request.method == "GET" else self.file(request))

    async def show(self, request: Request) -> Response:
        """The setup and goals that a record must be for, whether there is one, and what the service uses of the machine."""
        require_viewer(self._parts, request)
        return json_response(await asyncio.to_thread(self._state))

    async def file(self, request: Request) -> Response:
        """File an operator's record. It is in the audit log when this answers."""
        parts = self._parts
        actor = require_operator(parts, request)
        require_json(request.scope)
        body, limit = await read(parts, request), parts.settings.loadtest_max_bytes
        if len(body) > limit:
            raise TooLarge(f"the record has {len(body)} bytes; the limit is {limit} (UNDERSTUDY_LOADTEST_MAX_BYTES)")
        try:
            record = Record.model_validate(json_object(body, limit))
        except pydantic.ValidationError as error:
            raise InvalidInput(
                [
                    {"row": None, "field": ".".join(map(str, e["loc"])), "problem": e["msg"]}
                    for e in error.errors(include_url=False, include_input=False)
                ]
            ) from None
        filed = await asyncio.to_thread(self._file, record, actor.name)
        parts.metrics.events.labels(event=LOADTEST).inc()
        return json_response(filed)

    def _file(self, record: Record, actor: str) -> LoadTestFiled:
        parts = self._parts
        details, revision = record.model_dump(mode="json"), parts.control.plan.revision
        event = Event(parts.clock.now(), LOADTEST, actor, record.summary()[:REASON_MAX_CHARS], revision, details)
        return LoadTestFiled(event=parts.store.append_event(event).id, **self._requirement())

    def _requirement(self) -> RequirementState:
        requirements = self._parts.requirements
        met = LOADTEST in requirements.met()
        return {"required": requirements.asked, "met": met, "reason": requirements.missing()}

    def _state(self) -> LoadTest:
        parts = self._parts
        plan = parts.control.plan
        return LoadTest(
            model=parts.policy.model,
            setup=parts.requirements.setup.model_dump(),
            goals=parts.requirements.goals.model_dump(),
            last=parts.requirements.last(),
            plan=PlanSummary(plan.phase.value, plan.weight / 100, plan.shadow / 100, plan.revision),
            deadline_ms=parts.policy.goals.latency.deadline_ms,
            usage=host.usage(int(loading.run_dir(parts.settings).name)),
            **self._requirement(),
        )
