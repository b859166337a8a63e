"""Where a value falls in a profile's bins, and how far counts are from the profile.

The last bins are for what training never saw: below its smallest and above its largest value, or a category that it does
not have. Missing values are counted beside the bins and judged by themselves.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from understudy.inference.profile import CategoricalProfile, NumericProfile

Counts: TypeAlias = npt.NDArray[np.float64]

CATEGORIES_MAX = 100
"""A profile's most frequent categories have a bin each; the others share one."""
SMOOTHING = 0.5
"""Added to every count, on both sides (Jeffreys' prior), so that an empty bin is unlikely and not impossible."""
NOISE_TAIL = 1e-4
"""How often independent rows of the very same distribution would be above the noise floor."""
_NOISE_Z = 3.719  # the normal quantile of 1 - NOISE_TAIL


class NumericBins:
    """Bins of a numeric profile: below, its own, above."""

    def __init__(self, profile: NumericProfile) -> None:
        # In float32, as most models read them: 39.02 and its nearest float32 must not lie on two sides of an edge.
        self._edges = np.array(profile.edges, dtype=np.float32)
        self._minimum, self._maximum = np.float32(profile.minimum), np.float32(profile.maximum)
        self.size = len(profile.shares) + 2
        self.outside = (0, self.size - 1)
        self.shares: Counts = np.array([0.0, *profile.shares, 0.0])

    def code(self, values: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[np.intp]:
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

    def code(self, values: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        """The bin of each value; `size` for one that is missing (None or the empty string)."""
        at, unknown, missing = self._at, self.size - 1, self.size
        if isinstance(values, np.ndarray):
            values = values.tolist()
        # A boolean or a number that is a class is known by its text.
        texts = (value if isinstance(value, str) else "" if value is None else str(value) for value in values)
        return np.array([at.get(text, unknown) if text else missing for text in texts], dtype=np.intp)


Bins: TypeAlias = NumericBins | CategoricalBins


def bins_of(profile: NumericProfile | CategoricalProfile) -> Bins:
    """The bins of a profile."""
    return NumericBins(profile) if isinstance(profile, NumericProfile) else CategoricalBins(profile)


def psi(counts: Counts, reference: Counts) -> Counts:
    """Population stability index of counts beside reference counts, along the last axis; 0 is the same, there is no upper end.

    Σ (q − p) ln(q / p) over the bins, that is Jeffreys' divergence (1946), with half a row added to every bin of both.
    """
    bins = counts.shape[-1]
    q = (counts + SMOOTHING) / (counts.sum(-1, keepdims=True) + SMOOTHING * bins)
    p = (reference + SMOOTHING) / (reference.sum(-1, keepdims=True) + SMOOTHING * bins)
    result: Counts = ((q - p) * np.log(q / p)).sum(-1)
    return result


def noise_floor(bins: int, rows: float, reference_rows: float) -> float:
    """What the index of independent rows of one distribution stays below, but for `NOISE_TAIL` of the windows.

    It is then about χ² with bins − 1 degrees of freedom, times (1/rows + 1/reference_rows) (Yurdakul and Naranjo, Journal of
    Risk Model Validation 14, 2020). The quantile is Wilson and Hilferty's (1931).
    """
    if not rows or not reference_rows:
        return math.inf
    free = max(bins - 1, 1)
    part = 2 / (9 * free)
    return float(free * (1 - part + _NOISE_Z * math.sqrt(part)) ** 3 * (1 / rows + 1 / reference_rows))
