"""Losses of models on each row of a sample, with the definition and the clip of the judge.

A row without an answer has the largest loss. Rows without a label have none, and are counted as problems of the data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from understudy.domain import Attempt, Label
from understudy.errors import ConfigurationError
from understudy.inference.cards import Card
from understudy.offline.evaluate.figures import Numbers
from understudy.rollout import losses
from understudy.rollout.goals import Quality
from understudy.rollout.loss_table import LOSSES
from understudy.rollout.reading import CLIPPED_MAX

BY_DEFAULT = ("brier", "absolute_error", "zero_one")
"""The loss without a goal: the first of these that all models have."""
WORST = {"brier": 1.0, "zero_one": 1.0, "log_loss": -math.log(losses.LOG_FLOOR)}
"""The loss of a row without an answer, if no goal defines it. Errors have no largest value, so such rows are left out."""
PROPOSED_QUANTILE = 0.995
"""A proposed `clip` is larger than this share of the errors of the worse model."""


@dataclass(slots=True)
class Judged:
    """One model on the sample.

    Attributes:
        answers: the attempt at each row.
        losses: loss → its value for each row, in raw units, NaN without a label. The goal's loss is cut at its `clip`.
        cut: number of rows whose loss was cut.
        errors: for a regression, shape [rows]: the absolute errors without a clip, NaN without an answer or a label.
    """

    name: str
    card: Card
    answers: list[Attempt]
    losses: dict[str, Numbers]
    cut: int = 0
    errors: Numbers = field(default_factory=lambda: np.array([]))

    @property
    def failed(self) -> int:
        """Rows without an answer."""
        return sum(not answer.given for answer in self.answers)


def judged(
    name: str, card: Card, answers: list[Attempt], labels: Sequence[Label | None], goal: Quality | None = None
) -> Judged:
    """A model's losses by row."""
    scale = goal.scale if goal is not None else None
    found: dict[str, Numbers] = {}
    unanswered = []
    for i, (answer, label) in enumerate(zip(answers, labels, strict=True)):
        if label is None:
            continue
        if not answer.given:
            unanswered.append(i)
            continue
        for loss, value in losses.losses(answer, label, card.classes, card.positive).items():
            if loss not in found:
                found[loss] = np.full(len(answers), np.nan)
            found[loss][i] = value
    made = Judged(name, card, answers, found, errors=found.get("absolute_error", np.array([])).copy())
    for loss, values in found.items():
        most = WORST.get(loss, math.nan)
        if scale is not None and loss == scale.loss.name:
            most = scale.most
            # A class that the model does not have has the largest loss in any case.
            known = set(card.classes)
            beyond = np.flatnonzero(values > most).tolist()
            made.cut = sum(not known or labels[i] in known for i in beyond)
            np.minimum(values, most, out=values)  # NaN stays
        values[unanswered] = most
    return made


def chosen(models: Sequence[Judged], goal: Quality | None) -> str:
    """The loss by which models are compared.

    Raises:
        ConfigurationError: as `judge.evaluate`.
    """
    if goal is not None:
        for model in models:
            if why := losses.computable(goal.loss, model.card):
                raise ConfigurationError(f"goals.quality: {why}")
        return goal.loss
    for loss in BY_DEFAULT:
        if all(loss in model.losses for model in models):
            return loss
    has = "; ".join(f"{model.name} has {', '.join(model.losses) or 'none'}" for model in models)
    raise ConfigurationError(f"these models have no loss in common: {has}")


def differences(primary: Judged, candidate: Judged, labels: Sequence[Label | None], loss: str) -> Numbers:
    """The value of each row's pair, shape [rows], NaN without a label. Above 0 the candidate is worse."""
    if LOSSES[loss].of_one:
        return candidate.losses[loss] - primary.losses[loss]
    rows = zip(primary.answers, candidate.answers, labels, strict=True)
    values = [None if label is None else losses.nearer(one, other, label) for one, other, label in rows]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def notes(models: Sequence[Judged], goal: Quality | None) -> list[str]:
    """Notes on how the loss was measured: where it was cut, and a proposal for `clip`."""
    lines = []
    if goal is not None and goal.scale.clip is not None:
        scale = goal.scale
        shares = [(model, model.cut / max(1, _labelled(model, goal.loss))) for model in models]
        cut = ", ".join(f"{model.name} {share:.1%}" for model, share in shares)
        lines.append(f"{scale.loss.words} is cut at {scale.most:,.10g}, as in the rollout ({cut} of the rows)")
        if any(share > CLIPPED_MAX for _, share in shares):
            lines.append(
                f"the rollout does not advance while more than {CLIPPED_MAX:.0%} of the rows are cut: raise `clip`"
            )
    if any(model.failed for model in models):
        bounded = goal is not None or chosen(models, None) in WORST
        how = (
            "counts as the largest loss"
            if bounded
            else "has no error and is left out: name a goal with a `clip` to count it"
        )
        lines.append(f"a row without an answer {how}")
    if clip := proposed_clip(models):
        lines.append(
            f"a `clip` for `absolute_error` or `squared_error` could be {clip:.10g}: of each model's errors here at least "
            f"{PROPOSED_QUANTILE:.1%} are smaller. Take a smaller one if you do not distinguish larger errors"
        )
    return lines


def proposed_clip(models: Sequence[Judged]) -> float | None:
    """A `clip` in label units, from the errors of the worse model, rounded up to two digits; None without errors.

    >>> round_up(53_214.0), round_up(0.0312)
    (54000.0, 0.032)
    """
    largest = [
        float(np.quantile(known, PROPOSED_QUANTILE))
        for model in models
        if (known := model.errors[~np.isnan(model.errors)]).size
    ]
    return round_up(max(largest)) if largest and max(largest) > 0 else None


def round_up(value: float) -> float:
    """A number rounded up to two significant digits."""
    digits = 1 - math.floor(math.log10(value))
    return float(f"{math.ceil(round(value * 10.0**digits, 9)) / 10.0**digits:.12g}")


def _labelled(model: Judged, loss: str) -> int:
    return int((~np.isnan(model.losses[loss])).sum()) if loss in model.losses else 0
