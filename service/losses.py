"""What an answer cost, once the truth is known: one number per row, less is better. Pure.

Losses here are in their own units, as the model cards report them. The judge bounds them (`bounded`) since its
statistics need losses in [0, 1]: log-loss and errors are cut off at the policy's `clip` and divided by it.
"""

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence

from service.domain import Answer, Label, Mode, Outcome, Status, Variant

LOG_FLOOR = 1e-15
"""Probabilities are kept this far from 0, so that one certain mistake costs 34.5 and not infinity."""
DELAY_BUCKETS = (1, 10, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 57600, 86400, 172800, 259200, 604800, 2592000)
"""Upper edges, in seconds, of the label delay's histogram; the last bucket is open."""
CLASSES_MAX = 20
"""Classes beyond this many share the metric label "other"."""


def losses(
    answer: Answer, label: Label, classes: Sequence[int | str] = (), positive: int | str | None = None
) -> dict[str, float]:
    """The losses of one answered row; empty when there is nothing to score (no answer, or a label of another kind).

    Classification: `zero_one`, and with probabilities `brier` and `log_loss` (natural logarithm). Binary Brier is
    (p − y)², as scikit-learn has it; for more classes it is half the squared distance (Brier 1950 has the whole), so
    that both lie in [0, 1]. Regression: `absolute_error`, `squared_error`.

    >>> losses(Answer(Status.OK, label=0, score=0.25), 1, [0, 1], 1)
    {'zero_one': 1.0, 'brier': 0.5625, 'log_loss': 1.3862943611198906}
    """
    if answer.status is not Status.OK:
        return {}
    if answer.label is None:
        if answer.score is None or isinstance(label, str | tuple):
            return {}
        error = answer.score - float(label)
        return {"absolute_error": abs(error), "squared_error": error * error}
    found = {"zero_one": float(answer.label != label)}
    if answer.score is not None:
        truth = 1.0 if label == positive else 0.0
        right = answer.score if truth else 1.0 - answer.score
        found["brier"] = (answer.score - truth) ** 2
    elif answer.probabilities is not None and label in classes:
        at = classes.index(label)
        right = answer.probabilities[at]
        found["brier"] = sum((p - (i == at)) ** 2 for i, p in enumerate(answer.probabilities)) / 2
    else:
        return found
    found["log_loss"] = -math.log(min(max(right, LOG_FLOOR), 1.0))
    return found


def bounded(name: str, loss: float, clip: float) -> float:
    """A loss in [0, 1], as the statistics want it: Brier and 0/1 as they are, the others cut off at `clip`.

    >>> bounded("brier", 0.3, 5.0), bounded("log_loss", 2.0, 5.0), bounded("absolute_error", 9.0, 5.0)
    (0.3, 0.4, 1.0)
    """
    return loss if name in {"brier", "zero_one"} else min(loss, clip) / clip


def tally(
    outcome: Outcome, classes: Mapping[Variant, Sequence[int | str]], positive: Mapping[Variant, int | str | None]
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
    for variant, predicted, actual, found in scored(outcome, classes, positive):
        if predicted is not None:
            counts[f"outcome/{variant}/{predicted}/{actual}"] = 1.0
        for name, loss in found.items():
            counts[f"loss_sum/{variant}/{name}"] = loss
            counts[f"loss_count/{variant}/{name}"] = 1.0
    return counts


def scored(
    outcome: Outcome, classes: Mapping[Variant, Sequence[int | str]], positive: Mapping[Variant, int | str | None]
) -> Iterator[tuple[Variant, str | None, str, dict[str, float]]]:
    """For each variant that answered: its predicted class (None for a regression), the actual one, and its losses."""
    for variant in Variant:
        answer = outcome.observation.answer(variant)
        if answer.status is Status.OK:
            names = classes.get(variant, ())
            predicted = None if answer.label is None else _metric_label(answer.label, names)
            found = losses(answer, outcome.label, names, positive.get(variant))
            yield variant, predicted, _metric_label(outcome.label, names), found


def _metric_label(label: Label, classes: Sequence[int | str]) -> str:
    """A class as a metric label: its own name for the first classes, else "other", so that the set stays small."""
    return str(label) if label in classes[:CLASSES_MAX] else "other"
