"""The calls of the load test: what would be tested, what it uses, and the record that opens the gate."""

import asyncio
from typing import Any

import pydantic

from understudy import loading
from understudy.api.parts import ApiParts
from understudy.domain import Event
from understudy.errors import InvalidInput, TooLarge
from understudy.http.asgi import (
    Receive,
    Scope,
    Send,
    answer,
    encode,
    header,
    json_object,
    peer,
    read_body,
    require_json,
)
from understudy.observability import host
from understudy.rollout.loadtest import LOADTEST, Record


class Launch:
    """Handlers of `/rollout/loadtest`."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts

    def routes(self) -> dict[str, dict[str, Any]]:
        """Path → method → handler."""
        return {"/rollout/loadtest": {"GET": self.look, "POST": self.record}}

    async def look(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /rollout/loadtest`: the setup and goals that a record must be for, whether one is there, and what is used."""
        tokens = self._parts.tokens
        if tokens.configured:
            tokens.actor(header(scope, b"authorization"), peer(scope))
        await answer(send, 200, encode(await asyncio.to_thread(self._state)))

    async def record(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /rollout/loadtest`: an operator files a record; it is in the audit log when this answers."""
        parts = self._parts
        parts.tokens.own_page(header(scope, b"origin"), header(scope, b"host"))
        actor = parts.tokens.operator(header(scope, b"authorization"), peer(scope))
        require_json(scope)
        body, limit = await read_body(scope, receive, **parts.body_limits), parts.settings.loadtest_max_bytes
        if len(body) > limit:
            raise TooLarge(f"the record has {len(body)} bytes; the limit is {limit} (UNDERSTUDY_LOADTEST_MAX_BYTES)")
        try:
            record = Record.model_validate(json_object(body))
        except pydantic.ValidationError as error:
            raise InvalidInput(
                [
                    {"row": None, "field": ".".join(map(str, e["loc"])), "problem": e["msg"]}
                    for e in error.errors(include_url=False, include_input=False)
                ]
            ) from None
        filed = await asyncio.to_thread(self._file, record, actor.name)
        parts.metrics.events.labels(event=LOADTEST).inc()
        await answer(send, 200, encode(filed))

    def _file(self, record: Record, actor: str) -> dict[str, Any]:
        parts = self._parts
        event = parts.store.append_event(
            Event(
                parts.clock.now(),
                LOADTEST,
                actor,
                record.summary()[:2_000],
                parts.control.plan.revision,
                record.model_dump(mode="json"),
            )
        )
        return {"event": event.id, **self._gate()}

    def _gate(self) -> dict[str, Any]:
        requirements = self._parts.requirements
        met = LOADTEST in requirements.met()
        return {"required": requirements.asked, "met": met, "reason": requirements.missing()}

    def _state(self) -> dict[str, Any]:
        parts = self._parts
        supervisor = int(loading.run_dir(parts.settings).name)
        plan = parts.control.plan
        return {
            "model": parts.policy.model,
            "setup": parts.requirements.setup.model_dump(),
            "goals": parts.requirements.goals.model_dump(),
            **self._gate(),
            "last": parts.requirements.last(),
            "plan": {
                "phase": plan.phase.value,
                "weight": plan.weight / 100,
                "shadow": plan.shadow / 100,
                "revision": plan.revision,
            },
            "deadline_ms": parts.policy.goals.latency.deadline_ms,
            "usage": host.usage(supervisor),
        }
