"""A34: with 5 to 10 days of data, intervals of 95 % held the truth in 85 to 89 %; clustered rows without times in 55 %.

Right: they hold it as often as they say, "yes" at the margin stays as rare as it should be, and too few days are said.
"""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from understudy.offline.evaluate.data import Sample
from understudy.offline.evaluate.figures import BLOCKS_FEW, blocks_of, interval, t_quantile
from understudy.offline.evaluate.problems import few_days

DAY_S = 86_400.0
ROUNDS = 1_500
CONFIDENCE = 0.95


def at_most(chance: float) -> int:
    """More misses than this are no luck: one run of this test in a thousand."""
    return int(binom.ppf(0.999, ROUNDS, chance))


def losses(
    rng: np.random.Generator, days: int, *, uneven: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Differences of losses with mean 0, in which the day matters as much as the row; and the times."""
    sizes = rng.integers(20, 120, days) if uneven else np.full(days, 60)
    day = np.repeat(np.arange(days), sizes)
    return rng.normal(0, 0.1, days)[day] + rng.normal(0, 0.3, day.size), day * DAY_S + rng.uniform(0, DAY_S, day.size)


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("days", [5, 7, 10, 40])
def test_intervals_over_days_hold_the_truth_as_often_as_they_say(days: int, *, uneven: bool) -> None:
    """Both sides: outside altogether in 5 %, and above it, which is a wrong "yes" at the margin, in 2.5 %."""
    rng = np.random.default_rng(days)
    outside = above = 0
    for _ in range(ROUNDS):
        values, at = losses(rng, days, uneven=uneven)
        found = interval(values, blocks_of(at, values.size), CONFIDENCE)
        assert found.low is not None
        assert found.high is not None
        outside += not found.low <= 0.0 <= found.high
        above += found.high < 0.0

    assert outside <= at_most(1 - CONFIDENCE)
    assert above <= at_most((1 - CONFIDENCE) / 2)


def test_rows_without_times_that_stand_together_are_no_independent_rows() -> None:
    """200 customers with 10 rows each, one after the other in the file."""
    rng, outside = np.random.default_rng(2), 0
    for _ in range(ROUNDS):
        values = np.repeat(rng.normal(0, 0.3, 200), 10) + rng.normal(0, 0.1, 2_000)
        found = interval(values, blocks_of(None, values.size), CONFIDENCE)
        assert found.low is not None
        assert found.high is not None
        outside += not found.low <= 0.0 <= found.high

    assert outside <= at_most(1 - CONFIDENCE)


@pytest.mark.parametrize(("days", "says"), [(4, "are not shown"), (6, "intervals are unreliable"), (BLOCKS_FEW, "")])
def test_too_few_days_are_said(days: int, says: str) -> None:
    """Below ten days with a warning, below five without any interval."""
    sample = Sample("x", rows=[()] * days, at=np.arange(days) * DAY_S)

    assert [says in line for line in few_days(sample)] == [True] * bool(says)


@pytest.mark.parametrize(
    ("p", "degrees", "expected"), [(0.975, 4, 2.776), (0.975, 9, 2.262), (0.9995, 9, 4.781), (0.975, 39, 2.023)]
)
def test_the_quantile_is_student_s(p: float, degrees: float, expected: float) -> None:
    """Beside the tables."""
    assert t_quantile(p, degrees) == pytest.approx(expected, rel=0.01)
