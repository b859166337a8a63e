"""Which models a process holds: a promotion loads, bakes and lets go, and what is taken back is there before it is needed."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from understudy.domain import SHARE_ONE, Phase, Plan, Variant
from understudy.errors import ConfigurationError
from understudy.inference import Engine
from understudy.inference.batching import LocalModel
from understudy.inference.decoding import Columns, Field
from understudy.serving.slots import Promotion, Released
from understudy.testing import FakeEngine, card

CANARY = Plan(Phase.CANARY, weight=500, shadow=SHARE_ONE, salt=7)
PROMOTED = Plan(Phase.PROMOTED, weight=SHARE_ONE, shadow=SHARE_ONE, salt=7)
RELEASED = Plan(Phase.PROMOTED, weight=SHARE_ONE, shadow=0, salt=7)
ABORTED = Plan(Phase.ABORTED, weight=0, shadow=0, salt=7)
ROW = [(0.7, "s")]


class Harness:
    """A process's seats, with engines that need no model, and a gate before the old primary may be let go."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(1)
        self.opened: list[tuple[Variant, FakeEngine]] = []
        self.broken: set[Variant] = set()
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.tasks: list[asyncio.Task[None]] = []
        self.seats: Any = SimpleNamespace(primary=None, candidate=None)
        self.seats.primary = self.seat(Variant.PRIMARY, self.load(Variant.PRIMARY))
        self.promotion = Promotion(self.seats, self.load, self.seat, self.unasked, self.spawn)

    def load(self, variant: Variant) -> Engine:
        if variant in self.broken:
            raise ConfigurationError("the file is gone")
        engine = FakeEngine(card(variant.value))
        self.opened.append((variant, engine))
        return engine

    def seat(self, variant: Variant, engine: Engine) -> LocalModel:
        fields = [Field("x", "float32", (1,), True), Field("s", "string", (1,), False)]
        columns = Columns(fields, {"x": 0, "s": 1})
        return LocalModel(engine, columns, self.executor, inline_max_s=1.0, max_rows=10, queue_max_rows=10)

    async def unasked(self) -> None:
        await self.may_go.wait()

    def spawn(self, coroutine: Any) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(coroutine))

    async def follow(self, plan: Plan) -> None:
        await self.promotion.prepare(plan)
        self.promotion.follow(plan)
        if self.may_go.is_set():
            await asyncio.gather(*self.tasks)


def told(story: Any) -> None:
    async def main() -> None:
        harness = Harness()
        try:
            await story(harness)
        finally:
            harness.executor.shutdown()

    asyncio.run(main())


def test_a_promotion_loads_the_candidate_once_and_keeps_the_old_primary_warm() -> None:
    async def story(harness: Harness) -> None:
        await harness.follow(CANARY)
        assert [variant for variant, _ in harness.opened] == [Variant.PRIMARY]
        await harness.follow(PROMOTED)
        await harness.follow(PROMOTED)
        assert [variant for variant, _ in harness.opened] == [Variant.PRIMARY, Variant.CANDIDATE]
        assert (await harness.seats.candidate.infer(ROW)).labels == [1]
        assert (await harness.seats.primary.infer(ROW)).labels == [1]
        assert not harness.promotion.released

    told(story)


def test_what_has_baked_is_let_go_when_nobody_asks_it_any_more() -> None:
    """The candidate is loaded before; rehearsals of the primary end before; then whoever asks hears where it went."""

    async def story(harness: Harness) -> None:
        harness.may_go.clear()
        await harness.follow(RELEASED)
        await asyncio.sleep(0.05)
        assert isinstance(harness.seats.candidate, LocalModel)
        assert (await harness.seats.primary.infer(ROW)).labels == [1]
        harness.may_go.set()
        await asyncio.gather(*harness.tasks)
        assert harness.promotion.released
        assert harness.opened[0][1].closed
        assert not harness.opened[1][1].closed
        assert isinstance(harness.seats.primary, Released)
        assert "understudy undo" in harness.seats.primary.refusal().detail

    told(story)


def test_a_promotion_that_does_not_load_here_keeps_both_ways_open() -> None:
    """The candidate's own process goes on answering, and so the old primary is never let go."""

    async def story(harness: Harness) -> None:
        harness.broken.add(Variant.CANDIDATE)
        await harness.follow(RELEASED)
        assert harness.seats.candidate is None
        assert not harness.promotion.released

    told(story)


def test_what_is_taken_back_is_loaded_before_its_plan_is_in_force() -> None:
    async def story(harness: Harness) -> None:
        await harness.follow(RELEASED)
        assert isinstance(harness.seats.primary, Released)
        await harness.promotion.prepare(RELEASED)
        assert harness.promotion.released
        await asyncio.gather(harness.promotion.prepare(ABORTED), harness.promotion.prepare(ABORTED))
        assert [variant for variant, _ in harness.opened].count(Variant.PRIMARY) == 2
        assert (await harness.seats.primary.infer(ROW)).labels == [1]

    told(story)


def test_a_primary_that_does_not_load_any_more_keeps_the_plan_out_of_force() -> None:
    async def story(harness: Harness) -> None:
        await harness.follow(RELEASED)
        harness.broken.add(Variant.PRIMARY)
        with pytest.raises(ConfigurationError, match="gone"):
            await harness.promotion.prepare(ABORTED)
        assert harness.promotion.released

    told(story)
