"""Time as a value that is passed in, so that a week-long rollout is a millisecond test."""

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


class SystemClock:
    """The machine's own clocks."""

    now = staticmethod(time.time)
    perf = staticmethod(time.perf_counter)
