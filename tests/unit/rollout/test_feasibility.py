"""What `check` accepts finishes, and what it refuses names a key that is there: rollouts of random policies, simulated."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from understudy.domain import SHARE_ONE, Attempt, Label, LabelReport, Mode, Observation, Phase, Plan, Status, Variant
from understudy.rollout.controller import judge_at, move
from understudy.rollout.evidence import Evidence, EvidenceRow
from understudy.rollout.feasibility import Feasibility, Limits, Lines, Problem, Subject, feasibility, said
from understudy.rollout.phases import Order
from understudy.rollout.policy import Policy
from understudy.rollout.scoring import Model

MET = frozenset({"loadtest", "approval"})
LOOK_EVERY = 500
ROW_S = 120.0
"""Between two requests, so that a day is 720 of them."""
SLACK = 3_000
"""Rows that a step may take beyond what was announced: a day, and the look."""


@dataclass(frozen=True)
class Kind:
    """A kind of model: what feasibility is told of it, what it answers, and the truth."""

    task: str
    subject: Subject
    answer: Attempt
    truth: Label

    @property
    def model(self) -> Model:
        classes = self.subject.classes
        return Model(classes, classes[-1] if len(classes) == 2 else None)


def ok(**given: Any) -> Attempt:
    return Attempt(Status.OK, seconds=0.0004, **given)


ROLES = frozenset({"label", "probabilities"})
THREE = {"probabilities": (0.6, 0.3, 0.1)}
KINDS = {
    "binary": Kind("binary-classification", Subject("m", (0, 1), ROLES), ok(label=1, score=0.8), 1),
    "named": Kind("multiclass-classification", Subject("m", ("a", "b", "c"), ROLES), ok(label="a", **THREE), "a"),
    "unnamed": Kind("multiclass-classification", Subject("m", (), ROLES), ok(label="a", **THREE), "a"),
    "label only": Kind("multiclass-classification", Subject("m", (), frozenset({"label"})), ok(label="a"), "a"),
    "number": Kind("regression", Subject("m", (), frozenset({"value"})), ok(score=3.0), 3.5),
    "agreement": Kind("agreement", Subject("m", (), frozenset({"other"}), task="other"), ok(), 1),
    "anything": Kind("other", Subject("m", (), frozenset({"other"})), ok(), 1),
}


def policy(
    steps: Sequence[Any], goals: dict[str, Any] | None = None, task: str = "binary-classification", **keys: Any
) -> Policy:
    return Policy.model_validate(
        {"model": "m", "task": task, "primary": "a", "candidate": "b", "steps": list(steps), "goals": goals or {}}
        | keys
    )


def asked(own: Policy, kind: str = "binary", **limits: float) -> Feasibility:
    return feasibility(own, dict.fromkeys(Variant, KINDS[kind].subject), Limits(**limits))


def keys(found: Sequence[Problem]) -> list[str]:
    return [problem.key for problem in found]


# The simulation


def rows(own: Policy, plan: Plan, kind: Kind, start: int, chance: random.Random) -> Iterator[EvidenceRow]:
    """Requests as they are served under a plan, each with its label."""
    for number in range(start, 1_000_000):
        ours = chance.random() * SHARE_ONE < plan.weight
        rehearsed = chance.random() * SHARE_ONE < plan.shadow
        answered = Variant.CANDIDATE if ours else Variant.PRIMARY
        answers = {v.value: kind.answer if rehearsed or v is answered else Attempt(Status.NONE) for v in Variant}
        drawn = 0 < plan.weight < SHARE_ONE
        found = Observation(
            f"p-{number}",
            f"p-{number}",
            at=1e6 + number * ROW_S,
            revision=plan.revision,
            variant=answered,
            mode=Mode.LIVE,
            share=plan.weight,
            unit=f"u-{number}" if own.unit else None,
            point=chance.getrandbits(62) if drawn else None,
            agrees=True if all(answer.given for answer in answers.values()) else None,
            **answers,
        )
        yield number, found, LabelReport(found.prediction_id, kind.truth, found.at + 1.0)


def left_after(own: Policy, kind: Kind, most: Sequence[int]) -> list[int]:
    """Rows that each step took to be left, with equal models and every label; the last is short where a step was never left."""
    evidence, chance, taken, number = Evidence(own, dict.fromkeys(Variant, kind.model)), random.Random(7), [], 1
    plan = own.first_plan("ab12")
    while plan.phase in {Phase.SHADOW, Phase.CANARY} and len(taken) < len(most):
        evidence.begin_step(plan.step, plan.revision)
        source, count = rows(own, plan, kind, number, chance), 0
        while True:
            page = [next(source) for _ in range(LOOK_EVERY)]
            number, count = number + LOOK_EVERY, count + LOOK_EVERY
            evidence.see(page)
            evidence.settle(page)
            if judge_at(own, evidence, evidence.tail([]), plan.phase, plan.step, MET).answer == "advance":
                break
            if count > most[len(taken)]:
                return taken
        taken.append(count)
        last = plan.step + 1 >= len(own.steps) or own.steps[plan.step + 1] == "promote"
        plan = move(own, plan, Order.FINISH if last else Order.ADVANCE, evidence.latest_at)
        plan = Plan(plan.phase, plan.weight, plan.shadow, plan.salt, plan.step, plan.revision + 1)
    return taken


def announced(own: Policy, found: Feasibility) -> list[int]:
    """Rows that each step may take: what the table says, and some more."""
    steps = {need.key: need.requests or 0 for need in found.needs if need.key.startswith("steps.")}
    listed = [steps[f"steps.{n}"] for n, step in enumerate(own.steps) if step != "promote"]
    return [requests + SLACK for requests in listed] or [SLACK * 2]


SHARES = st.sampled_from([0, 20, 50, 100, 100])
UNTIL = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.sampled_from([1, 300]),
        "requests": st.sampled_from([1, 300]),
        "duration": st.sampled_from(["1h", "24h"]),
    },
)
REQUIRE = st.sampled_from([[], [], ["loadtest"], ["approval"]])
SHADOW = st.fixed_dictionaries({"shadow": SHARES}, optional={"until": UNTIL, "require": REQUIRE})
CANARY = st.fixed_dictionaries({"canary": SHARES}, optional={"rehearse": SHARES, "until": UNTIL, "require": REQUIRE})
QUALITY = st.fixed_dictionaries(
    {
        "loss": st.sampled_from(["brier", "zero_one", "log_loss", "win_rate", "disagreement"]),
        "margin": st.sampled_from([0.05, 0.2]),
    },
    optional={"evidence": st.just("served")},
)
GOALS = st.fixed_dictionaries(
    {},
    optional={
        "quality": QUALITY,
        "errors": st.fixed_dictionaries({"margin": st.just(0.05)}, optional={"ratio": st.just(2)}),
        "latency": st.fixed_dictionaries({"p99_ms": st.just(50)}, optional={"ratio": st.just({"p50": 2.0})}),
        "throughput_rps": st.just(100),
    },
)
FILES = st.fixed_dictionaries(
    {"steps": st.lists(st.one_of(SHADOW, CANARY, CANARY), max_size=3), "goals": GOALS},
    optional={
        "labels": st.fixed_dictionaries({}, optional={"audit": st.just(50), "count": st.just("on_arrival")}),
        "unit": st.just("user"),
        "route_by": st.just("user"),
    },
)


@given(file=FILES, name=st.sampled_from([*KINDS, "binary", "binary", "named"]))
@settings(max_examples=150)
def test_what_is_accepted_finishes_and_what_is_refused_names_a_key(file: dict[str, Any], name: str) -> None:
    """Every step is left within what the table announces, and every problem names a key that a rollout file has."""
    kind = KINDS[name]
    try:
        steps = sorted(file["steps"], key=lambda step: step.get("canary", 0))
        own = policy(task=kind.task, **file | {"steps": [*steps, "promote"]})
    except ValidationError:
        return  # the schema refuses it
    found = asked(own, name)
    whole = own.model_dump(mode="json")
    for problem in found.problems:
        at: Any = whole
        for part in problem.key.split("."):
            at = at[int(part)] if isinstance(at, list) else at[part]
        assert len(problem.says) > 20
    if not found.refusals:
        most = announced(own, found)
        assert len(left_after(own, kind, most)) == len(most), (found, left_after(own, kind, most), most)


# What waits for ever, and is refused: none of these is left in 20,000 rows


ERRORS, BRIER = {"errors": {"margin": 0.05}}, {"quality": {"loss": "brier", "margin": 0.2}}
RATIO = {"latency": {"p99_ms": 50, "ratio": {"p50": 2.0}}}
NARROW = {"latency": {"p99_ms": 50, "ratio": {"p50": 1.03}}}
"""Of one bucket of the histogram: rounding to the safe side takes as much."""
SERVED = {"quality": {"loss": "brier", "margin": 0.2, "evidence": "served"}}


@pytest.mark.parametrize(
    ("steps", "goals", "name", "key"),
    [
        ([{"shadow": 0}], {}, "binary", "steps.0.shadow"),
        ([{"canary": 50, "rehearse": 0}], ERRORS, "binary", "steps.0.rehearse"),
        ([{"canary": 50, "rehearse": 0}], SERVED, "binary", "steps.0.rehearse"),
        ([{"shadow": 100, "until": {"labels": 1}}], ERRORS, "binary", "steps.0.until.labels"),
        ([{"shadow": 100, "until": {"labels": 1}}, {"canary": 50}], SERVED, "binary", "steps.0.until.labels"),
        ([{"canary": 0}, {"canary": 50}], RATIO, "binary", "steps.0.canary"),
        ([{"canary": 0}, {"canary": 50}], SERVED, "binary", "steps.0.canary"),
        ([{"canary": 100}], RATIO, "binary", "steps.0.canary"),
        ([{"shadow": 100}], BRIER, "label only", "goals.quality.loss"),
        ([{"shadow": 100}], BRIER, "anything", "goals.quality.loss"),
        ([{"shadow": 100}], BRIER, "number", "goals.quality.loss"),
        ([{"shadow": 100}], BRIER, "unnamed", "goals.quality.loss"),
    ],
)
def test_a_step_that_would_never_end_is_refused(steps: list[Any], goals: Any, name: str, key: str) -> None:
    """And it does never end."""
    own = policy([*steps, "promote"], goals, KINDS[name].task)

    assert key in keys(asked(own, name).refusals)
    assert len(left_after(own, KINDS[name], [20_000] * len(steps))) < len(steps)


@pytest.mark.parametrize(
    ("steps", "goals", "key"),
    [
        ([{"shadow": 100, "require": ["approval"]}], {}, "steps.0.require"),
        ([{"shadow": 100}], RATIO, "goals.latency.ratio"),
        ([{"canary": 50}], NARROW, "goals.latency.ratio"),
        ([{"shadow": 100}], {"errors": {"margin": 0.05, "ratio": 2}}, "goals.errors.ratio"),
        ([{"shadow": 100}], {"quality": {"loss": "brier", "margin": 1e-13}}, "goals.quality.margin"),
    ],
)
def test_what_would_never_be_asked_or_shown_is_refused(steps: list[Any], goals: Any, key: str) -> None:
    """A requirement before the first step, a goal that no step can show, a margin that no number of labels shows."""
    assert key in keys(asked(policy([*steps, "promote"], goals)).refusals)


def test_two_models_whose_classes_have_nothing_in_common_are_refused() -> None:
    """The numbers 0 and 1 beside the strings "0" and "1": no label fits both."""
    own = policy([{"shadow": 100}, "promote"], BRIER)
    subjects = {Variant.PRIMARY: Subject("a", (0, 1), ROLES), Variant.CANDIDATE: Subject("b", ("0", "1"), ROLES)}
    (problem,) = feasibility(own, subjects).refusals

    assert problem.key == "candidate"
    assert "the primary's classes are 0, 1 and the candidate's are '0', '1'" in problem.says
    subjects[Variant.CANDIDATE] = Subject("b", (0, 1, 2), ROLES)
    found = feasibility(own, subjects)
    assert not found.refusals
    assert "candidate" in keys(found.warnings)


def test_rows_that_are_removed_before_their_label_comes_are_refused() -> None:
    """`labels.wait` of 120 days beside a retention of 90."""
    own = policy([{"shadow": 100}, "promote"], BRIER, labels={"wait": "120d"})

    assert keys(asked(own, retention_s=90 * 86400.0).refusals) == ["labels.wait"]
    assert not asked(own, retention_s=121 * 86400.0).refusals


def test_a_route_with_too_few_values_for_served_evidence_is_refused() -> None:
    """Each value is drawn once and counts once: sixteen carriers are sixteen numbers."""
    steps = [{"canary": 50}, "promote"]
    known = Subject("m", (0, 1), ROLES, {"carrier": 16})
    found = feasibility(policy(steps, SERVED, route_by="carrier"), dict.fromkeys(Variant, known))

    assert keys(found.refusals) == ["route_by"]
    assert not feasibility(policy(steps, SERVED, route_by="user"), dict.fromkeys(Variant, known)).refusals


@pytest.mark.parametrize(
    ("primary_s", "candidate_s", "refused", "warned"),
    [
        (0.001, 0.001, [], []),
        (0.5, 0.001, ["goals.latency.deadline_ms"], []),
        (0.001, 0.2, [], ["goals.latency.deadline_ms"]),
        (0.001, 0.1, [], ["goals.latency.p99_ms"]),
    ],
)
def test_models_slower_than_their_limits(
    primary_s: float, candidate_s: float, refused: list[str], warned: list[str]
) -> None:
    """A primary that is slower than the deadline would answer 504 to everyone."""
    subjects = {
        Variant.PRIMARY: Subject("a", (0, 1), ROLES, seconds=primary_s),
        Variant.CANDIDATE: Subject("b", (0, 1), ROLES, seconds=candidate_s),
    }
    found = feasibility(
        policy([{"canary": 50, "until": {"duration": "1d"}}, "promote"], BRIER), subjects, Limits(None, 0.5)
    )

    assert (keys(found.refusals), keys(found.warnings)) == (refused, warned)


def test_a_service_without_a_candidate_has_nothing_to_judge() -> None:
    """Its speed is looked at all the same."""
    own = Policy.model_validate({"model": "m", "task": "other", "primary": "a"})
    found = feasibility(own, {Variant.PRIMARY: Subject("a", seconds=1.0)})

    assert found.needs == ()
    assert keys(found.refusals) == ["goals.latency.deadline_ms"]


def test_a_problem_is_said_with_its_line_where_the_file_has_one() -> None:
    """Or with the line of the nearest key above it."""
    lines = Lines("model: m\nsteps:\n  - shadow: 0\n  - canary: 5\n    until: {labels: 5}\n")

    assert said(Problem("steps.0.shadow", "is 0"), lines) == "line 3, steps.0.shadow: is 0"
    assert said(Problem("steps.1.until.labels", "x"), lines) == "line 5, steps.1.until.labels: x"
    assert said(Problem("steps.1.require", "x"), lines) == "line 4, steps.1.require: x"
    assert said(Problem("goals.quality", "x"), lines) == "goals.quality: x"
    assert Lines("a: [").of("a") is None


def test_the_table_says_how_many_labels_and_requests_a_step_takes() -> None:
    """A tenth as many rehearsals take ten times the requests; an audit takes its share of the labels."""
    goals = {"quality": {"loss": "brier", "margin": 0.02}}
    whole, tenth, audited = (
        {need.key: need for need in asked(policy([{"shadow": share}, "promote"], goals, labels=labels)).needs}
        for share, labels in ((100, {}), (10, {}), (100, {"audit": 10}))
    )

    quality = whole["goals.quality"]
    assert quality.labels == quality.requests
    assert 500 < (quality.labels or 0) < 5_000
    assert tenth["goals.quality"].labels == quality.labels
    assert tenth["goals.quality"].requests == pytest.approx(10 * (quality.requests or 0), rel=0.01)
    assert (audited["goals.quality"].labels or 0) >= (quality.labels or 0) / 2
    assert (audited["goals.quality"].requests or 0) > 2 * (quality.requests or 0)
    assert whole["steps.0"].labels == quality.labels
