"""The verdict: what advances, what holds and in which words, what rolls back, and that gates can only delay."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.rollout.world import policy
from understudy.domain import Phase
from understudy.rollout.judge import budgets, judge
from understudy.rollout.reading import Coverage, MetricReading, Standing
from understudy.rollout.sequential import threshold

ENOUGH, HARMED = threshold(0.025), threshold(0.0125)
STEPS = [{"shadow": 100}, {"canary": 5}, "promote"]
OPEN = policy(STEPS)
FORWARD = [Phase.SHADOW, Phase.CANARY]
ELSEWHERE = [Phase.WAITING, Phase.PAUSED, Phase.PROMOTED]


def reading(metric="zero_one", advance=5.0, harm=0.0, **changes):
    fields = {
        "estimate": 0.012,
        "low": -0.004,
        "high": 0.023,
        "n": 1_234,
        "pending": 0,
        "line": 0.02,
        "gap": 0.008,
        "variance": 0.1,
    }
    return MetricReading(metric=metric, log_e_advance=advance, log_e_harm=harm, **fields | changes)


def judged(readings, own=OPEN, phase=Phase.SHADOW, step=0, met=frozenset(), coverage=None, **standing):
    known = {"elapsed_s": 3600.0, "step_s": 3600.0, "labels": 1_234, "step_labels": 1_234, "step_requests": 2_000}
    return judge(own, phase, step, readings, Standing(coverage or Coverage(), met=met, **known | standing))


def test_the_error_budget_is_halved_between_the_two_mistakes_and_said():
    verdict = judged([reading()], policy(STEPS, error_budget=0.08))
    assert budgets(policy(STEPS, error_budget=0.08)) == (0.04, 0.04)
    assert (verdict.alpha_harm, verdict.alpha_advance) == (0.02, 0.04)  # a trial has half of what is left for rollbacks
    assert verdict.as_dict()["error_budget"] == {"harm": 0.02, "advance": 0.04}
    assert "chance of any wrong advance: 4.00%" in verdict.reason


def test_the_budget_is_the_line_and_not_a_bit_less():
    assert judged([reading(advance=ENOUGH)]).answer == "advance"
    assert judged([reading(advance=math.nextafter(ENOUGH, 0))]).answer == "hold"
    assert judged([reading(harm=HARMED)]).answer == "rollback"
    assert judged([reading(harm=math.nextafter(HARMED, 0))]).answer == "advance"


def test_without_a_label_nothing_is_said_about_quality():
    verdict = judged([reading(advance=9.0, n=40), reading("latency", 9.0)], labels=0)
    assert verdict.answer == "hold"
    assert verdict.reason == "no labelled pair yet, so quality cannot be judged"


@pytest.mark.parametrize(
    ("until", "words"),
    [
        ({"labels": 1_500}, "1,234 of the 1,500 labels that this step needs"),
        ({"requests": 5_000}, "2,000 of the 5,000 requests that this step needs"),
        ({"duration": "2h"}, "1.0 of the 2.0 hours that this step needs"),
    ],
)
def test_a_step_lasts_until_what_it_asks_for_is_there_and_says_what_is_missing(until, words):
    own = policy([{"shadow": 100, "until": until}, {"canary": 5}])
    readings = [reading(), reading("latency", n=2_000)]
    verdict = judged(readings, own)
    assert (verdict.answer, verdict.reason) == ("hold", words)

    assert judged(readings, own, step_s=7_200.0, step_labels=1_500, step_requests=5_000).answer == "advance"
    assert judged(readings, own, elapsed_s=7_200.0, labels=1_500).answer == "hold"  # of the rollout, not of the step


@pytest.mark.parametrize("phase", FORWARD + ELSEWHERE, ids=str)
@pytest.mark.parametrize("step", [-1, 0])
def test_harm_is_read_first_everywhere(phase, step):
    own = policy([{"shadow": 100, "until": {"labels": 10**6}}, {"canary": 5, "require": ["approval"]}])
    verdict = judged([reading(harm=9.0), reading("latency", 9.0)], own, phase, step)
    assert verdict.answer == "rollback"


def test_harm_is_any_metric_s_harm_at_one_budget_and_names_the_one_to_blame():
    lonely = [reading(harm=-30.0), reading("errors", harm=HARMED + math.log(3) + 1e-9), reading("latency", harm=-30.0)]
    verdict = judged(lonely)
    assert (verdict.answer, verdict.log_e_harm) == ("rollback", pytest.approx(HARMED))
    assert "the candidate fails 1.20% more requests" in verdict.reason
    assert "worse than the harm line (chance of any wrong rollback: 2.50%)" in verdict.reason
    lonely[1] = reading("errors", harm=HARMED + math.log(3) - 0.01)
    assert judged(lonely).answer == "advance"


def test_a_slow_candidate_is_called_slow():
    verdict = judged([reading(), reading("latency", -5.0, harm=9.0, estimate=0.034, n=7_000)])
    assert verdict.answer == "rollback"
    assert verdict.reason.startswith("after 7,000 requests 3.40% of the candidate's answers are slower than the limit")


@pytest.mark.parametrize("short", range(3))
def test_every_metric_has_to_pass_and_the_one_that_does_not_is_named(short):
    names = ["zero_one", "errors", "latency"]
    readings = [reading(name, 0.5 if i == short else 20.0) for i, name in enumerate(names)]
    verdict = judged(readings)

    assert verdict.answer == "hold"
    assert verdict.log_e_advance == 0.5
    assert {"zero_one": "zero-one", "errors": "fails", "latency": "slower"}[names[short]] in verdict.reason
    assert [m.answer for m in verdict.metrics] == ["hold" if i == short else "advance" for i in range(3)]
    readings[short] = reading(names[short], 20.0)
    assert judged(readings).answer == "advance"


def test_the_proof_of_concept_s_own_target_is_shown_and_decides_nothing():
    target = [
        reading("poc_target", None, None, line=0.2, estimate=e, low=low, high=high)
        for e, low, high in [(0.1, 0.05, 0.15), (0.2, 0.1, 0.3), (0.4, 0.3, 0.5)]
    ]
    said = [judged([reading(), each]) for each in target]

    assert [v.answer for v in said] == ["advance"] * 3
    words = [v.metrics[1].reason for v in said]
    assert words[0] == "the primary's own target of 0.2 is met: its mean loss is 0.1000"
    assert "not decided yet" in words[1]
    assert "is missed" in words[2]


@pytest.mark.parametrize(
    ("required", "met", "missing"),
    [
        (["approval"], [], ("approval",)),
        (["loadtest"], [], ("loadtest",)),
        (["loadtest", "approval"], [], ("approval", "loadtest")),
        (["loadtest", "approval"], ["approval"], ("loadtest",)),
    ],
)
def test_what_the_next_step_requires_is_waited_for_and_named(required, met, missing):
    own = policy([{"shadow": 100}, {"canary": 5, "require": required}])
    verdict = judged([reading()], own, met=frozenset(met))
    assert (verdict.answer, verdict.requires) == ("hold", missing)
    words = {"approval": "approval by an operator", "loadtest": "a load test"}
    assert (
        verdict.reason
        == f"the evidence is sufficient; the next step waits for {' and '.join(words[each] for each in missing)}"
    )
    assert verdict.waits_for == missing
    assert judged([reading()], own, met=frozenset(required)).answer == "advance"
    assert judged([reading(advance=1.0)], own).requires == ()


@pytest.mark.parametrize(
    ("phase", "step", "words"),
    [
        (Phase.CANARY, -1, "the weight was set by hand: only harm is judged until an operator promotes"),
        (Phase.SHADOW, -1, "the weight was set by hand: only harm is judged until an operator promotes"),
        (Phase.CANARY, 3, "there is no further step"),
        (Phase.PROMOTED, 2, "promoted: the old primary keeps rehearsing"),
        (Phase.PAUSED, 1, "paused by an operator"),
        (Phase.WAITING, 1, "the evidence is sufficient; the next step waits for approval by an operator"),
    ],
)
def test_where_there_is_nothing_to_advance_to_it_says_so(phase, step, words):
    verdict = judged([reading(advance=99.0)], phase=phase, step=step)
    assert verdict.answer == "hold"
    assert verdict.reason.startswith(words)


def test_without_any_goal_nothing_advances():
    verdict = judged([reading("poc_target", None, None)])
    assert (verdict.answer, verdict.log_e_harm, verdict.log_e_advance) == ("hold", 0.0, 0.0)
    assert verdict.reason == "no goal is set by which an advance could be judged: add one to the rollout file"


def test_a_hold_says_how_much_is_missing_and_how_long_that_takes():
    verdict = judged([reading(advance=1.0, n=1_000)], elapsed_s=7_200.0)
    assert verdict.answer == "hold"
    assert verdict.left.labels == math.ceil((ENOUGH + 0.75 - 1.0) / (0.008**2 / 0.2))
    assert verdict.left.seconds == pytest.approx(verdict.left.labels * 7.2)
    assert f"about {verdict.left.labels:,} more labels" in verdict.reason
    assert "more labels, 21.5 hours at the present rate" in verdict.reason
    more = judged([reading(advance=2.0, n=1_000)], elapsed_s=7_200.0)
    assert more.left.labels < verdict.left.labels


def test_a_hold_that_would_never_end_says_that():
    verdict = judged([reading(advance=-3.0, gap=-0.001)])
    assert (verdict.left.labels, verdict.left.seconds) == (None, None)
    assert "at the present estimate it would never be decided" in verdict.reason
    assert judged([reading(advance=1.0, gap=1e-17)]).left.labels is None


def test_a_hold_names_the_pairs_that_wait_and_those_whose_label_never_came():
    coverage = Coverage(settled=1000, labelled=970)
    verdict = judged([reading(advance=1.0, pending=4_321)], coverage=coverage)
    assert "4,321 pairs wait for their label and count as the worst case until then" in verdict.reason
    assert "3.0% of the settled pairs never got a label" in verdict.reason


@pytest.mark.parametrize(
    ("low", "high", "estimate", "words"),
    [
        (-0.004, 0.023, 0.012, "0.0120 worse (between 0.0040 better and 0.0230 worse; 0.02 worse is allowed)"),
        (-0.030, -0.010, -0.02, "0.0200 better (between 0.0100 and 0.0300 better; 0.02 worse is allowed)"),
        (0.030, 0.050, 0.04, "0.0400 worse (between 0.0300 and 0.0500 worse; 0.02 worse is allowed)"),
    ],
)
def test_a_sentence_has_the_estimate_the_band_and_the_line(low, high, estimate, words):
    verdict = judged([reading(low=low, high=high, estimate=estimate)])
    assert verdict.reason.startswith(f"after 1,234 pairs the candidate's zero-one is {words}")
    assert "every goal of this step is met" in verdict.reason


awkward = st.floats(-1, 1) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(
    awkward,
    awkward,
    awkward,
    st.floats(-800, 800) | st.sampled_from([math.inf, -math.inf]),
    st.sampled_from(list(Phase)[1:6]),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_what_is_shown_has_no_number_that_json_lacks(estimate, low, high, log_e, phase):
    readings = [
        reading(estimate=estimate, low=low, high=high, advance=log_e, harm=log_e),
        reading("latency", log_e, log_e),
    ]
    verdict = judged(readings, phase=phase)
    json.dumps(verdict.as_dict(), allow_nan=False)
    json.dumps([metric.as_dict() for metric in verdict.metrics], allow_nan=False)


def test_evidence_that_is_not_a_number_is_refused_and_not_passed():
    with pytest.raises(ValueError, match="'zero_one' is not a number"):
        judged([reading(advance=math.nan)])


counts = st.integers(0, 3_000)
some_readings = st.builds(
    lambda a, h, n, gap: [reading(advance=a, harm=h, n=n, gap=gap), reading("latency", 6.0, n=n)],
    st.floats(-5, 12),
    st.floats(-5, 6),
    counts,
    st.floats(-0.1, 0.1, allow_subnormal=False),
)
gates = st.fixed_dictionaries(
    {
        "until": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "labels": st.integers(1, 3_000),
                "requests": st.integers(1, 3_000),
                "duration": st.integers(1, 9_000),
            },
        ),
        "require": st.lists(st.sampled_from(["loadtest", "approval"]), unique=True),
    }
)


@given(
    some_readings,
    gates,
    gates,
    st.sampled_from([0, 1]),
    st.fixed_dictionaries({"step_s": st.floats(0, 9_000), "step_labels": counts, "step_requests": counts}),
    st.sets(st.sampled_from(["loadtest", "approval"])),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_gates_only_delay(readings, first, second, step, come, met):
    """P12: `until` and `require` never turn a hold into an advance, and change nothing about a rollback."""
    gated = policy([{"shadow": 100, **first}, {"canary": 5, **second}, "promote"])
    phase = FORWARD[step]
    free = judged(readings, OPEN, phase, step, frozenset(met), **come)
    held = judged(readings, gated, phase, step, frozenset(met), **come)

    assert held.answer == free.answer or (free.answer, held.answer) == ("advance", "hold")
    assert (held.log_e_harm, held.log_e_advance) == (free.log_e_harm, free.log_e_advance)
    until = (first, second)[step]["until"] or {}
    fulfilled = (
        come["step_labels"] >= until.get("labels", 0)
        and come["step_requests"] >= until.get("requests", 0)
        and come["step_s"] >= until.get("duration", 0)
        and (step == 1 or met >= set(second["require"]))
    )
    if fulfilled:
        assert held.answer == free.answer
    elif free.answer == "advance":
        assert held.answer == "hold"


@given(some_readings, st.floats(-5, 12), st.sampled_from(["errors", "another"]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_further_metric_that_must_pass_only_removes_advances(readings, log_e, name):
    with_it = judged([*readings, reading(name, log_e, harm=None)])
    assert with_it.answer != "advance" or judged(readings).answer == "advance"
    assert with_it.log_e_advance <= judged(readings).log_e_advance
