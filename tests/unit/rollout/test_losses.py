"""Losses are scikit-learn's on the same numbers; what is no evidence adds to nothing; label sets stay small."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sklearn.metrics import brier_score_loss, log_loss, mean_absolute_error, mean_squared_error, zero_one_loss

from understudy.domain import Attempt, Label, Mode, Observation, Outcome, Status, Variant
from understudy.rollout.loss_table import LOSSES, LossScale
from understudy.rollout.losses import CLASSES_MAX, DELAY_BUCKETS, LOG_FLOOR, losses, over_classes, scored, tally
from understudy.testing import observation

CLASSES = dict.fromkeys(Variant, (0, 1))
POSITIVE: dict[Variant, int | str | None] = dict.fromkeys(Variant, 1)


def mean(name: str, rows: list[dict[str, float]]) -> float:
    return math.fsum(row[name] for row in rows) / len(rows)


@pytest.mark.parametrize("classes", [(0, 1), (-1, 1), ("late", "on time")])
def test_binary_losses_are_scikit_learn_s(classes: tuple[int | str, ...]) -> None:
    """2,000 random rows, almost certain ones among them, whatever the classes are called and whichever is the positive one."""
    random = np.random.default_rng(1)
    scores = np.concatenate([random.random(1_990), [1e-9] * 5, [1 - 1e-9] * 5])
    truth = [classes[i] for i in random.integers(0, 2, len(scores))]
    for positive in classes:
        other = classes[1 - classes.index(positive)]
        predicted = [positive if p > 0.5 else other for p in scores]
        rows = [
            losses(Attempt(Status.OK, label, float(score)), actual, classes, positive)
            for label, score, actual in zip(predicted, scores, truth, strict=True)
        ]
        is_positive = [actual == positive for actual in truth]

        assert mean("brier", rows) == pytest.approx(brier_score_loss(is_positive, scores))
        assert mean("log_loss", rows) == pytest.approx(log_loss(is_positive, scores))
        assert mean("zero_one", rows) == pytest.approx(zero_one_loss(truth, predicted))


@pytest.mark.parametrize("classes", [(0, 1, 2), ("bird", "cat", "dog", "eel"), (7, 3, 5)])
def test_multiclass_losses_are_scikit_learn_s(classes: tuple[int | str, ...]) -> None:
    """In the card's order of classes, which need not be sorted; Brier scaled by half, so that it stays within 1."""
    random = np.random.default_rng(2)
    probabilities = random.dirichlet(np.ones(len(classes)), 1_000)
    truth = [classes[i] for i in random.integers(0, len(classes), 1_000)]
    predicted = [classes[i] for i in probabilities.argmax(axis=1)]
    rows = [
        losses(Attempt(Status.OK, label, None, tuple(row.tolist())), actual, classes)
        for label, row, actual in zip(predicted, probabilities, truth, strict=True)
    ]
    order = np.argsort(np.array(classes))  # scikit-learn wants sorted classes
    names = sorted(classes)

    assert mean("log_loss", rows) == pytest.approx(log_loss(truth, probabilities[:, order], labels=names))
    half = brier_score_loss(truth, probabilities[:, order], labels=names, scale_by_half=True)
    assert mean("brier", rows) == pytest.approx(half)
    assert mean("zero_one", rows) == pytest.approx(zero_one_loss(truth, predicted))


def test_regression_losses_are_scikit_learn_s() -> None:
    """Absolute and squared error, and nothing about classes."""
    random = np.random.default_rng(3)
    values, truth = random.normal(5, 20, 1_000), random.normal(0, 30, 1_000)
    rows = [losses(Attempt(Status.OK, score=float(v)), float(t)) for v, t in zip(values, truth, strict=True)]

    assert mean("absolute_error", rows) == pytest.approx(mean_absolute_error(truth, values))
    assert mean("squared_error", rows) == pytest.approx(mean_squared_error(truth, values))
    assert all(row.keys() == {"absolute_error", "squared_error"} for row in rows)


@pytest.mark.parametrize("status", [status for status in Status if not Attempt(status).given])
def test_an_attempt_that_failed_has_no_loss(status: Status) -> None:
    """Even when it carries numbers: failures are judged by their rate."""
    assert losses(Attempt(status, 1, 0.9), 1, (0, 1), 1) == {}


def test_a_row_whose_request_failed_for_another_row_has_its_own_loss() -> None:
    assert losses(Attempt(Status.WITHHELD, 1, 0.9), 1, (0, 1), 1) == losses(Attempt(Status.OK, 1, 0.9), 1, (0, 1), 1)


@pytest.mark.parametrize(
    ("answer", "label", "found"),
    [
        (Attempt(Status.OK), 1, {}),  # neither a label nor a value
        (Attempt(Status.OK, score=1.5), "late", {}),  # a word is no number
        (Attempt(Status.OK, label=1), 1, {"zero_one": 0.0}),  # no probabilities
        (Attempt(Status.OK, label=1), 0, {"zero_one": 1.0}),
        (Attempt(Status.OK, label=1), True, {"zero_one": 0.0}),
    ],
)
def test_what_cannot_be_scored_is_left_out(answer: Attempt, label: Label, found: dict[str, float]) -> None:
    """Rather than scored as something."""
    assert losses(answer, label, (0, 1, 2)) == found


@pytest.mark.parametrize("loss", ["brier", "log_loss"])
def test_the_losses_of_all_labels_are_those_of_each(loss: str) -> None:
    """In one pass: a thousand classes take milliseconds, and were a second for each row that waits for its label."""
    random = np.random.default_rng(4)
    own, labels = [f"c{i}" for i in range(30)], [f"c{i}" for i in range(5, 40)]
    answer = Attempt(Status.OK, "c0", None, tuple(random.dirichlet(np.full(30, 0.1)).tolist()))
    found = over_classes(loss, answer, {name: i for i, name in enumerate(own)}, labels)

    assert found == pytest.approx([losses(answer, label, own)[loss] for label in labels])


def test_one_certain_mistake_costs_much_and_not_infinity() -> None:
    """The floor of the log-loss, and none at all for being certainly right."""
    certain = Attempt(Status.OK, 1, 1.0)

    assert losses(certain, 0, (0, 1), 1)["log_loss"] == pytest.approx(-math.log(LOG_FLOOR))
    assert losses(certain, 1, (0, 1), 1) == {"zero_one": 0.0, "brier": 0.0, "log_loss": 0.0}
    rounded = Attempt(Status.OK, 0, None, (1.0 + 1e-7, 0.0, 0.0))  # as float32 softmax may come out
    assert losses(rounded, 0, (0, 1, 2))["log_loss"] == 0.0


@pytest.mark.parametrize(
    ("answer", "classes", "positive"),
    [
        (Attempt(Status.OK, 0, 0.25), (0, 1), 1),
        (Attempt(Status.OK, 0, None, (0.75, 0.25)), (0, 1), None),
        (Attempt(Status.OK, 0, None, (0.75, 0.25, 0.0)), (0, 1, 2), None),
    ],
)
def test_a_label_that_is_none_of_the_classes_had_no_chance(
    answer: Attempt, classes: tuple[int, ...], positive: int | None
) -> None:
    """The same loss whether two classes are told as a score or as a list, or a third one never comes."""
    found = losses(answer, 9, classes, positive)

    assert found == pytest.approx(
        {"zero_one": 1.0, "brier": (1 + 0.75**2 + 0.25**2) / 2, "log_loss": -math.log(LOG_FLOOR)}
    )


@given(
    st.sampled_from(list(LOSSES)),
    st.floats(0, 1e12),
    st.floats(0, 1e12),
    st.floats(0.01, 1e6),
)
def test_bounded_losses_lie_in_the_unit_interval_and_keep_their_order(
    name: str, one: float, two: float, clip: float
) -> None:
    """Those that are bounded by themselves as they are, the others cut off and divided; and back in raw units."""
    spec = LOSSES[name]
    scale = LossScale(spec, None if spec.clip == "none" else clip)
    if scale.clip is None:
        one, two = min(one, 1.0), min(two, 1.0)
        assert scale.bounded(one) == one
    low, high = sorted((scale.bounded(one), scale.bounded(two)))

    assert 0 <= low <= high <= 1
    assert (scale.bounded(min(one, two)), scale.bounded(max(one, two))) == (low, high)
    assert scale.bounded(scale.most) == 1.0
    assert scale.raw(scale.bounded(one)) == pytest.approx(scale.cut(one))
    assert scale.clipped(one) == (scale.cut(one) < one)


def outcome(made: Observation, label: Label = 1, delay: float = 120.0) -> Outcome:
    return Outcome(made, label, delay)


def test_one_labelled_pair_adds_to_these_counters_and_no_others() -> None:
    """Both variants' losses and cells, the label, and its delay's bucket."""
    counts = tally(outcome(observation(primary=0.2, candidate=0.75)), CLASSES, POSITIVE)

    assert counts == pytest.approx(
        {
            "labels/matched": 1,
            f"label_delay/{DELAY_BUCKETS.index(300)}": 1,
            "outcome/primary/0/1": 1,
            "outcome/candidate/1/1": 1,
            "loss_sum/primary/zero_one": 1,
            "loss_count/primary/zero_one": 1,
            "loss_sum/primary/brier": 0.64,
            "loss_count/primary/brier": 1,
            "loss_sum/primary/log_loss": -math.log(0.2),
            "loss_count/primary/log_loss": 1,
            "loss_sum/candidate/zero_one": 0,
            "loss_count/candidate/zero_one": 1,
            "loss_sum/candidate/brier": 0.0625,
            "loss_count/candidate/brier": 1,
            "loss_sum/candidate/log_loss": -math.log(0.75),
            "loss_count/candidate/log_loss": 1,
        }
    )


def test_a_variant_that_failed_adds_nothing() -> None:
    """The other one's counters are as they would be."""
    counts = tally(outcome(observation(primary=0.2, candidate=None)), CLASSES, POSITIVE)

    assert not [name for name in counts if "candidate" in name]
    assert counts["loss_count/primary/brier"] == 1


def test_a_pinned_request_is_no_evidence() -> None:
    """Its label is counted as received and nothing else."""
    counts = tally(outcome(observation(mode=Mode.PINNED)), CLASSES, POSITIVE)

    assert counts == {"labels/matched": 1.0, f"label_delay/{DELAY_BUCKETS.index(300)}": 1.0}


@pytest.mark.parametrize(
    ("delay", "bucket"), [(-5.0, 0), (0.0, 0), (1.0, 0), (1.5, 1), (2592000, 15), (2592001, 16), (1e9, 16)]
)
def test_a_delay_falls_into_the_bucket_whose_upper_edge_it_does_not_pass(delay: float, bucket: int) -> None:
    """As Prometheus has it: an edge belongs to the bucket below, and the last bucket is open."""
    assert f"label_delay/{bucket}" in tally(outcome(observation(), delay=delay), CLASSES, POSITIVE)


def test_classes_beyond_the_limit_share_the_name_other() -> None:
    """A thousand classes make 21 labels of a metric, and so does a label that the model does not know."""
    classes = tuple(range(1000))
    named = set()
    for label in (0, CLASSES_MAX - 1, CLASSES_MAX, 999, "made up"):
        answer = Attempt(Status.OK, label=label, probabilities=(1.0,) + (0.0,) * 999)
        made = replace(observation(candidate=None), primary=answer)
        found = list(scored(outcome(made, label), dict.fromkeys(Variant, classes), dict.fromkeys(Variant)))
        assert len(found) == 1
        for variant, predicted, actual, _ in found:
            assert variant is Variant.PRIMARY
            assert predicted == actual
            named.add(actual)

    assert named == {"0", str(CLASSES_MAX - 1), "other"}


def test_a_regression_has_no_classes() -> None:
    """Its numbers must not become labels of a metric."""
    number = outcome(replace(observation(candidate=None), primary=Attempt(Status.OK, score=17.25)), 16.25)

    assert list(scored(number, {}, {})) == [
        (Variant.PRIMARY, None, "other", {"absolute_error": 1.0, "squared_error": 1.0})
    ]
    assert not [name for name in tally(number, {}, {}) if name.startswith("outcome/")]
