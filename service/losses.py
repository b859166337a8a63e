"""What an answer cost, once the truth is known: one number per row, less is better. Pure.

The numbers here are in the raw unit of each loss, uncut. `service.loss_table` has the table of losses, and the scale by which the
judge cuts and bounds them.
"""

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from service.domain import Answer, Label, Mode, Outcome, Variant
from service.loss_table import LOSSES, LossScale

LOG_FLOOR = 1e-15
"""Probabilities are kept this far from 0, so that one certain mistake costs 34.5 and not infinity."""
DELAY_BUCKETS = (1, 10, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 57600, 86400, 172800, 259200, 604800, 2592000)
"""Upper edges, in seconds, of the label delay's histogram; the last bucket is open."""
CLASSES_MAX = 20
"""Classes beyond this many share the metric label "other"."""

CLASSES_TOLD = 10
"""Classes beyond this many are not listed in a sentence."""

Classes = Sequence[int | str]


class Answering(Protocol):
    """What is asked of a model's card to know its losses: see `service.engine.catalog.Card`."""

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


def computable(loss: str, card: Answering) -> str | None:
    """Why a loss can never be computed for a model's answers, and what to write instead; None where it can.

    Args:
        loss: a name in `LOSSES`.
    """
    spec, roles = LOSSES[loss], card.roles
    if spec.needs == "value":
        if "value" in roles:
            return None
        return f"`{loss}` needs a predicted number, and {card.name} has no output that is one: {_instead(card)}"
    if spec.needs == "class" and "label" in roles:
        return None
    if "probabilities" not in roles:
        what = "a predicted class" if spec.needs == "class" else "a probability for each class"
        return f"`{loss}` needs {what}, and {card.name} has no output that is one: {_instead(card)}"
    if not card.classes:
        return (
            f"`{loss}` needs to know which class each probability of {card.name} belongs to, and nothing names them: "
            "write `classes: [..]` into the rollout file, in the order of the probabilities"
        )
    return None


def _instead(card: Answering) -> str:
    if "value" in card.roles:
        return "for a regression write `win_rate`, or `absolute_error` with a `clip`"
    if "label" in card.roles:
        return "write `loss: zero_one`, which needs the predicted class alone"
    if any(role == "probabilities" for role in card.roles):
        return "write `brier`, `log_loss` or `zero_one`"
    return "write `classes: [..]` into the rollout file if an output holds probabilities, or leave `goals.quality` out"


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


def losses(answer: Answer, label: Label, classes: Classes = (), positive: int | str | None = None) -> dict[str, float]:
    """The raw losses of one answered row; empty when there is nothing to score (no answer, or a label of another kind).

    Classification: `zero_one`, and with probabilities `brier` and `log_loss` (natural logarithm). Binary Brier is
    (p − y)², as scikit-learn has it; for more classes it is half the squared distance (Brier 1950 has the whole), so
    that both lie in [0, 1]. A label that is none of the model's classes has the probability 0 that the model gave it: the
    Brier loss is (1 + Σp²) / 2 and the log-loss its largest. Regression: `absolute_error`, `squared_error`.

    >>> from service.domain import Status
    >>> losses(Answer(Status.OK, label=0, score=0.25), 1, [0, 1], 1)
    {'zero_one': 1.0, 'brier': 0.5625, 'log_loss': 1.3862943611198906}
    >>> losses(Answer(Status.OK, label=0, score=0.25), 7, [0, 1], 1)
    {'zero_one': 1.0, 'brier': 0.8125, 'log_loss': 34.538776394910684}
    """
    if not answer.given:
        return {}
    if answer.label is None:
        error = error_of(answer, label)
        return {} if error is None else {"absolute_error": error, "squared_error": error * error}
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
    found["log_loss"] = -math.log(min(max(right, LOG_FLOOR), 1.0))
    return found


def over_classes(loss: str, answer: Answer, at: Mapping[int | str, int], labels: Classes) -> list[float] | None:
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


def error_of(answer: Answer, label: Label) -> float | None:
    """How far an answered number is from the truth, in label units; None for a label or an answer that is no number."""
    if answer.score is None or answer.label is not None or isinstance(label, str | tuple):
        return None
    return abs(answer.score - float(label))


def distance(one: Answer, other: Answer) -> float | None:
    """How far two answered numbers are from each other, in label units; None where one of them is none."""
    return None if other.score is None else error_of(one, other.score)


def nearer(primary: Answer, candidate: Answer, label: Label) -> float | None:
    """The value of a pair under `win_rate`: 1 where the candidate is farther from the truth, −1 where it is nearer, 0 for a tie.

    An attempt that gave no answer loses against one that did. None where an answer or the label is no number.

    >>> from service.domain import Status
    >>> near, far = Answer(Status.OK, score=9.0), Answer(Status.OK, score=12.5)
    >>> nearer(near, far, 10.0), nearer(near, Answer(Status.TIMEOUT), 10.0), nearer(Answer(Status.FAILED), far, 10.0)
    (1.0, 1.0, -1.0)
    """
    failed = (not primary.given, not candidate.given)
    if any(failed):
        return float(failed[1]) - float(failed[0])
    ours, theirs = error_of(primary, label), error_of(candidate, label)
    if ours is None or theirs is None:
        return None
    return float(theirs > ours) - float(theirs < ours)


def tally(
    outcome: Outcome, classes: Mapping[Variant, Classes], positive: Mapping[Variant, int | str | None],
    scale: LossScale | None = None,
) -> dict[str, float]:  # fmt: skip
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
    outcome: Outcome, classes: Mapping[Variant, Classes], positive: Mapping[Variant, int | str | None],
    scale: LossScale | None = None,
) -> Iterator[tuple[Variant, str | None, str, dict[str, float]]]:  # fmt: skip
    """For each variant that answered: its predicted class (None for a regression), the actual one, and its raw losses.

    Args:
        scale: the goal's. Its loss is cut as the judge cuts it, so that a mean has one meaning wherever it is shown.
    """
    for variant in Variant:
        answer = outcome.observation.answer(variant)
        if answer.given:
            names = classes.get(variant, ())
            predicted = None if answer.label is None else _metric_label(answer.label, names)
            found = losses(answer, outcome.label, names, positive.get(variant))
            if scale is not None and scale.loss.name in found:
                found[scale.loss.name] = scale.cut(found[scale.loss.name])
            yield variant, predicted, _metric_label(outcome.label, names), found


def _metric_label(label: Label, classes: Classes) -> str:
    """A class as a metric label: its own name for the first classes, else "other", so that the set stays small."""
    return str(label) if label in classes[:CLASSES_MAX] else "other"
