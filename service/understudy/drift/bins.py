"""The bins of a profile, and the distance between counts and the profile.

The outer bins are for values that training never had: below its smallest value, above its largest, or an unknown category.
Missing values are counted separately and have their own threshold.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from understudy.inference.profile import CategoricalProfile, NumericProfile

Counts: TypeAlias = npt.NDArray[np.float64]
Column: TypeAlias = npt.NDArray[np.generic]
"""Values of one feature, shape [rows]: float32 with NaN for missing ones, or strings with "" for missing ones."""
Values: TypeAlias = Sequence[object] | Column

CATEGORIES_MAX = 100
"""The most frequent categories of a profile have one bin each; the others share one."""
SMOOTHING = 0.5
"""Added to every count on both sides (Jeffreys' prior), so that an empty bin is unlikely rather than impossible."""
NOISE_TAIL = 1e-4
"""The share of windows of independent rows from the same distribution that are above the noise threshold."""
_NOISE_Z = 3.719  # the normal quantile of 1 - NOISE_TAIL


class NumericBins:
    """Bins of a numeric profile: below its range, its own bins, above its range."""

    def __init__(self, profile: NumericProfile) -> None:
        # In float32, as most models read them: 39.02 and its nearest float32 must be on the same side of an edge.
        self._edges = np.array(profile.edges, dtype=np.float32)
        self._minimum, self._maximum = np.float32(profile.minimum), np.float32(profile.maximum)
        self.size = len(profile.shares) + 2
        self.outside = (0, self.size - 1)
        self.shares: Counts = np.array([0.0, *profile.shares, 0.0])

    def code(self, values: Values) -> npt.NDArray[np.intp]:
        """The bin of each value; `size` for one that is missing (None or NaN)."""
        numbers = np.asarray(values, dtype=np.float32)
        bins = np.searchsorted(self._edges, numbers, side="left") + 1
        bins[numbers < self._minimum] = 0
        bins[numbers > self._maximum] = self.size - 1
        bins[np.isnan(numbers)] = self.size
        return bins


class CategoricalBins:
    """Bins of a categorical profile: its most frequent values, its other values, and values that it does not have."""

    def __init__(self, profile: CategoricalProfile) -> None:
        names = sorted(profile.shares, key=lambda name: (-profile.shares[name], name))
        own, rest = names[:CATEGORIES_MAX], names[CATEGORIES_MAX:]
        self._at = {name: i for i, name in enumerate(own)} | dict.fromkeys(rest, len(own))
        self.size = len(own) + 2
        self.outside = (self.size - 1,)
        shares = [profile.shares[name] for name in own]
        self.shares: Counts = np.array([*shares, sum(profile.shares[name] for name in rest), 0.0])

    def code(self, values: Values) -> npt.NDArray[np.intp]:
        """The bin of each value; `size` for one that is missing (None or the empty string)."""
        at, unknown, missing = self._at, self.size - 1, self.size
        if isinstance(values, np.ndarray):
            values = values.tolist()
        # A class that is a boolean or a number is stored as its text.
        texts = (value if isinstance(value, str) else "" if value is None else str(value) for value in values)
        return np.array([at.get(text, unknown) if text else missing for text in texts], dtype=np.intp)


Bins: TypeAlias = NumericBins | CategoricalBins


def bins_of(profile: NumericProfile | CategoricalProfile) -> Bins:
    """The bins of a profile."""
    return NumericBins(profile) if isinstance(profile, NumericProfile) else CategoricalBins(profile)


def psi(counts: Counts, reference: Counts) -> Counts:
    """Population stability index between counts and reference counts, along the last axis. 0 means equal; there is no maximum.

    Σ (q − p) ln(q / p) over the bins, that is Jeffreys' divergence (1946), with half a row added to every bin of both.
    """
    bins = counts.shape[-1]
    q = (counts + SMOOTHING) / (counts.sum(-1, keepdims=True) + SMOOTHING * bins)
    p = (reference + SMOOTHING) / (reference.sum(-1, keepdims=True) + SMOOTHING * bins)
    result: Counts = ((q - p) * np.log(q / p)).sum(-1)
    return result


def noise_floor(bins: int, rows: float, reference_rows: float) -> float:
    """The index that independent rows of the same distribution exceed in a share `NOISE_TAIL` of the windows.

    The index is then about χ² with bins − 1 degrees of freedom, times (1/rows + 1/reference_rows) (Yurdakul and Naranjo, Journal of
    Risk Model Validation 14, 2020). The quantile is Wilson and Hilferty's (1931).
    """
    if not rows or not reference_rows:
        return math.inf
    free = max(bins - 1, 1)
    part = 2 / (9 * free)
    return float(free * (1 - part + _NOISE_Z * math.sqrt(part)) ** 3 * (1 / rows + 1 / reference_rows))
