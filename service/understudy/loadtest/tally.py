"""Counts of one arrival process. The counts of several processes are added up without loss."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from understudy.domain import JsonObject
from understudy.loadtest.histogram import Histogram

INTERVALS_MAX = 300
"""Points over time; a long test has longer intervals."""
ERRORS_MAX = 50
"""Distinct error messages that are counted separately; all others are counted together."""


def interval_s(seconds: float) -> float:
    """The length of one point over time."""
    return max(1.0, math.ceil(seconds / INTERVALS_MAX))


class GeneratorUse(msgspec.Struct, frozen=True):
    """The CPU that one generator process used while it measured, and how well it kept time.

    Attributes:
        seconds: the wall time.
        cpu_share: CPU time as a share of it; waited_share: time that it was ready to run and had no core, likewise.
        clock_drift_s: how far the wall clock moved against the monotonic clock.
        gave_up: whether it stopped because it was too late.
    """

    cpu_share: float
    waited_share: float
    clock_drift_s: float
    pid: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    gave_up: bool = False


@dataclass
class Interval:
    """The requests that were due in one interval of the test."""

    due: int = 0
    ok: int = 0
    latency: dict[str, Histogram] = field(default_factory=dict)  # by variant


@dataclass
class Tally:
    """Counts of one test without its warm-up.

    Attributes:
        due: predict requests that were due; ok: those answered correctly by the deadline; rows: predictions in those.
        late: answered correctly but after the deadline, which counts as an error.
        errors: all other errors, by message.
        latency: seconds from when a request was due to its response, for correct responses and time-outs.
        from_send: the same, counted from when the request was sent, as a closed-loop tool would measure it.
        lag: seconds from when a request was due to when it was sent, without waiting for a free connection.
        loop: how late timers of the event loop fired.
        fallbacks: responses of the primary in the candidate's place; starved: requests that waited for a connection.
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
    generators: list[GeneratorUse] = field(default_factory=list)

    def at(self, moment: float) -> Interval:
        """The interval of a moment (seconds after the warm-up)."""
        number = int(moment / self.interval_s)
        interval = self.intervals.get(number)
        if interval is None:
            interval = self.intervals[number] = Interval()
        return interval

    def failed(self, what: str, times: int = 1) -> None:
        """Count an error by its message."""
        if what not in self.errors and len(self.errors) >= ERRORS_MAX:
            what = "other errors"
        self.errors[what] = self.errors.get(what, 0) + times

    def answered(self, moment: float, variant: str, latency_s: float) -> None:
        """Count the response to a request that was due at `moment`."""
        self.latency.add(latency_s)
        interval = self.at(moment)
        for histograms in (self.variants, interval.latency):
            histogram = histograms.get(variant)
            if histogram is None:
                histogram = histograms[variant] = Histogram()
            histogram.add(latency_s)

    def as_json(self) -> JsonObject:
        """As JSON, which `of` reads."""
        document: JsonObject = {name: getattr(self, name) for name in (*_COUNTS, "interval_s", "errors")}
        document["generators"] = msgspec.to_builtins(self.generators)
        document |= {name: getattr(self, name).as_json() for name in _HISTOGRAMS}
        document["variants"] = {name: own.as_json() for name, own in self.variants.items()}
        document["intervals"] = {
            str(number): {"due": one.due, "ok": one.ok, "latency": {n: h.as_json() for n, h in one.latency.items()}}
            for number, one in sorted(self.intervals.items())
        }
        return document

    @classmethod
    def of(cls, document: JsonObject) -> "Tally":
        """The tally that `as_json` wrote."""
        tally = cls(**{name: document[name] for name in (*_COUNTS, "interval_s", "errors")})
        tally.generators = msgspec.convert(document["generators"], list[GeneratorUse])
        for name in _HISTOGRAMS:
            setattr(tally, name, Histogram.of(document[name]))
        tally.variants = {name: Histogram.of(own) for name, own in document["variants"].items()}
        tally.intervals = {
            int(number): Interval(one["due"], one["ok"], {n: Histogram.of(h) for n, h in one["latency"].items()})
            for number, one in document["intervals"].items()
        }
        return tally


_COUNTS = ("due", "ok", "rows", "late", "starved", "fallbacks", "feedback_errors")
_HISTOGRAMS = ("latency", "from_send", "feedback", "lag", "loop")


def merged(tallies: Iterable[Tally]) -> Tally:
    """The sum of several tallies: what one process would have counted."""
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
        for number, interval in one.intervals.items():
            mine = total.intervals.setdefault(number, Interval())
            mine.due, mine.ok = mine.due + interval.due, mine.ok + interval.ok
            _merge_all(mine.latency, interval.latency)
        total.generators += one.generators
    return total or Tally()


def _merge_all(mine: dict[str, Histogram], others: dict[str, Histogram]) -> None:
    for name, other in others.items():
        mine.setdefault(name, Histogram()).merge(other)
