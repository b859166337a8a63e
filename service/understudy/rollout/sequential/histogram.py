"""A histogram of positive numbers with buckets of equal ratio. It has a fixed size, merges exactly, and rounds to a known side."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate

from understudy.rollout.sequential.base import counted


@lru_cache(maxsize=32)
def edges(lowest: float, highest: float, growth: float) -> tuple[float, ...]:
    """e_k = lowest · growth^k, up to the first at or above `highest`.

    >>> [round(edge, 3) for edge in edges(1.0, 2.0, 1.5)]
    [1.0, 1.5, 2.25]
    """
    if not (0.0 < lowest < highest < math.inf and 1.0 < growth <= 10.0):
        raise ValueError(f"edges from {lowest!r} to {highest!r} by {growth!r}: needs 0 < lowest < highest, growth > 1")
    count = math.ceil(math.log(highest / lowest) / math.log(growth) - 1e-9)
    if count > 20_000:
        raise ValueError(f"edges from {lowest!r} to {highest!r} by {growth!r} are {count}: choose a larger growth")
    return tuple(lowest * growth**k for k in range(count + 1))


class LogHistogram:
    """Counts how many values reached each edge.

    >>> seen = LogHistogram(edges(1.0, 2.0, 1.5))
    >>> for value in (0.2, 1.0, 1.7, math.inf):
    ...     seen.add(value)
    >>> seen.reached()  # all 4, then: at least 1.0, 1.5, 2.25, and beyond every edge none
    [4, 3, 2, 1, 0]
    """

    __slots__ = ("_counts", "_edges", "n")

    def __init__(self, marks: tuple[float, ...]) -> None:
        self._edges = marks
        self._counts = [0] * (len(marks) + 1)
        self.n = 0

    def add(self, value: float, times: int = 1) -> None:
        """Count `value`. Infinity stands for a request that never ended."""
        if not value >= 0.0:
            raise ValueError(f"the value {value!r} is not a number of 0 or more")
        self._counts[bisect_right(self._edges, value)] += counted("times", times)
        self.n += times

    def reached(self) -> list[int]:
        """The number of all values, then for each edge the number at or above it, then 0 for the edge at infinity."""
        return [*list(accumulate(reversed(self._counts)))[::-1], 0]

    def quantile(self, level: float) -> float:
        """An estimate to show, exact to one bucket; NaN if there are no values."""
        if not self.n:
            return math.nan
        rank = max(1, math.ceil(level * self.n))
        bucket = bisect_right(list(accumulate(self._counts)), rank - 1)
        if bucket == 0:
            return self._edges[0]
        return math.inf if bucket == len(self._edges) else math.sqrt(self._edges[bucket - 1] * self._edges[bucket])

    def totals(self) -> list[list[int]]:
        """The buckets that are not empty, as [bucket, count]."""
        return [[bucket, count] for bucket, count in enumerate(self._counts) if count]

    def take(self, totals: Iterable[Sequence[int]]) -> None:
        """Add stored totals."""
        for bucket, count in totals:
            self._counts[counted("bucket", bucket)] += counted("count", count)
        self.n = sum(self._counts)
