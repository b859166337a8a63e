"""Evidence that the candidate is, or has become, worse: the mean test, started again at every request.

`MeanEvidence` has to outweigh all good requests before a regression; after 100,000 of them that takes too long. Here a
part of the stock is kept back for every later start, so that a new regression is judged almost as if the rollout had
begun with it.
"""

import math
from typing import TypedDict

from understudy.rollout.sequential.base import RUNGS, SequentialEvidence, Settings, checked, counted, log_sum_exp
from understudy.rollout.sequential.mean import bets

_BLOCK = 512  # a larger stock is stored as a number of factors 2^512 and a remainder
_DOWN, _UP = 2.0**-_BLOCK, 2.0**_BLOCK
_LOG_BLOCK = _BLOCK * math.log(2.0)
_LOG_RUNGS = math.log(RUNGS)


def kept_back(t: int) -> float:
    """W(t): the part of the stock that has not started after `t` values. It falls slowly, so that late starts get enough."""
    return 1.0 / math.log2(t + 2)


class LateHarmTotals(TypedDict):
    """The number of values, and for each bet the stock that has started, with its exponent in blocks."""

    n: int
    started: list[float]
    blocks: list[int]


class LateHarm(SequentialEvidence[LateHarmTotals]):
    """The restart mixture against "the candidate was never worse than the harm line, at any request".

    Theorem (Shiryaev-Roberts sums as e-detectors: Shin, Ramdas & Rinaldo, arXiv 2203.03532; with a proper prior over
    starts the sum is itself a test martingale, so Ville applies): as long as no conditional mean was above the line,
    the chance that it ever reaches 1/α is at most α. A regression at night only, which the day outweighs, counts as
    harm here; that is the right question for a rollback.

    Order matters, so there is no `merge`.

    >>> harm = LateHarm(harm_line=0.0)
    >>> for d in (1.0, 0.0, 1.0, 1.0, -1.0):
    ...     harm.update(d)
    >>> round(math.exp(harm.log_e()), 6)
    1.020834
    """

    KIND = "late-harm"

    def __init__(self, harm_line: float = 0.0, lo: float = -1.0, hi: float = 1.0, base: float = 0.0) -> None:
        if not (math.isfinite(lo) and math.isfinite(hi) and lo < base < hi):
            raise ValueError(f"bounds are lo={lo!r}, base={base!r}, hi={hi!r}; they must be finite, lo < base < hi")
        line = checked("harm_line", harm_line, lo, hi)
        self._limits = float(lo), float(hi), float(base), line
        up = bets(lo, hi, base)[:RUNGS]
        fair = [1.0 + bet * (line - base) for bet in up]
        # A factor is offset + slope · x: (1 + λ(x - b)) / (1 + λ(h - b)), without a division per value.
        self._offsets = tuple((1.0 - bet * base) / scale for bet, scale in zip(up, fair, strict=True))
        self._slopes = tuple(bet / scale for bet, scale in zip(up, fair, strict=True))
        factors = [o + s * x for o, s in zip(self._offsets, self._slopes, strict=True) for x in (lo, hi)]
        self._room = int(300.0 / max(abs(math.log(factor)) for factor in factors))
        if self._room < 1:
            raise ValueError(f"base={base!r} is too near to an end of [{lo!r}, {hi!r}]")
        self._n = 0
        self._waiting = 1.0
        self._started = [0.0] * RUNGS
        self._blocks = [0] * RUNGS
        self._scales = [1.0] * RUNGS

    def update(self, x: float) -> None:
        """Count the next value, in order."""
        lo, hi, _, _ = self._limits
        if not lo <= x <= hi:
            raise ValueError(f"the value {x!r} is not a number in [{lo!r}, {hi!r}]: clip it, or count a loss of 1")
        self._n += 1
        waiting = kept_back(self._n)
        starting, self._waiting = self._waiting - waiting, waiting
        rungs = zip(self._started, self._scales, self._offsets, self._slopes, strict=True)
        self._started = [(a + starting * scale) * (offset + slope * x) for a, scale, offset, slope in rungs]
        if self._n % self._room == 0:
            self._rescale()

    def _rescale(self) -> None:
        for j, stock in enumerate(self._started):
            if stock > 2.0**256:
                self._started[j], self._blocks[j] = stock * _DOWN, self._blocks[j] + 1
            elif self._blocks[j] and stock < 2.0**-256:
                self._started[j], self._blocks[j] = stock * _UP, self._blocks[j] - 1
            self._scales[j] = math.ldexp(1.0, -_BLOCK * self._blocks[j])

    def log_e(self) -> float:
        """Log e-value against "never worse than the harm line so far"."""
        rungs = zip(self._started, self._blocks, strict=True)
        terms = [math.log(stock) + blocks * _LOG_BLOCK - _LOG_RUNGS for stock, blocks in rungs if stock > 0.0]
        return log_sum_exp([math.log(self._waiting), *terms])

    @property
    def n(self) -> int:
        """The number of values."""
        return self._n

    def settings(self) -> Settings:
        """The harm line and the bounds."""
        lo, hi, base, line = self._limits
        return {"harm_line": line, "lo": lo, "hi": hi, "base": base}

    def totals(self) -> LateHarmTotals:
        """The count, and for each bet the stock that has started."""
        return {"n": self._n, "started": list(self._started), "blocks": list(self._blocks)}

    def take(self, totals: LateHarmTotals) -> None:
        """Restore stored totals. Order matters, so nothing may have been counted before."""
        if self._n:
            raise ValueError(f"{self._n} values are counted already, and this evidence depends on their order")
        self._n = counted("n", totals["n"])
        self._waiting = kept_back(self._n)
        self._started = [checked("a stock", stock, 0.0, math.inf) for stock in totals["started"]]
        self._blocks = [counted("blocks", blocks) for blocks in totals["blocks"]]
        if not len(self._started) == len(self._blocks) == RUNGS:
            raise ValueError(f"{len(self._started)} stocks and {len(self._blocks)} exponents for {RUNGS} bets")
        self._scales = [math.ldexp(1.0, -_BLOCK * blocks) for blocks in self._blocks]
