"""Which models the answering process holds: a promotion comes, bakes, is over, and may be taken back.

Before it the candidate answers from a process of its own. With it, the candidate is loaded here: no hop, and no process to lose.
While it bakes, the old primary stays warm as the fallback and rehearses. When it has baked the old primary is let go, once
nobody asks it any more; `undo` loads it again before the plan that needs it comes into force, so no request finds nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from understudy.domain import Phase, Plan, Variant
from understudy.errors import ConfigurationError, NotReady
from understudy.inference import Engine
from understudy.inference.batching import LocalModel, SpreadModel
from understudy.inference.remote import RemoteEngine

log = structlog.get_logger(__name__)


class Released:
    """Takes the place of a model that was closed."""

    @staticmethod
    def refusal() -> NotReady:
        """What those are told who ask for it."""
        return NotReady("the old primary was released when its promotion had baked; `understudy undo` loads it again")


@dataclass(slots=True)
class ModelSlots:
    """The models that answer now. A promotion replaces them while requests are under way.

    Attributes:
        candidate: None where the rollout file names none; a `LocalModel` once it is promoted.
        remote: the connection to the candidate's process; None where there is none.
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
        """Whether the candidate can answer now, from its own process or from this one."""
        return isinstance(self.candidate, LocalModel) or self.remote_up


class Promotion:
    """Seats models as plans ask for them.

    Args:
        load: opens and warms a variant's model; blocks.
        seat: makes a loaded model ready to be asked; called on the event loop.
        unasked: returns when no rehearsal of the old primary is queued or under way.
    """

    def __init__(
        self,
        seats: ModelSlots,
        load: Callable[[Variant], Engine],
        seat: Callable[[Variant, Engine], LocalModel],
        unasked: Callable[[], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._seats, self._load, self._seat, self._unasked, self._spawn = seats, load, seat, unasked, spawn
        self._plan: Plan | None = None
        self._one_at_a_time = asyncio.Lock()

    @property
    def released(self) -> bool:
        """Whether the old primary was let go."""
        return isinstance(self._seats.primary, Released)

    async def prepare(self, plan: Plan) -> None:
        """Before a plan comes into force: load the old primary again, where the plan may need it.

        Raises:
            ConfigurationError: when it does not load; the plan must not come into force here then.
        """
        if not self.released or plan.released:
            return
        async with self._one_at_a_time:
            if self.released:
                engine = await asyncio.to_thread(self._load, Variant.PRIMARY)
                self._seats.primary = self._seat(Variant.PRIMARY, engine)
                log.info("the old primary is loaded again", model=engine.card.name, version=engine.card.version)

    def follow(self, plan: Plan) -> None:
        """A plan is in force."""
        self._plan = plan
        if plan.phase is Phase.PROMOTED:
            self._spawn(self._promote())

    async def _promote(self) -> None:
        async with self._one_at_a_time:
            seats = self._seats
            if not isinstance(seats.candidate, LocalModel):
                try:
                    engine = await asyncio.to_thread(self._load, Variant.CANDIDATE)
                except ConfigurationError as error:
                    log.warning(
                        "the promoted model does not load here; its process goes on answering", reason=error.detail
                    )
                    return
                # Requests under way keep the model that they began with; the next one is answered here.
                seats.candidate = self._seat(Variant.CANDIDATE, engine)
                log.info("the promoted model answers here", model=engine.card.name, version=engine.card.version)
            if self._plan is not None and self._plan.released and isinstance(seats.primary, LocalModel):
                await self._unasked()
                old, seats.primary = seats.primary, Released()
                await old.idle()
                old.engine.close()
                log.info("the old primary is released", model=old.engine.card.name, version=old.engine.card.version)
