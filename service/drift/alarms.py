"""When a window is unlike training: readings beside their lines, and a machine that turns alarms on and off.

The line of a feature's distance is the highest of three: a floor below which no difference matters, the noise of so few
independent rows, and `factor` times the worst window of the training data itself. The last one carries the weight: rows of one
day share their weather, so independence would cry wolf every morning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from service.domain import Variant
from service.drift import SLOT_S, SPAN_SLOTS, WINDOW_SLOTS
from service.drift.bins import Counts, noise_floor, psi
from service.drift.profile import CategoricalProfile
from service.drift.sketch import PREDICTION, Layout, Watched

PSI_FLOOR = 0.1
"""No alarm below this, whatever the noise: by convention, a smaller index is no change worth a look (Siddiqi 2006)."""
PSI_UNREFERENCED = 0.25
"""The floor where the card does not say how far training windows were: by the same convention, a major change."""
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
        factor: how many times the worst training window is a line.
        looks: how many looks in a row, one an hour, must agree before an alarm goes on or off.
    """

    rows_min: int = 200
    factor: float = 1.5
    looks: int = 6


@dataclass(frozen=True, slots=True)
class Reading:
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
    reading: Reading
    reason: str


def window(slots: Mapping[int, Counts], end: int) -> tuple[Counts | None, str | None]:
    """The day that ends with hour `end`, added up; and why it is not whole, if it is not."""
    inside = [slot for slot in range(end - WINDOW_SLOTS + 1, end + 1) if slot in slots]
    if not inside:
        return None, "there are no rows"
    whole: Counts = np.sum([slots[slot] for slot in inside], axis=0)
    if inside[0] > end - SPAN_SLOTS + 1:
        return whole, f"the rows span {end - inside[0] + 1} hours; a window needs {SPAN_SLOTS}"
    return whole, None


def read(layout: Layout, counts: Counts, limits: Limits) -> list[Reading]:
    """Everything watched that the window has rows of."""
    return [_reading(each, part, limits) for each, part in layout.parts(counts) if part.sum()]


def _reading(each: Watched, counts: Counts, limits: Limits) -> Reading:
    rows, present = float(counts.sum()), counts[:-1]
    values, windows = float(present.sum()), each.profile.windows
    reference_rows = each.rows * (1 - each.profile.missing)
    distance = float(psi(present, each.bins.shares * reference_rows)) if values else 0.0
    line = max(
        noise_floor(each.bins.size, values, reference_rows),
        PSI_UNREFERENCED if windows is None else max(PSI_FLOOR, limits.factor * windows.psi),
    )
    missing, usual = float(counts[-1] / rows), each.profile.missing
    noise = 4 * (max(usual * (1 - usual), 1 / rows) / rows) ** 0.5
    missing_line = max(usual + MISSING_FLOOR, usual + noise, limits.factor * windows.missing if windows else 0.0)
    crossed = ("distribution",) * (values >= limits.rows_min and distance > line) + ("missing",) * (
        missing > missing_line
    )
    at_ease = distance <= line * AT_EASE and missing <= (usual + missing_line) / 2
    outside = float(present[list(each.bins.outside)].sum() / values) if values else 0.0
    return Reading(
        each.variant, each.feature, int(rows), distance, line, windows.psi if windows else None,
        missing, missing_line, usual, outside, crossed, at_ease,
    )  # fmt: skip


def sentence(reading: Reading, each: Watched) -> str:
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


def name_of(reading: Reading) -> str:
    """What was read, and beside what, for people."""
    if reading.feature == PREDICTION:
        return f"the {reading.variant.value}'s predictions are unlike those in training"
    return f"{reading.feature} is unlike the {reading.variant.value}'s training"


class Machine:
    """Turns readings into alarms: on after `looks` looks above a line, off after as many well below it.

    Attributes:
        state: JSON-able: by key, how many looks in a row crossed a line or did not, and since when the alarm is on.
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

    def step(self, slot: int, readings: Sequence[Reading]) -> list[Change]:
        """Take the readings of the window that ends with an hour."""
        if self._last is None or not 0 < slot - self._last <= GAP_SLOTS:
            for mark in self._marks.values():  # another stretch of time: what was counted says nothing of it
                mark["crossed"] = mark["clear"] = 0
        self._last = slot
        changes, at = list[Change](), float((slot + 1) * SLOT_S)
        for reading in readings:
            blank = {"crossed": 0, "clear": 0, "since": None, "reason": ""}
            mark = self._marks.setdefault(reading.key, blank)
            crossed = bool(reading.crossed)
            mark["crossed"] = mark["crossed"] + 1 if crossed else 0
            mark["clear"] = mark["clear"] + 1 if reading.at_ease else 0
            if crossed and (mark["since"] is not None or mark["crossed"] >= self._limits.looks):
                mark["reason"] = sentence(reading, self._watched[reading.key])
            if mark["since"] is None and mark["crossed"] >= self._limits.looks:
                mark["since"] = at
                changes.append(Change(on=True, at=at, reading=reading, reason=mark["reason"]))
            elif mark["since"] is not None and mark["clear"] >= self._limits.looks:
                changes.append(Change(on=False, at=at, reading=reading, reason=f"no longer: {mark['reason']}"))
                mark["since"], mark["reason"] = None, ""
        return changes
