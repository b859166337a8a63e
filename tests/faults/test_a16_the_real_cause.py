"""A candidate that answered NaN was taken off as "too slow": all causes are named with their shares, and the main one is blamed."""

import pytest

from tests.unit.rollout.world import MODELS, folded, policy, row
from understudy.domain import Attempt, Phase, Status
from understudy.rollout.controller import judge_at
from understudy.rollout.evidence import Evidence

SLOW = Attempt(Status.OK, 1, 0.8, None, 30.0)
NO_ANSWER = {status: Attempt(status, seconds=0.011) for status in Status}


def verdict_on(*answers: Attempt, good: int = 40):
    """The verdict when the candidate gives these answers, in turns with good ones."""
    rows = []
    for answer in answers:
        rows += [row(len(rows) + i + 1) for i in range(good)]
        rows.append(row(len(rows) + 1, candidate=answer))
    own = policy(errors={"margin": 0.9})  # only `latency` can see it
    evidence = folded(own, rows)
    return judge_at(own, evidence, evidence.tail([]), Phase.SHADOW, 0)


@pytest.mark.parametrize(
    ("answer", "share", "why"),
    [
        (NO_ANSWER[Status.INVALID], "not finite or of the wrong shape", "too often an answer that cannot be used"),
        (NO_ANSWER[Status.FAILED], "failed", "too often no answer"),
        (NO_ANSWER[Status.TIMEOUT], "timed out", "too often no answer in time"),
    ],
    ids=["invalid", "failed", "timeout"],
)
def test_a_rollback_names_what_was_wrong_with_the_answers(answer, share, why):
    verdict = verdict_on(*[answer] * 40, good=10)
    assert verdict.answer == "rollback"
    assert (
        f"% of the candidate's answers did not come in time (9.09% {share}; 1 % are allowed): {why} (" in verdict.reason
    )
    assert "slow" not in verdict.reason


def test_slow_answers_are_still_called_slow():
    verdict = verdict_on(*[SLOW] * 40, good=10)
    assert verdict.answer == "rollback"
    assert "9.09% of the candidate's answers are slower than the limit (1 % are allowed): too slow (" in verdict.reason


def test_several_causes_are_named_with_their_shares_and_the_main_one_is_blamed():
    verdict = verdict_on(*[NO_ANSWER[Status.INVALID], NO_ANSWER[Status.INVALID], SLOW] * 14, good=10)
    assert "(6.06% not finite or of the wrong shape, 3.03% slower than the limit; 1 % are allowed)" in verdict.reason
    assert ": too often an answer that cannot be used (" in verdict.reason


def test_the_causes_survive_a_restart():
    own = policy()
    before = folded(own, [row(1), row(2, candidate=NO_ANSWER[Status.INVALID]), row(3, candidate=SLOW)])
    after = Evidence(own, MODELS)
    after.take(before.state())
    (reading,) = (r for r in after.readings(after.tail([])) if r.metric == "latency")
    assert dict(reading.causes) == {"invalid": 1, "slow": 1}
