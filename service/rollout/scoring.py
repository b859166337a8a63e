"""What one row says about quality: its value, or the worst and the best that it may still be. Pure.

Paired (the rule): the difference of both models' losses on the same row. Served: the loss of whoever was drawn to answer, for
labels that the answer itself influences (`quality.evidence: served`). Audited: where labels go missing selectively, a sample of
pairs that was drawn by the prediction's id alone carries the evidence, each with the weight of its chance
(Horvitz & Thompson, JASA 1952), and every one of them must get its label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service import losses, route
from service.domain import SHARE_ONE, Answer, Label, LabelReport, Mode, Observation, Status, Variant
from service.rollout.policy import Policy

TRIED = frozenset({Status.OK, Status.FAILED, Status.TIMEOUT, Status.INVALID})
OWED = TRIED | {Status.DOWN}
"""An answer was owed, whether or not the process was there to be asked."""
_AUDIT_SEED = 0xA0D1_7A0D_17A0_D17A  # the audit's draw is independent of the router's and of the rehearsals'


@dataclass(frozen=True, slots=True)
class Model:
    """What scoring needs of a model's card."""

    classes: Sequence[int | str]
    positive: int | str | None


@dataclass(frozen=True, slots=True)
class Pair:
    """One row's value for the quality goal.

    Attributes:
        known: the value; None while a label that it needs is not there.
        worst: the worst for the candidate that it may be, and `best` the best; both are `known` where that is known.
        labelled: whether a label came in time. asked: whether one is asked for (with an audit: in the sample).
    """

    known: float | None
    worst: float
    best: float
    labelled: bool = False
    asked: bool = True


def counts(observation: Observation) -> bool:
    """Whether a row may be evidence: live, and the first of its request; the others are not independent of it."""
    return observation.mode is Mode.LIVE and observation.prediction_id == observation.request_id


def is_pair(observation: Observation, tried: frozenset[Status] = TRIED) -> bool:
    """Whether both models had their chance at a row that counts, and the draw for rehearsals chose its request.

    A fallback has both attempts, whatever the draw said. Without the draw it would be a pair more often than a good answer.
    """
    return (
        counts(observation)
        and observation.sampled
        and observation.candidate.status in tried
        and observation.primary.status in TRIED
    )


class Scorer:
    """Scores rows under one policy."""

    def __init__(self, policy: Policy, models: Mapping[Variant, Model]) -> None:
        self._policy, self._models, self._quality = policy, models, policy.goals.quality
        self._audit = policy.labels.audit
        self._served = self._quality is not None and self._quality.evidence == "served"

    def pair(self, observation: Observation, report: LabelReport | None) -> Pair | None:
        """The row's value; None where it is no evidence about quality: not asked of both, or a label of another kind."""
        if self._quality is None:
            return None
        label = report.label if report is not None and self.in_time(observation, report) else None
        if self._served:
            return self._of_served(observation, label)
        if not is_pair(observation):
            return None
        if label is None:
            return self._weighed(observation, None, *self._bounds(observation))
        known = self._difference(observation, label)
        return None if known is None else self._weighed(observation, known, *self._bounds(observation))

    def in_time(self, observation: Observation, report: LabelReport) -> bool:
        """Whether a label came before the wait for it was over."""
        return report.at - observation.at <= self._policy.labels.wait

    def loss(self, answer: Answer, variant: Variant, label: Label) -> float | None:
        """The bounded loss of one answer; 1 for an attempt that gave none; None for a label of another kind."""
        assert self._quality is not None
        if answer.status is not Status.OK:
            return 1.0
        model = self._models[variant]
        found = losses.losses(answer, label, model.classes, model.positive).get(self._quality.loss)
        # At most 1, also where a model's probabilities are not: logits, or a sum that rounding put above 1.
        return None if found is None else min(1.0, losses.bounded(self._quality.loss, found, self._quality.clip))

    def says_positive(self, observation: Observation, variant: Variant) -> bool:
        """Whether a variant predicts the positive class."""
        return observation.answer(variant).label == self._models[Variant.PRIMARY].positive

    def sampled(self, prediction_id: str) -> bool:
        """Whether the audit asks for this prediction's label; always, where there is no audit."""
        return self._audit is None or route.below(route.bucket(prediction_id, _AUDIT_SEED), self._audit)

    def _weighed(self, observation: Observation, known: float | None, worst: float, best: float) -> Pair:
        if self._audit is None:
            return Pair(known, worst, best) if known is None else Pair(known, known, known, labelled=True)
        matters = worst > best  # a difference that no label could change needs no sample
        if not self.sampled(observation.prediction_id):
            value = 0.0 if matters else worst
            return Pair(value, value, value, asked=False)
        weight = SHARE_ONE / self._audit if matters else 1.0
        if known is None:
            return Pair(None, worst * weight, best * weight)
        return Pair(known * weight, known * weight, known * weight, labelled=True)

    def _bounds(self, observation: Observation) -> tuple[float, float]:
        classes = self._models[Variant.PRIMARY].classes
        values = [d for label in classes if (d := self._difference(observation, label)) is not None]
        return (max(values), min(values)) if values else (1.0, -1.0)

    def _difference(self, observation: Observation, label: Label) -> float | None:
        candidate = self.loss(observation.candidate, Variant.CANDIDATE, label)
        primary = self.loss(observation.primary, Variant.PRIMARY, label)
        return None if candidate is None or primary is None else candidate - primary

    def _of_served(self, observation: Observation, label: Label | None) -> Pair | None:
        drawn = observation.drawn
        answer = observation.answer(drawn)
        if not counts(observation) or observation.point is None or answer.status not in TRIED:
            return None
        if label is not None:
            loss = self.loss(answer, drawn, label)
            return None if loss is None else Pair(loss, loss, loss, labelled=True)
        classes = self._models[drawn].classes
        found = [loss for each in classes if (loss := self.loss(answer, drawn, each)) is not None] or [0.0, 1.0]
        most, least = max(found), min(found)
        return Pair(None, most, least) if drawn is Variant.CANDIDATE else Pair(None, least, most)
