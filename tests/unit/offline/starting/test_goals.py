"""Goals that fit the errors of two models and the traffic."""

import numpy as np
import pytest

from understudy.inference.cards import Card
from understudy.offline.evaluate.by_row import Judged
from understudy.offline.starting import goals
from understudy.rollout.feasibility import needs
from understudy.rollout.goals import Quality
from understudy.rollout.policy import parse

CARD = Card(name="m", version="0", task="regression", inputs=[], outputs=[], digest="")
POLICY = parse("{model: m, task: regression, primary: a.onnx, candidate: b.onnx}")
BRIER = Quality(loss="brier", margin=0.1)


def regression(errors: list[float]) -> Judged:
    values = np.array(errors)
    return Judged("m", CARD, [], {"absolute_error": values, "squared_error": values**2}, errors=values)


def test_the_margin_is_the_smallest_that_the_labels_can_decide() -> None:
    """By the numbers of `check`: the next smaller one takes more labels than there are."""
    for rows in (500, 5_000, 50_000):
        found = goals.smallest_margin(POLICY, BRIER, rows, 0.15)
        assert found.enough
        assert found.labels <= rows
        smaller = [m for m in goals.margins(0.0001, 0.2) if m < found.value][-1]
        quality = BRIER.model_copy(update={"margin": smaller})
        policy = POLICY.model_copy(update={"goals": POLICY.goals.model_copy(update={"quality": quality})})
        amount = needs.quality(policy, goals.EVERY)
        assert amount.requests is None or amount.requests > rows


def test_a_margin_is_no_finer_than_a_hundredth_of_the_loss() -> None:
    assert goals.smallest_margin(POLICY, BRIER, 10**9, 0.2).value == pytest.approx(0.002)


def test_with_very_few_labels_the_margin_is_coarse_and_said_to_be() -> None:
    found = goals.smallest_margin(POLICY, BRIER, 5, 0.15)
    assert not found.enough
    assert found.value == pytest.approx(0.2)


def test_a_regression_gets_a_clip_from_its_errors() -> None:
    """All but half a percent of the errors of the worse model are smaller."""
    loss, clip, why = goals.loss_of([regression([1.0] * 990 + [3.0] * 10), regression([2.0] * 1000)])
    assert (loss, clip) == ("absolute_error", 3.0)
    assert "99.5 %" in why


def test_a_few_huge_errors_are_counted_and_not_measured() -> None:
    """Otherwise they would decide the mean."""
    loss, clip, why = goals.loss_of([regression([1.0] * 980 + [1e6] * 20), regression([1.0] * 1000)])
    assert (loss, clip) == ("win_rate", None)
    assert "a few errors are" in why
    assert goals.loss_of([regression([0.0] * 9), regression([0.0] * 9)])[0] == "win_rate"


def test_a_classifier_is_judged_by_its_probabilities_or_else_by_its_answers() -> None:
    both = {"zero_one": np.zeros(3), "brier": np.zeros(3)}
    assert goals.loss_of([Judged("a", CARD, [], both), Judged("b", CARD, [], both)])[0] == "brier"
    only = {"zero_one": np.zeros(3)}
    assert goals.loss_of([Judged("a", CARD, [], both), Judged("b", CARD, [], only)])[0] == "zero_one"


def test_traffic_by_the_day_and_without_times() -> None:
    """A week of it decides a step; without times, the file stands for a step."""
    by_day = goals.traffic("d.csv", 1_000, 1_200, 10.0, "rows with a label")
    assert (by_day.rows, by_day.a_day) == (700, 120.0)
    assert goals.traffic("d.csv", 1_000, 1_200, None, "rows with a label").rows == 1_000


def test_the_wait_follows_the_delays() -> None:
    """With half as much again, in whole units; without delays it is a guess."""
    assert goals.wait_for([3_600.0] * 1_000)[0] == 5_400.0
    assert goals.wait_for([86_400.0 * 3] * 1_000)[0] == 5 * 86_400.0
    assert goals.wait_for([])[0] == 72 * 3_600.0


def test_failures_get_a_margin_that_the_requests_can_decide() -> None:
    assert goals.error_margin(POLICY, 100_000)[0] == 0.002
    margin, needed = goals.error_margin(POLICY, 1_400)
    assert margin == 0.005
    assert needed <= 1_400


def test_the_loss_of_a_constant_answer() -> None:
    """The base rates, the commonest class, the median."""
    assert goals.constant_loss("brier", [0, 0, 0, 1, None], 1.0) == pytest.approx(0.75 * 0.25)
    assert goals.constant_loss("zero_one", ["a", "a", "b", "c"], 1.0) == 0.5
    assert goals.constant_loss("absolute_error", [0.0, 1.0, 100.0], 10.0) == pytest.approx(11 / 3)
    assert goals.constant_loss("win_rate", [1.0], 1.0) is None
