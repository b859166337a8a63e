"""Regressions of several numbers and multilabel classifiers had no loss, so no label ever counted; each has its losses now.

Also: what a label that has not come may still do to a pair bounds what any label does.
"""

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from understudy.domain import Attempt, LabelReport, Observation, Status, Variant
from understudy.errors import ConfigurationError
from understudy.rollout.losses import losses
from understudy.rollout.policy import Policy, parse
from understudy.rollout.scoring import Model, Scorer
from understudy.testing import observation

TOPICS: list[int | str] = ["sport", "politics", "weather"]


def topics(*probabilities: float, seconds: float = 0.0) -> Attempt:
    said = tuple(str(name) for name, p in zip(TOPICS, probabilities, strict=True) if p >= 0.5)
    return Attempt(Status.OK, said, None, probabilities, seconds)


def vector(*numbers: float) -> Attempt:
    return Attempt(Status.OK, vector=numbers)


def policy(task: str, quality: str) -> Policy:
    return parse(f"{{model: m, task: {task}, primary: a.onnx, candidate: b.onnx, goals: {{quality: {quality}}}}}")


def scorer(task: str, quality: str) -> Scorer:
    classes = TOPICS if task.startswith("multilabel") else []
    return Scorer(policy(task, quality), dict.fromkeys(Variant, Model(classes, None)))


def row(primary: Attempt, candidate: Attempt) -> Observation:
    return structs.replace(observation(), primary=primary, candidate=candidate)


def test_a_vector_costs_the_mean_over_its_numbers() -> None:
    found = losses(vector(1.0, 2.0, 3.0), (1.0, 4.0, 6.0))
    assert found == {"absolute_error": pytest.approx(5 / 3), "squared_error": pytest.approx(13 / 3)}


@pytest.mark.parametrize("label", [1.0, (1.0, 2.0), (1.0, 2.0, 3.0, 4.0), "far"])
def test_a_label_of_another_length_has_no_loss_and_is_counted_as_such(label: object) -> None:
    assert losses(vector(1.0, 2.0, 3.0), label) == {}  # type: ignore[arg-type]
    report = LabelReport("p-0", label, 1e6)  # type: ignore[arg-type]
    pair = scorer("regression", "{loss: win_rate, margin: 0.1}").pair(row(vector(1, 2, 3), vector(1, 2, 4)), report)
    assert pair is not None
    assert pair.lost == "no_loss"


def test_the_nearer_vector_wins_by_the_euclidean_distance() -> None:
    """Not by the mean of the errors: 3 and 4 are 5 away, 0 and 6 are 6 away."""
    judged = scorer("regression", "{loss: win_rate, margin: 0.1}")
    truth = LabelReport("p-0", (0.0, 0.0), 1e6)
    for primary, candidate, value in [((3, 4), (0, 6), 1.0), ((0, 6), (3, 4), -1.0), ((3, 4), (4, 3), 0.0)]:
        pair = judged.pair(row(vector(*primary), vector(*candidate)), truth)
        assert pair is not None
        assert pair.known == value


def test_a_set_of_classes_costs_the_mean_over_the_classes() -> None:
    """Each class is true or false by itself: the probabilities need not add up to 1."""
    found = losses(topics(0.9, 0.6, 0.25), ("sport",), TOPICS)
    assert found == {
        "zero_one": 1.0,
        "hamming": pytest.approx(1 / 3),
        "brier": pytest.approx((0.1**2 + 0.6**2 + 0.25**2) / 3),
        "log_loss": pytest.approx(-(math.log(0.9) + math.log(0.4) + math.log(0.75)) / 3),
    }
    assert losses(topics(0.9, 0.1, 0.1), ("sport",), TOPICS)["zero_one"] == 0.0
    assert losses(topics(0.1, 0.1, 0.1), (), TOPICS)["hamming"] == 0.0


def test_a_model_that_gives_the_classes_alone_is_judged_by_them() -> None:
    assert losses(Attempt(Status.OK, ("sport",)), ("sport", "weather"), TOPICS) == {
        "zero_one": 1.0,
        "hamming": pytest.approx(1 / 3),
    }


PROBABILITIES = st.lists(st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.7, 1.0]), min_size=3, max_size=3)
SETS = [tuple(each) for size in range(4) for each in itertools.combinations(map(str, TOPICS), size)]


@given(
    PROBABILITIES,
    PROBABILITIES,
    st.sampled_from(["hamming", "brier", "log_loss", "zero_one"]),
    st.booleans(),
    st.booleans(),
)
def test_no_set_of_classes_makes_a_pair_worse_or_better_than_its_bounds(
    one: list[float], other: list[float], loss: str, primary_fails: bool, candidate_fails: bool
) -> None:
    judged = scorer("multilabel-classification", f"{{loss: {loss}, margin: 0.01}}")
    pair = row(
        Attempt(Status.FAILED) if primary_fails else topics(*one),
        Attempt(Status.FAILED) if candidate_fails else topics(*other),
    )
    bounds = judged.pair(pair, None)
    assert bounds is not None
    known = [found.known for truth in SETS if (found := judged.pair(pair, LabelReport("p-0", truth, 1e6))) is not None]
    assert len(known) == len(SETS)
    for value in known:
        assert value is not None
        assert bounds.best - 1e-9 <= value <= bounds.worst + 1e-9
    if loss != "log_loss" and not (primary_fails or candidate_fails):
        assert bounds.worst == pytest.approx(max(v for v in known if v is not None), abs=1e-9), "and they are reached"
        assert bounds.best == pytest.approx(min(v for v in known if v is not None), abs=1e-9)


NUMBERS = st.lists(st.floats(-20, 20), min_size=2, max_size=2)


@given(NUMBERS, NUMBERS, NUMBERS, st.sampled_from(["absolute_error", "squared_error", "win_rate"]))
def test_no_vector_makes_a_pair_worse_or_better_than_its_bounds(
    one: list[float], other: list[float], truth: list[float], loss: str
) -> None:
    clip = "" if loss == "win_rate" else ", clip: 10"
    judged = scorer("regression", f"{{loss: {loss}, margin: 0.1{clip}}}")
    pair = row(vector(*one), vector(*other))
    bounds, known = judged.pair(pair, None), judged.pair(pair, LabelReport("p-0", tuple(truth), 1e6))
    assert bounds is not None
    assert known is not None
    assert known.known is not None
    assert bounds.best - 1e-9 <= known.known <= bounds.worst + 1e-9


THOUSANDTHS = st.integers(-20_000, 20_000).map(lambda n: n / 1_000)


@given(THOUSANDTHS, THOUSANDTHS, THOUSANDTHS)
@example(5e-200, 0.0, 0.0)  # its square is 0
def test_a_vector_of_equal_numbers_costs_what_one_number_costs(a: float, b: float, truth: float) -> None:
    for loss in ("absolute_error", "squared_error", "win_rate"):
        clip = "" if loss == "win_rate" else ", clip: 10"
        judged = scorer("regression", f"{{loss: {loss}, margin: 0.1{clip}}}")
        single = judged.pair(
            row(Attempt(Status.OK, score=a), Attempt(Status.OK, score=b)), LabelReport("p-0", truth, 1e6)
        )
        double = judged.pair(row(vector(a, a), vector(b, b)), LabelReport("p-0", (truth, truth), 1e6))
        assert single is not None
        assert double is not None
        assert single.known == pytest.approx(double.known)


def test_losses_that_do_not_fit_the_task_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="`task: agreement` compares the two models' answers without labels"):
        policy("agreement", "{loss: brier, margin: 0.1}")
