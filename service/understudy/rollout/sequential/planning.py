"""Estimates how many labels a verdict will need. For planning; no verdict depends on it."""

import math
from typing import NamedTuple

from understudy.rollout.sequential.base import RUNGS, STRONGEST, threshold

NEVER_LABELS = 1e12
"""A forecast of more labels than this counts as "never"."""
SMALLEST_BET = STRONGEST * 2.0 ** (1 - RUNGS)
"""The weakest bet of `MeanEvidence` on values in [-1, 1]. If the gap is less than half of this bet times the variance, it loses in
the long run, and no number of labels is enough."""


class Forecast(NamedTuple):
    """A number of labels: half of all rollouts need at most `about`, nine of ten at most `ninety`."""

    about: int
    ninety: int


def labels_needed(
    alpha: float, variance: float, gap: float, log_e: float = 0.0, *, largest: float = 1.0
) -> Forecast | None:
    """Labels still needed to separate the mean from a line at distance `gap`; None if no number is enough.

    The log stock of the best bet grows by gap²/(2·variance) per label; 0.75 is the cost of the mixture. Accurate to about
    20 % for 0.001 ≤ α ≤ 0.1 and gaps under half the share of disagreements.

    Args:
        alpha: the error level of this verdict.
        variance: of one value; for 0/1 losses about the share of disagreements.
        gap: how far the true mean is assumed to be on the right side of the line.
        log_e: the evidence so far.
        largest: the largest possible value; the smallest is its negative.

    >>> labels_needed(alpha=0.05, variance=0.1, gap=0.02)
    Forecast(about=1873, ninety=4214)
    >>> print(labels_needed(alpha=0.05, variance=1.0, gap=0.001))  # the weakest bet is too strong for it
    None
    """
    if not (variance >= 0.0 and math.isfinite(variance)):
        raise ValueError(f"variance is {variance!r}; it must be a number of 0 or more")
    missing = threshold(alpha) + 0.75 - max(0.0, log_e)
    if not gap > 0.0:
        return None
    if log_e >= threshold(alpha):
        return Forecast(0, 0)
    # No bet is larger than 0.95, so that a label cannot bring more than log 1.95, nor less time than gap/2 a label.
    gap, variance = gap / largest, variance / largest / largest
    if gap >= SMALLEST_BET * variance:
        rate = min(gap * gap / (2.0 * variance) if variance > 0.0 else math.inf, gap * 0.69)
    else:
        rate = SMALLEST_BET * (gap - SMALLEST_BET * variance / 2.0)
    if rate * NEVER_LABELS < missing:
        return None
    about = missing / rate
    return Forecast(math.ceil(about), math.ceil(2.25 * about))


def split_variance(rate: float, share: float) -> float:
    """The variance of one inverse-propensity value for 0/1 losses; plan for 20-50 % more at small shares.

    >>> round(split_variance(rate=0.1, share=0.05), 2)
    1.89
    """
    if not (0.0 < share < 1.0 and 0.0 <= rate <= 1.0):
        raise ValueError(f"rate is {rate!r} and share {share!r}; both are chances, the share neither 0 nor 1")
    return rate * (1.0 - rate) * (1.0 / share + 1.0 / (1.0 - share))
