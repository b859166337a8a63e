"""Means with intervals, calibration, ranking: numpy in, numbers out. Pure.

Rows of one day are not independent (weather delays whole days), so the intervals resample days, not rows: the day-block
bootstrap (Efron and Tibshirani 1993, section 8.5), percentile interval. Without times rows are resampled, which is said.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

RESAMPLES = 2_000
SEED = 20130131
BLOCKS_MIN = 5
"""Fewer days than this say nothing about how days vary."""
BINS = 10
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and between which two numbers it lies; `low` and `high` are None where there are too few days to tell."""

    mean: float
    low: float | None
    high: float | None
    rows: int


def blocks_of(at: Numbers | None, rows: int) -> npt.NDArray[np.int64]:
    """Which block each row belongs to: its day (UTC), or itself where there are no times."""
    if at is None:
        return np.arange(rows)
    return np.unique(np.floor_divide(at, DAY_S), return_inverse=True)[1].astype(np.int64)


def interval(values: Numbers, blocks: npt.NDArray[np.int64], confidence: float = 0.95) -> Interval:
    """The mean of some values with its interval, resampled by blocks.

    Args:
        values: shape [rows]; rows that are NaN are left out.
        blocks: shape [rows], whole numbers.
    """
    known = ~np.isnan(values)
    values, blocks = values[known], np.unique(blocks[known], return_inverse=True)[1]
    if not values.size:
        return Interval(float("nan"), None, None, 0)
    mean, count = float(values.mean()), int(blocks.max()) + 1
    if count < BLOCKS_MIN:
        return Interval(mean, None, None, values.size)
    if count == values.size:  # independent rows: the bootstrap of a mean is normal
        low, high = _normal(values, confidence)
        return Interval(mean, low, high, values.size)
    sums, rows = np.bincount(blocks, values), np.bincount(blocks)
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    means = (drawn @ sums) / np.maximum(drawn @ rows, 1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Interval(mean, low, high, values.size)


def _normal(values: Numbers, confidence: float) -> tuple[float, float]:
    half = NormalDist().inv_cdf((1 + confidence) / 2) * float(values.std()) / values.size**0.5
    return float(values.mean()) - half, float(values.mean()) + half


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about the same confidence: how sure they were on average, and how often they were right."""

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
