"""A22: a label outside of a model's classes gave no loss, and the pair was dropped: a candidate that lacks a class was promoted.

The model gave the truth no chance there, and pays for it; labels are checked against the classes of both models.
"""

import json
from typing import Any

import numpy as np
import pytest

from tests.unit.rollout.world import START, policy, row
from understudy.api.feedback import FeedbackDecoder
from understudy.domain import Attempt, Label, LabelReport, Phase, Status, Variant
from understudy.errors import InvalidInput
from understudy.rollout.evidence import Evidence
from understudy.rollout.judge import Verdict, judge
from understudy.rollout.losses import class_differences
from understudy.rollout.policy import Policy
from understudy.rollout.scoring import Model
from understudy.testing import card

ALL, FOUR = ["a", "b", "c", "d", "e"], ["a", "b", "c", "d"]


def answer(truth: str, classes: list[str]) -> Attempt:
    """A good model's answer, as far as its classes go."""
    rest = 0.05 / (len(classes) - 1)
    says = truth if truth in classes else classes[0]
    return Attempt(Status.OK, says, None, tuple(0.95 if name == says else rest for name in classes), 0.001)


def judged(loss: str, primary: list[str], candidate: list[str], rows: int = 600) -> tuple[Verdict, Evidence]:
    """The verdict about two models with these classes, on rows of five classes that are equally frequent."""
    own: Policy = policy(quality={"loss": loss, "margin": 0.05, "harm": 0.05}, labels={"wait": 3600})
    models = {Variant.PRIMARY: Model(primary, None), Variant.CANDIDATE: Model(candidate, None)}
    evidence = Evidence(own, models)
    truths = np.random.default_rng(5).choice(ALL, rows).tolist()
    made = [
        row(i, label=truth, primary=answer(truth, primary), candidate=answer(truth, candidate), at=START + i)
        for i, truth in enumerate(truths, 1)
    ]
    evidence.see(made)
    evidence.settle(made)
    tail = evidence.tail([])
    return judge(own, Phase.SHADOW, 0, evidence.readings(tail), evidence.standing(tail)), evidence


@pytest.mark.parametrize("loss", ["brier", "log_loss", "zero_one"])
def test_a_candidate_that_lacks_a_fifth_of_the_classes_is_rolled_back(loss: str) -> None:
    verdict, evidence = judged(loss, ALL, FOUR)

    assert evidence.labels == 600
    assert verdict.answer == "rollback", verdict.reason


@pytest.mark.parametrize("loss", ["brier", "log_loss", "zero_one"])
def test_a_candidate_that_knows_a_class_more_advances(loss: str) -> None:
    verdict, evidence = judged(loss, FOUR, ALL)

    assert evidence.labels == 600
    assert verdict.answer == "advance", verdict.reason


def test_a_missing_label_may_be_a_class_that_only_one_of_them_knows() -> None:
    own = policy(quality={"loss": "brier", "margin": 0.05})
    models = {Variant.PRIMARY: Model(ALL, None), Variant.CANDIDATE: Model(FOUR, None)}
    evidence = Evidence(own, models)
    (tail,) = [evidence.tail([row(1, label=None, primary=answer("e", ALL), candidate=answer("e", FOUR))])]

    assert tail.worst[0] > 0.9  # the primary is right about "e", of which the candidate knows nothing


def feedback(label: Label) -> bytes:
    return json.dumps({"labels": [{"prediction_id": "p", "label": label}]}).encode()


@pytest.mark.parametrize(("primary", "candidate"), [(ALL, FOUR), (FOUR, ALL)])
def test_a_label_may_be_a_class_of_either_model(primary: list[Any], candidate: list[Any]) -> None:
    fields: dict[str, Any] = {"task": "multiclass-classification", "positive": None}
    decoder = FeedbackDecoder(card(classes=primary, **fields), 10, card(classes=candidate, **fields))

    assert decoder.decode(feedback("e"), 5.0) == [LabelReport("p", "e", 5.0)]
    with pytest.raises(InvalidInput):
        decoder.decode(feedback("f"), 5.0)


def test_check_and_start_say_that_the_classes_differ() -> None:
    first, second = card("poc", classes=ALL, positive=None), card("new", classes=FOUR, positive=None)
    (said,) = class_differences(first, second)

    assert said.startswith("new does not have 1 of the classes of poc (e)")
    assert class_differences(first, card("new", classes=list(reversed(ALL)), positive=None)) == []
