"""One restart of the candidate's process was twelve independent failures, rolled back at once, and so was every retry.

An incident counts once, time away counts by time, and a retry begins evidence for harm of its own on half the error budget.
"""

import random
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from tests.unit.rollout.world import MODELS, START, World, answer, folded, pair, policy
from understudy.domain import Attempt, Status, Variant
from understudy.rollout.evidence import Evidence, EvidenceRow
from understudy.rollout.judge import Verdict, judge, trial_budget
from understudy.rollout.phases import Order

GOALS = {"margin": 0.01}
OWN = policy(errors=GOALS, latency={"p99_ms": 500}).model_copy(update={"unit": None})
GOOD = Attempt(Status.OK, 1, 0.8, None, 0.01)
DOWN, LATE, FAILED = (answer(status) for status in (Status.DOWN, Status.TIMEOUT, Status.FAILED))


def request(number: int, at: float, candidate: Attempt = GOOD) -> EvidenceRow:
    """One request of a canary step; a candidate that gave no answer was replaced."""
    fallback = None if candidate is GOOD else candidate.status.value
    variant = Variant.CANDIDATE if fallback is None else Variant.PRIMARY
    own = pair(number, primary=GOOD, candidate=candidate, at=START + at, variant=variant, fallback=fallback, unit=None)
    return number, own, None


def verdict(evidence: Evidence) -> Verdict:
    readings = evidence.readings(evidence.tail([]), serving=True)
    return judge(OWN, "canary", 1, readings, evidence.standing(evidence.tail([])))  # type: ignore[arg-type]


def stream(
    seconds: int, per_second: int, away: list[tuple[float, float]], seed: int = 1, fails: float = 0.0
) -> Iterator[EvidenceRow]:
    """Requests at a steady rate; the candidate's process is away in the given spans, and fails by itself at a rate."""
    chance, number = random.Random(seed), 0
    for tick in range(seconds * per_second):
        at, number = tick / per_second, number + 1
        if any(start <= at < end for start, end in away):
            yield request(number, at, DOWN)
        else:
            yield request(number, at, FAILED if chance.random() < fails else GOOD)


def rolled_back_at(rows: Iterator[EvidenceRow], every_s: float = 10.0) -> float | None:
    """When the judge, who looks every `every_s` seconds, takes the candidate off."""
    evidence, look = Evidence(OWN, MODELS), START + every_s
    for row in rows:
        if row[1].at >= look:
            look += every_s
            if verdict(evidence).answer == "rollback":
                return row[1].at - START
        evidence.see([row])
    return None


def test_one_kill_after_2400_good_requests_is_no_rollback() -> None:
    """60 requests a second, twelve fallbacks in a row, then all is well."""
    rows = [request(n, n / 60) for n in range(1, 2_401)]
    rows += [request(n, n / 60, DOWN) for n in range(2_401, 2_413)]
    rows += [request(n, n / 60) for n in range(2_413, 6_000)]
    evidence = Evidence(OWN, MODELS)
    for start in range(0, len(rows), 12):
        evidence.see(rows[start : start + 12])
        assert verdict(evidence).answer != "rollback"
    standing = evidence.standing(evidence.tail([]))
    assert (standing.incidents, standing.away) == (1, 12)
    # For advancing nothing is left out: the share of failures is what callers would have met.
    assert evidence.attempts.errors is not None
    assert evidence.attempts.errors.whole.mean == pytest.approx(12 / len(rows))


def test_forty_rows_that_fail_by_themselves_still_roll_back() -> None:
    rows = [request(n, n / 60) for n in range(1, 2_401)] + [request(n, n / 60, FAILED) for n in range(2_401, 2_441)]
    assert verdict(folded(OWN, rows)).answer == "rollback"


def test_a_stall_of_late_answers_is_one_incident_and_late_answers_now_and_then_are_not() -> None:
    stall = [request(n, n / 60, LATE if 2_400 < n <= 2_460 else GOOD) for n in range(1, 6_000)]
    chance = random.Random(2)
    often = [request(n, n / 60, LATE if chance.random() < 0.04 else GOOD) for n in range(1, 6_000)]
    assert verdict(folded(OWN, stall)).answer != "rollback"
    assert folded(OWN, stall).attempts.incidents.count == 1
    assert verdict(folded(OWN, often)).answer == "rollback"


def test_a_candidate_that_crashes_once_a_minute_is_taken_off() -> None:
    loop = [(60.0 * minute + 30, 60.0 * minute + 40) for minute in range(60)]
    when = rolled_back_at(stream(3_600, 6, loop))
    assert when is not None
    assert when < 1_500


def test_a_process_that_stays_away_is_taken_off_within_minutes() -> None:
    when = rolled_back_at(stream(1_800, 6, [(600.0, 1_800.0)]))
    assert when is not None
    assert 600 < when < 900
    assert (
        "intervals of 10 s the candidate fails"
        in verdict(folded(OWN, list(stream(1_800, 6, [(600.0, 1_800.0)])))).reason
    )


def replayed(row: EvidenceRow, arrived: float) -> EvidenceRow:
    """The request as one of a replay of history: its own time is as it was, and it arrives now."""
    number, observation, label = row
    return number, replace(observation, replay="july", received_at=START + arrived), label


def test_a_restart_during_a_replay_is_as_long_as_it_was_on_the_machine() -> None:
    """A request a minute of history, 200 a second on the machine: three tenths of a second are no outage of an hour."""
    rows = [request(n, 60.0 * n, DOWN if 640 <= n < 704 else GOOD) for n in range(1, 4_000)]
    history = [replayed(row, row[0] / 200) for row in rows]
    evidence = Evidence(OWN, MODELS)
    for start in range(0, len(history), 128):
        evidence.see(history[start : start + 128])
        assert verdict(evidence).answer != "rollback"
    assert evidence.attempts.incidents.count == 1


def test_a_process_that_stays_away_during_a_replay_is_taken_off() -> None:
    """Five minutes on the machine are five minutes, however little history goes by."""
    rows = [request(n, 0.01 * n, DOWN if n >= 3_600 else GOOD) for n in range(1, 7_200)]
    assert verdict(folded(OWN, [replayed(row, row[0] / 6) for row in rows])).answer == "rollback"


@pytest.mark.parametrize(
    "seeds", [range(4), pytest.param(range(100, 140), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_rare_restarts_are_not_rolled_back_more_often_than_the_budget_says(seeds: range) -> None:
    """A restart of three seconds in every half hour by chance, in two hours; the rows fail at half of the margin besides."""
    wrong = 0
    for seed in seeds:
        chance, away, at = random.Random(seed), [], 0.0
        while (at := at + chance.expovariate(1 / 1_800.0)) < 2 * 3_600:
            away.append((at, at + 3.0))
        wrong += rolled_back_at(stream(2 * 3_600, 1, away, seed, fails=0.005), every_s=120.0) is not None
    assert wrong <= len(seeds) * 0.025


def test_a_retry_begins_anew_within_the_budget() -> None:
    """A rollback, a retry: nothing is rolled back again for what was; a candidate that is still bad goes again, later."""
    world = World(OWN)
    controller = world.controller()
    world.serve(400, "failed", unit=None)
    world.clock.advance(5)
    controller.tick()
    assert world.kinds[-1] == "rollback"
    world.order(Order.RETRY)
    assert world.plan.trial == 2
    for _ in range(3):
        world.clock.advance(5)
        controller.tick()
        world.serve(100, unit=None)
    world.clock.advance(5)
    controller.tick()
    assert world.kinds[-1] == "retry"
    assert controller.verdict is not None
    assert controller.verdict.alpha_harm == trial_budget(OWN, 2) == trial_budget(OWN, 1) / 2
    assert world.shown["progress"]["trial"] == 2

    world.serve(100, "failed", unit=None)
    world.clock.advance(5)
    world.controller("b", lease_s=0.1)
    controller.tick()
    assert world.kinds[-1] == "rollback"
    checks, changed = world.verified()
    assert changed is None
    assert [check.says for check in checks if not check.agrees] == []


def test_all_trials_together_stay_inside_the_budget() -> None:
    assert sum(trial_budget(OWN, trial) for trial in range(1, 60)) <= OWN.goals.error_budget / 2


def test_evidence_of_another_version_is_counted_again_from_the_rows() -> None:
    """Never read with another meaning, and never a crash; the log says so, and what was decided before is not verified."""
    world = World(OWN)
    controller = world.controller()
    world.serve(640, unit=None)
    world.clock.advance(5)
    controller.tick()
    assert world.kinds == ["started", "advance"]
    kept = dict(world.kept)
    world.store.save_state(
        "evidence", {"evidence": {"seen": 640, "settled": 640, "marks": [[1, 2, 640, 640]]}}, holder="a"
    )

    world.clock.advance(60)
    again = world.controller("b")
    world.serve(10, unit=None)
    world.clock.advance(5)  # a label counts a second after it was received
    again.tick()
    assert world.kinds == ["started", "advance", "evidence"]
    assert "computed again in version" in world.store.events(limit=10)[-1].reason
    assert world.kept["evidence"]["seen"] == 650
    assert world.kept["evidence"]["quality"]["totals"]["whole"]["n"] == 650
    assert kept["evidence"]["version"] == world.kept["evidence"]["version"]
