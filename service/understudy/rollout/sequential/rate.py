"""Evidence about how often something happens: errors, requests over a latency limit. Two whole numbers."""

import math
from collections.abc import Mapping
from typing import Any

from understudy.rollout.sequential.base import Mergeable, checked, counted, log_sum_exp, threshold
from understudy.rollout.sequential.mean import edge

ABOVE = (0.0, *(2.0**j for j in range(-4, 5)))
"""Stakes on "more often than q". Rare events pay for stakes far above 1: the base is 0, so nothing can be lost but
the denominator. The zero keeps a tenth of the stock out of play."""

BELOW = (0.0, *(-0.95 * 2.0**-j for j in range(7)))
"""Stakes on "less often than q"."""


def log_e_rate(bets: tuple[float, ...], hits: int, n: int, q: float) -> float:
    """Log of the mean over `bets` of (1+λ)^hits / (1+λq)^n.

    >>> round(log_e_rate(ABOVE, 20, 1000, 0.01), 6)
    2.245348
    """
    terms = (hits * math.log1p(bet) - n * math.log1p(bet * q) for bet in bets)
    return log_sum_exp(terms) - math.log(len(bets))


class RateEvidence(Mergeable):
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
        """Count one request, or `times` equal ones; `hit` is whether it happened."""
        if hit not in {True, False}:
            raise ValueError(f"hit is {hit!r}; it must be True or False")
        self._n += counted("times", times)
        self._hits += times if hit else 0

    def assuming(self, hit: bool, times: int = 1) -> "RateEvidence":
        """A copy that counts `times` requests more."""
        copy = RateEvidence()
        copy.merge(self)
        copy.update(hit, times)
        return copy

    @property
    def n(self) -> int:
        """How many requests."""
        return self._n

    @property
    def hits(self) -> int:
        """On how many it happened."""
        return self._hits

    @property
    def mean(self) -> float:
        """The share so far (0 where there is no request)."""
        return self._hits / max(1, self._n)

    @property
    def variance(self) -> float:
        """For forecasts."""
        return self.mean * (1.0 - self.mean)

    def log_e_above(self, q: float) -> float:
        """Log e-value against "it happens with chance at most q"."""
        return log_e_rate(ABOVE, self._hits, self._n, checked("q", q, 0.0, 1.0))

    def log_e_below(self, q: float) -> float:
        """Log e-value against "it happens with chance at least q"."""
        return log_e_rate(BELOW, self._hits, self._n, checked("q", q, 0.0, 1.0))

    def band(self, alpha: float) -> tuple[float, float]:
        """(L, U), `alpha` on each side: the chances not refuted."""
        enough = threshold(alpha)
        low = edge(lambda q: self.log_e_above(q) >= enough, 0.0, 1.0)
        return low, edge(lambda q: self.log_e_below(q) >= enough, 1.0, 0.0)

    def settings(self) -> dict[str, Any]:
        """Nothing but the grid is frozen."""
        return {}

    def totals(self) -> dict[str, Any]:
        """Two counts."""
        return {"n": self._n, "hits": self._hits}

    def take(self, totals: Mapping[str, Any]) -> None:
        """Count what these totals have counted."""
        n, hits = counted("n", totals["n"]), counted("hits", totals["hits"])
        if hits > n:
            raise ValueError(f"{hits} hits on only {n} requests")
        self._n, self._hits = self._n + n, self._hits + hits
