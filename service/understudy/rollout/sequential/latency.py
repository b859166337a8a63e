"""Evidence about p50, p95, p99, …: one histogram of 5 KB per model serves every quantile.

"The candidate's quantile is at least γ^j times the primary's" means that there is a latency x such that at most q of the
primary's requests take longer than x, and at least q of the candidate's take γ^j x. For each bucket that x may lie in,
both parts are rates, tested by counts at edges that are rounded to the safe side. The claim is refuted when it is
refuted for *every* x, so the evidence is the smallest over all buckets.

Record a request when it ends *or* passes the top edge (as infinity), in the order in which requests arrived. Slow requests
end late, so otherwise the first minutes would look faster than they were.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypedDict

from understudy.rollout.sequential.base import Mergeable, Settings
from understudy.rollout.sequential.histogram import LogHistogram, edges
from understudy.rollout.sequential.rate import ABOVE, BELOW, log_e_rate


class LatencyTotals(TypedDict):
    """[bucket, count] of the buckets that are not empty, for each model."""

    primary: Sequence[Sequence[int]]
    candidate: Sequence[Sequence[int]]


class LatencyEvidence(Mergeable[LatencyTotals]):
    """Latencies of two models on *separate* requests; also each model's own against an absolute limit.

    Theorem (Howard & Ramdas, Sequential estimation of quantiles, Bernoulli 2022, arXiv 1906.09712: two-sample quantile
    tests as a minimum over x; here with a margin, `RateEvidence` for the halves, and a fixed histogram): the product
    of the two rates' e-values is one for each fixed x, as the requests are separate. The guarantee is for a claim that
    holds with one x throughout; if both distributions drift so that x changes, it is per x.

    Attributes:
        lowest: the first edge, in seconds.
        highest: the last edge is the first at or above it.
        growth: γ, the ratio of neighbouring edges.

    >>> seconds = LatencyEvidence()
    >>> seconds.update(primary=0.010, times=3000)
    >>> seconds.update(candidate=0.010, times=3000)
    >>> seconds.log_e_within(level=0.99, steps=5) > 3.0  # "p99 is 10 % longer" is refuted
    True
    """

    KIND = "latency"

    def __init__(self, lowest: float = 0.001, highest: float = 60.0, growth: float = 1.02) -> None:
        self._marks = edges(float(lowest), float(highest), float(growth))
        self._edges = float(lowest), float(highest), float(growth)
        self._primary, self._candidate = LogHistogram(self._marks), LogHistogram(self._marks)

    def update(self, primary: float | None = None, candidate: float | None = None, times: int = 1) -> None:
        """Count `times` requests by how many seconds they took. Infinity stands for a request that never ended."""
        if primary is not None:
            self._primary.add(primary, times)
        if candidate is not None:
            self._candidate.add(candidate, times)

    @property
    def n(self) -> tuple[int, int]:
        """The number of requests of the primary and of the candidate."""
        return self._primary.n, self._candidate.n

    def quantiles(self, level: float) -> tuple[float, float]:
        """Estimates to show, of the primary and of the candidate."""
        return self._primary.quantile(level), self._candidate.quantile(level)

    def steps_within(self, ratio: float) -> int:
        """The largest number of steps whose ratio γ^steps is at most `ratio`: 1.1 → 4 (8.2 %) with γ = 1.02."""
        if not ratio >= 1.0:
            raise ValueError(f"ratio is {ratio!r}; it must be 1 or more")
        return math.floor(math.log(ratio) / math.log(self._edges[2]) + 1e-9)

    def log_e_over(self, limit: float, level: float) -> float:
        """Log e-value against "the candidate's quantile is at most `limit`", rounded up to an edge."""
        reached = self._candidate.reached()[bisect_right(self._marks, limit) + 1]
        return log_e_rate(ABOVE, reached, self._candidate.n, _tail(level))

    def log_e_under(self, limit: float, level: float) -> float:
        """Log e-value against "the candidate's quantile is above `limit`", rounded down to an edge."""
        reached = self._candidate.reached()[bisect_right(self._marks, limit)]
        return log_e_rate(BELOW, reached, self._candidate.n, _tail(level))

    # In both, entry i of `reached` is for edge e_(i-1): entry 0 for 0, the last for infinity; x runs over the buckets.

    def log_e_within(self, level: float, steps: int) -> float:
        """Log e-value against "the candidate's quantile is γ^steps times the primary's, or more"."""
        more, fewer = self._rates(ABOVE, self._primary, level), self._rates(BELOW, self._candidate, level)
        top, far = len(self._marks), _whole(steps)
        shifted = [0, *(min(i + far, top) for i in range(1, top + 1))]
        return min(more(i + 1) + fewer(shifted[i]) for i in range(top + 1))

    def log_e_slower(self, level: float, steps: int) -> float:
        """Log e-value against "the candidate's quantile is at most γ^steps times the primary's"."""
        fewer, more = self._rates(BELOW, self._primary, level), self._rates(ABOVE, self._candidate, level)
        top, far = len(self._marks), _whole(steps)
        return min(fewer(i) + more(min(i + 1 + far, top + 1)) for i in range(top + 1))

    @staticmethod
    def _rates(stakes: tuple[float, ...], seen: LogHistogram, level: float) -> Callable[[int], float]:
        reached, n, tail = seen.reached(), seen.n, _tail(level)
        known = lru_cache(maxsize=None)(lambda hits: log_e_rate(stakes, hits, n, tail))
        return lambda i: known(reached[i])

    def settings(self) -> Settings:
        """The edges."""
        return dict(zip(("lowest", "highest", "growth"), self._edges, strict=True))

    def totals(self) -> LatencyTotals:
        """Both histograms, without their empty buckets."""
        return {"primary": self._primary.totals(), "candidate": self._candidate.totals()}

    def take(self, totals: LatencyTotals) -> None:
        """Add stored totals."""
        self._primary.take(totals["primary"])
        self._candidate.take(totals["candidate"])


def _tail(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level!r}; p99 is 0.99")
    return 1.0 - level


def _whole(steps: int) -> int:
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps is {steps!r}; it must be a whole number, 0 or more")
    return steps
