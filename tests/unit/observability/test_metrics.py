"""Counting in bulk is counting one by one, in one process and in many; names and label sets follow Prometheus' rules."""

import math
import re
from typing import Any

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.domain import Mode, Phase, Status, Variant
from understudy.observability.metrics import LATENCY_BUCKETS, ROW_BUCKETS, TABLE, Metrics, Spec, observe_many, parse
from understudy.observability.webhooks import URLS_MAX
from understudy.rollout.comparison import DISTANCE_BUCKETS
from understudy.rollout.losses import CLASSES_MAX, DELAY_BUCKETS

DURATIONS = st.lists(st.one_of(st.floats(0, 10), st.sampled_from(LATENCY_BUCKETS), st.just(math.inf)), max_size=30)


def samples(text: str) -> dict[tuple[Any, ...], float]:
    return {
        (name, *sorted(labels.items())): value for name, labels, value in parse(text) if not name.endswith("_created")
    }


def exposed(registry: prometheus_client.CollectorRegistry) -> dict[tuple[Any, ...], float]:
    return samples(prometheus_client.generate_latest(registry).decode())


@given(DURATIONS, DURATIONS)
def test_counting_in_bulk_is_counting_one_by_one(first: list[float], second: list[float]) -> None:
    """Every bucket, the sum and the count, values on an edge among them, over two batches."""
    bulk, single = prometheus_client.CollectorRegistry(), prometheus_client.CollectorRegistry()
    many, one = (prometheus_client.Histogram("h", "h", buckets=LATENCY_BUCKETS, registry=r) for r in (bulk, single))
    for batch in (first, second):
        counts = observe_many(many, batch)
        assert sum(counts) == len(batch)
        for value in batch:
            one.observe(value)

    assert exposed(bulk) == pytest.approx(exposed(single))


def test_bulk_counting_says_which_bucket_got_how_many() -> None:
    """An edge belongs to the bucket below it; the last bucket is open. A generator will do."""
    histogram = prometheus_client.Histogram("h", "h", buckets=(1, 2), registry=prometheus_client.CollectorRegistry())

    assert observe_many(histogram, (v for v in (0.5, 1, 1.5, 2, 2.5, 99))) == [2, 2, 2]


def test_the_plan_in_force_is_the_only_phase_that_is_one() -> None:
    """Also after it has changed."""
    registry = prometheus_client.CollectorRegistry()
    metrics = Metrics(registry)
    for phase, weight in ((Phase.SHADOW, 0.0), (Phase.CANARY, 0.25)):
        metrics.set_plan(phase, weight)
        got = exposed(registry)
        assert {p: got["understudy_rollout_phase", ("phase", p.value)] for p in Phase} == {
            p: float(p is phase) for p in Phase
        }
        assert got["understudy_rollout_weight",] == weight


def test_every_metric_of_the_table_is_made_and_reachable_by_name() -> None:
    """No metric is described and then never counted, and none is counted and not described."""
    metrics = Metrics(prometheus_client.CollectorRegistry())
    reachable = {id(made) for name, made in vars(metrics).items() if not name.startswith("_")}

    assert metrics._made.keys() == {spec.name for spec in TABLE}
    assert {id(made) for made in metrics._made.values()} == reachable


def test_names_are_unique_and_follow_prometheus_conventions() -> None:
    """Snake case with the project's prefix; `_total` for counters and for nothing else; base units only."""
    names = [spec.name for spec in TABLE]

    assert len(set(names)) == len(names)
    for spec in TABLE:
        assert re.fullmatch(r"understudy(_[a-z]+)+", spec.name)
        assert spec.name.endswith("_total") == (spec.kind == "counter")
        assert not re.search(
            r"_(ms|millis\w*|minutes|hours|kb|mb|mib|percent|count|sum|bucket|created|info)(_|$)", spec.name
        )
        assert spec.help
        assert spec.help[-1] not in ".!"


def test_histograms_name_their_unit_and_have_growing_edges() -> None:
    """Seconds, rows, or a distance from 0 to 1; anything that is no histogram has no buckets."""
    for spec in TABLE:
        if spec.kind == "histogram":
            assert spec.name.endswith(("_seconds", "_rows", "_distance"))
            assert list(spec.buckets) == sorted(set(spec.buckets))
            assert spec.buckets in {LATENCY_BUCKETS, ROW_BUCKETS, DELAY_BUCKETS, DISTANCE_BUCKETS}
        else:
            assert spec.buckets == ()


SIZES = {
    "model": 1,
    "variant": len(Variant) + 1,
    "mode": len(Mode),
    "status": 15,
    "result": 6,
    "cause": len(Status),
    "predicted": CLASSES_MAX + 1,
    "actual": CLASSES_MAX + 1,
    "loss": 3,
    "phase": len(Phase),
    "problem": 3,
    "event": 10,
    "call": 10,
    "feature": 500,
    "metric": 8,
    "bound": 3,
    "output": 100,
    "figure": 2,
    "receiver": URLS_MAX,
    "file": 3,
}
"""How many values each label can take; an id, a key or a path has no place here."""


@pytest.mark.parametrize("spec", TABLE, ids=lambda spec: spec.name)
def test_every_label_is_of_a_small_known_set(spec: Spec) -> None:
    """At most 2,000 series of a metric, the buckets of a histogram counted."""
    assert set(spec.labels) <= SIZES.keys()
    series = math.prod(SIZES[label] for label in spec.labels) * (len(spec.buckets) + 3 if spec.buckets else 1)
    assert series <= 2_000


def test_a_comparison_is_counted_by_output_and_in_the_histogram() -> None:
    """As the store counts it: flips are the label's, rows outside a tolerance their output's."""
    registry = prometheus_client.CollectorRegistry()
    metrics = Metrics(registry)
    metrics.count_compared({})
    metrics.count_compared(
        {
            "rows": 3,
            "label_flips": 2,
            "rows_outside/a/b": 1,
            "distance/0": 1,
            "distance/12": 2,
            "distance_sum": 1.8,
        }
    )
    got = exposed(registry)
    assert got["understudy_compared_rows_total",] == 3
    assert got["understudy_disagreements_total", ("output", "label")] == 2
    assert got["understudy_disagreements_total", ("output", "a/b")] == 1
    assert got["understudy_probability_distance_bucket", ("le", "0.0001")] == 1
    assert got["understudy_probability_distance_bucket", ("le", "0.75")] == 1
    assert got["understudy_probability_distance_bucket", ("le", "+Inf")] == 3
    assert got["understudy_probability_distance_sum",] == 1.8


def test_latency_goals_of_the_usual_sizes_are_bucket_edges() -> None:
    """So that "how many were slower than the goal" is exact for them and not interpolated."""
    assert {0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0} <= set(LATENCY_BUCKETS)


NUMBERS = st.floats(0, 1e15, allow_subnormal=False)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), NUMBERS, max_size=6))
def test_what_is_exposed_is_read_back(values: dict[str, float]) -> None:
    """Whatever characters a label has: quotes, backslashes and line breaks too."""
    registry = prometheus_client.CollectorRegistry()
    counter = prometheus_client.Counter("c_total", "c", ["name"], registry=registry)
    for name, value in values.items():
        counter.labels(name=name).inc(value)

    assert exposed(registry) == {("c_total", ("name", name)): value for name, value in values.items()}
