"""Time bases: how far each clock has advanced by which requests are stamped. Pure.

Theory of operation
-------------------
A request has the time of the service's clock, or that of a replay of history (`Observation.replay`). These times cannot be
compared, so each base is measured by itself, and only by how far it advances: a request's wait begins when it arrives and ends
when its own base has advanced by that much. Hence no request shortens or prolongs waits on another base.

A clock may be wrong, or may be set. So `ElapsedTime` adds up forward intervals and does not trust any single one:

* Going back adds nothing. Up to `BACK_MAX_S` it is normal, since requests arrive out of order. Beyond that the clock was set back
  (or the history starts again), and time is measured from there.
* An interval of more than `GAP_S` counts only as far as it goes beyond the latest time seen before. So a clock that jumps back and
  forth, or two replicas whose clocks differ by a year, add nothing. On the service's clock such an interval counts for at most
  `gap_max`: it may be a quiet weekend, or a clock that was set. A replay has no such limit: its gaps are part of the history.

A replay that has sent nothing for `OVER_S` on the service's clock is over, and its requests wait no longer: the labels of a replay
come with it. Otherwise a replay that was interrupted would hold up all rows stored after it.
"""

from dataclasses import dataclass, field
from math import inf
from typing import TypeAlias, TypedDict

from understudy.domain import Observation

GAP_S = 86_400.0
"""After a longer gap between two requests, the clock may have been set."""
BACK_MAX_S = 86_400.0
"""A request may be this much older than one before it. Beyond that, the clock was set back."""
OVER_S = 3_600.0
"""A replay that has sent nothing for this long is over."""
BASES_MAX = 64
"""Number of replays in memory. If there are more, the one that was silent longest is over."""

ElapsedState: TypeAlias = list[float | None]
"""The stored form of `ElapsedTime`: mark, high, total."""


class TimeBasesState(TypedDict):
    """The stored form of `TimeBases`. `replays` has name, elapsed time and last moment of each replay."""

    clock: ElapsedState
    waits: ElapsedState
    replays: list[tuple[str, ElapsedState, float]]
    lived: float | None


@dataclass(slots=True)
class ElapsedTime:
    """How far a clock has advanced, from times that come roughly in order.

    Attributes:
        gap_max: the most seconds that an interval of more than `GAP_S` counts.
        mark: the latest time since the clock was last set.
        high: the latest time ever.
        total: the sum of all intervals, in seconds.

    >>> clock = ElapsedTime(gap_max=3600.0)
    >>> [clock.move(at) for at in (100.0, 160.0, 150.0, 160.0 + 365 * 86400, 170.0, 180.0)]
    [0.0, 60.0, 60.0, 3660.0, 3660.0, 3670.0]
    """

    gap_max: float = inf
    mark: float | None = None
    high: float = -inf
    total: float = 0.0

    def move(self, at: float) -> float:
        """Add a time and return the total. Adding the same time again changes nothing."""
        if self.mark is None:
            self.mark = self.high = at
            return self.total
        interval = at - self.mark
        if 0.0 < interval <= GAP_S:
            self.total += interval
            self.mark = at
        elif interval > GAP_S:
            self.total += min(max(at - self.high, 0.0), self.gap_max)
            self.mark = at
        elif interval < -BACK_MAX_S:
            self.mark = at
        self.high = max(self.high, at)
        return self.total

    def state(self) -> ElapsedState:
        """The stored form, as JSON values."""
        return [self.mark, self.high if self.mark is not None else None, self.total]

    def take(self, state: ElapsedState) -> None:
        """Restore a stored state."""
        mark, high, total = state
        self.mark, self.high, self.total = mark, -inf if high is None else high, total or 0.0


@dataclass(slots=True)
class ReplayBase:
    """One replay of history: its own time, and how far the service's clock had advanced at its last request."""

    elapsed: ElapsedTime = field(default_factory=ElapsedTime)
    last: float = 0.0


class TimeBases:
    """The elapsed time of every base, from requests in the order in which they were stored.

    Args:
        wait: how long a label is waited for, in seconds. A gap of more than `GAP_S` counts for at most half of it, so that a clock
            that is set does not end a wait.

    Attributes:
        lived: one time for all bases: the time of the first request, plus the time by which all bases have advanced since.
    """

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self.clock = ElapsedTime(GAP_S)
        self._waits = ElapsedTime(min(GAP_S, wait / 2))
        self._replays: dict[str, ReplayBase] = {}
        self.lived: float | None = None

    def move(self, observation: Observation) -> float:
        """Add a request and return the elapsed waiting time on its base. Adding it again changes nothing."""
        mark = self.clock.mark
        # A live request that comes roughly in order: nearly all do, and this runs twice for each.
        if observation.replay is None and mark is not None and -BACK_MAX_S <= observation.at - mark <= GAP_S:
            if observation.at > mark:
                self._advance(mark, observation.at)
            return self._waits.total
        arrived, before = observation.arrived_at, self.clock.total
        if self.lived is None:
            self.lived = observation.at
        clock, waits = self.clock.move(arrived), self._waits.move(arrived)
        if observation.replay is None:
            self.lived += clock - before
            return waits
        replay = self._replays.pop(observation.replay, None) or ReplayBase()
        self._replays[observation.replay] = replay  # ordered by the last request
        if len(self._replays) > BASES_MAX:
            del self._replays[next(iter(self._replays))]
        replay.last, before = clock, replay.elapsed.total
        total = replay.elapsed.move(observation.at)
        self.lived += total - before
        return total

    def _advance(self, mark: float, arrived: float) -> None:
        """Move the service's clock on from `mark`, by at most `GAP_S`."""
        assert self.lived is not None
        interval = arrived - mark
        # Exact if no time was ever added up: a sum of intervals would be off in the last digits.
        self.lived = arrived if self.lived == mark else self.lived + interval
        clock, waits = self.clock, self._waits
        clock.mark = waits.mark = arrived
        clock.total += interval
        waits.total += interval
        if arrived > clock.high:  # both have seen the same times
            clock.high = waits.high = arrived

    def time_of(self, observation: Observation) -> float:
        """The observation's time for windows that belong to no single time base: `lived`."""
        return observation.at if self.lived is None else self.lived

    def waited(self, observation: Observation, since: float) -> bool:
        """Whether a request's wait is over: its base has advanced by more than the wait since `since`, or is over."""
        if observation.replay is None:
            return self._waits.total - since > self._wait
        replay = self._replays.get(observation.replay)
        return replay is None or self._over(replay) or replay.elapsed.total - since > self._wait

    def total(self, base: str | None) -> float:
        """How far a base has advanced, in seconds. None is the service's clock."""
        if base is None:
            return self.clock.total
        replay = self._replays.get(base)
        return 0.0 if replay is None else replay.elapsed.total

    def totals(self) -> dict[str | None, float]:
        """How far each base has advanced, in seconds. None is the service's clock."""
        return {None: self.clock.total} | {name: replay.elapsed.total for name, replay in self._replays.items()}

    def over(self, base: str | None) -> bool:
        """Whether a base is a replay that is over."""
        if base is None:
            return False
        replay = self._replays.get(base)
        return replay is None or self._over(replay)

    def _over(self, replay: ReplayBase) -> bool:
        return self.clock.total - replay.last > OVER_S

    def state(self) -> TimeBasesState:
        """The stored form, as JSON values."""
        replays = [(name, replay.elapsed.state(), replay.last) for name, replay in self._replays.items()]
        return {"clock": self.clock.state(), "waits": self._waits.state(), "replays": replays, "lived": self.lived}

    def take(self, state: TimeBasesState) -> None:
        """Restore a stored state."""
        self.clock.take(state["clock"])
        self._waits.take(state["waits"])
        self.lived = state["lived"]
        self._replays = {}
        for name, elapsed, last in state["replays"]:
            self._replays[name] = ReplayBase(last=last)
            self._replays[name].elapsed.take(elapsed)
