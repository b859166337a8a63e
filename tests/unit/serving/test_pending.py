"""One prediction from its routing to its answer: runs that take long have a deadline, whichever model makes them."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.rows import predicted
from understudy.domain import Mode, Phase, Plan, Status, Variant
from understudy.errors import DeadlineExceeded, NotReady, Overloaded, UnderstudyError
from understudy.inference.batching import LocalModel
from understudy.inference.decoding import Decoder
from understudy.loading import fields_of, inputs_of
from understudy.records.exchange import Exchange
from understudy.serving.pipeline import RequestOptions
from understudy.serving.slots import ModelSlots, Released
from understudy.testing import FakeEngine, card, pipeline

ROW = [(0.7, "s")]
LIVE = RequestOptions(None, None, Mode.LIVE, 1e6)


class Clock:
    """The event loop's own, as deadlines run on it."""

    def now(self) -> float:
        return 1e6

    def perf(self) -> float:
        return asyncio.get_running_loop().time()


class Service:
    """Two models in this process; a run of one of them takes until it is let go."""

    def __init__(self, executor: ThreadPoolExecutor, slow: Variant, *, weight: int = 10_000) -> None:
        own, self.may_go, self.recorded = card(), threading.Event(), list[Exchange]()
        decoder = Decoder(fields_of(own, own), context=[], rows_max=5, key_max_chars=16)
        limits: dict[str, Any] = {"max_rows": 9, "queue_max_rows": 2, "inline_max_s": 0.5}

        def model(variant: Variant) -> LocalModel:
            waits = variant is slow
            engine = FakeEngine(
                own, cost_s=1.0 if waits else 0.0, before=lambda rows: waits and self.may_go.wait(20) and None
            )
            return LocalModel(engine, inputs_of(own, decoder.positions), executor, **limits)

        recorder: Any = SimpleNamespace(
            open=lambda exchange: None,
            add=self.recorded.append,
            failed=lambda exchange, status: self.recorded.append(exchange),
        )
        self.slots = ModelSlots(model(Variant.PRIMARY), model(Variant.CANDIDATE))
        plan = Plan(Phase.CANARY, weight, 0, 1, revision=1)
        self.path = pipeline(
            recorder, plan, self.slots, decoder, clock=Clock(), deadline_s=0.3, candidate_timeout_s=0.1
        )

    async def ask(self) -> Exchange | UnderstudyError:
        """What came of a request."""
        try:
            return (await predicted(self.path, ROW, LIVE))[0]
        except UnderstudyError as error:
            return error


def played(slow: Variant, story: Any, **more: Any) -> Any:
    async def main() -> Any:
        with ThreadPoolExecutor(1) as executor:
            service = Service(executor, slow, **more)
            try:
                return await story(service)
            finally:
                service.may_go.set()

    return asyncio.run(main())


def test_a_primary_past_the_deadline_is_an_error_and_its_late_answer_is_not_delivered() -> None:
    async def story(service: Service) -> None:
        error = await service.ask()
        service.may_go.set()
        await service.slots.primary.idle()

        assert isinstance(error, DeadlineExceeded)
        assert "300 ms" in error.detail
        [exchange] = service.recorded
        assert (exchange.http, exchange.primary.status) == (504, Status.TIMEOUT)

    played(Variant.PRIMARY, story, weight=0)


def test_a_promoted_candidate_past_its_part_of_the_deadline_is_a_fallback() -> None:
    async def story(service: Service) -> None:
        exchange = await service.ask()
        service.may_go.set()
        await service.slots.candidate.idle()

        assert isinstance(exchange, Exchange)
        assert (exchange.variant, exchange.fallback) == (Variant.PRIMARY, "timeout")
        assert (exchange.candidate.status, exchange.primary.status) == (Status.TIMEOUT, Status.OK)
        assert service.recorded == [exchange]

    played(Variant.CANDIDATE, story)


@pytest.mark.parametrize("slow", [Variant.CANDIDATE])
def test_where_the_old_primary_was_released_the_deadline_is_whole_and_its_passing_is_said(slow: Variant) -> None:
    async def story(service: Service) -> None:
        service.slots.primary = Released()
        error = await service.ask()

        assert isinstance(error, DeadlineExceeded)
        assert service.recorded[0].http == 504

    played(slow, story)


def test_a_released_primary_is_never_asked() -> None:
    async def story(service: Service) -> None:
        service.slots.primary = Released()

        assert isinstance(await service.ask(), NotReady)

    played(Variant.PRIMARY, story, weight=0)


def test_too_much_that_waits_is_refused_at_once_and_leaves_no_timer() -> None:
    async def story(service: Service) -> None:
        waiting = [asyncio.ensure_future(service.ask()) for _ in range(4)]
        found = await asyncio.gather(*waiting)

        assert [type(each) for each in found].count(Overloaded) >= 1
        assert all(isinstance(each, Overloaded | DeadlineExceeded) for each in found)

    played(Variant.PRIMARY, story, weight=0)
