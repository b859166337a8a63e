"""Latency and failures over time: the growth of the store's counters between readings, in a bounded history.

The counters are sums over the whole rollout (`understudy.observability.summaries`), so their growth between two readings covers all
workers and replicas, and needs no measuring on the request path. The leader reads them every `traffic_interval_s` and keeps the
points in the store::

    counters ─look─▶ a point of seconds ─`COARSE` of them─▶ a point of minutes
                     (`recent`)                             (`long`)

The newest `traffic_points_max` points of each kind are kept. A reading without growth leaves a gap. Times are the service's clock
and not the requests', because latency belongs to the time of the machine, also while history is replayed.
"""

from collections import defaultdict
from collections.abc import Mapping

import msgspec

from understudy.clock import Clock
from understudy.documents import Traffic, TrafficPoint
from understudy.domain import JsonObject, Variant
from understudy.errors import NotAllowedNow, StoreError
from understudy.observability.summaries import figures
from understudy.settings import Settings
from understudy.store import Store

STATE = "traffic"
"""The name of the state in the store."""
COARSE = 120
"""A point of `long` is this many times as long as one of `recent`."""
SPANS = ("recent", "long")
COUNTED = ("requests/", "latency/", "fallbacks/")
"""Prefixes of the counters that a point is computed from."""
FIGURES = {
    "requests": "requests",
    "asked": "asked",
    "failed": "failed",
    "p50_ms": "latency_p50_ms",
    "p99_ms": "latency_p99_ms",
}
"""The figures of a variant in a point, and their names in `figures`."""


class History:
    """Points of two lengths, and the counters at the last reading. Pure.

    Args:
        kept: the result of `state`, or None to begin.
        points_max: the number of points of each length.
    """

    def __init__(self, kept: JsonObject | None, *, interval_s: float, points_max: int) -> None:
        self._interval_s, self._max = interval_s, points_max
        self._counters: dict[str, float] | None = None
        self._at = 0.0
        self._points: dict[str, list[JsonObject]] = {span: [] for span in SPANS}
        self._open: JsonObject | None = None  # the unfinished point of `long`: from, to, and its counters
        if kept is not None:
            self._counters, self._at, self._open = dict(kept["counters"]), kept["at"], kept["open"]
            self._points = {span: list(kept[span]) for span in SPANS}

    def look(self, counters: Mapping[str, float], now: float) -> bool:
        """Read the counters at `now` (Unix seconds); returns whether there is something new to store."""
        counted = {name: value for name, value in counters.items() if name.startswith(COUNTED)}
        before, since = self._counters, min(self._at, now)
        self._counters, self._at = counted, now
        if before is None:  # no point for what happened before the first reading: its start is unknown
            return True
        grown = {name: more for name, value in counted.items() if (more := value - before.get(name, 0.0)) > 0}
        if grown:
            self._add("recent", point(grown, since, now))
            self._gather(grown, since, now)
        return self._close(now) or bool(grown)

    def _gather(self, grown: Mapping[str, float], since: float, now: float) -> None:
        self._open = self._open or {"from": since, "counters": {}}
        sums = defaultdict(float, self._open["counters"])
        for name, more in grown.items():
            sums[name] += more
        self._open |= {"to": now, "counters": dict(sums)}

    def _close(self, now: float) -> bool:
        """Finish the long point if its time is over."""
        if self._open is None or now - self._open["from"] < self._interval_s * COARSE:
            return False
        self._add("long", point(self._open["counters"], self._open["from"], self._open["to"]))
        self._open = None
        return True

    def _add(self, span: str, new: JsonObject) -> None:
        self._points[span] = [*self._points[span], new][-self._max :]

    def state(self) -> JsonObject:
        """The history as JSON, for the store."""
        return {
            "counters": self._counters or {},
            "at": self._at,
            "open": self._open,
            "interval_s": self._interval_s,
            "points_max": self._max,
            **self._points,
        }


def point(grown: Mapping[str, float], since: float, until: float) -> JsonObject:
    """One point from the growth of the counters: `FIGURES` of each variant that had requests."""
    result: JsonObject = {"from": round(since, 3), "to": round(until, 3)}
    for variant in Variant:
        values = figures(grown, variant)
        if values["asked"] or values["latency_p50_ms"] is not None:
            result[variant.value] = {short: values[long] for short, long in FIGURES.items()}
    return result


def shown(kept: JsonObject | None, span: str, after: float) -> Traffic:
    """The document of `GET /rollout/traffic`: the points of a span that end after `after`, and their largest number."""
    if kept is None:
        return Traffic(span=span, interval_s=None, points_max=None, points=[])
    length = kept["interval_s"] * (COARSE if span == "long" else 1)
    points = msgspec.convert([each for each in kept[span] if each["to"] > after], list[TrafficPoint])
    return Traffic(span=span, interval_s=length, points_max=kept["points_max"], points=points)


class Tracer:
    """Keeps the history in the store while this process leads. Blocks, so it is called from threads.

    Args:
        holder: this process's name in the lease.
    """

    def __init__(self, store: Store, clock: Clock, holder: str, settings: Settings) -> None:
        self._store, self._clock, self._holder, self._lease_s = store, clock, holder, settings.lease_s
        self._interval_s, self._points_max = settings.traffic_interval_s, settings.traffic_points_max
        self._history: History | None = None

    def look(self) -> None:
        """Read the counters once.

        Raises:
            StoreError: the store is unavailable; the next reading covers this interval too.
        """
        now = self._clock.now()
        if not self._store.lead(self._holder, ttl_s=self._lease_s, now=now):
            self._history = None  # the leader keeps the history; start from its state when this process leads
            return
        if self._history is None:
            self._history = History(
                self._store.load_state(STATE), interval_s=self._interval_s, points_max=self._points_max
            )
        if not self._history.look(self._store.counters(), now):
            return
        try:
            self._store.save_state(STATE, self._history.state(), holder=self._holder)
        except (NotAllowedNow, StoreError) as error:
            self._history = None  # the next reading starts from the state in the store
            if isinstance(error, StoreError):
                raise
