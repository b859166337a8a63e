"""One live request, and every row of a replay of history expired on arrival and was pruned: the watermark was one maximum for all.

Live traffic and each replay have their own time: none expires, prunes or bakes what belongs to another.
"""

import pytest

from tests.unit.rollout.world import MODELS, TRUTH, folded, pair, policy
from understudy.domain import LabelReport
from understudy.rollout.evidence import Evidence
from understudy.rollout.timebase import OVER_S
from understudy.store import Retention
from understudy.store.memory import MemoryStore
from understudy.store.sql import SqlStore
from understudy.testing import observation

LIVE = 1_795_806_504.0
JULY, JANUARY = 1_372_680_000.0, 1_357_000_000.0
HOUR, DAY = 3_600.0, 86_400.0
WAIT = 72 * HOUR
PATIENT = policy(labels={"wait": WAIT})


def live(number, at, label=None, **changes):
    return _row(number, at, label, **changes)


def replayed(number, at, name, arrived=LIVE, label=None, **changes):
    return _row(number, at, label, replay=name, received_at=arrived, **changes)


def _row(number, at, label, **changes):
    found = pair(number, "worse", at=at, **changes)
    return number, found, None if label is None else LabelReport(found.prediction_id, label, at + 60)


def settled(rows, own=PATIENT):
    return folded(own, rows).settled


@pytest.mark.parametrize("order", ["live first", "replay first", "mixed", "two replays", "backwards", "same name"])
def test_nothing_expires_by_the_time_of_another_base(order):
    """Every row waits for its label, whatever order the clocks come in."""
    now = [live(0, LIVE + i) for i in range(20)]
    july = [replayed(0, JULY + i * HOUR, "july", LIVE + i / 100) for i in range(60)]
    january = [replayed(0, JANUARY + i * HOUR, "january", LIVE + i / 100) for i in range(60)]
    rows = {
        "live first": now + july,
        "replay first": july + now,
        "two replays": july + january + now,
        "mixed": [each for three in zip(now, july, january, strict=False) for each in three],
        "backwards": july + january,
        "same name": july[:20] + [replayed(0, JANUARY + i * HOUR, "july") for i in range(20)],
    }[order]
    numbered = [(i, observation, report) for i, (_, observation, report) in enumerate(rows, 1)]
    assert settled(numbered) == 0


def test_a_wait_is_over_when_its_own_base_has_moved_on():
    rows = [replayed(1, JULY, "july"), live(2, LIVE), replayed(3, JULY + WAIT + 1, "july", LIVE + 1)]
    assert settled(rows) == 1
    rows = [live(1, LIVE), *(live(2 + i, LIVE + (i + 1) * HOUR) for i in range(73))]
    assert settled(rows) == 1


def test_a_replay_that_was_broken_off_holds_nothing_up():
    """Its rows are settled without their labels when it has sent nothing for an hour on the service's clock."""
    rows = [replayed(1, JULY, "july", LIVE), live(2, LIVE + 1, TRUTH), live(3, LIVE + OVER_S / 2, TRUTH)]
    assert settled(rows) == 0
    assert settled([*rows, live(4, LIVE + OVER_S + 2, TRUTH)]) == 4


def test_a_step_lasts_as_long_as_the_base_that_moved_on_furthest():
    """Not from 2013 to 2026."""
    rows = [
        replayed(1, JULY, "july"),
        live(2, LIVE),
        replayed(3, JULY + 5 * HOUR, "july", LIVE + 1),
        live(4, LIVE + 60),
    ]
    evidence = folded(PATIENT, rows)
    assert evidence.standing(evidence.tail([])).step_s == 5 * HOUR


def test_a_replay_does_not_bake_a_promotion_for_live_callers():
    """It is over when it has baked for all who had requests since."""
    evidence = Evidence(PATIENT, MODELS)
    evidence.stand(2)
    evidence.see([live(1, LIVE - 5, revision=1), replayed(2, JULY, "july", LIVE, revision=2)])
    evidence.see([replayed(3, JULY + 80 * HOUR, "july", LIVE + 1, revision=2)])
    assert evidence.baked(WAIT), "a replay alone bakes by itself"
    evidence.see([live(4, LIVE + 2, revision=2)])
    assert not evidence.baked(WAIT)
    evidence.see([live(5 + i, LIVE + 2 + (i + 1) * 12 * HOUR, revision=2) for i in range(6)])
    assert evidence.baked(WAIT)


def test_a_unit_of_a_replayed_day_counts_once_while_live_requests_come_between():
    """Each live request used to make the replay's day forgotten."""
    rows = []
    for i in range(20):
        rows += [
            replayed(2 * i + 1, JULY + i, "july", label=TRUTH, unit="ann"),
            live(2 * i + 2, LIVE + i, TRUTH, unit="ann"),
        ]
    assert folded(PATIENT, rows).quality.n == 2


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_retention_counts_from_arrival(kind, tmp_path):
    store = (
        MemoryStore("r", lambda o: {})
        if kind == "memory"
        else SqlStore(f"sqlite:///{tmp_path}/a.db", "r", lambda o: {})
    )
    rows = [observation("live", at=LIVE), observation("july", at=JULY, replay="july", received_at=LIVE + 1)]
    store.add_observations(rows)
    assert store.prune(Retention(90 * DAY, 2**30), now=LIVE + 10) == 0
    assert store.prune(Retention(90 * DAY, 2**30), now=LIVE + 90 * DAY + 0.5) == 1, "the live one, which came first"
    assert [each for _, each, _ in store.outcomes()] == rows[1:]
    store.close()


def test_what_was_folded_in_parts_and_kept_is_the_same():
    """So `verify` and a new leader go on where the last one was."""
    rows = []
    for i in range(40):
        rows += [
            replayed(3 * i + 1, JULY + i * 3 * HOUR, "july", LIVE + i, TRUTH if i % 5 else None),
            live(3 * i + 2, LIVE + i, TRUTH),
            replayed(3 * i + 3, JANUARY + i * 3 * HOUR, "", LIVE + i, TRUTH if i % 7 else None),
        ]
    whole = folded(PATIENT, rows)
    parts = Evidence(PATIENT, MODELS)
    for start in range(0, len(rows), 7):
        parts.see(rows[start : start + 7])
        parts.settle([each for each in rows[: start + 7] if each[0] > parts.settled])
        kept = parts.state()
        parts = Evidence(PATIENT, MODELS)
        parts.take(kept)
    whole.settle([each for each in rows if each[0] > whole.settled])
    assert parts.state() == whole.state()
