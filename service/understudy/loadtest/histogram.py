"""Durations in buckets of equal ratio: percentiles within half a percent, in fixed memory, and merged without loss.

The idea is HdrHistogram's (Tene, https://hdrhistogram.org): buckets whose width grows with the value, so that the relative
error is the same at a microsecond and at a minute. Here bucket k holds values from `LOWEST` · `GROWTH`^k up to the next; counts
add up, so two histograms merged are the histogram of all their values, in any order, on any number of machines.
"""

import math
from collections.abc import Iterable
from typing import Self, TypedDict

LOWEST = 1e-6
GROWTH = 1.005
_PER_E = 1 / math.log(GROWTH)


class HistogramDocument(TypedDict):
    """A histogram as JSON."""

    counts: dict[str, int]
    total: float
    highest: float


class Histogram:
    """Counts of durations in seconds.

    >>> seen = Histogram([0.001] * 99 + [0.25])
    >>> seen.n, round(seen.quantile(0.5), 4), round(seen.quantile(1.0), 4)
    (100, 0.001, 0.25)
    """

    __slots__ = ("counts", "highest", "n", "total")

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self.counts: dict[int, int] = {}
        self.n, self.total, self.highest = 0, 0.0, 0.0
        for value in seconds:
            self.add(value)

    def add(self, seconds: float) -> None:
        """Count one duration. Less than a microsecond counts as one microsecond."""
        bucket = int(math.log(seconds / LOWEST) * _PER_E) if seconds > LOWEST else 0
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.n += 1
        self.total += seconds
        self.highest = max(self.highest, seconds)

    def merge(self, other: "Histogram") -> Self:
        """Add the counts of another histogram."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.n += other.n
        self.total += other.total
        self.highest = max(self.highest, other.highest)
        return self

    def quantile(self, share: float) -> float:
        """The smallest duration that at least `share` of them do not exceed, in seconds; NaN if the histogram is empty.

        The middle of its bucket, by ratio: at most a quarter of a percent off. The largest of all is exact.
        """
        if not self.n:
            return math.nan
        rank, seen = max(1, math.ceil(share * self.n - 1e-9)), 0
        if rank >= self.n:
            return self.highest
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return min(LOWEST * float(GROWTH ** (bucket + 0.5)), self.highest)
        return self.highest

    def mean(self) -> float:
        """The mean in seconds; NaN if the histogram is empty."""
        return self.total / self.n if self.n else math.nan

    def as_json(self) -> HistogramDocument:
        """As JSON, which `of` reads."""
        return {
            "counts": {str(k): v for k, v in sorted(self.counts.items())},
            "total": self.total,
            "highest": self.highest,
        }

    @classmethod
    def of(cls, document: HistogramDocument) -> "Histogram":
        """The histogram that `as_json` wrote."""
        histogram = cls()
        histogram.counts = {int(k): int(v) for k, v in document["counts"].items()}
        histogram.n, histogram.total = sum(histogram.counts.values()), document["total"]
        histogram.highest = document["highest"]
        return histogram
