"""Dropped rehearsals were left out, so a candidate that is worse in the busy hard tenth of the time was promoted.

Drops beyond a tenth of the margin count at their worst for advancing, and a reason says so.
"""

import random

import pytest

from tests.unit.rollout.world import MODELS, answer, folded, pair, policy, row
from understudy.domain import SHARE_ONE, Attempt, LabelReport, Status, Variant
from understudy.rollout.evidence import Evidence, EvidenceRow
from understudy.rollout.judge import Verdict, judge, serving

DROPPED = answer(Status.DROPPED)
STEPS = [{"shadow": 100}, {"canary": 25}, "promote"]


def own(margin: float = 0.05, **goals: object) -> object:
    made = policy(STEPS, quality={"loss": "zero_one", "margin": margin}, errors={"margin": 0.05}, **goals)
    return made.model_copy(update={"unit": None})


def verdict(evidence: Evidence, step: int = 0) -> Verdict:
    tail, asked = evidence.tail([]), evidence.policy
    readings = evidence.readings(tail, serving=serving(asked, step))
    return judge(asked, ["shadow", "canary"][step], step, readings, evidence.standing(tail))  # type: ignore[arg-type]


def rollout(seed: int, dropped_when_hard: float, pairs: int = 4_000) -> Evidence:
    """In the hard tenth of the time the candidate is wrong on 90 % of the rows more; elsewhere the models are equal."""
    chance, rows = random.Random(seed), []
    for number in range(1, pairs + 1):
        hard = number % 1_000 >= 900
        kind = "worse" if hard and chance.random() < 0.9 else chance.choice(["same", "both wrong"])
        dropped = hard and chance.random() < dropped_when_hard
        rows.append(row(number, kind, unit=None, **({"candidate": DROPPED} if dropped else {})))
    return folded(own(), rows)  # type: ignore[arg-type]


def test_a_worse_candidate_is_not_promoted_because_the_hard_rows_were_dropped() -> None:
    """True difference 0.09 at a margin of 0.05; 60 % of the hard rows, 6 % of all, are dropped."""
    for seed in range(10):
        evidence = rollout(seed, 0.6)
        assert verdict(evidence).answer != "advance"


def test_few_drops_cost_nothing_and_move_the_average_by_a_tenth_of_the_margin_at_most() -> None:
    rows = [row(n, unit=None, **({"candidate": DROPPED} if n % 500 == 0 else {})) for n in range(1, 2_001)]
    evidence = folded(own(), rows)  # type: ignore[arg-type]
    assert evidence.quality is not None
    assert evidence.quality.n == 2_000 - 4
    assert evidence._drops.left_out[0] <= 0.1 * 0.05 * 2_000
    assert verdict(evidence).answer == "advance"


def test_many_drops_hold_equal_models_and_the_reason_says_so() -> None:
    rows = [row(n, unit=None, **({"candidate": DROPPED} if n % 10 < 3 else {})) for n in range(1, 2_001)]
    found = verdict(folded(own(), rows))  # type: ignore[arg-type]
    assert found.answer == "hold"
    assert "30.0% of this step's rehearsals were dropped" in found.reason
    assert "rehearse fewer requests" in found.reason


@pytest.mark.parametrize("which", ["primary", "candidate"])
def test_a_dropped_answer_is_anything_between_no_loss_and_the_largest(which: str) -> None:
    """Its label bounds the pair; for harm it says nothing."""
    evidence = folded(own(), [row(1, unit=None, **{which: DROPPED, "variant": Variant(which).other})])  # type: ignore[arg-type]
    assert evidence.quality is not None
    assert evidence.attempts.errors is not None
    assert evidence.quality.whole.mean == (1.0 if which == "candidate" else 0.0)  # the other answer is right
    assert evidence.quality.estimate == (0.5 if which == "candidate" else -0.5)
    assert evidence.quality.log_e_harm() == pytest.approx(0.0)
    assert evidence.attempts.errors.whole.mean == (1.0 if which == "candidate" else 0.0)
    assert verdict(evidence).answer == "hold"


def test_a_rehearsal_of_the_primary_that_was_late_is_no_failure_of_the_primary() -> None:
    """Its caller had the candidate's answer; counted as a failure it would make the candidate look better."""
    late = row(1, "worse", unit=None, primary=answer(Status.TIMEOUT), variant=Variant.CANDIDATE)
    evidence = folded(own(), [late])  # type: ignore[arg-type]
    assert evidence.attempts.errors is not None
    assert evidence.attempts.errors.whole.mean == 0.0
    assert evidence.quality is not None
    assert evidence.quality.whole.mean == 1.0


def canary(requests: int, dropped: float = 0.0, away: float = 0.0) -> list[EvidenceRow]:
    """Identical models; rehearsals of the candidate are dropped, or its process is away when callers are sent to it."""
    chance, rows = random.Random(4), []
    good = Attempt(Status.OK, 1, 0.8, None, 0.01)
    for number in range(1, requests + 1):
        drawn, lost = chance.random() < 0.25, chance.random()
        shown: dict[str, object] = {"primary": good, "candidate": good, "variant": Variant.PRIMARY}
        if drawn and lost < away:
            shown |= {"candidate": answer(Status.DOWN), "fallback": "down"}
        elif drawn:
            shown["variant"] = Variant.CANDIDATE
        elif lost < dropped:
            shown["candidate"] = DROPPED
        made = pair(number, share=SHARE_ONE // 4, point=number * 7919, unit=None, **shown)
        rows.append((number, made, LabelReport(made.prediction_id, 1, made.at + 10)))
    return rows


def test_the_state_keeps_all_of_it() -> None:
    rows = canary(300, dropped=0.3)
    half, whole = folded(own(), rows[:150]), folded(own(), rows)  # type: ignore[arg-type]
    again = Evidence(own(), MODELS)  # type: ignore[arg-type]
    again.take(half.state())
    again.see(rows[150:])
    again.settle(rows[150:])
    assert again.state() == whole.state()
