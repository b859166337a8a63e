"""What only serving shows: who was drawn, whose failures, how slow, and quality where the answer makes the label."""

import json
import random

import pytest
from msgspec.structs import replace

from tests.unit.rollout.world import MODELS, START, answer, folded, pair, policy
from understudy.domain import SHARE_ONE, Attempt, LabelReport, Status, Variant
from understudy.rollout.evidence import Evidence
from understudy.rollout.judge import judge, serving
from understudy.rollout.sequential import threshold

STEPS = [{"shadow": 100}, {"canary": 25}, "promote"]
SHARE = 2_500
ENOUGH = threshold(0.025)


def drawn(
    number, candidate, *, seconds=0.01, failed=False, share=SHARE, point=None, right=True, labelled=True, **changes
):
    """One request of a caller of its own, answered by whom chance drew; a candidate that failed was replaced."""
    good = Attempt(Status.OK, 1 if right else 0, 0.8 if right else 0.2, None, seconds)
    own = answer(Status.FAILED) if failed else good
    answers = {"candidate": own, "primary": good} if candidate else {"primary": own, "candidate": good}
    fallback = "failed" if failed and candidate else None
    variant = Variant.CANDIDATE if candidate and not failed else Variant.PRIMARY
    made = replace(
        pair(number),
        **answers,
        share=share,
        point=number * 7919 if point is None else point,
        variant=variant,
        fallback=fallback,
        **changes,
    )
    return number, made, LabelReport(made.prediction_id, 1, made.at + 10) if labelled else None


def traffic(n, share=0.25, seed=5, **told):
    """Requests split as planned; `told` names what differs, by variant."""
    chance = random.Random(seed)
    rows = []
    for number in range(1, n + 1):
        candidate = chance.random() < share
        name = "candidate" if candidate else "primary"
        said = {key: value[name](chance) if isinstance(value, dict) else value for key, value in told.items()}
        rows.append(drawn(number, candidate, **said))
    return rows


def reading(evidence, metric, *, serving=True):
    return next(r for r in evidence.readings(evidence.tail([]), serving=serving) if r.metric == metric)


def own(**goals):
    return policy(STEPS, **goals)


def test_a_split_as_planned_raises_no_doubt_and_another_one_holds_the_canary_whatever_the_evidence():
    """A quarter was planned. Where a third came, somebody else decides who answers, and nothing served is evidence."""
    fair, skewed = folded(own(), traffic(3_000)), folded(own(), traffic(3_000, share=0.33))
    assert fair.standing(fair.tail([])).doubts == ()
    doubts = skewed.standing(skewed.tail([])).doubts
    assert len(doubts) == 2
    assert doubts[0].endswith("of 3,000 callers were routed to the candidate, but 25.00% were planned")

    def verdict(evidence, step):
        tail = evidence.tail([])
        readings = evidence.readings(tail, serving=serving(own(), step))
        return judge(own(), ["shadow", "canary"][step], step, readings, evidence.standing(tail))

    assert verdict(fair, 1).answer == "advance"
    held = verdict(skewed, 1)
    assert (held.answer, "until then served evidence cannot be trusted" in held.reason) == ("hold", True)
    assert verdict(skewed, 0).answer == "advance"  # pairs do not depend on who answered


def test_a_caller_who_comes_back_was_drawn_once():
    """One caller's thousand requests are one draw; its latencies are a thousand."""
    rows = [drawn(i, candidate=True, point=77, failed=i > 500) for i in range(1, 1_001)]
    evidence = folded(own(errors={"margin": 0.5, "ratio": 2}, latency={"p99_ms": 50, "ratio": {"p50": 1.5}}), rows)
    assert (evidence.served.split.n, evidence.served.failures.n) == (1, 0)
    assert evidence.served.latency.whole.n == (0, 1_000)


@pytest.mark.parametrize("share", [0, SHARE_ONE])
def test_where_chance_did_not_decide_nothing_was_drawn(share):
    rows = [drawn(i, candidate=True, share=share) for i in range(1, 50)]
    rows = [(seq, replace(o, point=None), report) for seq, o, report in rows]
    evidence = folded(own(latency={"p99_ms": 50, "ratio": {"p50": 1.5}}), rows)
    assert evidence.served.split.n == 0
    assert evidence.served.latency.whole.n == (0, 0)


def test_failures_before_callers_are_attributed_and_only_too_many_roll_back():
    """One in 25 for both is nobody's fault; six times as many are the candidate's."""
    goals = {"errors": {"margin": 0.5, "ratio": 2}}
    alike = {"primary": lambda c: c.random() < 0.04, "candidate": lambda c: c.random() < 0.04}
    worse = alike | {"candidate": lambda c: c.random() < 0.24}
    fine, bad = (folded(own(**goals), traffic(4_000, failed=failed)) for failed in (alike, worse))

    assert reading(fine, "serving_errors").log_e_harm < 1
    found = reading(bad, "serving_errors")
    assert found.log_e_harm > ENOUGH
    assert found.log_e_advance is None  # a service that never fails must not wait for failures
    assert found.line == 2
    assert 0.5 < found.estimate < 0.8


def test_latency_is_compared_on_what_each_answered_and_a_failure_was_not_fast():
    """Equal within a fifth advances, twice as slow rolls back, and one that fails half the time is slow at its p95."""
    goals = {"latency": {"p99_ms": 1_000, "ratio": {"p50": 1.2, "p95": 1.5}}}
    times = {"primary": lambda c: c.lognormvariate(-4, 0.3), "candidate": lambda c: c.lognormvariate(-4, 0.3)}
    same = folded(own(**goals), traffic(6_000, seconds=times))
    slow = folded(own(**goals), traffic(6_000, seconds=times | {"candidate": lambda c: 2 * c.lognormvariate(-4, 0.3)}))
    failing = {"primary": lambda c: False, "candidate": lambda c: c.random() < 0.5}
    broken = folded(own(**goals), traffic(6_000, seconds=times, failed=failing))

    for name in ("latency_p50", "latency_p95"):
        assert reading(same, name).log_e_advance > ENOUGH
        assert reading(same, name).log_e_harm < 1
        assert reading(slow, name).log_e_harm > ENOUGH
    assert reading(same, "latency_p50").estimate == pytest.approx(1.0, abs=0.06)
    assert reading(slow, "latency_p50").estimate == pytest.approx(2.0, abs=0.1)
    assert reading(broken, "latency_p95").log_e_harm > ENOUGH


def test_what_only_serving_shows_gates_only_where_the_candidate_serves_and_is_always_counted_for_harm():
    """Harm is shared among the metrics, so their number must not change on the way."""
    asked = own(errors={"margin": 0.1, "ratio": 2}, latency={"p99_ms": 50, "ratio": {"p99": 1.5}})
    evidence = Evidence(asked, MODELS)
    for step in (False, True):
        found = evidence.readings(evidence.tail([]), serving=step)
        assert [r.metric for r in found if r.log_e_harm is not None] == [
            "zero_one",
            "errors",
            "request_errors",
            "latency",
            "serving_errors",
            "latency_p99",
        ]
        assert (reading(evidence, "latency_p99", serving=step).log_e_advance is None) is not step


def test_a_new_step_asks_for_its_own_answers():
    evidence = folded(own(latency={"p99_ms": 1_000, "ratio": {"p50": 1.5}}), traffic(3_000))
    assert reading(evidence, "latency_p50").log_e_advance > ENOUGH
    evidence.begin_step(2, 9)
    assert reading(evidence, "latency_p50").log_e_advance <= 0


SERVED = {"loss": "zero_one", "margin": 0.1, "evidence": "served"}


def test_quality_by_what_was_served_takes_no_pairs():
    """Answers of the model that was not drawn say nothing here; a worse candidate is found by what it answered."""
    equal = folded(own(quality=SERVED), traffic(4_000))
    worse = folded(
        own(quality=SERVED), traffic(4_000, right={"primary": lambda c: True, "candidate": lambda c: c.random() < 0.6})
    )

    assert equal.quality is None
    assert reading(equal, "zero_one").log_e_advance > ENOUGH
    assert reading(worse, "zero_one").log_e_harm > ENOUGH
    assert reading(worse, "zero_one").estimate == pytest.approx(0.4, abs=0.08)
    assert reading(equal, "zero_one", serving=False).log_e_advance is None


def test_what_was_served_and_never_labelled_speaks_for_nobody():
    """Missing labels are a lost point for a candidate that wants to advance, and a won one where it might be harmed."""
    missing = {"primary": lambda c: True, "candidate": lambda c: c.random() < 0.5}
    wrong = {"primary": lambda c: True, "candidate": lambda c: c.random() < 0.6}
    rows = [*traffic(4_000, labelled=missing, right=wrong), drawn(9_999, candidate=False, at=START + 1e6)]
    found = reading(folded(own(quality=SERVED), rows), "zero_one")
    assert found.log_e_advance < 0
    full = reading(folded(own(quality=SERVED), traffic(4_000, right=wrong)), "zero_one")
    assert found.log_e_harm < full.log_e_harm


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"labels": {"audit": 10}}, "no `labels.audit`"),
        ({"labels": {"count": "on_arrival"}}, "count: settled"),
        ({"steps": [{"shadow": 100}]}, "needs a `canary` step"),
    ],
)
def test_served_evidence_asks_for_what_makes_it_right(said, words):
    with pytest.raises(ValueError, match=words):
        policy(said.get("steps", STEPS), labels=said.get("labels"), quality=SERVED)


def test_the_state_goes_through_json_and_on():
    """Half the rows, a restart, the other half: the same as all of them at once."""
    asked = own(quality=SERVED, errors={"margin": 0.1, "ratio": 2}, latency={"p99_ms": 50, "ratio": {"p99": 1.5}})
    rows = traffic(600, failed={"primary": lambda c: c.random() < 0.1, "candidate": lambda c: c.random() < 0.2})
    whole, first, second = folded(asked, rows), folded(asked, rows[:300]), Evidence(asked, MODELS)
    second.take(json.loads(json.dumps(first.state())))
    second.see(rows[300:])
    second.settle(rows[300:])
    assert json.dumps(second.state(), sort_keys=True) == json.dumps(whole.state(), sort_keys=True)
