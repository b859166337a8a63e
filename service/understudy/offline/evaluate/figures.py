"""Means with intervals, calibration, ranking: numpy in, numbers out. Pure.

Rows of one day are not independent (weather delays whole days), so an interval is computed over blocks of rows: days where the
times are known, else runs of consecutive rows. Its standard error comes from leaving out one block at a time (the delete-a-group
jackknife, Shao and Wu 1989), its quantile from Student's t with one degree of freedom less than there are blocks, fewer where a
few blocks hold most of the rows. With five to ten days that covers the truth as often as it says; resampling days (the
percentile bootstrap) covered 85 to 89 % instead of 95 %.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

BLOCKS_MIN = 5
"""With fewer days than this there is no interval: the variation between days is unknown."""
BLOCKS_FEW = 10
"""With fewer days than this an interval is shown with a warning."""
RUNS = 30
"""Rows without times are cut into this many runs of consecutive rows: dependent rows are often neighbours in a file."""
BINS = 10
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its interval; `low` and `high` are None if there are too few days."""

    mean: float
    low: float | None
    high: float | None
    rows: int


def blocks_of(at: Numbers | None, rows: int) -> npt.NDArray[np.int64]:
    """Which block each row belongs to, int64 [rows]: its day (UTC), or one of `RUNS` runs of rows where there are no times."""
    if at is None:
        return np.arange(rows) * min(RUNS, rows) // max(rows, 1)
    return np.unique(np.floor_divide(at, DAY_S), return_inverse=True)[1].astype(np.int64)


def interval(values: Numbers, blocks: npt.NDArray[np.int64], confidence: float = 0.95) -> Interval:
    """The mean of some values with its interval over blocks.

    Args:
        values: float64 [rows]; rows that are NaN are left out.
        blocks: int64 [rows]; rows of one block need not be independent of each other.
    """
    known = ~np.isnan(values)
    values, blocks = values[known], np.unique(blocks[known], return_inverse=True)[1]
    if not values.size:
        return Interval(float("nan"), None, None, 0)
    mean, count = float(values.mean()), int(blocks.max()) + 1
    if count < BLOCKS_MIN:
        return Interval(mean, None, None, values.size)
    sums, rows = np.bincount(blocks, values), np.bincount(blocks)
    without = (sums.sum() - sums) / (rows.sum() - rows)  # the mean, with each block left out
    error = float(np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum()))
    effective = float(rows.sum() ** 2 / (rows.astype(np.float64) ** 2).sum())  # as many blocks of equal size
    half = t_quantile((1 + confidence) / 2, max(effective - 1, 1.0)) * error
    return Interval(mean, mean - half, mean + half, values.size)


def t_quantile(p: float, degrees: float) -> float:
    """The quantile of Student's t, by expansion around the normal's (Abramowitz and Stegun 1964, 26.7.5).

    From 4 degrees of freedom on it is within 2 % for 0.9 < p < 0.9999; SciPy has better, and is no dependency of the service.

    >>> round(t_quantile(0.975, 9), 3)
    2.262
    """
    z = NormalDist().inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    return sum(term / degrees**i for i, term in enumerate(terms))


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of similar confidence: their mean probability (`said`), and how often they were right (`happened`)."""

    rows: int
    said: float
    happened: float


def reliability(said: Numbers, happened: Numbers, bins: int = BINS) -> list[Bin]:
    """Bins of equal size in the order of what was said (probabilities), beside the share that happened (0 or 1)."""
    order = np.argsort(said, kind="stable")
    parts = [part for part in np.array_split(order, bins) if part.size]
    return [Bin(part.size, float(said[part].mean()), float(happened[part].mean())) for part in parts]


def calibration_error(table: list[Bin]) -> float:
    """Expected calibration error: the mean distance of what was said and what happened, over bins of equal size.

    Naeini, Cooper and Hauskrecht 2015 have bins of equal width; equal sizes keep empty bins out.
    """
    rows = sum(each.rows for each in table)
    return sum(each.rows * abs(each.said - each.happened) for each in table) / rows if rows else float("nan")


def auc(scores: Numbers, positive: npt.NDArray[np.bool_]) -> float:
    """The chance that a positive row has a higher score than a negative one, ties counted half (Mann and Whitney 1947)."""
    ups, downs = int(positive.sum()), int((~positive).sum())
    if not ups or not downs:
        return float("nan")
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    assert values.size == ranks.size
    return float((ranks[inverse][positive].sum() - ups * (ups + 1) / 2) / (ups * downs))
