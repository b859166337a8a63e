"""Alarms on real flights: July rings for a model of January, January does not; and each rule of the machine alone."""

import json
from typing import Any

import numpy as np
import pytest

from models.data import Flight
from tests.unit.drift.world import alarms, counted, layout, month, positions, told
from understudy.domain import Mode, Variant
from understudy.drift import SLOT_S
from understudy.drift.alarms import GAP_SLOTS, AlarmState, DriftReading, Limits, name_of, window
from understudy.drift.learn import numeric_profile
from understudy.drift.sketch import Layout, expected, watch
from understudy.inference.columns import Table
from understudy.testing import observation

HOUR = 1_000


def days(number: int, first: int, last: int) -> list[Flight]:
    """The flights of some days of a month; the days begin when the first flight of the month was due."""
    begin = month(number)[0].scheduled_at
    return [f for f in month(number) if (first - 1) * 86_400 <= f.scheduled_at - begin < last * 86_400]


@pytest.mark.parametrize("last", [10, pytest.param(31, marks=pytest.mark.slow)])
def test_january_rings_for_nobody(last: int) -> None:
    """The POC was trained on it, the candidate on it among others: every flight, cancelled ones included."""
    assert alarms(days(1, 1, last)) == []


def test_july_rings_for_the_poc_within_two_days_of_flights() -> None:
    """On what a reader would name: the month, the temperature, the dew point; and on nothing else in these days."""
    two_days = days(7, 1, 2)
    rung = {alarm.what for alarm in alarms(two_days) if alarm.change.on}

    assert {"primary/month", "primary/temp", "primary/dewp", "candidate/month"} == rung
    temp = next(alarm for alarm in alarms(two_days) if alarm.what == "primary/temp")
    assert temp.flights < len(two_days)
    assert temp.change.reason.startswith(
        "temp is unlike the primary's training: 100% of the values are outside its 10.94 to 64.4"
    )


@pytest.mark.parametrize("last", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_the_candidate_s_own_half_year_rings_for_the_poc_alone(last: int) -> None:
    """June for the POC is summer; the candidate has seen it."""
    rung = {alarm.what for alarm in alarms(days(6, 1, last)) if alarm.change.on}

    assert {"primary/month", "primary/temp"} <= rung
    assert not any(what.startswith("candidate/") for what in rung)


def test_a_station_that_fails_is_named_as_missing() -> None:
    """On 20 August the weather is not there for most of the flights."""
    missing = [a.change for a in alarms(days(8, 18, 22)) if a.change.on and "missing" in a.change.reading.crossed]

    assert {change.reading.feature for change in missing} >= {"temp", "humid", "visib"}
    assert "are missing, 0% were in training" in next(c.reason for c in missing if c.reading.feature == "humid")


def reading(psi: float, feature: str = "x", **changes: Any) -> DriftReading:
    fields: dict[str, Any] = {
        "variant": Variant.PRIMARY,
        "feature": feature,
        "rows": 500,
        "psi": psi,
        "line": 1.0,
        "worst": 0.5,
        "missing": 0.0,
        "missing_line": 0.1,
        "missing_reference": 0.0,
        "outside": 0.0,
        "crossed": ("distribution",) if psi > 1 else (),
        "at_ease": psi < 0.6,
    }
    return DriftReading(**fields | changes)


WATCHED = [watch(Variant.PRIMARY, "x", numeric_profile(np.arange(100.0)), 100)]


def steps(machine: AlarmState, *psis: float, start: int = HOUR) -> list[tuple[int, bool]]:
    """When an alarm went on or off, in hours from `start`."""
    found = []
    for i, psi in enumerate(psis):
        found += [(i, change.on) for change in machine.step(start + i, [reading(psi)])]
    return found


def test_an_alarm_needs_several_looks_and_is_told_once() -> None:
    """On after three above the line, off after three well below it; between the two it stays as it is."""
    machine = AlarmState(WATCHED, Limits(looks=3))

    assert steps(machine, 2, 2, 0.1, 2, 2, 2, 2, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1) == [
        (5, True),
        (16, False),
    ]
    assert machine.alarms() == {}


def test_a_restart_changes_nothing() -> None:
    """The machine goes on from its state, in the middle of anything."""
    whole, parts = AlarmState(WATCHED, Limits(looks=3)), AlarmState(WATCHED, Limits(looks=3))
    psis = [2, 2, 2, 0.1, 2, 0.1, 0.1, 0.1, 2, 2, 2]
    expected_steps = steps(whole, *psis)
    found = []
    for i, psi in enumerate(psis):
        parts = AlarmState(WATCHED, Limits(looks=3), parts.state)
        found += [(i, on) for _, on in steps(parts, psi, start=HOUR + i)]

    assert found == expected_steps == [(2, True), (7, False), (10, True)]
    assert parts.state == whole.state


def test_looks_on_both_sides_of_a_gap_do_not_add_up() -> None:
    """Two hours of last week and one of today are no three in a row."""
    machine = AlarmState(WATCHED, Limits(looks=3))

    assert steps(machine, 2, 2) == []
    assert steps(machine, 2, 2, start=HOUR + 2 + GAP_SLOTS) == []
    assert steps(machine, 2, start=HOUR + 4 + GAP_SLOTS) == [(0, True)]


def test_the_first_hours_are_no_day() -> None:
    """A window whose rows span less than eighteen hours is not looked at, whatever is in it."""
    slots = {slot: np.ones(3) for slot in range(100, 130)}

    assert window(slots, 116)[1] == "the rows span 17 hours; a window needs 18"
    assert window(slots, 117)[1] is None
    counts, _ = window(slots, 129)
    assert counts is not None
    assert counts.tolist() == [24, 24, 24]
    assert window(slots, 500) == (None, "there are no rows")


def test_counts_add_up_over_workers_and_batches() -> None:
    """Any split of the rows gives the same hours; pinned requests and load tests are left out."""
    parts, observations = told(month(7)[:600])
    whole = counted(parts, observations)
    sums: dict[int, Any] = {}
    for start in range(0, 600, 7):
        for slot, counts in counted(parts[start : start + 7], observations[start : start + 7]).items():
            sums[slot] = sums.get(slot, 0) + counts
    others = [
        [observation(f"q-{i}", at=o.at, mode=mode) for i, o in enumerate(observations)]
        for mode in (Mode.PINNED, Mode.LOAD)
    ]

    assert sums.keys() == whole.keys()
    assert all(np.allclose(sums[slot], whole[slot]) for slot in whole)
    assert sum(layout().rows(counts) for counts in whole.values()) == 600
    assert [counted(parts, each) for each in others] == [{}, {}]


def test_of_many_rows_an_even_choice_stands_for_all() -> None:
    """Every hour keeps its weight, so that a busy hour is not worth less than a quiet one."""
    flights = month(7)[:2000]
    whole, chosen = counted(*told(flights)), counted(*told(flights), drift_batch_max_rows=16)

    assert {slot: layout().rows(c) for slot, c in chosen.items()} == {
        slot: layout().rows(c) for slot, c in whole.items()
    }
    assert sum(len(set(np.round(c, 6))) for c in chosen.values()) < sum(
        len(set(np.round(c, 6))) for c in whole.values()
    )


def test_rows_that_travel_as_columns_count_alike() -> None:
    """A binary request's columns, beside the same rows as JSON."""
    parts, observations = told(month(7)[:300])
    rows = [row for part in parts for row in part]
    columns: dict[str, Any] = {}
    for name, i in positions().items():
        values = [row[i] for row in rows]
        text = isinstance(values[0], str)
        columns[name] = np.array(values, dtype=object if text else np.float32).reshape(-1, 1)

    together = counted([Table(columns, 300)], observations)
    assert together.keys() == counted(parts, observations).keys()
    assert all(np.allclose(counts, together[slot]) for slot, counts in counted(parts, observations).items())


def test_documents_keep_the_counts_and_know_their_profiles() -> None:
    """Through JSON and back; what was counted beside other profiles is not mixed in."""
    counts = next(iter(counted(*told(month(7)[:50])).values()))
    other = Layout(WATCHED)

    again = layout().counts(json.loads(json.dumps(layout().document(counts))))
    assert again is not None
    assert np.allclose(again, counts)
    assert other.counts(layout().document(counts)) is None


def test_expectations_are_those_of_a_calibrated_model() -> None:
    """Half sure: right half the time. Sure: always. A regression expects nothing."""
    assert expected(observation(primary=0.5).primary) == (0.5, 0.25)
    right, brier = expected(observation(primary=0.9).primary) or (0, 0)
    assert (right, brier) == (pytest.approx(0.9), pytest.approx(0.09))
    assert expected(observation(primary=None).primary) is None
    slots = counted(*told(month(7)[:100]))
    found = [layout().expected(counts, Variant.CANDIDATE) for counts in slots.values()]
    assert all(e is not None and (e.accuracy, e.brier) == (pytest.approx(0.8), pytest.approx(0.16)) for e in found)


def test_names_say_beside_what() -> None:
    """A feature beside a variant's training, or a variant's predictions."""
    assert name_of(reading(2)) == "x is unlike the primary's training"
    assert name_of(reading(2, "(prediction)")) == "the primary's predictions are unlike those in training"
    assert SLOT_S == 3600
