"""The models that a worker holds, before, during and after a promotion.

Before a promotion, the candidate answers from its own process. With it, the candidate is loaded into the worker. During the
bake, the old primary stays loaded as the fallback and rehearses. After the bake it is released, once no request uses it.
`undo` loads it again before the plan that needs it comes into force, so no request is without a model.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass

import structlog

from understudy.domain import Phase, Plan, Variant
from understudy.errors import ConfigurationError, NotReady
from understudy.inference import Engine
from understudy.inference.batching import LocalModel
from understudy.inference.remote import RemoteEngine
from understudy.inference.spread_model import SpreadModel

log = structlog.get_logger(__name__)


class Released:
    """Takes the place of the old primary after its release."""

    @staticmethod
    def refusal() -> NotReady:
        """The error for requests that need the released model."""
        return NotReady("the old primary was released at the end of the bake; `understudy undo` loads it again")


@dataclass(slots=True)
class ModelSlots:
    """The models that answer now. A promotion replaces them while requests are in flight.

    Attributes:
        candidate: None if the rollout file names none; a `LocalModel` after the promotion.
        remote: the client of the candidate's process; None if there is none.
    """

    primary: LocalModel | Released
    candidate: SpreadModel | LocalModel | None = None
    remote: RemoteEngine | None = None

    @property
    def remote_up(self) -> bool:
        """Whether the candidate's process answers."""
        return self.remote is not None and self.remote.up

    @property
    def candidate_answers(self) -> bool:
        """Whether the candidate can answer now, from its own process or from this worker."""
        return isinstance(self.candidate, LocalModel) or self.remote_up


class Promotion:
    """Loads and releases models as plans require.

    Args:
        slots: the models of this worker.
        load: loads and warms up a variant's model; blocks.
        install: wraps a loaded engine as a model; called on the event loop.
        unused: returns when no rehearsal of the old primary is queued or running.
        spawn: starts a coroutine as a task and keeps a reference to it.
    """

    def __init__(
        self,
        slots: ModelSlots,
        load: Callable[[Variant], Engine],
        install: Callable[[Variant, Engine], LocalModel],
        unused: Callable[[], Awaitable[None]],
        spawn: Callable[[Coroutine[object, None, None]], None],
    ) -> None:
        self._slots, self._load, self._install, self._unused, self._spawn = slots, load, install, unused, spawn
        self._plan: Plan | None = None
        self._one_at_a_time = asyncio.Lock()

    @property
    def released(self) -> bool:
        """Whether the old primary was released."""
        return isinstance(self._slots.primary, Released)

    async def prepare(self, plan: Plan) -> None:
        """Before a plan comes into force, load the old primary again if the plan needs it.

        Raises:
            ConfigurationError: the model does not load; the plan must not come into force in this worker.
        """
        if not self.released or plan.released:
            return
        async with self._one_at_a_time:
            if self.released:
                engine = await asyncio.to_thread(self._load, Variant.PRIMARY)
                self._slots.primary = self._install(Variant.PRIMARY, engine)
                log.info("the old primary is loaded again", model=engine.card.name, version=engine.card.version)

    def follow(self, plan: Plan) -> None:
        """Apply a plan that has come into force."""
        self._plan = plan
        if plan.phase is Phase.PROMOTED:
            self._spawn(self._promote())

    async def _promote(self) -> None:
        async with self._one_at_a_time:
            slots = self._slots
            if not isinstance(slots.candidate, LocalModel):
                try:
                    engine = await asyncio.to_thread(self._load, Variant.CANDIDATE)
                except ConfigurationError as error:
                    log.warning(
                        "the promoted model cannot be loaded into this worker; its own process keeps answering",
                        reason=error.detail,
                    )
                    return
                # Requests in flight keep the model that they started with; the next ones use this one.
                slots.candidate = self._install(Variant.CANDIDATE, engine)
                log.info(
                    "the promoted model answers in this worker", model=engine.card.name, version=engine.card.version
                )
            if self._plan is not None and self._plan.released and isinstance(slots.primary, LocalModel):
                await self._unused()
                old, slots.primary = slots.primary, Released()
                await old.idle()
                old.engine.close()
                log.info("the old primary is released", model=old.engine.card.name, version=old.engine.card.version)
