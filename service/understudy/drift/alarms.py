"""When a window is unlike training: readings beside their lines, and a machine that turns alarms on and off.

The line of a feature's distance is the highest of three: a floor below which no difference matters, the noise of so few
independent rows, and a multiple of the worst window of the training data itself. The last one carries the weight: rows of one
day share their weather, so a line for independent rows would be crossed every day. The worst of a few training days is a poor
guide to the worst day of a year, so the multiple is larger where the training data had fewer days.

A profile without training windows says nothing about single days. Such a feature is read over a week instead, in which days
average out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from understudy.domain import Variant
from understudy.drift import SLOT_S, SPAN_SLOTS, WEEK_SLOTS, WEEK_SPAN_SLOTS, WINDOW_SLOTS
from understudy.drift.bins import Counts, noise_floor, psi
from understudy.drift.sketch import PREDICTION, Layout, Watched
from understudy.inference.profile import CategoricalProfile

PSI_FLOOR = 0.1
"""No alarm below this, whatever the noise: by convention, a smaller index is no change worth a look (Siddiqi 2006)."""
PSI_UNREFERENCED = 0.25
"""The line over a week, where the card does not say how far training windows were: by the same convention, a major change."""
FEW_DAYS = 5.0
"""The factor grows by this over the number of training days: 1.5 becomes 2 with 10 days. `tests/faults/test_a35` holds the rate
of false alarms that comes of it: at most one per feature in ten years, for days that are alike but for chance."""
MISSING_FLOOR = 0.05
"""No alarm while the share of missing values is at most this much above training's."""
AT_EASE = 2 / 3
"""An alarm goes off at this share of the line, so that a feature which hovers at its line does not ring all day."""
GAP_SLOTS = WINDOW_SLOTS
"""After so many hours without data, looks begin anew."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a window counts, and when an alarm goes on and off.

    Attributes:
        rows_min: windows with fewer rows are not looked at.
        factor: how many times the worst training window is a line, where there were many training days.
        looks: for how many hours in a row the windows must agree before an alarm goes on or off. At 24, no single day can ring.
    """

    rows_min: int = 200
    factor: float = 1.5
    looks: int = 24


@dataclass(frozen=True, slots=True)
class DriftReading:
    """One feature (or a variant's predictions) in one window.

    Attributes:
        rows: rows with a value or without one.
        psi: the index of the values present beside training, and `line`, above which it is drift.
        worst: the largest index of a training window; None where the card does not say.
        missing: share without a value, `missing_line`, above which it is an alarm, and training's `missing_reference`.
        outside: share of the values present that training never saw: beyond its range, or an unknown category.
        crossed: which lines are crossed: "distribution", "missing".
        at_ease: whether both are well below their lines: the distance below two thirds, the missing half way down.
    """

    variant: Variant
    feature: str
    rows: int
    psi: float
    line: float
    worst: float | None
    missing: float
    missing_line: float
    missing_reference: float
    outside: float
    crossed: tuple[str, ...]
    at_ease: bool

    @property
    def key(self) -> str:
        """Its name in the machine's state."""
        return f"{self.variant.value}/{self.feature}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self) | {"variant": self.variant.value, "crossed": list(self.crossed)}


@dataclass(frozen=True, slots=True)
class Change:
    """An alarm that has gone on or off, at the end of a window (Unix seconds, the requests' own time)."""

    on: bool
    at: float
    reading: DriftReading
    reason: str


def window(
    slots: Mapping[int, Counts], end: int, length: int = WINDOW_SLOTS, span: int = SPAN_SLOTS
) -> tuple[Counts | None, str | None]:
    """The `length` hours that end with hour `end`, added up; and why the window is not whole, if it is not."""
    inside = [slot for slot in range(end - length + 1, end + 1) if slot in slots]
    if not inside:
        return None, "there are no rows"
    whole: Counts = np.sum([slots[slot] for slot in inside], axis=0)
    if inside[0] > end - span + 1:
        return whole, f"the rows span {end - inside[0] + 1} hours; a window needs {span}"
    return whole, None


@dataclass(frozen=True, slots=True)
class Look:
    """Everything watched, at the end of one hour.

    Attributes:
        readings: of each thing that is watched and has rows; `judged`: those whose window is whole, which alarms go by.
        counts: the day, added up.
        why_not: why the day is not whole, or None.
    """

    readings: list[DriftReading]
    judged: list[DriftReading]
    counts: Counts
    why_not: str | None


def look(layout: Layout, slots: Mapping[int, Counts], end: int, limits: Limits) -> Look | None:
    """Read the windows that end with hour `end`: a day, or a week for what has no training windows. None without rows."""
    day, why_not = window(slots, end)
    if day is None:
        return None
    why_not = why_not or _too_few(layout.rows(day), limits)
    week, not_a_week = day, why_not
    if any(each.profile.windows is None for each in layout.watched):
        found, not_a_week = window(slots, end, WEEK_SLOTS, WEEK_SPAN_SLOTS)
        week = day if found is None else found
        not_a_week = not_a_week or _too_few(layout.rows(week), limits)
    readings, judged = list[DriftReading](), list[DriftReading]()
    for (each, of_day), (_, of_week) in zip(layout.parts(day), layout.parts(week), strict=True):
        by_week = each.profile.windows is None
        counts = of_week if by_week else of_day
        if not counts.sum():
            continue
        readings.append(_reading(each, counts, limits))
        if (not_a_week if by_week else why_not) is None:
            judged.append(readings[-1])
    return Look(readings, judged, day, why_not)


def read(layout: Layout, counts: Counts, limits: Limits) -> list[DriftReading]:
    """Everything watched that some rows without times have values of."""
    return [_reading(each, part, limits) for each, part in layout.parts(counts) if part.sum()]


def _too_few(rows: int, limits: Limits) -> str | None:
    return f"{rows} rows; a window needs {limits.rows_min}" if rows < limits.rows_min else None


def _reading(each: Watched, counts: Counts, limits: Limits) -> DriftReading:
    rows, present = float(counts.sum()), counts[:-1]
    values, windows = float(present.sum()), each.profile.windows
    reference_rows = each.rows * (1 - each.profile.missing)
    distance = float(psi(present, each.bins.shares * reference_rows)) if values else 0.0
    factor = limits.factor
    if windows is not None:
        factor += FEW_DAYS / ((windows.count + WINDOW_SLOTS - 1) / WINDOW_SLOTS)  # windows slide by the hour
    line = max(
        noise_floor(each.bins.size, values, reference_rows),
        PSI_UNREFERENCED if windows is None else max(PSI_FLOOR, factor * windows.psi),
    )
    missing, usual = float(counts[-1] / rows), each.profile.missing
    noise = 4 * (max(usual * (1 - usual), 1 / rows) / rows) ** 0.5
    missing_line = max(usual + MISSING_FLOOR, usual + noise, factor * windows.missing if windows else 0.0)
    crossed = ("distribution",) * (values >= limits.rows_min and distance > line) + ("missing",) * (
        missing > missing_line
    )
    at_ease = distance <= line * AT_EASE and missing <= (usual + missing_line) / 2
    outside = float(present[list(each.bins.outside)].sum() / values) if values else 0.0
    return DriftReading(
        each.variant,
        each.feature,
        int(rows),
        distance,
        line,
        windows.psi if windows else None,
        missing,
        missing_line,
        usual,
        outside,
        crossed,
        at_ease,
    )


def sentence(reading: DriftReading, each: Watched) -> str:
    """What is unlike training about a window, for people."""
    said = []
    if reading.outside >= 0.005:
        what = "of a category that it did not have"
        if not isinstance(each.profile, CategoricalProfile):
            what = f"outside its {each.profile.minimum:g} to {each.profile.maximum:g}"
        said.append(f"{reading.outside:.0%} of the values are {what}")
    if "missing" in reading.crossed:
        said.append(f"{reading.missing:.0%} are missing, {reading.missing_reference:.0%} were in training")
    if "distribution" in reading.crossed:
        worst = "" if reading.worst is None else f", the most unlike day of training {reading.worst:.2f}"
        said.append(f"the distance (PSI) is {reading.psi:.2f}, the line {reading.line:.2f}{worst}")
    return f"{name_of(reading)}: " + ("; ".join(said) or "as in training")


def name_of(reading: DriftReading) -> str:
    """What was read, and beside what, for people."""
    if reading.feature == PREDICTION:
        return f"the {reading.variant.value}'s predictions are unlike those in training"
    return f"{reading.feature} is unlike the {reading.variant.value}'s training"


def _cleared(reading: DriftReading) -> str:
    """Why an alarm is over, for people: the window's own numbers, never those that raised the alarm."""
    what = (
        f"the {reading.variant.value}'s predictions are" if reading.feature == PREDICTION else f"{reading.feature} is"
    )
    beside = "those in training" if reading.feature == PREDICTION else f"the {reading.variant.value}'s training"
    return (
        f"{what} like {beside} again: the distance (PSI) is {reading.psi:.2f}, the line {reading.line:.2f}; "
        f"{reading.missing:.0%} are missing"
    )


class AlarmState:
    """Turns readings into alarms: on after `looks` hours above a line, off after as many well below it.

    Attributes:
        state: JSON-able: by key, for how many hours in a row a line was crossed or not, and since when the alarm is on.
    """

    def __init__(self, watched: Sequence[Watched], limits: Limits, state: Mapping[str, Any] | None = None) -> None:
        self._watched = {each.key: each for each in watched}
        self._limits = limits
        said = state or {}
        self._last: int | None = said.get("last")
        self._marks: dict[str, dict[str, Any]] = {key: dict(mark) for key, mark in said.get("marks", {}).items()}

    @property
    def state(self) -> dict[str, Any]:
        """What `__init__` takes."""
        return {"last": self._last, "marks": self._marks}

    def alarms(self) -> dict[str, dict[str, Any]]:
        """The alarms that are on: `since` (Unix seconds, the requests' own time) and `reason` by key."""
        return {
            key: {"since": mark["since"], "reason": mark["reason"]}
            for key, mark in self._marks.items()
            if mark["since"] is not None and key in self._watched
        }

    def step(self, slot: int, readings: Sequence[DriftReading]) -> list[Change]:
        """Take the readings of the window that ends with an hour."""
        hours = 1 if self._last is None else slot - self._last
        if not 0 < hours <= GAP_SLOTS:
            hours = 1
            for mark in self._marks.values():  # another stretch of time: what was counted says nothing of it
                mark["crossed"] = mark["clear"] = 0
        self._last = slot
        changes, at = list[Change](), float((slot + 1) * SLOT_S)
        for reading in readings:
            blank = {"crossed": 0, "clear": 0, "since": None, "reason": ""}
            mark = self._marks.setdefault(reading.key, blank)
            crossed = bool(reading.crossed)
            # An hour without rows has no look, and lies between two that agree.
            mark["crossed"] = mark["crossed"] + (hours if mark["crossed"] else 1) if crossed else 0
            mark["clear"] = mark["clear"] + (hours if mark["clear"] else 1) if reading.at_ease else 0
            if crossed and (mark["since"] is not None or mark["crossed"] >= self._limits.looks):
                mark["reason"] = sentence(reading, self._watched[reading.key])
            if mark["since"] is None and mark["crossed"] >= self._limits.looks:
                mark["since"] = at
                changes.append(Change(on=True, at=at, reading=reading, reason=mark["reason"]))
            elif mark["since"] is not None and mark["clear"] >= self._limits.looks:
                changes.append(Change(on=False, at=at, reading=reading, reason=_cleared(reading)))
                mark["since"], mark["reason"] = None, ""
        return changes
