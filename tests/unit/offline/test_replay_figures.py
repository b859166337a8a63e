"""The figures that a replay compares: what the service counted beside what the replay saw."""

import asyncio
from collections.abc import Mapping

import numpy as np
import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.waiting import eventually
from understudy.domain import LabelReport, Mode, Outcome, Status, Variant
from understudy.inference import OutputReader, Scores
from understudy.observability.metrics import Metrics
from understudy.offline.replay import (
    ReplaySummary,
    difference,
    disagreements,
    from_metrics,
    settled,
    variants_in,
)
from understudy.records.exchange import Exchange
from understudy.records.recorder import Recorder
from understudy.records.writer import RecordWriter
from understudy.rollout import losses
from understudy.settings import Settings
from understudy.store.memory import MemoryStore
from understudy.testing import card

CARD = card()


READERS = {variant: OutputReader(CARD) for variant in Variant}


def tally(outcome: Outcome) -> Mapping[str, float]:
    return losses.tally(outcome, dict.fromkeys(Variant, (0, 1)), dict.fromkeys(Variant, 1))


def exchange(first: int, positive: float, *, variant: Variant = Variant.PRIMARY, mode: Mode = Mode.LIVE) -> Exchange:
    made = Exchange("w", first, [(positive, "s")], 100.0, 1, 0, variant, mode)
    made.settle(variant, Status.OK, Scores(1, [int(positive > 0.5)], [[1 - positive, positive]]), 0.001 * (first + 1))
    made.total_seconds = 0.0007 * (first + 1)
    return made


@pytest.fixture
def recorded() -> tuple[Mapping[str, float], str]:
    """The counters of a store and the exposition of the metrics after the same thirty requests, through the real recorder."""

    async def main() -> tuple[Mapping[str, float], str]:
        store, registry = MemoryStore("r", tally), prometheus_client.CollectorRegistry()
        writer = RecordWriter("m", store, Metrics(registry), READERS, lambda rows: [None] * len(rows))
        record = Recorder("w", writer.write, Settings(flush_interval_ms=1))
        record.start()
        for i in range(30):
            made = exchange(i, 0.1 + i / 40, variant=Variant.CANDIDATE if i % 3 == 0 else Variant.PRIMARY)
            made.mode = Mode.PINNED if i % 10 == 9 else Mode.LIVE
            if i % 5 == 1:
                made.rehearsal = made.variant.other
                how = [Status.OK, Status.FAILED, Status.TIMEOUT, Status.DROPPED][i // 5 % 4]
                scores = Scores(1, [1], [[0.25, 0.75]]) if how is Status.OK else None
                made.settle(made.rehearsal, how, scores, 0.004)
            if i % 8 == 7:
                made.fallback = "timeout"
            record.add(made)
        record.refused(422)
        record.refused(422)
        reports = [LabelReport(f"w-{i}", i % 2, 100.0 + i) for i in range(25)]
        await eventually(lambda: len(store.outcomes()) >= 30)
        writer.labels(reports, lambda: 0.0)
        await record.close()
        return store.counters(), prometheus_client.generate_latest(registry).decode()

    return asyncio.run(main())


def test_the_store_and_the_metrics_agree_on_what_was_recorded(recorded: tuple[Mapping[str, float], str]) -> None:
    """Read from a real exposition: requests, rehearsals, outcomes, losses, fallbacks, comparisons, every latency bucket."""
    store, exposition = recorded
    metrics = from_metrics(exposition)

    assert disagreements(store, metrics) == []
    shared = {name for name, value in metrics.items() if value and name in store}
    assert {name.partition("/")[0] for name in shared} == {
        "requests",
        "shadow",
        "outcome",
        "loss_sum",
        "loss_count",
        "fallbacks",
        "latency",
        "compare",
    }
    assert sum(v for k, v in metrics.items() if k.startswith("latency/")) == 30
    assert not [name for name in metrics if name.startswith("requests/none")]


def test_any_difference_is_found_and_named(recorded: tuple[Mapping[str, float], str]) -> None:
    """One more or one less of any figure that both have, and a figure that one of them lacks."""
    store, metrics = recorded[0], from_metrics(recorded[1])
    checked = [name for name, value in metrics.items() if value]

    assert len(checked) > 30
    for name in checked:
        lines = disagreements(store, {**metrics, name: metrics[name] + 1})
        assert len(lines) == 1
        assert lines[0].startswith(f"{name}: the store says ")
    lines = disagreements({**store, "shadow/lost": 2.0}, metrics)
    assert lines == ["shadow/lost: the store says 2, /metrics says 0"]


def test_refused_requests_are_no_difference() -> None:
    """The store keeps what was answered; a rehearsal that failed is in both."""
    assert disagreements({}, {"requests/primary/live/504": 3.0}) == []
    assert len(disagreements({}, {"requests/candidate/shadow/500": 3.0})) == 1
    assert disagreements({"labels/matched": 3.0, "rows/live": 1.0}, {}) == []
    assert disagreements({"compare/rows_outside/value": 3.0, "compare/rows/value": 3.0}, {}) == []
    assert len(disagreements({"compare/rows": 3.0}, {})) == 1


def test_rounding_of_sums_is_no_difference_and_a_millionth_is() -> None:
    """Sums are added up in another order."""
    assert disagreements({"loss_sum/primary/brier": 1234.5}, {"loss_sum/primary/brier": 1234.5 * (1 + 1e-12)}) == []
    assert disagreements({"loss_sum/primary/brier": 1234.5}, {"loss_sum/primary/brier": 1234.51})


def test_what_was_there_before_does_not_count() -> None:
    """A replay speaks of its own requests."""
    assert difference({"a": 5.0, "b": 2.0}, {"a": 3.0, "gone": 1.0}) == {"a": 2.0, "b": 2.0}
    assert variants_in({"requests/primary/live/200": 1.0, "requests/candidate/live/200": 0.0}) == [Variant.PRIMARY]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50), st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]))
def test_the_caller_s_quantile_is_one_of_the_latencies(latencies: list[float], quantile: float) -> None:
    """The smallest that so many were not slower than, as numpy's inverted distribution has it."""
    exact = float(np.percentile(latencies, quantile * 100, method="inverted_cdf"))

    assert ReplaySummary(latencies=latencies).quantile_ms(quantile) == exact * 1000
    assert ReplaySummary().quantile_ms(quantile) is None


def test_counters_are_read_until_they_no_longer_move() -> None:
    """Or until the time is up, with what they were last."""
    readings = iter([{"a": value} for value in (1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0, 4.0)])

    assert asyncio.run(settled(lambda: next(readings))) == {"a": 3.0}
    moving = iter(range(100))
    assert asyncio.run(settled(lambda: {"a": float(next(moving))}, timeout_s=0.01)) == {"a": 0.0}
