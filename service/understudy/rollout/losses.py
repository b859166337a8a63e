"""What an answer cost, once the truth is known: one number per row, less is better. Pure.

The numbers here are in the raw unit of each loss, uncut. `understudy.rollout.loss_table` has the table of losses, and the scale
by which the judge cuts and bounds them.
"""

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from understudy.domain import Attempt, Label, Mode, Outcome, Scalar, Variant
from understudy.rollout.loss_table import LOSSES, LossScale, Needs

LOG_FLOOR = 1e-15
"""Probabilities are kept this far from 0, so that one certain mistake costs 34.5 and not infinity."""
DELAY_BUCKETS = (1, 10, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 57600, 86400, 172800, 259200, 604800, 2592000)
"""Upper edges, in seconds, of the label delay's histogram; the last bucket is open."""
CLASSES_MAX = 20
"""Classes beyond this many share the metric label "other"."""

CLASSES_TOLD = 10
"""Classes beyond this many are not listed in a sentence."""

MULTILABEL = "multilabel-classification"
Classes = Sequence[int | str]


class Answering(Protocol):
    """What is asked of a model's card to know its losses: see `understudy.inference.cards.Card`."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def classes(self) -> Classes:
        """Class names in the order of the probabilities; empty where nothing names them."""
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
    """Why a loss can never be computed for a model's answers, and what to write instead; None where it can.

    Args:
        loss: a name in `LOSSES`.
    """
    spec = LOSSES[loss]
    lacking = _lacking(spec.needs, card)
    if lacking is not None:
        return f"`{loss}` needs {lacking}, and {card.name} has no output that is one: {_instead(card)}"
    itself = (
        spec.needs == "class" and "label" in card.roles and card.task != MULTILABEL
    )  # the predicted class names itself
    if spec.needs in {"class", "classes", "probabilities"} and not card.classes and not itself:
        return (
            f"`{loss}` needs to know which class each probability of {card.name} belongs to, and nothing names them: "
            "write `classes: [..]` into the rollout file, in the order of the probabilities"
        )
    return None


def _lacking(needs: Needs, card: Answering) -> str | None:
    """What a loss needs and a model's answers do not hold, in words."""
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
    """The classes that a label may be: those of both models, since the truth may be one that only one of them knows.

    Empty where the primary names none, so that nothing is known of labels.
    """
    return list(dict.fromkeys([*primary, *(candidate or ())])) if primary else []


def class_differences(primary: Answering, candidate: Answering) -> list[str]:
    """What differs between the classes of two models, in sentences; nothing where one of them names none."""
    if not primary.classes or not candidate.classes:
        return []
    found = []
    for one, other in ((primary, candidate), (candidate, primary)):
        only = [name for name in one.classes if name not in other.classes]
        if only:
            what = ", ".join(map(str, only[:CLASSES_TOLD])) + (", …" if len(only) > CLASSES_TOLD else "")
            found.append(
                f"{other.name} does not know {len(only)} of the classes of {one.name} ({what}): on such rows it is always wrong, "
                "with the probability 0 for the truth"
            )
    return found


def losses(answer: Attempt, label: Label, classes: Classes = (), positive: int | str | None = None) -> dict[str, float]:
    """The raw losses of one answered row; empty when there is nothing to score (no answer, or a label of another kind).

    Classification: `zero_one`, and with probabilities `brier` and `log_loss` (natural logarithm). Binary Brier is
    (p − y)², as scikit-learn has it; for more classes it is half the squared distance (Brier 1950 has the whole), so
    that both lie in [0, 1]. A label that is none of the model's classes has the probability 0 that the model gave it: the
    Brier loss is (1 + Σp²) / 2 and the log-loss its largest.

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
    """The raw losses of one answered row for each label that may come, in one pass; None for answers without probabilities.

    As `losses` for each of them, which takes the square of the number of classes.

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
    """The losses of a multilabel classifier's answer: each class is true or false by itself."""
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
    """For each class what a multilabel answer costs there: if the class turns out false, and if it turns out true.

    `hamming`, `brier` and `log_loss` are the means of these; None where the answer does not hold what the loss needs.
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
    """How far an answered number, or vector of numbers, is from the truth: means over its numbers, in label units."""

    mean: float
    mean_square: float


def errors_of(answer: Attempt, label: Label) -> Errors | None:
    """How far an answer is from the truth; None for a label or an answer that is no number, or vectors of other lengths.

    >>> from understudy.domain import Status
    >>> errors_of(Attempt(Status.OK, vector=(1.0, 2.0)), (1.0, 4.0))
    Errors(mean=1.0, mean_square=2.0)
    """
    if answer.label is not None:
        return None
    if answer.vector is None:
        if answer.score is None or isinstance(label, str | tuple):
            return None
        error = abs(answer.score - float(label))
        return Errors(error, error * error)
    if not isinstance(label, tuple) or len(label) != len(answer.vector):
        return None
    errors = [abs(said - float(truth)) for said, truth in zip(answer.vector, label, strict=True)]
    return Errors(sum(errors) / len(errors), sum(error * error for error in errors) / len(errors))


def distance(one: Attempt, other: Attempt, power: int = 1) -> float | None:
    """How far two answers are from each other, in label units; None where one of them is no number.

    Of vectors: the mean over the numbers, or for a loss of the second power the root of the mean square. By the triangle
    inequality no label makes the two errors differ by more.
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
    """The value of a pair under `win_rate`: 1 where the candidate is farther from the truth, −1 where it is nearer, 0 for a tie.

    Of vectors the one with the smaller Euclidean distance is nearer. An attempt that gave no answer loses against one that did.
    None where an answer or the label is no number.

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
    # A single number by its error: the square of a small one may be 0.
    near, far = (ours.mean, theirs.mean) if primary.vector is None else (ours.mean_square, theirs.mean_square)
    return float(far > near) - float(far < near)


def tally(
    outcome: Outcome,
    classes: Mapping[Variant, Classes],
    positive: Mapping[Variant, int | str | None],
    scale: LossScale | None = None,
) -> dict[str, float]:
    """The store's counters that one labelled observation adds to, by name.

    `labels/matched`, `label_delay/<bucket>`, and per variant that answered: `outcome/<variant>/<predicted>/<actual>`,
    `loss_sum/<variant>/<loss>`, `loss_count/<variant>/<loss>`. Pinned requests are no evidence and count as labels only, those
    of load tests not even as that.
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
    """For each variant that answered: its predicted class, the actual one, and its raw losses.

    A regression, and a set of classes, have no predicted class (None).

    Args:
        scale: the goal's. Its loss is cut as the judge cuts it, so that a mean has one meaning wherever it is shown.
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
    """A class as a metric label: its own name for the first classes, else "other", so that the set stays small."""
    return str(label) if label in classes[:CLASSES_MAX] else "other"
