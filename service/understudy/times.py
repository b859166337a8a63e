"""Times that callers report, checked against the service's clock. Pure.

A time is in Unix seconds (UTC). A time far from the clock is a mistake (milliseconds, a missing time zone), and a single one could
end waits and steps at once. So it is rejected, with the probable mistake in the message.
"""

import datetime
import math
from dataclasses import dataclass

AHEAD_MAX_S = 300.0
"""A caller's clock may be this many seconds ahead of the service's."""
EARLIEST_S = 946_684_800.0
"""2000-01-01 in Unix seconds, the earliest time of a replay."""
TIME_ZONE_STEP_S = 900.0
"""Time zones differ by multiples of a quarter of an hour."""
TIME_ZONE_MAX_S = 14 * 3600.0
"""Largest difference of a time zone from UTC."""
FAR_S = 100 * 86_400.0
"""A larger difference is called "far" in messages."""
_UNITS = (("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9))


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Which reported times are plausible.

    Attributes:
        ahead_max_s: how far a time may be ahead of the service's clock, in seconds.
        earliest_s: the earliest time that is accepted, in Unix seconds.
    """

    ahead_max_s: float = AHEAD_MAX_S
    earliest_s: float = EARLIEST_S

    def problem(self, at: float, now: float) -> str | None:
        """The problem of a time and the probable mistake, in words; None if the time is plausible.

        Args:
            at: the reported time, Unix seconds.
            now: the service's clock, Unix seconds.

        >>> TimeLimits().problem(1_751_328_000_000.0, 1_751_328_060.0)
        "is 1751328000000, far ahead of this service's clock (2025-07-01T00:01:00Z); it looks like milliseconds: divide by 1000"
        """
        if not math.isfinite(at):
            return "is not a finite number; it takes Unix seconds"
        if at > now + self.ahead_max_s:
            return f"is {at:.15g}, {_span(at - now)} this service's clock ({_text(now)}){self._hint(at, now)}"
        if at < self.earliest_s:
            return f"is {at:.15g}, before {_text(self.earliest_s)}, the earliest time accepted{self._hint(at, now)}"
        return None

    def _fits(self, at: float, now: float) -> bool:
        return self.earliest_s <= at <= now + self.ahead_max_s

    def _hint(self, at: float, now: float) -> str:
        for unit, size in _UNITS:
            if self._fits(at / size, now):
                return f"; it looks like {unit}: divide by {size:.0f}"
        if self._fits(at * 1000, now):
            return "; it looks like seconds that were divided by 1000: multiply by 1000"
        ahead = at - now
        if TIME_ZONE_STEP_S <= ahead <= TIME_ZONE_MAX_S + self.ahead_max_s:
            return "; is a time zone missing? Unix seconds count in UTC"
        if 0 < ahead < TIME_ZONE_STEP_S:
            return "; do both machines' clocks agree?"
        return "; it takes Unix seconds (UTC)"


def _text(at: float) -> str:
    """A time as RFC 3339, in UTC."""
    return datetime.datetime.fromtimestamp(round(at), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _span(seconds: float) -> str:
    """How far ahead, in words."""
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0)):
        if seconds >= size:
            return "far ahead of" if seconds >= FAR_S else f"{seconds / size:,.1f} {unit} ahead of"
    return "ahead of"
