"""Evidence about the running mean of bounded values. Most other tests are built from it.

Theory of operation
-------------------
A gambler who doubts "the mean is at most m" stakes a fixed part λ of the stock on every value; the stock is then
multiplied by (1 + λ(x - b)) / (1 + λ(m - b)). Nine gamblers with stakes 0.95, 0.475, 0.2375, … start with a ninth
each, and E⁺(m) is their joint stock: large only where the mean is above m. E⁻(m) is the mirror image.

The stakes are fixed before the first value and never learned from the data. This has three consequences: (a) the error
guarantee holds for the *running average* of the true means under any drift (the proof is in
docs/explanation/statistics.md); (b) the state is a product over values, so workers merge and order does not matter; (c) the
band passes the line exactly when the e-value crosses its threshold.

Values exactly at `lo`, `base` or `hi` are only counted, so they stay exact. 0/1 losses have no other values.
"""

import math
from collections.abc import Callable

from understudy.rollout.sequential.base import (
    RUNGS,
    STRONGEST,
    Mergeable,
    Settings,
    checked,
    counted,
    log_sum_exp,
    threshold,
)
from understudy.rollout.sequential.stocks import Stocks, StockTotals

_LOG_RUNGS = math.log(RUNGS)


def bets(lo: float, hi: float, base: float) -> tuple[float, ...]:
    """The 18 stakes: nine that win when values are high, then nine that win when they are low."""
    up = tuple(STRONGEST * 2.0**-j / (base - lo) for j in range(RUNGS))
    down = tuple(-STRONGEST * 2.0**-j / (hi - base) for j in range(RUNGS))
    return up + down


class MeanTotals(StockTotals):
    """How many values there were, how many of them at the bounds, and sums over the others."""

    n: int
    at_hi: int
    at_lo: int
    total: float
    squares: float


class MeanEvidence(Mergeable[MeanTotals]):
    """The fixed-bet mixture for the mean of values in [lo, hi], valid at every moment at once.

    Theorem (Ville 1939, in the betting form of Waudby-Smith & Ramdas, JRSS-B 2023; with bets that are fixed and
    reparametrised so that AM-GM carries it over to drifting means; nearest relatives Orabona & Jun, arXiv 2110.14099,
    and Choe & Ramdas, Operations Research, arXiv 2110.00115): the chance that the running average of the conditional
    means is ever outside [L, ∞) is at most α, and the same for (-∞, U]. No independence, no stationarity.

    Attributes:
        lo: the smallest possible value.
        hi: the largest possible value.
        base: the value that changes no stock; 0 for differences.

    >>> evidence = MeanEvidence()  # losses of the candidate minus losses of the primary: up is worse
    >>> for d, times in ((0.0, 360), (1.0, 30), (-1.0, 10)):
    ...     evidence.update(d, times)
    >>> round(evidence.log_e_above(0.0), 6)  # "the candidate is worse": e^3.29 is above 1/0.05
    3.285589
    >>> [round(edge, 4) for edge in evidence.band(alpha=0.05)]
    [0.0018, 0.1034]
    """

    KIND = "mean"

    def __init__(self, lo: float = -1.0, hi: float = 1.0, base: float = 0.0) -> None:
        if not (math.isfinite(lo) and math.isfinite(hi) and lo < base < hi):
            raise ValueError(f"bounds are lo={lo!r}, base={base!r}, hi={hi!r}; they must be finite, lo < base < hi")
        self._limits = float(lo), float(hi), float(base)
        self._bets = bets(*self._limits)
        self._log_hi = tuple(math.log1p(bet * (hi - base)) for bet in self._bets)
        self._log_lo = tuple(math.log1p(bet * (lo - base)) for bet in self._bets)
        self._stocks = Stocks(self._bets, max(abs(log) for log in self._log_hi + self._log_lo))
        self._n = self._at_hi = self._at_lo = 0
        self._total = self._squares = 0.0  # for the estimate and the forecast, not for verdicts

    def update(self, x: float, times: int = 1) -> None:
        """Count `times` values `x`."""
        lo, hi, base = self._limits
        if not lo <= x <= hi:
            raise ValueError(f"the value {x!r} is not a number in [{lo!r}, {hi!r}]: clip it, or count a loss of 1")
        if times != 1:
            counted("times", times)
        self._n += times
        if x == base:
            return
        if x == hi:
            self._at_hi += times
        elif x == lo:
            self._at_lo += times
        elif times:
            step = float(x) - base
            self._total += step * times
            self._squares += step * step * times
            if times == 1:
                self._stocks.multiply(step)
            else:
                self._stocks.power(step, times)

    def assuming(self, x: float, times: int = 1) -> "MeanEvidence":
        """A copy with `times` more values `x`, for pending labels that count as the worst case.

        >>> known = MeanEvidence()
        >>> known.update(0.0, times=500)
        >>> known.assuming(1.0, times=3).log_e_below(0.02) < known.log_e_below(0.02)
        True
        """
        copy = MeanEvidence(*self._limits)
        copy.merge(self)
        copy.update(x, times)
        return copy

    @property
    def n(self) -> int:
        """The number of values."""
        return self._n

    @property
    def mean(self) -> float:
        """The average so far; the base if there are no values."""
        lo, hi, base = self._limits
        moved = self._total + self._at_hi * (hi - base) + self._at_lo * (lo - base)
        return base + moved / max(1, self._n)

    @property
    def variance(self) -> float:
        """The mean squared deviation so far. For forecasts."""
        lo, hi, base = self._limits
        squares = self._squares + self._at_hi * (hi - base) ** 2 + self._at_lo * (lo - base) ** 2
        return max(0.0, squares / max(1, self._n) - (self.mean - base) ** 2)

    def log_stocks(self) -> list[float]:
        """G: per bet the sum of log(1 + λ(x - base)), nine upward, then nine downward."""
        counts = zip(self._stocks.logs(), self._log_hi, self._log_lo, strict=True)
        return [log + self._at_hi * log_hi + self._at_lo * log_lo for log, log_hi, log_lo in counts]

    def log_e_above(self, m: float) -> float:
        """Log e-value against "the running mean is at most m"; falls as m grows."""
        return self._log_e(slice(0, RUNGS), self.log_stocks(), checked("m", m, *self._limits[:2]))

    def log_e_below(self, m: float) -> float:
        """Log e-value against "the running mean is at least m"; grows with m."""
        return self._log_e(slice(RUNGS, None), self.log_stocks(), checked("m", m, *self._limits[:2]))

    def _log_e(self, side: slice, stocks: list[float], m: float) -> float:
        n, step = self._n, m - self._limits[2]
        sides = zip(stocks[side], self._bets[side], strict=True)
        return log_sum_exp(stock - n * math.log1p(bet * step) for stock, bet in sides) - _LOG_RUNGS

    def band(self, alpha: float) -> tuple[float, float]:
        """(L, U): the means that are not refuted, at error level `alpha` on each side.

        Show only the current band. Intersecting it with earlier ones would be wrong.
        """
        lo, hi, _ = self._limits
        stocks, enough = self.log_stocks(), threshold(alpha)
        up, down = slice(0, RUNGS), slice(RUNGS, None)
        low = edge(lambda m: self._log_e(up, stocks, m) >= enough, lo, hi)
        high = edge(lambda m: self._log_e(down, stocks, m) >= enough, hi, lo)
        return low, high

    def settings(self) -> Settings:
        """The bounds and the base."""
        lo, hi, base = self._limits
        return {"lo": lo, "hi": hi, "base": base}

    def totals(self) -> MeanTotals:
        """Counts, and the stocks of the values strictly between the bounds and the base."""
        return {
            "n": self._n,
            "at_hi": self._at_hi,
            "at_lo": self._at_lo,
            "total": self._total,
            "squares": self._squares,
            **self._stocks.totals(),
        }

    def take(self, totals: MeanTotals) -> None:
        """Add stored totals."""
        n, at_hi = counted("n", totals["n"]), counted("at_hi", totals["at_hi"])
        at_lo = counted("at_lo", totals["at_lo"])
        if at_hi + at_lo > n:
            raise ValueError(f"{at_hi} + {at_lo} values at the ends, but only {n} in all")
        self._stocks.take(totals)
        self._n, self._at_hi, self._at_lo = self._n + n, self._at_hi + at_hi, self._at_lo + at_lo
        self._total += float(totals["total"])
        self._squares += float(totals["squares"])


def edge(refuted: Callable[[float], bool], near: float, far: float) -> float:
    """The refuted mean that is farthest from `near`, by bisection; `near` itself if nothing is refuted.

    The result *is* refuted (unless nothing is), so that the band passes a line at the same value at which the e-value
    crosses its threshold, to the last digit.
    """
    if not refuted(near):
        return near
    if refuted(far):
        return far
    for _ in range(64):
        middle = near + (far - near) / 2.0
        if middle in {near, far}:
            break
        if refuted(middle):
            near = middle
        else:
            far = middle
    return near
