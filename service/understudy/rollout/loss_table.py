"""The table of losses, and the scale between a loss in its raw unit and the [0, 1] that the statistics need. Pure.

A loss is measured in its raw unit: a squared probability, nats, the label's own unit. Everything that people read or write
(margins, estimates, bands, targets) is in raw units, cut at the goal's `clip`. Only `LossScale` converts.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

LOG_CLIP = 5.0
"""The default clip of log-loss, in nats: the loss of a row whose true class got the probability 0.7 %."""

DISAGREEMENT: Literal["disagreement"] = "disagreement"
"""The loss of a rollout that needs no labels: whether the two models' answers to a row differ."""

Needs = Literal["class", "classes", "probabilities", "value", "answer"]


@dataclass(frozen=True, slots=True)
class Loss:
    """One loss.

    Attributes:
        words: its name in a sentence.
        needs: what an answer must contain: the predicted class, the predicted set of classes, a probability per class, a number or
            a vector of numbers, or anything.
        unit: unit of its raw values: "" for a share or a squared probability, "nats", "label units", "label units²".
        clip: "none" if the loss has a largest value, "required" if only the user knows where to cut, or the default.
        power: the raw loss is the error to this power. `clip` is given for the error, so it cuts the loss at clip ** power.
        of_one: whether a single answer has this loss; `win_rate` and `disagreement` compare two answers.
        labelled: whether it needs a label; `disagreement` does not.
        widest: computes, from the distance of two answers (as a share of the clip), the largest difference of their bounded losses
            for any label. None if the labels can be listed.
    """

    name: str
    words: str
    needs: Needs
    unit: str = ""
    clip: Literal["none", "required"] | float = "none"
    power: int = 1
    of_one: bool = True
    labelled: bool = True
    widest: Callable[[float], float] | None = None


LOSSES: Mapping[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("zero_one", "share of wrong answers", "class"),
        Loss("hamming", "share of wrong classes", "classes"),
        Loss("brier", "Brier score", "probabilities"),
        Loss("log_loss", "log-loss", "probabilities", "nats", LOG_CLIP),
        Loss("absolute_error", "absolute error", "value", "label units", "required", widest=lambda d: min(d, 1.0)),
        Loss(
            "squared_error",
            "squared error",
            "value",
            "label units²",
            "required",
            2,
            widest=lambda d: 1.0 - (1.0 - min(d, 1.0)) ** 2,
        ),
        Loss("win_rate", "win rate", "value", of_one=False, widest=lambda d: float(d > 0.0)),
        Loss(DISAGREEMENT, "share of rows with another answer", "answer", of_one=False, labelled=False),
    )
}
"""All losses by name, those of answers without probabilities first."""


@dataclass(frozen=True, slots=True)
class LossScale:
    """Between a loss in its raw unit and the [0, 1] that the statistics need.

    Attributes:
        clip: larger errors, or log-losses, count as this much; None if the loss has a largest value by itself.

    >>> scale = LossScale(LOSSES["squared_error"], clip=20.0)
    >>> scale.most, scale.bounded(100.0), scale.bounded(90_000.0), scale.raw(0.25)
    (400.0, 0.25, 1.0, 100.0)
    """

    loss: Loss
    clip: float | None = None

    @property
    def most(self) -> float:
        """The largest raw loss that counts; the loss of a row without an answer."""
        return 1.0 if self.clip is None else self.clip**self.loss.power

    def clipped(self, raw: float) -> bool:
        """Whether a raw loss is cut."""
        return self.clip is not None and raw > self.most

    def cut(self, raw: float) -> float:
        """A raw loss as it is judged: at most `most`, also if a model's probabilities are invalid (a sum above 1)."""
        return min(raw, self.most)

    def bounded(self, raw: float) -> float:
        """A raw loss in [0, 1]."""
        return min(raw / self.most, 1.0)

    def raw(self, bounded: float) -> float:
        """Converts from [0, 1] to the raw unit; also for differences and means."""
        return bounded * self.most

    @property
    def digits(self) -> int:
        """Number of decimals in a sentence: a ten-thousandth of the largest loss, so four if that is 1."""
        return max(0, min(12, 4 - math.floor(math.log10(self.most))))

    @property
    def words(self) -> str:
        """Name of the loss in a sentence, with its clip.

        >>> LossScale(LOSSES["absolute_error"], 50_000.0).words
        'absolute error (clipped at 50,000)'
        """
        return self.loss.words if self.clip is None else f"{self.loss.words} (clipped at {self.most:,.10g})"
