"""Time as a value that is passed in, so that a test can run a week in a millisecond."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where the house gets the time from."""

    def now(self) -> float:
        """Unix time in seconds (UTC)."""
        ...

    def perf(self) -> float:
        """A monotonic reading in seconds, for durations."""
        ...


BELIEVED_S = 86_400.0
"""A clock that was set forward is believed when it has stayed so for this long."""
STEP_S = 60.0
"""A clock that is further ahead than this was set; less is drift."""


class SteadyClock:
    """Unix time that does not jump forward, for what cannot be undone: removing what is old.

    A clock that is set forward by mistake would make everything old at once. This time moves on only as fast as it passes, until
    the clock has stayed ahead for `BELIEVED_S`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began, self._perf = clock.now(), clock.perf()
        self._ahead_since: float | None = None

    def now(self) -> float:
        """Unix time in seconds (UTC), not later than the clock's."""
        now, perf = self._clock.now(), self._clock.perf()
        steady = self._began + perf - self._perf
        if now - steady <= STEP_S:
            self._ahead_since = None
        elif self._ahead_since is None:
            self._ahead_since = perf
        elif perf - self._ahead_since >= BELIEVED_S:
            self._began, self._perf, self._ahead_since, steady = now, perf, None, now
        return min(now, steady)


class SystemClock:
    """The machine's own clocks."""

    now = staticmethod(time.time)
    perf = staticmethod(time.perf_counter)
