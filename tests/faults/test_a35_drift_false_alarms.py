"""A35: days that differ by chance alone rang 44 alarms in a year over five features, 233 for a card without training windows.

Right: at most one false alarm per feature in ten years, from ten training days on, and a real shift still rings within days.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import poisson

from understudy.domain import Variant
from understudy.drift import SLOT_S
from understudy.drift.alarms import AlarmState, Limits, look
from understudy.drift.bins import Counts
from understudy.drift.learn import numeric_profile
from understudy.drift.sketch import Layout, watch

DAY_SD = 0.4
"""How far days differ, in standard deviations of a single value."""
ROWS = 20
"""Rows an hour."""
STATED_RATE = 0.1
"""False alarms per feature and year: docs/explanation/drift.md."""


def values_of(rng: np.random.Generator, days: int, shift: float = 0.0) -> npt.NDArray[np.float64]:
    """Values with an effect of their day, shape [days * 24 * ROWS]."""
    effects = np.repeat(rng.normal(0.0, DAY_SD, days), 24 * ROWS)
    return np.asarray(shift + effects + rng.normal(size=effects.size))


def times_of(days: int) -> npt.NDArray[np.float64]:
    return np.repeat(np.arange(days * 24), ROWS) * float(SLOT_S) + SLOT_S / 2


def alarm_hours(rng: np.random.Generator, training_days: int, served: Sequence[float], *, windows: bool) -> list[int]:
    """The hours at which the alarm of one feature goes on, while each of the days `served` has its own shift."""
    training = values_of(rng, training_days)
    profile = numeric_profile(training, times_of(training_days) if windows else None)
    watched = watch(Variant.PRIMARY, "x", profile, training.size)
    layout = Layout([watched])
    width = watched.bins.size + 1
    found, machine, limits = [], AlarmState([watched], Limits()), Limits()
    values = np.concatenate([values_of(rng, 1, shift) for shift in served])
    codes = watched.bins.code(values).reshape(-1, ROWS)
    slots: dict[int, Counts] = {}
    for hour, each in enumerate(codes):
        counts = np.zeros(layout.size)
        counts[0] = ROWS
        counts[-width:] = np.bincount(each, minlength=width)
        slots[hour] = counts
        slots.pop(hour - 7 * 24, None)
        looked = look(layout, slots, hour, limits)
        assert looked is not None
        found += [hour for change in machine.step(hour, looked.judged) if change.on]
    return found


@pytest.mark.parametrize(("training_days", "windows"), [(10, True), (31, True), (10, False)])
def test_days_that_differ_by_chance_ring_at_the_stated_rate_at_most(training_days: int, *, windows: bool) -> None:
    """Five features over half a year; the bound is what chance gives at the stated rate, once in a thousand runs of this test."""
    rng, features, days = np.random.default_rng(35), 5, 182
    alarms = sum(len(alarm_hours(rng, training_days, [0.0] * days, windows=windows)) for _ in range(features))

    assert alarms <= poisson.ppf(0.999, STATED_RATE * features * days / 365)


@pytest.mark.parametrize(("shift", "windows", "within_days"), [(3.0, True, 2), (1.5, False, 5)])
def test_a_real_shift_rings(shift: float, within_days: int, *, windows: bool) -> None:
    """From day 10 on every value is shifted."""
    hours = alarm_hours(np.random.default_rng(1), 10, [0.0] * 10 + [shift] * 10, windows=windows)

    assert len(hours) == 1
    assert 0 < hours[0] - 10 * 24 <= within_days * 24
