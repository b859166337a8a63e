"""On a beat: labels that wait are joined, old rows go, the judge is asked; the store being away is counted and passes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import prometheus_client

from tests.support.waiting import eventually
from understudy.domain import Fate, LabelReport, Outcome, Plan, Variant
from understudy.errors import StoreError
from understudy.inference import OutputReader
from understudy.observability.metrics import Metrics, parse
from understudy.records.housekeeping import Housekeeping
from understudy.records.writer import RecordWriter
from understudy.rollout import losses
from understudy.store import Retention
from understudy.store.memory import MemoryStore
from understudy.testing import ManualClock, card, observation

KEEP = Retention(max_age_s=3600, max_bytes=2**30)


def tally(outcome: Outcome) -> Mapping[str, float]:
    return losses.tally(outcome, dict.fromkeys(Variant, (0, 1)), dict.fromkeys(Variant, 1))


class Judge:
    """A controller that does nothing but say how often it was asked; it fails as it is told to."""

    verdict = None

    def __init__(self, *failures: Exception) -> None:
        self.asked: list[bool] = []
        self.failures = list(failures)

    def tick(self, *, candidate_ready: bool) -> Plan | None:
        self.asked.append(candidate_ready)
        if self.failures:
            raise self.failures.pop(0)
        return None


class Looker:
    """A tracer that fails as it is told to, and then only counts."""

    def __init__(self, *failures: Exception) -> None:
        self.looks, self.failures = 0, list(failures)

    def look(self) -> None:
        self.looks += 1
        if self.failures:
            raise self.failures.pop(0)


class Harness:
    def __init__(self, judge: Any = None, tracer: Any = None) -> None:
        self.store, self.registry = MemoryStore("r", tally), prometheus_client.CollectorRegistry()
        metrics = Metrics(self.registry)
        self.writer = RecordWriter(
            "m", self.store, metrics, {v: OutputReader(card()) for v in Variant}, lambda rows: [None] * len(rows)
        )
        self.housekeeping = Housekeeping(self.store, metrics, ManualClock(), self.writer, judge, self.ready, tracer)

    async def ready(self) -> bool:
        return False

    def metric(self, name: str, **labels: str) -> float:
        text = prometheus_client.generate_latest(self.registry).decode()
        return sum(v for n, have, v in parse(text) if n == name and have == labels)


def run(job: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await job()

    asyncio.run(main())


def test_housekeeping_counts_age_from_arrival() -> None:
    """History that is replayed is not old when it arrives, whatever live requests say."""

    async def main() -> None:
        harness = Harness()
        now = ManualClock().now()
        replayed = observation("replayed", at=1_000.0, replay="july", received_at=now)
        harness.store.add_observations(
            [observation("old", at=now - 9_000.0), observation("new", at=now - 10.0), replayed]
        )
        sweeps, prune = 0, harness.store.prune

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal sweeps
            sweeps += 1
            return prune(*arguments, **options)

        harness.store.prune = counted  # type: ignore[method-assign]
        harness.housekeeping.start(tick_s=3600, sweep_s=0.002, retention=KEEP)
        await eventually(lambda: len(harness.store.outcomes()) == 2)
        swept = sweeps
        await eventually(lambda: sweeps > swept + 2)
        await harness.housekeeping.close()
        assert [o.prediction_id for _, o, _ in harness.store.outcomes()] == ["new", "replayed"]

    run(main)


def test_the_judge_is_asked_again_after_a_failure_and_told_of_the_candidate() -> None:
    """A store that is away is counted, a bug is logged, and the next beat comes all the same."""

    async def main() -> None:
        judge = Judge(StoreError("away"), ValueError("a bug"))
        harness = Harness(judge)
        harness.housekeeping.start(tick_s=0.001, sweep_s=3600, retention=KEEP)
        await eventually(lambda: len(judge.asked) >= 3)
        await harness.housekeeping.close()
        assert set(judge.asked) == {False}
        assert harness.metric("understudy_store_errors_total", call="tick") == 1

    run(main)


def test_traffic_is_looked_at_at_once_and_again_after_a_failure() -> None:
    """What is there when the process starts is where the first point begins; a store that is away is counted."""

    async def main() -> None:
        looker = Looker(StoreError("away"), ValueError("a bug"))
        harness = Harness(tracer=looker)
        harness.housekeeping.start(tick_s=3600, sweep_s=3600, retention=KEEP, trace_s=0.001)
        await eventually(lambda: looker.looks >= 4)
        await harness.housekeeping.close()
        assert harness.metric("understudy_store_errors_total", call="traffic") == 1

    run(main)


def test_labels_are_counted_once_they_are_stored() -> None:
    """Matched, waiting, and their outcomes: in the metrics as in the receipt."""
    harness = Harness()
    harness.store.add_observations([observation("p-0", primary=0.25)])
    receipt = harness.writer.labels([LabelReport("p-0", 1, 1_000_060.0), LabelReport("p-1", 0, 1.0)], lambda: 5.0)

    assert receipt.fates == [Fate.MATCHED, Fate.PENDING]
    assert harness.metric("understudy_labels_total", result="matched") == 1
    assert harness.metric("understudy_labels_total", result="pending") == 1
    assert harness.metric("understudy_outcomes_total", variant="primary", predicted="0", actual="1") == 1
