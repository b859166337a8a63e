"""Latency and failures over time: what the store's counters grew by from look to look, in bounded history.

The counters are sums over the whole rollout, whoever answered (`understudy.observability.summaries`). So what they grew by
between two looks is what happened between them, over all workers and replicas, and nothing is measured on the request path for
it. Whoever leads looks every `traffic_interval_s` and keeps the points in the store, where they outlive every process::

    counters ─look─▶ a point of seconds ─`COARSE` of them─▶ a point of minutes
                     (`recent`)                             (`long`)

Of each kind `traffic_points_max` are kept, the newest. A look that finds nothing new leaves a gap. Times are the clock's own, not
the requests': how fast answers are is a matter of the machine's hours, also while history is replayed.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import msgspec

from understudy.clock import Clock
from understudy.documents import Traffic, TrafficPoint
from understudy.domain import Variant
from understudy.errors import NotAllowedNow, StoreError
from understudy.observability.summaries import figures
from understudy.settings import Settings
from understudy.store import Store

STATE = "traffic"
"""The state's name in the store."""
COARSE = 120
"""How many times as long a point of `long` is as one of `recent`."""
SPANS = ("recent", "long")
COUNTED = ("requests/", "latency/", "fallbacks/")
"""Counters that a point is made of, by how their names begin."""
TOLD = {
    "requests": "requests",
    "asked": "asked",
    "failed": "failed",
    "p50_ms": "latency_p50_ms",
    "p99_ms": "latency_p99_ms",
}
"""What a point says of each variant, and what `figures` calls it."""


class History:
    """Points of two lengths, and the counters that the next one is taken from. Pure.

    Args:
        kept: what `state` gave, or None to begin; points_max: of each length.
    """

    def __init__(self, kept: Mapping[str, Any] | None, *, interval_s: float, points_max: int) -> None:
        self._interval_s, self._max = interval_s, points_max
        self._counters: dict[str, float] | None = None
        self._at = 0.0
        self._points: dict[str, list[dict[str, Any]]] = {span: [] for span in SPANS}
        self._open: dict[str, Any] | None = None  # a point of `long` that is not over: from, to, and its own counters
        if kept is not None:
            self._counters, self._at, self._open = dict(kept["counters"]), kept["at"], kept["open"]
            self._points = {span: list(kept[span]) for span in SPANS}

    def look(self, counters: Mapping[str, float], now: float) -> bool:
        """Take the counters as they are at `now` (Unix seconds); whether there is something new to keep."""
        counted = {name: value for name, value in counters.items() if name.startswith(COUNTED)}
        before, since = self._counters, min(self._at, now)
        self._counters, self._at = counted, now
        if before is None:  # what happened before anybody looked is no point: nobody knows since when
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
        """End the long point whose time is over."""
        if self._open is None or now - self._open["from"] < self._interval_s * COARSE:
            return False
        self._add("long", point(self._open["counters"], self._open["from"], self._open["to"]))
        self._open = None
        return True

    def _add(self, span: str, new: dict[str, Any]) -> None:
        self._points[span] = [*self._points[span], new][-self._max :]

    def state(self) -> dict[str, Any]:
        """JSON-able form, for the store."""
        return {
            "counters": self._counters or {},
            "at": self._at,
            "open": self._open,
            "interval_s": self._interval_s,
            "points_max": self._max,
            **self._points,
        }


def point(grown: Mapping[str, float], since: float, until: float) -> dict[str, Any]:
    """One point of what the counters grew by: for each variant that was asked something, `TOLD`."""
    found: dict[str, Any] = {"from": round(since, 3), "to": round(until, 3)}
    for variant in Variant:
        told = figures(grown, variant)
        if told["asked"] or told["latency_p50_ms"] is not None:
            found[variant.value] = {short: told[long] for short, long in TOLD.items()}
    return found


def shown(kept: Mapping[str, Any] | None, span: str, after: float) -> Traffic:
    """The document of `GET /rollout/traffic`: the points of a span that end after `after`, and their largest number."""
    if kept is None:
        return Traffic(span=span, interval_s=None, points_max=None, points=[])
    length = kept["interval_s"] * (COARSE if span == "long" else 1)
    points = msgspec.convert([each for each in kept[span] if each["to"] > after], list[TrafficPoint])
    return Traffic(span=span, interval_s=length, points_max=kept["points_max"], points=points)


class Tracer:
    """Keeps the history in the store while this process leads. Blocks, so it is called from threads.

    Args:
        holder: names this process in the rollout's lease, as the controller's does.
    """

    def __init__(self, store: Store, clock: Clock, holder: str, settings: Settings) -> None:
        self._store, self._clock, self._holder, self._lease_s = store, clock, holder, settings.lease_s
        self._limits: dict[str, Any] = {
            "interval_s": settings.traffic_interval_s,
            "points_max": settings.traffic_points_max,
        }
        self._history: History | None = None

    def look(self) -> None:
        """Look at the counters once.

        Raises:
            StoreError: what was not kept is kept with the next look.
        """
        now = self._clock.now()
        if not self._store.lead(self._holder, ttl_s=self._lease_s, now=now):
            self._history = None  # whoever leads keeps it; begin from what they kept when it is our turn
            return
        if self._history is None:
            self._history = History(self._store.load_state(STATE), **self._limits)
        if not self._history.look(self._store.counters(), now):
            return
        try:
            self._store.save_state(STATE, self._history.state(), holder=self._holder)
        except (NotAllowedNow, StoreError) as error:
            self._history = None  # what is in the store is what there is
            if isinstance(error, StoreError):
                raise
