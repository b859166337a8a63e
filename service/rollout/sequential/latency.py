"""Evidence about p50, p95, p99, …: one histogram per model answers every level, in 5 KB, whatever the traffic.

"The candidate's quantile is at least γ^j times the primary's" means that there is a latency x with: at most q of the
primary's requests take longer than x, and at least q of the candidate's take γ^j x. For each bucket that x may lie in,
both halves are rates, tested by counts at edges that are rounded to the safe side. The claim is refuted when it is
refuted for *every* x: so the evidence is the smallest over all buckets.

Record a request when it ends *or* passes the top edge (as infinity), in the order of admission: slow ones finish late,
and the first minutes must not look fast.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from service.rollout.sequential.base import RUNGS, Mergeable, log_sum_exp
from service.rollout.sequential.histogram import LogHistogram, dense, edges, sparse
from service.rollout.sequential.mean import bets
from service.rollout.sequential.rate import ABOVE, BELOW, log_e_rate

_WINS = bets(-1.0, 1.0, 0.0)[:RUNGS]


class LatencyEvidence(Mergeable):
    """Latencies of two models on *separate* requests; also each model's own against an absolute limit.

    Theorem (Howard & Ramdas, Sequential estimation of quantiles, Bernoulli 2022, arXiv 1906.09712: two-sample quantile
    tests as a minimum over x; here with a margin, `RateEvidence` for the halves, and a fixed histogram): the product
    of the two rates' e-values is one for each fixed x, as the requests are separate. The promise is for a claim that
    one and the same x bears out; if both distributions drift so that x must wander, it is per x.

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
        """The seconds that one request took, or `times` equal ones; infinity for one that never ended."""
        if primary is not None:
            self._primary.add(primary, times)
        if candidate is not None:
            self._candidate.add(candidate, times)

    @property
    def n(self) -> tuple[int, int]:
        """How many requests, of the primary and of the candidate."""
        return self._primary.n, self._candidate.n

    def quantiles(self, level: float) -> tuple[float, float]:
        """Estimates for people, of the primary and of the candidate."""
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

    def log_e_within(self, level: float, steps: int) -> float:
        """Log e-value against "the candidate's quantile is γ^steps times the primary's, or more"."""
        halves = self._halves_within(level, _whole(steps))
        return min(primary + candidate for primary, candidate in halves)

    def log_e_slower(self, level: float, steps: int) -> float:
        """Log e-value against "the candidate's quantile is at most γ^steps times the primary's"."""
        halves = self._halves_slower(level, _whole(steps))
        return min(primary + candidate for primary, candidate in halves)

    # In both, entry i of `reached` is for edge e_(i-1): entry 0 for 0, the last for infinity; x runs over the buckets.

    def _halves_within(self, level: float, steps: int) -> list[tuple[float, float]]:
        more, fewer = self._rates(ABOVE, self._primary, level), self._rates(BELOW, self._candidate, level)
        top = len(self._marks)
        shifted = [0, *(min(i + steps, top) for i in range(1, top + 1))]
        return [(more(i + 1), fewer(shifted[i])) for i in range(top + 1)]

    def _halves_slower(self, level: float, steps: int) -> list[tuple[float, float]]:
        fewer, more = self._rates(BELOW, self._primary, level), self._rates(ABOVE, self._candidate, level)
        top = len(self._marks)
        return [(fewer(i), more(min(i + 1 + steps, top + 1))) for i in range(top + 1)]

    @staticmethod
    def _rates(stakes: tuple[float, ...], seen: LogHistogram, level: float) -> Callable[[int], float]:
        reached, n, tail = seen.reached(), seen.n, _tail(level)
        known = lru_cache(maxsize=None)(lambda hits: log_e_rate(stakes, hits, n, tail))
        return lambda i: known(reached[i])

    def settings(self) -> dict[str, Any]:
        """The edges."""
        return dict(zip(("lowest", "highest", "growth"), self._edges, strict=True))

    def totals(self) -> dict[str, Any]:
        """Both histograms, without their empty buckets."""
        return {"primary": self._primary.totals(), "candidate": self._candidate.totals()}

    def take(self, totals: Mapping[str, Any]) -> None:
        """Count what these totals have counted."""
        self._primary.take(totals["primary"])
        self._candidate.take(totals["candidate"])


class PairedLatencyEvidence(LatencyEvidence):
    """Latencies of both models on the *same* request, as in shadow.

    A product of e-values would count shared luck twice, so the two halves are averaged, with a third: the paired
    ternary 1{primary ≥ x} - 1{candidate ≥ γ^j x}, which sees what both have in common cancel. It needs the number of
    pairs that differ at each x; for one pair these x are an interval, so its two ends are counted and summed up when
    asked. The margins are therefore fixed at the start.

    Attributes:
        within_steps: the margin of `log_e_within`, in steps of γ.
        slower_steps: the margin of `log_e_slower`.

    >>> seconds = PairedLatencyEvidence(within_steps=5)
    >>> for _ in range(600):
    ...     seconds.update(0.020, 0.010)
    >>> seconds.log_e_within(level=0.5) > 3.0
    True
    """

    KIND = "paired-latency"

    def __init__(
        self,
        within_steps: int = 5,
        slower_steps: int = 0,
        lowest: float = 0.001,
        highest: float = 60.0,
        growth: float = 1.02,
    ) -> None:
        super().__init__(lowest, highest, growth)
        self._steps = _whole(within_steps), _whole(slower_steps)
        # Changes, from each x to the next, in how many pairs speak for and against: within, then slower.
        self._turns = [[0] * (len(self._marks) + 2) for _ in range(4)]

    def update(self, primary: float | None = None, candidate: float | None = None, times: int = 1) -> None:
        """The seconds that both models took on one request."""
        if primary is None or candidate is None:
            raise ValueError(f"a pair has two latencies, got {primary!r} and {candidate!r}; infinity for a failed one")
        if not candidate >= 0.0:  # before anything is counted
            raise ValueError(f"the value {candidate!r} is not a number of 0 or more")
        p, c = self._primary.add(primary, times), self._candidate.add(candidate, times)
        top, (within, slower) = len(self._marks), self._steps
        # Buckets of x are numbered from 0 (below the first edge) to `top` (above the last).
        if c < top:
            self._between(0, max(1, c - within + 1), p - 1, times)
        self._between(1, p, top if c == top else max(0, c - within), times)
        self._between(2, p + 1, c - slower - 1, times)
        self._between(3, max(0, c - slower), p, times)

    def _between(self, row: int, first: int, last: int, times: int) -> None:
        if first <= last:
            self._turns[row][first] += times
            self._turns[row][last + 1] -= times

    def log_e_within(self, level: float, steps: int | None = None) -> float:
        """Log e-value against "the candidate's quantile is γ^within_steps times the primary's, or more"."""
        self._fixed(steps, self._steps[0])
        return self._least(self._halves_within(level, self._steps[0]), 0)

    def log_e_slower(self, level: float, steps: int | None = None) -> float:
        """Log e-value against "the candidate's quantile is at most γ^slower_steps times the primary's"."""
        self._fixed(steps, self._steps[1])
        return self._least(self._halves_slower(level, self._steps[1]), 2)

    def _least(self, halves: list[tuple[float, float]], row: int) -> float:
        speaks = lru_cache(maxsize=None)(_log_e_ternary)
        wins = losses = 0
        least = math.inf
        for i, half in enumerate(halves):
            wins += self._turns[row][i]
            losses += self._turns[row + 1][i]
            least = min(least, log_sum_exp((*half, speaks(wins, losses))))
        return least - math.log(3.0)

    @staticmethod
    def _fixed(asked: int | None, fixed: int) -> None:
        if asked not in {None, fixed}:
            raise ValueError(f"steps is {asked!r}; for pairs the margin was fixed at {fixed!r} when the evidence began")

    def settings(self) -> dict[str, Any]:
        """The margins and the edges."""
        return {"within_steps": self._steps[0], "slower_steps": self._steps[1], **super().settings()}

    def totals(self) -> dict[str, Any]:
        """Both histograms, and the ends of the intervals in which pairs differ."""
        return {**super().totals(), "turns": [sparse(row) for row in self._turns]}

    def take(self, totals: Mapping[str, Any]) -> None:
        """Count what these totals have counted."""
        rows = [dense(row, len(self._marks) + 2) for row in totals["turns"]]
        pairs = [sum(count for _, count in totals[name]) for name in ("primary", "candidate")]
        if len(rows) != len(self._turns) or pairs[0] != pairs[1]:
            raise ValueError(f"{pairs[0]} latencies of the primary and {pairs[1]} of the candidate are no pairs")
        super().take(totals)
        turns = zip(self._turns, rows, strict=True)
        self._turns = [[a + b for a, b in zip(mine, theirs, strict=True)] for mine, theirs in turns]


def _tail(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level!r}; p99 is 0.99")
    return 1.0 - level


def _whole(steps: int) -> int:
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps is {steps!r}; it must be a whole number, 0 or more")
    return steps


def _log_e_ternary(wins: int, losses: int) -> float:
    logs = (wins * math.log1p(bet) + losses * math.log1p(-bet) for bet in _WINS)
    return log_sum_exp(logs) - math.log(RUNGS)
