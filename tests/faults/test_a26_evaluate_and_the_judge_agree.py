"""A8, A25, A26, A27: `evaluate`, `poc_target` and the judge had three definitions of a loss.

One named a loss by another's name, one divided by the clip, one left out rows without an answer, one did not cut. On the same rows
they now give the same numbers, in raw units, whatever the loss, the clip and the failures are.
"""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.rollout.world import START, policy, row
from understudy.domain import Attempt, Phase, Status, Variant
from understudy.errors import ConfigurationError
from understudy.inference.cards import Card, OutputSpec
from understudy.offline.evaluate.by_row import judged, proposed_clip
from understudy.offline.evaluate.data import Sample
from understudy.offline.evaluate.judge import Evaluation, evaluate
from understudy.rollout.evidence import Evidence
from understudy.rollout.judge import judge
from understudy.rollout.loss_table import LOSSES
from understudy.rollout.policy import Policy, parse
from understudy.rollout.reading import MetricReading
from understudy.rollout.scoring import Model
from understudy.testing import card

FAILED = Attempt(Status.INVALID)
VALUE = OutputSpec(name="y", dtype="float32", shape=[None, 1], role="value")


def cards(task: str, names: tuple[list[Any], list[Any]]) -> dict[Variant, Card]:
    fields: dict[str, Any] = {"task": task, "positive": None}
    if task == "regression":
        fields["outputs"] = [VALUE]
    return {v: card(v.value, classes=own, **fields) for v, own in zip(Variant, names, strict=True)}


def both(
    own: Policy, models: dict[Variant, Card], answers: dict[Variant, list[Attempt]], labels: list[Any]
) -> tuple[Evaluation, list[MetricReading], Evidence]:
    """What the command and what the judge say of the same rows."""
    goal = own.goals.quality
    sample = Sample("rows", rows=[()] * len(labels), labels=labels)
    sides = [judged(v.value, models[v], answers[v], labels, goal) for v in Variant]
    evidence = Evidence(own, {v: Model(models[v].classes, models[v].positive) for v in Variant})
    rows = [
        row(
            i,
            label=label,
            primary=answers[Variant.PRIMARY][i - 1],
            candidate=answers[Variant.CANDIDATE][i - 1],
            at=START + i,
        )
        for i, label in enumerate(labels, 1)
    ]
    evidence.see(rows)
    evidence.settle(rows)
    return evaluate(sample, sides, goal), evidence.readings(evidence.tail([])), evidence


def of(readings: list[MetricReading], metric: str) -> MetricReading:
    return next(reading for reading in readings if reading.metric == metric)


@st.composite
def regressions(draw: st.DrawFn) -> tuple[str, float, list[Any], list[Attempt], list[Attempt]]:
    number = st.floats(-1e4, 1e4, allow_subnormal=False)
    answer = st.one_of(number.map(lambda v: Attempt(Status.OK, score=v)), st.just(FAILED))
    rows = draw(st.integers(1, 30))
    lists = [draw(st.lists(each, min_size=rows, max_size=rows)) for each in (number, answer, answer)]
    return draw(st.sampled_from(["absolute_error", "squared_error"])), draw(st.floats(0.01, 1e4)), *lists  # type: ignore[return-value]


@settings(max_examples=60, deadline=None)
@given(regressions())
def test_regressions(made: tuple[str, float, list[Any], list[Attempt], list[Attempt]]) -> None:
    loss, clip, labels, primary, candidate = made
    most = clip ** LOSSES[loss].power
    own = policy(quality={"loss": loss, "clip": clip, "margin": most / 2, "poc_target": most / 2})
    answers = {Variant.PRIMARY: primary, Variant.CANDIDATE: candidate}
    if all(a.status is not Status.OK for a in primary) or all(a.status is not Status.OK for a in candidate):
        return
    said, readings, evidence = both(own, cards("regression", ([], [])), answers, labels)

    agree(said, readings, evidence, most)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["brier", "log_loss", "zero_one"]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([None, 0.7, 5.0, 40.0]),
)
def test_classifiers(loss: str, seed: int, clip: float | None) -> None:
    random = np.random.default_rng(seed)
    names: tuple[list[Any], list[Any]] = (["a", "b", "c"], ["c", "a", "d", "b"])
    models = cards("multiclass-classification", names)
    clip = clip if loss == "log_loss" else None
    own = policy(quality={"loss": loss, "margin": 0.5, "poc_target": 0.5} | ({"clip": clip} if clip else {}))
    assert own.goals.quality is not None
    labels = random.choice(["a", "b", "c", "d"], 25).tolist()
    answers = {v: [sure(random, classes) for _ in labels] for v, classes in zip(Variant, names, strict=True)}
    said, readings, evidence = both(own, models, answers, labels)

    agree(said, readings, evidence, own.goals.quality.scale.most)


def sure(random: np.random.Generator, classes: list[str]) -> Attempt:
    """An answer that is quite certain, and a failure now and then."""
    if random.random() < 0.1:
        return FAILED
    chances = random.dirichlet(np.full(len(classes), 0.05))
    return Attempt(Status.OK, classes[int(chances.argmax())], None, tuple(chances.tolist()))


def agree(said: Evaluation, readings: list[MetricReading], evidence: Evidence, most: float) -> None:
    """The same mean difference, the same mean of the proof of concept, and the same rows that were cut."""
    goal = evidence.policy.goals.quality
    assert goal is not None
    assert said.loss == goal.loss == readings[0].metric
    assert said.everything.difference is not None
    difference, mean = said.everything.difference, of(readings, goal.loss)
    assert difference.rows == mean.n
    assert mean.estimate == pytest.approx(difference.mean, abs=1e-9 * most)
    assert math.isclose(mean.line, goal.margin)
    assert of(readings, "poc_target").estimate == pytest.approx(said.everything.loss[0].mean, abs=1e-9 * most)


def test_wins_are_counted_alike() -> None:
    random = np.random.default_rng(3)
    labels = random.normal(size=200).tolist()
    answers = {
        v: [
            Attempt(Status.OK, score=x + e) if abs(e) < 1.5 else FAILED
            for x, e in zip(labels, random.normal(0, s, 200).tolist(), strict=True)
        ]
        for v, s in zip(Variant, (1.0, 0.7), strict=True)
    }
    own = policy(quality={"loss": "win_rate", "margin": 0.2})
    said, readings, _ = both(own, cards("regression", ([], [])), answers, labels)

    assert said.everything.difference is not None
    assert of(readings, "win_rate").estimate == pytest.approx(said.everything.difference.mean)
    assert all(math.isnan(each.mean) for each in said.everything.loss)  # no one model has a win rate
    assert said.loss == "win_rate"


def test_rows_without_an_answer_have_the_worst_loss() -> None:
    """A26: the candidate gives no answer on the hard 30 %."""
    labels = [float(i) for i in range(100)]
    good = [Attempt(Status.OK, score=x + 1.0) for x in labels]
    answers = {Variant.PRIMARY: good, Variant.CANDIDATE: [FAILED if i < 30 else a for i, a in enumerate(good)]}
    own = policy(quality={"loss": "absolute_error", "clip": 11.0, "margin": 0.5})
    said, _, _ = both(own, cards("regression", ([], [])), answers, labels)

    assert said.everything.difference is not None
    assert said.everything.difference.mean == pytest.approx(3.0)
    assert said.answers[-1].answer == "no"
    assert said.models[1]["failed"] == 30
    assert any("without an answer" in note for note in said.notes)


def test_certain_and_wrong_is_cut_and_said() -> None:
    """A27: 1.5 % of the rows cost 34.5 in the command and 5 in the judge."""
    labels = [1] * 1_000
    near, far = Attempt(Status.OK, 1, 0.93), Attempt(Status.OK, 0, 0.0)
    answers = {Variant.PRIMARY: [Attempt(Status.OK, 1, 0.9)] * 1_000, Variant.CANDIDATE: [far] * 15 + [near] * 985}
    models = {v: card(v.value) for v in Variant}
    own = policy(quality={"loss": "log_loss", "margin": 0.1}, error_budget=0.4)
    said, readings, evidence = both(own, models, answers, labels)

    assert said.everything.difference is not None
    assert of(readings, "log_loss").estimate == pytest.approx(said.everything.difference.mean)
    assert said.notes[0] == "log-loss is cut at 5, as in the rollout (primary 0.0%, candidate 1.5% of the rows)"
    assert evidence.clipped.cut[Variant.CANDIDATE] == 15


def test_a_loss_that_a_model_does_not_have_is_refused_by_its_name() -> None:
    """A8: the share of wrong answers was printed as the Brier score."""
    models = {v: card(v.value, classes=[], positive=None, task="multiclass-classification") for v in Variant}
    answers = {v: [Attempt(Status.OK, "a", None, (0.2, 0.8))] * 10 for v in Variant}
    own = policy(quality={"loss": "brier", "margin": 0.1})

    with pytest.raises(ConfigurationError, match="`brier` needs the class of each probability"):
        both(own, models, answers, ["a"] * 10)
    sides = [judged(v.value, models[v], answers[v], ["a"] * 10) for v in Variant]
    assert evaluate(Sample("rows", rows=[()] * 10, labels=["a"] * 10), sides, None).loss == "zero_one"


def test_the_target_of_the_proof_of_concept_is_in_raw_units() -> None:
    """A25: a true mean of 0.65 beside a target of 0.3 was "met: 0.1308"."""
    models = {v: card(v.value) for v in Variant}
    answers = {v: [Attempt(Status.OK, 1, math.exp(-0.65))] * 3_000 for v in Variant}
    own = policy(quality={"loss": "log_loss", "margin": 0.1, "poc_target": 0.3})
    said, readings, evidence = both(own, models, answers, [1] * 3_000)
    target = of(readings, "poc_target")
    verdict = judge(own, Phase.SHADOW, 0, readings, evidence.standing(evidence.tail([])))
    sentence = next(m.reason for m in verdict.metrics if m.metric == "poc_target")

    assert (target.estimate, target.line) == (pytest.approx(0.65), 0.3)
    assert target.low > 0.3
    assert sentence == "the primary's own target of 0.3 is missed: its mean log-loss (clipped at 5) is 0.6500"
    assert said.answers[0].answer == "no"


def test_a_clip_is_proposed_from_the_errors_of_the_worse_model() -> None:
    labels = np.zeros(1_000).tolist()
    near = judged("near", card(), [Attempt(Status.OK, score=float(i)) for i in range(1_000)], labels)
    far = judged("far", card(), [Attempt(Status.OK, score=-53.2 * i) for i in range(1_000)], labels)

    assert proposed_clip([near, far]) == 53_000.0
    assert proposed_clip([judged("c", card(), [Attempt(Status.OK, 1, 0.5)] * 4, [1, 0, 1, 0])]) is None


def test_a_file_whose_clip_is_missing_can_still_be_asked_for_one() -> None:
    """Which the error of every other command says to do."""
    text = "model: m\ntask: regression\nprimary: a\ngoals: {quality: {loss: absolute_error, margin: 10}}\n"

    with pytest.raises(ConfigurationError, match=r"goals\.quality: `clip` is missing.*understudy evaluate"):
        parse(text)
    assert parse(text, for_a_clip=True).goals.quality is None
