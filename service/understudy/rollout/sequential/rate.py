"""Evidence about how often something happens: errors, or requests over a latency limit. Its state is two counts."""

import math
from typing import TypedDict

from understudy.rollout.sequential.base import Mergeable, Settings, checked, counted, log_sum_exp, threshold
from understudy.rollout.sequential.mean import edge

ABOVE = (0.0, *(2.0**j for j in range(-4, 5)))
"""Stakes on "more often than q". Stakes far above 1 are good for rare events: the base is 0, so a value without the event
only costs the denominator. The stake of zero keeps a tenth of the stock out of play."""

BELOW = (0.0, *(-0.95 * 2.0**-j for j in range(7)))
"""Stakes on "less often than q"."""


def log_e_rate(bets: tuple[float, ...], hits: int, n: int, q: float) -> float:
    """Log of the mean over `bets` of (1+λ)^hits / (1+λq)^n.

    >>> round(log_e_rate(ABOVE, 20, 1000, 0.01), 6)
    2.245348
    """
    terms = (hits * math.log1p(bet) - n * math.log1p(bet * q) for bet in bets)
    return log_sum_exp(terms) - math.log(len(bets))


class RateTotals(TypedDict):
    """The number of requests and the number of events."""

    n: int
    hits: int


class RateEvidence(Mergeable[RateTotals]):
    """The fixed-bet mixture for the running average of chances, from two integers.

    Theorem: as for `MeanEvidence` (Ville; AM-GM over drifting chances), with base 0 and a grid of bets for rare
    events. "p99 is at most the limit" is the rate of requests above the limit against q = 0.01.

    >>> slow = RateEvidence()
    >>> slow.update(False, times=980)
    >>> slow.update(True, times=20)
    >>> round(slow.log_e_above(0.01), 4), round(slow.log_e_below(0.01), 4)
    (2.2453, -0.8443)
    """

    KIND = "rate"

    def __init__(self) -> None:
        self._n = self._hits = 0

    def update(self, hit: bool, times: int = 1) -> None:
        """Count `times` requests; `hit` is whether the event happened."""
        if hit not in (True, False):
            raise ValueError(f"hit is {hit!r}; it must be True or False")
        # Called three times for each row: most counts need no second call to be checked.
        self._n += times if type(times) is int and times >= 0 else counted("times", times)
        if hit:
            self._hits += times

    def assuming(self, hit: bool, times: int = 1) -> "RateEvidence":
        """A copy with `times` more requests."""
        copy = RateEvidence()
        copy.merge(self)
        copy.update(hit, times)
        return copy

    @property
    def n(self) -> int:
        """The number of requests."""
        return self._n

    @property
    def hits(self) -> int:
        """The number of requests on which the event happened."""
        return self._hits

    @property
    def mean(self) -> float:
        """The share so far; 0 if there are no requests."""
        return self._hits / max(1, self._n)

    @property
    def variance(self) -> float:
        """The variance of one request. For forecasts."""
        return self.mean * (1.0 - self.mean)

    def log_e_above(self, q: float) -> float:
        """Log e-value against "it happens with chance at most q"."""
        return log_e_rate(ABOVE, self._hits, self._n, checked("q", q, 0.0, 1.0))

    def log_e_below(self, q: float) -> float:
        """Log e-value against "it happens with chance at least q"."""
        return log_e_rate(BELOW, self._hits, self._n, checked("q", q, 0.0, 1.0))

    def band(self, alpha: float) -> tuple[float, float]:
        """(L, U): the chances that are not refuted, at error level `alpha` on each side."""
        enough = threshold(alpha)
        low = edge(lambda q: self.log_e_above(q) >= enough, 0.0, 1.0)
        return low, edge(lambda q: self.log_e_below(q) >= enough, 1.0, 0.0)

    def settings(self) -> Settings:
        """Empty: only the bets are frozen."""
        return {}

    def totals(self) -> RateTotals:
        """Both counts."""
        return {"n": self._n, "hits": self._hits}

    def take(self, totals: RateTotals) -> None:
        """Add stored totals."""
        n, hits = counted("n", totals["n"]), counted("hits", totals["hits"])
        if hits > n:
            raise ValueError(f"{hits} hits on only {n} requests")
        self._n, self._hits = self._n + n, self._hits + hits
