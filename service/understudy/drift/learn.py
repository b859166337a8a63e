"""Computes profiles from training data: the distribution of an input, and how far the data's own windows differ from the rest."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from understudy.drift import SLOT_S, SPAN_SLOTS, WINDOW_S, WINDOW_SLOTS
from understudy.drift.bins import Bins, Column, Counts, bins_of, psi
from understudy.inference.profile import CategoricalProfile, NumericProfile, Windows

Times: TypeAlias = npt.NDArray[np.float64]

WINDOW_MIN_ROWS = 200
"""Windows of the training data with fewer rows are not used."""
WINDOWS_MIN = 7
"""With fewer windows a profile has no `windows`."""


def numeric_profile(values: npt.NDArray[np.float64], at: Times | None = None) -> NumericProfile:
    """Deciles of the values that are present. An input with few distinct values gets fewer, unequal bins.

    Args:
        values: shape [rows], NaN for missing values.
        at: time of each row, Unix seconds. Without it the profile has no `windows`.

    Raises:
        ValueError: if no value is present.
    """
    present = values[~np.isnan(values)]
    if not present.size:
        raise ValueError("a profile needs at least one value that is not missing")
    edges = np.unique(np.quantile(present, np.arange(1, 10) / 10))
    # Bin i is (edges[i-1], edges[i]], so a value equal to an edge belongs to the bin on its left.
    counts = np.bincount(np.searchsorted(edges, present, side="left"), minlength=edges.size + 1)
    profile = NumericProfile(
        missing=1 - present.size / values.size,
        minimum=float(present.min()),
        maximum=float(present.max()),
        mean=float(present.mean()),
        std=float(present.std()),
        edges=edges.tolist(),
        shares=(counts / present.size).tolist(),
    )
    return profile if at is None else profile.model_copy(update={"windows": windows_of(profile, values, at)})


def categorical_profile(values: Column, at: Times | None = None) -> CategoricalProfile:
    """The share of each category, most frequent first and then by name.

    Args:
        values: strings of shape [rows], "" for missing values.
        at: as for `numeric_profile`.
    """
    names, counts = np.unique(values[values != ""].astype(str), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    total = int(counts.sum())
    shares = {str(names[i]): int(counts[i]) / total for i in order}
    profile = CategoricalProfile(missing=1 - total / values.size, shares=shares)
    return profile if at is None else profile.model_copy(update={"windows": windows_of(profile, values, at)})


def windows_of(profile: NumericProfile | CategoricalProfile, values: Column, at: Times) -> Windows | None:
    """Compares each window of a day, sliding by the hour, with the data without it; None if there are too few windows.

    Values that only that window has (a record temperature, a category) count as outside, as they would for a new day.
    """
    bins = bins_of(profile)
    codes, slots = bins.code(values), np.floor_divide(at, SLOT_S).astype(np.int64)
    slots -= slots.min()
    hours = int(slots.max()) + 1
    if hours < WINDOW_SLOTS + WINDOWS_MIN:
        return None
    width = bins.size + 1
    by_hour = np.bincount(slots * width + codes, minlength=hours * width).reshape(hours, width).astype(np.float64)
    sums = np.vstack([np.zeros(width), by_hour.cumsum(0)])
    windows = sums[WINDOW_SLOTS:] - sums[:-WINDOW_SLOTS]
    if isinstance(profile, NumericProfile):
        present = ~np.isnan(values.astype(np.float64))
        _move_records(windows, bins, values[present].astype(np.float64), codes[present], slots[present], hours)
    rows = by_hour.sum(1)
    # As when serving: the first rows of a window must be in its first hours.
    early = np.convolve(rows, np.ones(WINDOW_SLOTS - SPAN_SLOTS + 1), "valid")[: len(windows)] > 0
    counted = early & (windows.sum(1) >= WINDOW_MIN_ROWS)
    if np.count_nonzero(counted) < WINDOWS_MIN:
        return None
    inside, whole = windows[counted, :-1], sums[-1, :-1]
    rest = np.maximum(whole - (sums[WINDOW_SLOTS:] - sums[:-WINDOW_SLOTS])[counted, :-1], 0.0)
    missing = windows[counted, -1] / windows[counted].sum(1)
    return Windows(
        seconds=WINDOW_S,
        count=int(np.count_nonzero(counted)),
        psi=float(psi(inside, rest).max()),
        missing=float(missing.max()),
    )


def _move_records(
    windows: Counts,
    bins: Bins,
    values: npt.NDArray[np.float64],
    codes: npt.NDArray[np.intp],
    slots: npt.NDArray[np.int64],
    hours: int,
) -> None:
    """Count values of a window that are beyond the range of all other hours as outside, in place."""
    low, high = np.full(hours, np.inf), np.full(hours, -np.inf)
    np.minimum.at(low, slots, values)
    np.maximum.at(high, slots, values)
    lows, highs = _of_the_rest(low, np.minimum), _of_the_rest(-high, np.minimum)
    order = np.argsort(slots, kind="stable")
    ends = np.searchsorted(slots[order], np.arange(hours + 1))
    below, above = bins.outside[0], bins.outside[-1]
    for start in np.flatnonzero((lows > low.min()) | (-highs < high.max())):
        rows = order[ends[start] : ends[start + WINDOW_SLOTS]]
        for beyond, into in ((values[rows] < lows[start], below), (values[rows] > -highs[start], above)):
            np.subtract.at(windows[start], codes[rows][beyond], 1.0)
            windows[start, into] += np.count_nonzero(beyond)


def _of_the_rest(by_hour: npt.NDArray[np.float64], least: np.ufunc) -> npt.NDArray[np.float64]:
    """For each window, the smallest value of all hours outside it."""
    before = np.concatenate([[np.inf], least.accumulate(by_hour)])
    after = np.concatenate([least.accumulate(by_hour[::-1])[::-1], [np.inf]])
    result: npt.NDArray[np.float64] = least(before[:-WINDOW_SLOTS], after[WINDOW_SLOTS:])
    return result
