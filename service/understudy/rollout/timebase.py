"""Time bases: how far each clock that requests are stamped by has moved on. Pure.

Theory of operation
-------------------
A request has the time of the service's clock, or that of a replay of history (`Observation.replay`). These times have nothing in
common, so each base is measured for itself, and only by how far it moves on: a request's wait begins when it arrives and is over
when its own base has moved on by that much. Hence no request shortens or prolongs another base's waits.

A clock may be wrong, or set. So `Progress` adds up steps forward and trusts no single one:

* What goes back adds nothing. Up to `BACK_MAX_S` it is disorder, since requests arrive out of order; beyond, the clock was set
  back (or history starts again), and is followed from there.
* A step of more than `GAP_S` counts only as far as it goes beyond everything seen before, so a clock that jumps to and fro, or two
  replicas whose clocks differ by a year, add nothing. On the service's clock such a step counts for at most `gap_max`: it may
  be a quiet weekend, and may be a clock that was set. History has no such limit: its gaps are what it says.

A replay that has sent nothing for `OVER_S` on the service's clock is over. Its requests wait no longer, since the labels of a
replay come with it; else a replay that was broken off would hold up everything that was stored behind it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from msgspec.structs import replace

from understudy.domain import Observation

GAP_S = 86_400.0
"""A longer step between two requests may be a clock that was set."""
BACK_MAX_S = 86_400.0
"""A request may be so much older than one before it; beyond that, the clock was set back."""
OVER_S = 3_600.0
"""A replay that has sent nothing for so long is over."""
BASES_MAX = 64
"""Replays that are remembered; of more, the one that was silent for longest is over."""


@dataclass(slots=True)
class Progress:
    """How far a clock has moved on, from times that come roughly in order.

    Attributes:
        gap_max: for how many seconds a step of more than `GAP_S` counts at most.
        mark: the latest time since the clock was last set; high: the latest ever; total: the sum of all steps, in seconds.

    >>> clock = Progress(gap_max=3600.0)
    >>> [clock.move(at) for at in (100.0, 160.0, 150.0, 160.0 + 365 * 86400, 170.0, 180.0)]
    [0.0, 60.0, 60.0, 3660.0, 3660.0, 3670.0]
    """

    gap_max: float = inf
    mark: float | None = None
    high: float = -inf
    total: float = 0.0

    def move(self, at: float) -> float:
        """Take in a time; returns the total. Taking it in again changes nothing."""
        if self.mark is None:
            self.mark = self.high = at
            return self.total
        step = at - self.mark
        if 0.0 < step <= GAP_S:
            self.total += step
            self.mark = at
        elif step > GAP_S:
            self.total += min(max(at - self.high, 0.0), self.gap_max)
            self.mark = at
        elif step < -BACK_MAX_S:
            self.mark = at
        self.high = max(self.high, at)
        return self.total

    def state(self) -> list[float | None]:
        """As JSON."""
        return [self.mark, self.high if self.mark is not None else None, self.total]

    def take(self, state: list[Any]) -> None:
        """Take over a stored state."""
        mark, high, total = state
        self.mark, self.high, self.total = mark, -inf if high is None else high, total


@dataclass(slots=True)
class Replay:
    """One replay of history: its own progress, and how far the service's clock was at its last request."""

    progress: Progress = field(default_factory=Progress)
    last: float = 0.0


class TimeBases:
    """The progress of every base over the requests taken in, in their order.

    Args:
        wait: how long a label is waited for, in seconds. A step of the clock of more than `GAP_S` counts for at most half of it, so
            a clock that is set ends no wait.

    Attributes:
        lived: the time of the first request, and all that requests' own bases have moved on since: one time for all of them.
    """

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self.clock = Progress(GAP_S)
        self._waits = Progress(min(GAP_S, wait / 2))
        self._replays: dict[str, Replay] = {}
        self.lived: float | None = None

    def move(self, observation: Observation) -> float:
        """Take in a request; returns how far waits have come in its base. Taking it in again changes nothing."""
        arrived, before = observation.arrived_at, self.clock.total
        if (
            observation.replay is None
            and self.clock.mark is not None
            and -BACK_MAX_S <= arrived - self.clock.mark <= GAP_S
        ):
            return self._step(arrived)
        if self.lived is None:
            self.lived = observation.at
        clock, waits = self.clock.move(arrived), self._waits.move(arrived)
        if observation.replay is None:
            self.lived += clock - before
            return waits
        replay = self._replays.pop(observation.replay, None) or Replay()
        self._replays[observation.replay] = replay  # the last is the one that was heard of last
        if len(self._replays) > BASES_MAX:
            del self._replays[next(iter(self._replays))]
        replay.last, before = clock, replay.progress.total
        total = replay.progress.move(observation.at)
        self.lived += total - before
        return total

    def _step(self, arrived: float) -> float:
        """As `move`, for a live request that comes roughly in order: nearly all do, and this is done twice for each."""
        mark = self.clock.mark
        assert mark is not None
        assert self.lived is not None
        step = arrived - mark
        if step > 0.0:
            # Exact where no time was ever added up: a sum of steps would be off in the last digits.
            self.lived = arrived if self.lived == mark else self.lived + step
            clock, waits = self.clock, self._waits
            clock.mark = waits.mark = arrived
            clock.total += step
            waits.total += step
            if arrived > clock.high:  # both have taken in the same times
                clock.high = waits.high = arrived
        return self._waits.total

    def placed(self, observation: Observation) -> Observation:
        """The observation at `lived`, for windows that belong to no single time base."""
        if self.lived is None or observation.at == self.lived:
            return observation
        return replace(observation, at=self.lived)

    def waited(self, observation: Observation, since: float) -> bool:
        """Whether a request's wait is over: its base has moved on by more than the wait since `since`, or is over."""
        if observation.replay is None:
            return self._waits.total - since > self._wait
        replay = self._replays.get(observation.replay)
        return replay is None or self._over(replay) or replay.progress.total - since > self._wait

    def total(self, base: str | None) -> float:
        """How far a base has moved on, in seconds; None is the service's clock."""
        if base is None:
            return self.clock.total
        replay = self._replays.get(base)
        return 0.0 if replay is None else replay.progress.total

    def totals(self) -> dict[str | None, float]:
        """How far each base has moved on, in seconds; None is the service's clock."""
        return {None: self.clock.total} | {name: replay.progress.total for name, replay in self._replays.items()}

    def over(self, base: str | None) -> bool:
        """Whether a base is a replay that is over."""
        if base is None:
            return False
        replay = self._replays.get(base)
        return replay is None or self._over(replay)

    def _over(self, replay: Replay) -> bool:
        return self.clock.total - replay.last > OVER_S

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        replays = [[name, replay.progress.state(), replay.last] for name, replay in self._replays.items()]
        return {"clock": self.clock.state(), "waits": self._waits.state(), "replays": replays, "lived": self.lived}

    def take(self, state: Mapping[str, Any]) -> None:
        """Take over a stored state."""
        self.clock.take(state["clock"])
        self._waits.take(state["waits"])
        self.lived = state["lived"]
        self._replays = {}
        for name, progress, last in state["replays"]:
            self._replays[name] = Replay(last=last)
            self._replays[name].progress.take(progress)
