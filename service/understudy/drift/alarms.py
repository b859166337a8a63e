"""Drift readings with their thresholds, and the state that raises and clears alarms.

The threshold (`line`) of a feature's distance is the highest of three values: a minimum below which no difference matters, the
noise of a small number of independent rows, and a multiple of the worst window of the training data. The last one matters most:
rows of one day share their weather, so a threshold for independent rows would be crossed every day. The worst of a few
training days says little about the worst day of a year, so with fewer training days the multiple is larger.

A profile without training windows has no information about single days. Such a feature is compared over a week instead, in
which days average out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from understudy.domain import Variant
from understudy.drift import SLOT_S, SPAN_SLOTS, WEEK_SLOTS, WEEK_SPAN_SLOTS, WINDOW_SLOTS
from understudy.drift.bins import Counts, noise_floor, psi
from understudy.drift.sketch import PREDICTION, Layout, Watched
from understudy.inference.profile import CategoricalProfile

PSI_FLOOR = 0.1
"""Lowest threshold. By convention a smaller index is no relevant change (Siddiqi 2006)."""
PSI_UNREFERENCED = 0.25
"""Threshold over a week, for a card without training windows. By the same convention it is a major change."""
FEW_DAYS = 5.0
"""This over the number of training days is added to the factor: 1.5 becomes 2 with 10 days. `tests/faults/test_a35` checks the
rate of false alarms: at most one per feature in ten years, if days differ by chance alone."""
MISSING_FLOOR = 0.05
"""There is no alarm while the share of missing values is at most this much above training's share."""
CLEAR_AT = 2 / 3
"""An alarm clears once the distance falls to this fraction of its threshold (hysteresis)."""
GAP_SLOTS = WINDOW_SLOTS
"""After this many hours without data, counting of consecutive hours starts again."""


class ReadingDocument(TypedDict):
    """A `DriftReading` in `GET /rollout/drift`."""

    variant: str
    feature: str
    rows: int
    psi: float
    line: float
    worst: float | None
    missing: float
    missing_line: float
    missing_reference: float
    outside: float
    crossed: list[str]
    at_ease: bool


class AlarmDocument(TypedDict):
    """An alarm that is raised. `since` is in Unix seconds of request time."""

    since: float
    reason: str


class AlarmMark(TypedDict):
    """The stored form of one feature: its alarm, and for how many hours in a row it was above the threshold or well below it."""

    crossed: int
    clear: int
    since: float | None
    reason: str


class AlarmMarks(TypedDict):
    """The stored form of `AlarmState`. `last` is the hour of the last reading."""

    last: int | None
    marks: dict[str, AlarmMark]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a window counts, and when an alarm is raised and cleared.

    Attributes:
        rows_min: windows with fewer rows do not count.
        factor: with many training days, the threshold is this many times the worst training window.
        looks: for how many hours in a row the windows must agree before an alarm is raised or cleared. At 24, no single day can
            raise one.
    """

    rows_min: int = 200
    factor: float = 1.5
    looks: int = 24


@dataclass(frozen=True, slots=True)
class DriftReading:
    """One feature (or a variant's predictions) in one window.

    Attributes:
        rows: number of rows, with or without a value.
        psi: distance between the values and the training data.
        line: threshold of the distance.
        worst: the largest distance of a training window; None if the card has none.
        missing: share of missing values.
        missing_line: threshold of that share.
        missing_reference: share of missing values in training.
        outside: share of the values that training never had: beyond its range, or an unknown category.
        crossed: which thresholds are crossed: "distribution", "missing".
        at_ease: whether both are low enough to clear an alarm: the distance below two thirds of its threshold, the share of
            missing values at most half way between training's and its threshold.
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
        """Its name in `AlarmState`."""
        return f"{self.variant.value}/{self.feature}"

    def as_dict(self) -> ReadingDocument:
        """The reading as JSON values."""
        return {
            "variant": self.variant.value,
            "feature": self.feature,
            "rows": self.rows,
            "psi": self.psi,
            "line": self.line,
            "worst": self.worst,
            "missing": self.missing,
            "missing_line": self.missing_line,
            "missing_reference": self.missing_reference,
            "outside": self.outside,
            "crossed": list(self.crossed),
            "at_ease": self.at_ease,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """An alarm that was raised (`on`) or cleared. `at` is the end of the window, in Unix seconds of request time."""

    on: bool
    at: float
    reading: DriftReading
    reason: str


def window(
    slots: Mapping[int, Counts], end: int, length: int = WINDOW_SLOTS, span: int = SPAN_SLOTS
) -> tuple[Counts | None, str | None]:
    """The sum of the `length` hours that end with hour `end`, and why the window is not complete; None if it is."""
    inside = [slot for slot in range(end - length + 1, end + 1) if slot in slots]
    if not inside:
        return None, "there are no rows"
    whole: Counts = np.sum([slots[slot] for slot in inside], axis=0)
    if inside[0] > end - span + 1:
        return whole, f"the rows span {end - inside[0] + 1} hours; a window needs {span}"
    return whole, None


@dataclass(frozen=True, slots=True)
class Look:
    """The readings at the end of one hour.

    Attributes:
        readings: one for each watched feature that has rows.
        judged: those with a complete window. Alarms depend on these.
        counts: the sum of the day.
        why_not: why the day is not complete, or None.
    """

    readings: list[DriftReading]
    judged: list[DriftReading]
    counts: Counts
    why_not: str | None


def look(layout: Layout, slots: Mapping[int, Counts], end: int, limits: Limits) -> Look | None:
    """Read the windows that end with hour `end`: a day, or a week for features without training windows. None without rows."""
    day, why_not = window(slots, end)
    if day is None:
        return None
    why_not = why_not or _too_few(layout.rows(day), limits)
    week, not_a_week = day, why_not
    if any(each.profile.windows is None for each in layout.watched):
        week_counts, not_a_week = window(slots, end, WEEK_SLOTS, WEEK_SPAN_SLOTS)
        week = day if week_counts is None else week_counts
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
    """Readings of rows without times, for each watched feature that has values."""
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
    at_ease = distance <= line * CLEAR_AT and missing <= (usual + missing_line) / 2
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
    """How a window differs from training, in a sentence."""
    parts = []
    if reading.outside >= 0.005:
        what = "of categories that training did not have"
        if not isinstance(each.profile, CategoricalProfile):
            what = f"outside its {each.profile.minimum:g} to {each.profile.maximum:g}"
        parts.append(f"{reading.outside:.0%} of the values are {what}")
    if "missing" in reading.crossed:
        parts.append(f"{reading.missing:.0%} are missing, {reading.missing_reference:.0%} were in training")
    if "distribution" in reading.crossed:
        worst = "" if reading.worst is None else f", the most unlike day of training {reading.worst:.2f}"
        parts.append(f"the distance (PSI) is {reading.psi:.2f}, the threshold {reading.line:.2f}{worst}")
    return f"{name_of(reading)}: " + ("; ".join(parts) or "as in training")


def name_of(reading: DriftReading) -> str:
    """The feature and what it differs from, in words."""
    if reading.feature == PREDICTION:
        return f"the {reading.variant.value}'s predictions are unlike those in training"
    return f"{reading.feature} is unlike the {reading.variant.value}'s training"


def _cleared(reading: DriftReading) -> str:
    """Why an alarm is cleared, in a sentence, with the numbers of the present window."""
    what = (
        f"the {reading.variant.value}'s predictions are" if reading.feature == PREDICTION else f"{reading.feature} is"
    )
    beside = "those in training" if reading.feature == PREDICTION else f"the {reading.variant.value}'s training"
    return (
        f"{what} like {beside} again: the distance (PSI) is {reading.psi:.2f}, the threshold {reading.line:.2f}; "
        f"{reading.missing:.0%} are missing"
    )


class AlarmState:
    """Turns readings into alarms: raised after `looks` hours above a threshold, cleared after as many hours well below it."""

    def __init__(self, watched: Sequence[Watched], limits: Limits, state: AlarmMarks | None = None) -> None:
        self._watched = {each.key: each for each in watched}
        self._limits = limits
        self._last = state["last"] if state else None
        self._marks = {key: mark.copy() for key, mark in state["marks"].items()} if state else {}

    @property
    def state(self) -> AlarmMarks:
        """The stored form, which `__init__` takes."""
        return {"last": self._last, "marks": self._marks}

    def alarms(self) -> dict[str, AlarmDocument]:
        """Key → alarm, for the alarms that are on."""
        return {
            key: {"since": mark["since"], "reason": mark["reason"]}
            for key, mark in self._marks.items()
            if mark["since"] is not None and key in self._watched
        }

    def step(self, slot: int, readings: Sequence[DriftReading]) -> list[Change]:
        """Add the readings of the window that ends with hour `slot`. Returns the alarms that were raised or cleared."""
        hours = 1 if self._last is None else slot - self._last
        if not 0 < hours <= GAP_SLOTS:
            hours = 1
            for mark in self._marks.values():  # after a gap, earlier hours do not count
                mark["crossed"] = mark["clear"] = 0
        self._last = slot
        changes, at = list[Change](), float((slot + 1) * SLOT_S)
        for reading in readings:
            mark = self._marks.setdefault(reading.key, {"crossed": 0, "clear": 0, "since": None, "reason": ""})
            crossed = bool(reading.crossed)
            # An hour without rows counts if the hours before and after it agree.
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
