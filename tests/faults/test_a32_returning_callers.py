"""With `evidence: served` a caller counted once for ever, so a candidate that broke when all were known was never taken off.

Each hour and each day is a test of its own besides, in which every caller counts once more.
"""

import random

import pytest
from msgspec.structs import replace

from tests.unit.rollout.world import MODELS, START, answer, folded, pair, policy
from understudy.domain import SHARE_ONE, Attempt, LabelReport, Phase, Status, Variant
from understudy.rollout.evidence import Evidence, EvidenceRow
from understudy.rollout.judge import Verdict, judge, serving

STEPS = [{"shadow": 100}, {"canary": 25}, "promote"]
SHARE = SHARE_ONE // 4
SERVED = policy(
    STEPS, quality={"loss": "zero_one", "margin": 0.1, "evidence": "served"}, errors={"margin": 0.1, "ratio": 2}
).model_copy(update={"unit": None})
CALLERS = 600


def traffic(hours: int, seed: int, breaks_at: float | None = None, sampled: bool = False) -> list[EvidenceRow]:
    """Callers who come back every half hour and stay with the model that their key drew; 20 % of the answers are wrong."""
    chance = random.Random(seed)
    keys = [chance.randrange(2**63) for _ in range(CALLERS)]
    rows: list[EvidenceRow] = []
    for number in range(1, hours * 2 * CALLERS + 1):
        key, at = keys[(number * 37) % CALLERS], START + number * 1_800 / CALLERS
        candidate = key / 2**63 < SHARE / SHARE_ONE
        broken = candidate and breaks_at is not None and at >= START + breaks_at
        right = chance.random() < (0.2 if broken else 0.8)
        good = Attempt(Status.OK, int(right), 0.8 if right else 0.2, None, 0.01)
        own = pair(
            number,
            at=at,
            share=SHARE,
            point=key,
            variant=Variant.CANDIDATE if candidate else Variant.PRIMARY,
            unit=None,
            primary=answer(Status.NONE) if candidate else good,
            candidate=good if candidate else answer(Status.NONE),
            sampled=sampled,
        )
        rows.append((number, own, LabelReport(own.prediction_id, 1, at + 10)))
    return rows


def verdict(evidence: Evidence, phase: Phase = Phase.CANARY) -> Verdict:
    tail = evidence.tail([])
    return judge(SERVED, phase, 1, evidence.readings(tail, serving=serving(SERVED, 1)), evidence.standing(tail))


def rolled_back_at(rows: list[EvidenceRow], every: int = 300) -> int | None:
    evidence = Evidence(SERVED, MODELS)
    for start in range(0, len(rows), every):
        evidence.see(rows[start : start + every])
        evidence.settle(rows[start : start + every])
        if verdict(evidence).answer == "rollback":
            return start
    return None


def test_a_candidate_that_breaks_when_all_callers_are_known_is_taken_off() -> None:
    """Six hours are good; then three quarters of its good answers are wrong. Everybody is known since the first half hour."""
    rows = traffic(9, seed=1, breaks_at=6 * 3_600)
    when = rolled_back_at(rows)
    assert when is not None
    assert when >= 6 * 2 * CALLERS


@pytest.mark.parametrize(
    "seeds", [range(3), pytest.param(range(100, 140), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_returning_callers_of_an_equal_candidate_do_no_harm(seeds: range) -> None:
    """Each caller counts again and again with one draw; over all the windows it is rolled back no more often than planned."""
    wrong = sum(rolled_back_at(traffic(6, seed=seed), every=600) is not None for seed in seeds)
    assert wrong <= len(seeds) * 0.025


def test_failures_of_known_callers_are_watched_too() -> None:
    rows = traffic(4, seed=3)
    failed = []
    for number, own, report in rows:
        if own.variant is Variant.CANDIDATE and own.at > START + 2 * 3_600:
            gave_none = {"candidate": answer(Status.FAILED), "primary": Attempt(Status.OK, 1, 0.8, None, 0.01)}
            failed.append((number, replace(own, variant=Variant.PRIMARY, fallback="failed", **gave_none), report))
        else:
            failed.append((number, own, report))
    evidence = folded(SERVED, failed)
    found = next(r for r in evidence.readings(evidence.tail([])) if r.metric == "serving_errors")
    assert found.log_e_harm is not None
    assert found.log_e_harm > 6


def test_after_a_promotion_the_sentence_promises_only_what_is_watched() -> None:
    """All callers have the candidate then, so there is nothing to compare their labels with."""
    reason = verdict(folded(SERVED, traffic(1, seed=5)), Phase.PROMOTED).reason
    assert "quality is no longer judged" in reason
