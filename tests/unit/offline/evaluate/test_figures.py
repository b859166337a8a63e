"""Intervals hold what they promise where days differ, calibration and ranking are what their definitions say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.offline.evaluate.figures import auc, blocks_of, calibration_error, interval, reliability

DAY = 86_400


def world(random: np.random.Generator, days: int = 40, rows: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Values whose days differ more than their rows do; the true mean is 0."""
    values = np.repeat(random.normal(0, 1, days), rows) + random.normal(0, 0.3, days * rows)
    return values, blocks_of(np.repeat(np.arange(days) * DAY, rows).astype(float), days * rows)


def test_the_interval_over_days_holds_the_mean_as_often_as_it_says() -> None:
    """95 % of 300 worlds, within four standard errors of that; taking rows as independent would hold it in a third of them."""
    random = np.random.default_rng(7)
    held = {"days": 0, "rows": 0}
    for _ in range(300):
        values, blocks = world(random)
        for name, by in (("days", blocks), ("rows", np.arange(values.size))):
            found = interval(values, by)
            assert found.low is not None
            assert found.high is not None
            held[name] += found.low <= 0 <= found.high

    assert 0.88 <= held["days"] / 300 <= 0.99
    assert held["rows"] / 300 < 0.6


def test_too_few_days_tell_no_interval() -> None:
    """A mean, and nothing about how sure it is; rows without a label are left out."""
    found = interval(np.array([1.0, 3.0, np.nan]), np.array([0, 1, 2]))

    assert (found.mean, found.low, found.high, found.rows) == (2.0, None, None, 2)
    assert math.isnan(interval(np.array([np.nan]), np.array([0])).mean)


def test_a_wider_confidence_is_a_wider_interval() -> None:
    """As for many segments at once."""
    values, blocks = world(np.random.default_rng(1))
    narrow, wide = interval(values, blocks), interval(values, blocks, 0.999)

    assert narrow.low is not None
    assert wide.low is not None
    assert wide.low < narrow.low


def test_a_calibrated_model_has_hardly_an_error_and_an_overconfident_one_has() -> None:
    """With 50,000 rows the error of calibrated answers is about 0.002 by chance."""
    random = np.random.default_rng(2)
    p = random.uniform(0, 1, 50_000)
    happened = (random.random(p.size) < p).astype(float)

    assert calibration_error(reliability(p, happened)) < 0.01
    assert calibration_error(reliability(np.where(p > 0.5, 0.99, 0.01), happened)) > 0.2
    assert [each.rows for each in reliability(p, happened)] == [5_000] * 10
    assert math.isnan(calibration_error([]))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_the_area_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    """By counting every pair."""
    scores, truth = np.array([s for s, _ in rows], dtype=float), np.array([t for _, t in rows])
    pairs = [(float(a > b) + 0.5 * float(a == b)) for a in scores[truth] for b in scores[~truth]]

    if not pairs:
        assert math.isnan(auc(scores, truth))
    else:
        assert auc(scores, truth) == pytest.approx(sum(pairs) / len(pairs))
