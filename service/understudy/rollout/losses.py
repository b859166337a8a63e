"""Computes losses: how wrong an answer was, given its label. One number per row, less is better. Pure.

Losses here are in raw units and not cut. `understudy.rollout.loss_table` has the table of losses, and the scale with which the
judge cuts and bounds them.
"""

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from understudy.domain import Attempt, Label, Mode, Outcome, Scalar, Variant
from understudy.rollout.loss_table import LOSSES, LossScale, Needs

LOG_FLOOR = 1e-15
"""Smallest probability in log-loss, so that a certain mistake costs 34.5 rather than infinity."""
DELAY_BUCKETS = (1, 10, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 57600, 86400, 172800, 259200, 604800, 2592000)
"""Upper edges, in seconds, of the label delay's histogram; the last bucket is open."""
CLASSES_MAX = 20
"""Further classes share the metric label "other"."""

CLASSES_LISTED = 10
"""Further classes are not listed in a sentence."""

MULTILABEL = "multilabel-classification"
Classes = Sequence[int | str]


class Answering(Protocol):
    """The part of `understudy.inference.cards.Card` that losses depend on."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def classes(self) -> Classes:
        """Class names in the order of the probabilities; empty if they have no names."""
        ...

    @property
    def roles(self) -> frozenset[str]:
        """The roles of its outputs: "label", "probabilities", "value", "other"."""
        ...

    @property
    def task(self) -> str:
        """What the model does."""
        ...


def computable(loss: str, card: Answering) -> str | None:
    """Why a loss cannot be computed for a model's answers, and what to write instead; None if it can.

    Args:
        loss: a name in `LOSSES`.
    """
    spec = LOSSES[loss]
    lacking = _lacking(spec.needs, card)
    if lacking is not None:
        return f"`{loss}` needs {lacking}, and {card.name} has no such output: {_instead(card)}"
    itself = (
        spec.needs == "class" and "label" in card.roles and card.task != MULTILABEL
    )  # the predicted class names itself
    if spec.needs in {"class", "classes", "probabilities"} and not card.classes and not itself:
        return (
            f"`{loss}` needs the class of each probability of {card.name}, and neither graph nor card names the classes: "
            "write `classes: [..]` into the rollout file, in the order of the probabilities"
        )
    return None


def _lacking(needs: Needs, card: Answering) -> str | None:
    """What a loss needs and a model's answers lack, in words; None if nothing."""
    roles = card.roles
    if needs == "value":
        return None if "value" in roles else "a predicted number"
    if needs == "probabilities":
        return None if "probabilities" in roles else "a probability for each class"
    if needs == "classes" and card.task != MULTILABEL:
        return "a predicted set of classes"
    return None if needs == "answer" or {"label", "probabilities"} & roles else "a predicted class"


def _instead(card: Answering) -> str:
    if "value" in card.roles:
        return "for a regression write `win_rate`, or `absolute_error` with a `clip`"
    if card.task == MULTILABEL:
        return "write `hamming`, the share of wrong classes"
    if "probabilities" in card.roles:
        return "write `brier`, `log_loss` or `zero_one`"
    if "label" in card.roles:
        return "write `loss: zero_one`, which needs the predicted class alone"
    return (
        "write `classes: [..]` into the rollout file if an output holds probabilities, or `loss: disagreement`, which compares "
        "the two models' answers without labels"
    )


def label_classes(primary: Classes, candidate: Classes | None) -> list[int | str]:
    """The possible labels: the classes of both models. Empty if the primary names no classes."""
    return list(dict.fromkeys([*primary, *(candidate or ())])) if primary else []


def class_differences(primary: Answering, candidate: Answering) -> list[str]:
    """Differences between the classes of two models, in sentences; empty if one of them names no classes."""
    if not primary.classes or not candidate.classes:
        return []
    found = []
    for one, other in ((primary, candidate), (candidate, primary)):
        only = [name for name in one.classes if name not in other.classes]
        if only:
            what = ", ".join(map(str, only[:CLASSES_LISTED])) + (", …" if len(only) > CLASSES_LISTED else "")
            found.append(
                f"{other.name} does not have {len(only)} of the classes of {one.name} ({what}): on rows of these classes it is "
                "always wrong, with the probability 0 for the true class"
            )
    return found


def losses(answer: Attempt, label: Label, classes: Classes = (), positive: int | str | None = None) -> dict[str, float]:
    """The raw losses of one row; empty if they cannot be computed (no answer, or a label of another kind).

    Classification: `zero_one`, and with probabilities `brier` and `log_loss` (natural logarithm). Binary Brier is (p − y)², as
    in scikit-learn; for more classes it is half the squared distance (Brier 1950 has the whole), so that both are in [0, 1].
    The model gives the probability 0 to a label that is not among its classes: the Brier loss is (1 + Σp²) / 2, and the
    log-loss has its largest value.

    Multilabel: a label is the tuple of the classes that are true. `hamming` is the share of classes that are predicted
    wrong, `zero_one` whether any is, `brier` and `log_loss` are means over the classes.

    Regression: `absolute_error`, `squared_error`; of a vector their means over its numbers.

    >>> from understudy.domain import Status
    >>> losses(Attempt(Status.OK, label=0, score=0.25), 1, [0, 1], 1)
    {'zero_one': 1.0, 'brier': 0.5625, 'log_loss': 1.3862943611198906}
    >>> losses(Attempt(Status.OK, label=0, score=0.25), 7, [0, 1], 1)
    {'zero_one': 1.0, 'brier': 0.8125, 'log_loss': 34.538776394910684}
    """
    if not answer.given:
        return {}
    if answer.label is None:
        errors = errors_of(answer, label)
        return {} if errors is None else {"absolute_error": errors.mean, "squared_error": errors.mean_square}
    if isinstance(answer.label, tuple):
        return _of_sets(answer.label, answer.probabilities, label, classes) if isinstance(label, tuple) else {}
    found = {"zero_one": float(answer.label != label)}
    if answer.score is not None:
        score = answer.score
        if classes and label not in classes:
            right, found["brier"] = 0.0, (1.0 + score * score + (1.0 - score) ** 2) / 2
        else:
            truth = 1.0 if label == positive else 0.0
            right, found["brier"] = (score if truth else 1.0 - score), (score - truth) ** 2
    elif answer.probabilities is not None and classes:
        at = classes.index(label) if label in classes else -1
        right = answer.probabilities[at] if at >= 0 else 0.0
        found["brier"] = (sum((p - (i == at)) ** 2 for i, p in enumerate(answer.probabilities)) + (at < 0)) / 2
    else:
        return found
    found["log_loss"] = _surprise(right)
    return found


def over_classes(loss: str, answer: Attempt, at: Mapping[int | str, int], labels: Classes) -> list[float] | None:
    """The raw losses of one row for each possible label, in one pass; None for answers without probabilities.

    Equal to `losses` for each label, which would take the square of the number of classes.

    Args:
        loss: `brier` or `log_loss`.
        at: the position of each of the model's own classes among its probabilities.
        labels: the classes of both models.
    """
    said = answer.probabilities
    if said is None or len(said) != len(at):
        return None
    chances = [said[at[label]] if label in at else 0.0 for label in labels]
    if loss == "log_loss":
        return [-math.log(min(max(chance, LOG_FLOOR), 1.0)) for chance in chances]
    most = sum(p * p for p in said) + 1.0
    return [(most - 2.0 * chance) / 2.0 for chance in chances]


def _of_sets(
    predicted: tuple[Scalar, ...], probabilities: Sequence[float] | None, truth: tuple[Scalar, ...], classes: Classes
) -> dict[str, float]:
    """The losses of a multilabel classifier's answer, in which each class is true or false by itself."""
    if not classes:
        return {"zero_one": float(set(predicted) != set(truth))}
    wrong = len(set(predicted) ^ set(truth))
    found = {"zero_one": float(wrong > 0), "hamming": wrong / len(classes)}
    if probabilities is not None:
        rights = [p if name in truth else 1.0 - p for name, p in zip(classes, probabilities, strict=True)]
        found["brier"] = sum((1.0 - right) ** 2 for right in rights) / len(rights)
        found["log_loss"] = sum(map(_surprise, rights)) / len(rights)
    return found


def by_class(loss: str, answer: Attempt, classes: Classes) -> dict[Scalar, tuple[float, float]] | None:
    """Class → the loss of a multilabel answer for it if the class is false, and if it is true.

    `hamming`, `brier` and `log_loss` are the means of these. None if the answer lacks what the loss needs.
    """
    if loss == "hamming":
        if not isinstance(answer.label, tuple):
            return None
        return {name: (float(name in answer.label), float(name not in answer.label)) for name in classes}
    if answer.probabilities is None or len(answer.probabilities) != len(classes):
        return None
    if loss == "brier":
        return {name: (p * p, (1.0 - p) ** 2) for name, p in zip(classes, answer.probabilities, strict=True)}
    return {name: (_surprise(1.0 - p), _surprise(p)) for name, p in zip(classes, answer.probabilities, strict=True)}


def _surprise(probability: float) -> float:
    return -math.log(min(max(probability, LOG_FLOOR), 1.0))


class Errors(NamedTuple):
    """The error of a number, or of a vector of numbers, in label units.

    Attributes:
        mean: mean over the vector's numbers; `mean_square` of their squares.
        distance: Euclidean. Not computed from the squares: the square of a small error may be 0.
    """

    mean: float
    mean_square: float
    distance: float


def errors_of(answer: Attempt, label: Label) -> Errors | None:
    """The error of an answer; None if label or answer are not numbers, or are vectors of different lengths.

    >>> from understudy.domain import Status
    >>> errors_of(Attempt(Status.OK, vector=(1.0, 2.0)), (1.0, 4.0))
    Errors(mean=1.0, mean_square=2.0, distance=2.0)
    """
    if answer.label is not None:
        return None
    if answer.vector is None:
        if answer.score is None or isinstance(label, str | tuple):
            return None
        error = abs(answer.score - float(label))
        return Errors(error, error * error, error)
    if not isinstance(label, tuple) or len(label) != len(answer.vector):
        return None
    errors = [abs(said - float(truth)) for said, truth in zip(answer.vector, label, strict=True)]
    squares = sum(error * error for error in errors)
    return Errors(sum(errors) / len(errors), squares / len(errors), math.hypot(*errors))


def distance(one: Attempt, other: Attempt, power: int = 1) -> float | None:
    """The distance of two answers, in label units; None if one of them is not a number.

    For vectors it is the mean over the numbers, or for a loss of power 2 the root of the mean square. By the triangle inequality
    the two errors differ by at most this for any label.
    """
    errors = (
        None
        if (value := other.score if other.vector is None else tuple(other.vector)) is None
        else errors_of(one, value)
    )
    if errors is None:
        return None
    return errors.mean if power == 1 else math.sqrt(errors.mean_square)


def nearer(primary: Attempt, candidate: Attempt, label: Label) -> float | None:
    """The value of a pair under `win_rate`: 1 if the candidate is farther from the label, −1 if it is nearer, 0 for a tie.

    For vectors the smaller Euclidean distance is nearer. An attempt without an answer loses against one with an answer.
    None if an answer or the label is not a number.

    >>> from understudy.domain import Status
    >>> near, far = Attempt(Status.OK, score=9.0), Attempt(Status.OK, score=12.5)
    >>> nearer(near, far, 10.0), nearer(near, Attempt(Status.TIMEOUT), 10.0), nearer(Attempt(Status.FAILED), far, 10.0)
    (1.0, 1.0, -1.0)
    """
    failed = (not primary.given, not candidate.given)
    if any(failed):
        return float(failed[1]) - float(failed[0])
    ours, theirs = errors_of(primary, label), errors_of(candidate, label)
    if ours is None or theirs is None:
        return None
    return float(theirs.distance > ours.distance) - float(theirs.distance < ours.distance)


def tally(
    outcome: Outcome,
    classes: Mapping[Variant, Classes],
    positive: Mapping[Variant, int | str | None],
    scale: LossScale | None = None,
) -> dict[str, float]:
    """The increments of the store's counters for one labelled observation, by name.

    They are `labels/matched`, `label_delay/<bucket>`, and for each variant that answered `outcome/<variant>/<predicted>/<actual>`,
    `loss_sum/<variant>/<loss>` and `loss_count/<variant>/<loss>`. A pinned request counts only as a label. A request of a load
    test counts only in `labels/load`.
    """
    if outcome.observation.mode is Mode.LOAD:
        return {"labels/load": 1.0}
    counts: dict[str, float] = {"labels/matched": 1.0}
    counts[f"label_delay/{bisect.bisect_left(DELAY_BUCKETS, outcome.delay)}"] = 1.0
    if outcome.observation.mode is Mode.PINNED:
        return counts
    for variant, predicted, actual, found in scored(outcome, classes, positive, scale):
        if predicted is not None:
            counts[f"outcome/{variant}/{predicted}/{actual}"] = 1.0
        for name, loss in found.items():
            counts[f"loss_sum/{variant}/{name}"] = loss
            counts[f"loss_count/{variant}/{name}"] = 1.0
    return counts


def scored(
    outcome: Outcome,
    classes: Mapping[Variant, Classes],
    positive: Mapping[Variant, int | str | None],
    scale: LossScale | None = None,
) -> Iterator[tuple[Variant, str | None, str, dict[str, float]]]:
    """For each variant that answered: predicted class (None for a regression or a set of classes), label, and raw losses.

    Args:
        outcome: the labelled observation.
        classes: the classes of each variant.
        positive: the positive class of each variant.
        scale: the scale of the goal's loss, which is cut here as for the judge, so that all displayed means agree.
    """
    for variant in Variant:
        answer = outcome.observation.attempt(variant)
        if answer.given:
            names = classes.get(variant, ())
            predicted = (
                None if answer.label is None or isinstance(answer.label, tuple) else _metric_label(answer.label, names)
            )
            found = losses(answer, outcome.label, names, positive.get(variant))
            if scale is not None and scale.loss.name in found:
                found[scale.loss.name] = scale.cut(found[scale.loss.name])
            yield variant, predicted, _metric_label(outcome.label, names), found


def _metric_label(label: Label, classes: Classes) -> str:
    """A class as a metric label: its name for the first classes, otherwise "other", so that the set of values stays small."""
    return str(label) if label in classes[:CLASSES_MAX] else "other"
