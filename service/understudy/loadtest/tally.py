"""What one arrival process saw, and the sum of several: everything in it adds up, so workers merge exactly."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from understudy.loadtest.histogram import Histogram

INTERVALS_MAX = 300
"""Points over time; a long test has longer intervals."""
ERRORS_MAX = 50
"""Kinds of errors that are told apart; the rest is counted as one."""


def interval_s(seconds: float) -> float:
    """The length of one point over time."""
    return max(1.0, math.ceil(seconds / INTERVALS_MAX))


@dataclass
class Interval:
    """One stretch of the test: requests that were due in it, and how they went."""

    due: int = 0
    ok: int = 0
    latency: dict[str, Histogram] = field(default_factory=dict)  # by variant


@dataclass
class Tally:
    """Counts of one test, the warm-up left out.

    Attributes:
        due: predict requests that were due; ok: those answered well, by the deadline; rows: predictions in those.
        late: answered well, but after the deadline (they count as errors); errors: the others, by what was wrong.
        latency: seconds from the moment a request was due to its answer, of all that were answered well, however late, or
            timed out.
        from_send: the same answers from the moment they were really sent: what a tool sees that waits for each answer.
        lag: how long after it was due a request left the generator, waiting for a free connection not counted.
        loop: how late a timer of the event loop fired.
        fallbacks: answers of the primary in the candidate's place; starved: requests that waited for a connection.
    """

    interval_s: float = 1.0
    due: int = 0
    ok: int = 0
    rows: int = 0
    late: int = 0
    starved: int = 0
    fallbacks: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    from_send: Histogram = field(default_factory=Histogram)
    variants: dict[str, Histogram] = field(default_factory=dict)
    feedback: Histogram = field(default_factory=Histogram)
    feedback_errors: int = 0
    lag: Histogram = field(default_factory=Histogram)
    loop: Histogram = field(default_factory=Histogram)
    intervals: dict[int, Interval] = field(default_factory=dict)
    generators: list[dict[str, Any]] = field(default_factory=list)

    def at(self, moment: float) -> Interval:
        """The stretch that a moment (seconds after the warm-up) falls into."""
        number = int(moment / self.interval_s)
        found = self.intervals.get(number)
        if found is None:
            found = self.intervals[number] = Interval()
        return found

    def failed(self, what: str, times: int = 1) -> None:
        """Count an error under its words."""
        if what not in self.errors and len(self.errors) >= ERRORS_MAX:
            what = "other errors"
        self.errors[what] = self.errors.get(what, 0) + times

    def answered(self, moment: float, variant: str, latency_s: float) -> None:
        """Count an answer to a request that was due at `moment`."""
        self.latency.add(latency_s)
        stretch = self.at(moment)
        for histograms in (self.variants, stretch.latency):
            found = histograms.get(variant)
            if found is None:
                found = histograms[variant] = Histogram()
            found.add(latency_s)

    def as_json(self) -> dict[str, Any]:
        """As JSON, read again with `of`."""
        told: dict[str, Any] = {name: getattr(self, name) for name in (*_COUNTS, "interval_s", "errors", "generators")}
        told |= {name: getattr(self, name).as_json() for name in _HISTOGRAMS}
        told["variants"] = {name: own.as_json() for name, own in self.variants.items()}
        told["intervals"] = {
            str(number): {"due": one.due, "ok": one.ok, "latency": {n: h.as_json() for n, h in one.latency.items()}}
            for number, one in sorted(self.intervals.items())
        }
        return told

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Tally":
        """What `as_json` wrote."""
        found = cls(**{name: told[name] for name in (*_COUNTS, "interval_s", "errors", "generators")})
        for name in _HISTOGRAMS:
            setattr(found, name, Histogram.of(told[name]))
        found.variants = {name: Histogram.of(own) for name, own in told["variants"].items()}
        found.intervals = {
            int(number): Interval(one["due"], one["ok"], {n: Histogram.of(h) for n, h in one["latency"].items()})
            for number, one in told["intervals"].items()
        }
        return found


_COUNTS = ("due", "ok", "rows", "late", "starved", "fallbacks", "feedback_errors")
_HISTOGRAMS = ("latency", "from_send", "feedback", "lag", "loop")


def merged(tallies: Iterable[Tally]) -> Tally:
    """The sum of several: exactly what one process would have counted that saw all of it."""
    total: Tally | None = None
    for one in tallies:
        if total is None:
            total = Tally.of(one.as_json())
            continue
        for name in _COUNTS:
            setattr(total, name, getattr(total, name) + getattr(one, name))
        for name in _HISTOGRAMS:
            getattr(total, name).merge(getattr(one, name))
        for what, times in one.errors.items():
            total.failed(what, times)
        _merge_all(total.variants, one.variants)
        for number, stretch in one.intervals.items():
            mine = total.intervals.setdefault(number, Interval())
            mine.due, mine.ok = mine.due + stretch.due, mine.ok + stretch.ok
            _merge_all(mine.latency, stretch.latency)
        total.generators += one.generators
    return total or Tally()


def _merge_all(mine: dict[str, Histogram], others: dict[str, Histogram]) -> None:
    for name, other in others.items():
        mine.setdefault(name, Histogram()).merge(other)
