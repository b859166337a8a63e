"""Formats numbers, times and names for the report."""

import datetime
import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

METRICS = {
    "brier": "Brier score",
    "log_loss": "Log loss",
    "zero_one": "Wrong answers",
    "absolute_error": "Absolute error",
    "squared_error": "Squared error",
    "win_rate": "Nearer to the truth",
    "errors": "Failures",
    "latency": "Late or missing answers",
    "poc_target": "The POC's own target",
    "serving_errors": "Failures that the candidate caused",
    "request_errors": "Failures of all requests",
    "latency_p50": "Median latency, relative to the primary",
    "latency_p95": "p95 latency, relative to the primary",
    "latency_p99": "p99 latency, relative to the primary",
}
EVENTS = {
    "started": "started",
    "advance": "advanced",
    "finish": "promoted",
    "wait": "waits for approval",
    "rollback": "rolled back",
    "promote": "advanced by hand",
    "promote_full": "promoted by hand",
    "weight": "weight set by hand",
    "shadow": "sent back to shadow",
    "pause": "paused",
    "resume": "resumed",
    "abort": "aborted",
    "retry": "started again",
    "undo": "promotion taken back",
    "release": "released the old primary",
    "loadtest": "load test recorded",
}
PHASES = {
    "serving": "serving",
    "shadow": "shadow",
    "canary": "canary",
    "waiting": "waiting",
    "paused": "paused",
    "promoted": "promoted",
    "aborted": "aborted",
}


def count(value: float | None) -> str:
    """A whole number with separators, or a dash."""
    return "–" if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many decimals, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def raw(value: float | None, line: float) -> str:
    """A loss in its own unit, with the decimals that a margin of this size needs, or a dash.

    >>> raw(12_345.678, 500.0), raw(0.01234, 0.005), raw(0.00001234, 0.00001)
    ('12,346', '0.0123', '0.000012')
    """
    power = math.floor(math.log10(abs(line) or 1.0))
    digits = max(0, 2 - power) if power >= 0 else max(4, 1 - power)
    return "–" if value is None else f"{value:,.{digits}f}"


def figure(value: float | None) -> str:
    """A number with as many digits as one can use: three, or all of its whole part.

    >>> figure(1234567.8), figure(12.345), figure(0.0271)
    ('1,234,568', '12.3', '0.0271')
    """
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interval(found: Mapping[str, Any] | None, sign: str = "") -> Markup:
    """A mean and, under it, between what it lies, where that is known; a dash where there is none."""
    if found is None or found["mean"] is None:
        return Markup("–")
    whole = len(f"{abs(found['mean']):.0f}")  # digits before the point
    form = f"{sign},.{4 if whole == 1 else max(0, 4 - whole)}f"
    mean = f"{found['mean']:{form}}"
    if found["low"] is None:
        return Markup("{}").format(mean)
    return Markup('{} <br><span class="between">({} to {})</span>').format(
        mean, f"{found['low']:{form}}", f"{found['high']:{form}}"
    )


def share(value: float | None, digits: int = 1) -> str:
    """A share of 1 in percent, or a dash."""
    return "–" if value is None else f"{value * 100:.{digits}f} %"


def day(at: float) -> str:
    """A date, UTC."""
    return f"{_utc(at):%d %B %Y}".lstrip("0")


def moment(at: float) -> str:
    """A date and time of day, UTC."""
    return f"{_utc(at):%d %b %Y, %H:%M:%S} UTC".lstrip("0")


def duration(seconds: float | None) -> str:
    """A span with its largest unit, or a dash."""
    if seconds is None:
        return "–"
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} seconds"


def sentence(text: str) -> str:
    """With a capital first letter and a full stop."""
    text = text.strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def _utc(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)
