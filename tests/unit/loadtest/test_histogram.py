"""The histogram: numpy's percentiles to a percent, exact merging, and what it keeps through JSON."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.loadtest.histogram import GROWTH, Histogram

LEVELS = (0.0, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
durations = st.floats(1e-6, 3600, allow_nan=False)


def times(kind: str) -> np.ndarray:
    """100,000 raw times in seconds, of the shapes that servers have."""
    random = np.random.default_rng(7)
    plain = random.lognormal(math.log(0.002), 0.5, 100_000)
    if kind == "stalls":
        plain += np.where(random.random(100_000) < 0.08, random.uniform(0, 0.08, 100_000), 0)
    if kind == "uniform":
        plain = random.uniform(0.001, 0.5, 100_000)
    return plain


@pytest.mark.parametrize("kind", ["lognormal", "stalls", "uniform"])
@pytest.mark.parametrize("level", LEVELS)
def test_percentiles_are_those_of_numpy_to_a_percent(kind: str, level: float) -> None:
    """On the same raw times, as a replay would compute them, by both of numpy's usual definitions."""
    raw = times(kind)
    seen = Histogram(raw.tolist())

    assert seen.quantile(level) == pytest.approx(np.quantile(raw, level, method="inverted_cdf"), rel=0.0026)
    assert seen.quantile(level) == pytest.approx(np.quantile(raw, level), rel=0.01)


@given(st.lists(durations, min_size=1), st.floats(0, 1))
def test_a_percentile_is_in_the_bucket_of_the_value_of_that_rank(values: list[float], level: float) -> None:
    """Whatever the values: half a bucket off at most, and never beyond the largest."""
    ordered = sorted(values)
    exact = ordered[max(1, math.ceil(level * len(values) - 1e-9)) - 1]

    assert Histogram(values).quantile(level) == pytest.approx(exact, rel=GROWTH - 1)
    assert Histogram(values).quantile(level) <= ordered[-1]


@given(st.lists(durations), st.lists(durations))
def test_merging_is_counting_everything_in_one(first: list[float], second: list[float]) -> None:
    """Bucket by bucket, in either order, and after a journey as JSON."""
    whole = Histogram(first + second)
    one = Histogram(first).merge(Histogram.of(Histogram(second).as_json()))
    other = Histogram(second).merge(Histogram(first))

    for found in (one, other):
        assert (found.counts, found.n, found.highest) == (whole.counts, whole.n, whole.highest)
        assert found.total == pytest.approx(whole.total)
        assert found.quantile(0.99) == whole.quantile(0.99) or not whole.n


def test_nothing_has_no_percentile() -> None:
    """And no mean."""
    assert math.isnan(Histogram().quantile(0.5))
    assert math.isnan(Histogram().mean())
    assert Histogram([0.0]).quantile(0.5) == 0.0
