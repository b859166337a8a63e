"""Time as a value that is passed in, so that a test can run a week in a millisecond."""

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def now(self) -> float:
        """Unix time in seconds (UTC)."""
        ...

    def perf(self) -> float:
        """Monotonic time in seconds, for durations."""
        ...


ACCEPTED_AFTER_S = 86_400.0
"""After a clock was set forward, its time is accepted when it has stayed ahead for this long."""
STEP_S = 60.0
"""A clock that is further ahead than this was set. A smaller difference is clock drift."""


class SteadyClock:
    """Unix time that does not jump forward, for pruning, which cannot be undone.

    If the clock is set forward by mistake, all rows would look old at once. This clock ignores the jump until the system clock has
    stayed ahead for `ACCEPTED_AFTER_S`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began, self._perf = clock.now(), clock.perf()
        self._ahead_since: float | None = None

    def now(self) -> float:
        """Unix time in seconds (UTC), at most the clock's."""
        now, perf = self._clock.now(), self._clock.perf()
        steady = self._began + perf - self._perf
        if now - steady <= STEP_S:
            self._ahead_since = None
        elif self._ahead_since is None:
            self._ahead_since = perf
        elif perf - self._ahead_since >= ACCEPTED_AFTER_S:
            self._began, self._perf, self._ahead_since, steady = now, perf, None, now
        return min(now, steady)


class SystemClock:
    """The machine's own clocks."""

    now = staticmethod(time.time)
    perf = staticmethod(time.perf_counter)
