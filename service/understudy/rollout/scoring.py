"""The value of one row for the quality goal, or its worst and best case. Pure.

Paired (the default): the difference of both models' losses on the same row. Served: the loss of the variant that was drawn to
answer, for labels that the answer itself influences (`quality.evidence: served`). Audited: if labels go missing selectively, only
a sample of pairs counts. It is drawn by the prediction's id, each pair has the inverse of its chance as weight (Horvitz &
Thompson, JASA 1952), and every one of them must get its label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from understudy.domain import SHARE_ONE, Attempt, Label, LabelReport, Mode, Observation, Status, Variant
from understudy.rollout import losses, routing
from understudy.rollout.loss_table import LOSSES, LossScale
from understudy.rollout.policy import MULTILABEL, Policy

TRIED = frozenset({Status.OK, Status.FAILED, Status.TIMEOUT, Status.INVALID, Status.WITHHELD})
OWED = TRIED | {Status.DOWN}
"""The variant should have answered, whether or not its process was available."""
NO_LOSS = "no_loss"
"""A label came in time, but the goal's loss cannot be computed from it: it is of another kind."""
PAIR, DROPPED, AWAY = "pair", "dropped", "away"
"""Kinds of rows for the quality goal: a pair; a row whose rehearsal was dropped, so that one answer is unknown; or a row that was
routed to the candidate while it was unavailable. The last is no evidence about quality, but shows whether its label comes."""
_AUDIT_SEED = 0xA0D1_7A0D_17A0_D17A  # the audit's draw is independent of the router's and of the rehearsals'


@dataclass(frozen=True, slots=True)
class Model:
    """The part of a model's card that scoring needs."""

    classes: Sequence[int | str]
    positive: int | str | None


@dataclass(frozen=True, slots=True)
class Pair:
    """One row's value for the quality goal.

    Attributes:
        known: the value; None while it needs a label that has not come.
        worst: the worst case for the candidate; equal to `known` if that is known.
        best: the best case, likewise.
        labelled: whether a label came in time.
        asked: whether a label is needed (with an audit: whether the row is in the sample).
        lost: why a label that came cannot be used (`NO_LOSS`), or None. Then the row waits no longer and counts as the worst case.
        clipped: the variants whose loss was cut at the goal's `clip`.
        kind: `PAIR`, `DROPPED` or `AWAY`.
    """

    known: float | None
    worst: float
    best: float
    labelled: bool = False
    asked: bool = True
    lost: str | None = None
    clipped: frozenset[Variant] = frozenset()
    kind: str = PAIR

    @property
    def waits(self) -> bool:
        """Whether a label that has not come may still change the value."""
        return self.known is None and self.lost is None


def counts(observation: Observation) -> bool:
    """Whether a row may be evidence: it is live, and the first row of its request. Further rows are not independent of it."""
    return observation.mode is Mode.LIVE and observation.prediction_id == observation.request_id


def is_pair(observation: Observation, tried: frozenset[Status] = TRIED) -> bool:
    """Whether a row counts, both models were asked, and the draw for rehearsals chose its request.

    A fallback always has both attempts. Without this condition, failures would become pairs more often than good answers.
    """
    if not (observation.sampled and counts(observation)):
        return False
    primary, candidate = observation.primary.status, observation.candidate.status
    if primary is candidate is Status.OK:
        return True  # the most frequent case; this runs several times per row
    return candidate in tried and primary in TRIED and unknown(observation) is None


def unknown(observation: Observation) -> Variant | None:
    """The variant whose answer to a drawn request is unknown for a reason that is not the candidate's fault, or None.

    Either its rehearsal was dropped because too many waited. Or it was a rehearsal of the primary that came too late: the caller
    had the candidate's answer, so this does not count as a failure of the primary.
    """
    primary, candidate = observation.primary.status, observation.candidate.status
    if primary is candidate is Status.OK or not counts(observation) or not observation.sampled:
        return None
    if candidate is Status.DROPPED and primary in TRIED:
        return Variant.CANDIDATE
    late = primary is Status.TIMEOUT and observation.variant is Variant.CANDIDATE
    return Variant.PRIMARY if candidate in TRIED and (late or primary is Status.DROPPED) else None


class Scorer:
    """Scores rows under one policy, in the unit of the statistics: losses in [0, 1], see `LossScale`."""

    def __init__(self, policy: Policy, models: Mapping[Variant, Model]) -> None:
        self._policy, self._models, self._quality = policy, models, policy.goals.quality
        self._audit = policy.labels.audit
        self._served = self._quality is not None and self._quality.evidence == "served"
        self._scale = self._quality.scale if self._quality is not None else LossScale(LOSSES["zero_one"])
        # A label may be any class of either model. A model gives the probability 0 to a class that it does not have.
        self._classes = tuple(dict.fromkeys(name for model in models.values() for name in model.classes))
        self._at = {v: {name: i for i, name in enumerate(model.classes)} for v, model in models.items()}

    def pair(self, observation: Observation, report: LabelReport | None) -> Pair | None:
        """The row's value; None if the row is no evidence about quality, since not both models were asked."""
        if self._quality is None or not self._scale.loss.labelled:
            return self._of_answers(observation) if self._quality is not None else None
        label = report.label if report is not None and self.in_time(observation, report) else None
        if self._served:
            return self._of_served(observation, label)
        if (whose := unknown(observation)) is not None:
            return self._half(observation, whose, label)
        if not is_pair(observation):
            return self._away(observation, label) if observation.sampled else None
        if label is None:
            return self._weighed(observation, None, *self._bounds(observation))
        return self._labelled(observation, label)

    def _half(self, observation: Observation, whose: Variant, label: Label | None) -> Pair:
        """A pair with one unknown answer, whose loss may be anything from 0 to the largest."""
        known, classes = whose.other, (label,) if label is not None else self._classes
        attempt = observation.attempt(known)
        possible = [loss for each in classes if (loss := self.loss(attempt, known, each)) is not None] or [0.0, 1.0]
        worst, best = 1.0 - min(possible), 0.0 - max(possible)
        if whose is Variant.PRIMARY:
            worst, best = -best, -worst
        pair = self._weighed(observation, None, worst, best) if self._scale.loss.of_one else Pair(None, 1.0, -1.0)
        return replace(pair, kind=DROPPED, lost=None if label is None else DROPPED)

    def _away(self, observation: Observation, label: Label | None) -> Pair | None:
        """A row that was routed to the candidate while it was unavailable. It waits for its label like the primary's rows."""
        drawn = observation.point is not None and observation.candidate.status is Status.DOWN
        if not drawn or not counts(observation) or not self.sampled(observation.prediction_id):
            return None
        return Pair(None, 0.0, 0.0, kind=AWAY, lost=None if label is None else AWAY)

    @staticmethod
    def _of_answers(observation: Observation) -> Pair | None:
        """Whether the two answers differ; None if the primary gave none. Needs no label, even if an answer is unknown."""
        if unknown(observation) is not None:
            return Pair(None, 1.0, 0.0, asked=False, kind=DROPPED, lost=DROPPED)
        if not is_pair(observation) or not observation.primary.given:
            return None
        value = 0.0 if observation.agrees else 1.0  # a candidate without an answer differs
        return Pair(value, value, value, asked=False)

    def _labelled(self, observation: Observation, label: Label) -> Pair:
        known = self._difference(observation, label)
        if known is None:
            pair = self._weighed(observation, None, *self._bounds(observation))
            return pair if pair.known is not None else replace(pair, lost=NO_LOSS)
        if self._audit is None:
            pair = Pair(known, known, known, labelled=True)
        else:
            pair = self._weighed(observation, known, *self._bounds(observation))
        if self._scale.clip is None:
            return pair
        return replace(
            pair, clipped=frozenset(v for v in Variant if self._is_clipped(observation.attempt(v), v, label))
        )

    def in_time(self, observation: Observation, report: LabelReport) -> bool:
        """Whether a label came before the wait was over. A label without its own time counts as in time."""
        return not report.timed or report.at - observation.at <= self._policy.labels.wait

    def loss(self, attempt: Attempt, variant: Variant, label: Label) -> float | None:
        """The loss of one attempt, in [0, 1]; 1 if it gave no answer.

        None for a label of another kind, and for a loss that compares two answers.
        """
        if not self._scale.loss.of_one:
            return None
        if not attempt.given:
            return 1.0
        raw = self._raw(attempt, variant, label)
        return None if raw is None else self._scale.bounded(raw)

    def says_positive(self, observation: Observation, variant: Variant) -> bool:
        """Whether a variant predicts the positive class; False without a positive class or without an answer."""
        positive = self._models[Variant.PRIMARY].positive
        return positive is not None and observation.attempt(variant).label == positive

    def sampled(self, prediction_id: str) -> bool:
        """Whether the audit needs this prediction's label; always True without an audit."""
        return self._audit is None or routing.below(routing.bucket(prediction_id, _AUDIT_SEED), self._audit)

    def _raw(self, answer: Attempt, variant: Variant, label: Label) -> float | None:
        model = self._models[variant]
        return losses.losses(answer, label, model.classes, model.positive).get(self._scale.loss.name)

    def _is_clipped(self, answer: Attempt, variant: Variant, label: Label) -> bool:
        classes = self._models[variant].classes
        if classes and label not in classes:
            return False  # a class that it does not have has the largest loss for any clip
        raw = self._raw(answer, variant, label)
        return raw is not None and self._scale.clipped(raw)

    def _weighed(self, observation: Observation, known: float | None, worst: float, best: float) -> Pair:
        if self._audit is None:
            return Pair(known, worst, best)
        matters = worst > best  # a difference that no label can change needs no sampling
        if not self.sampled(observation.prediction_id):
            value = 0.0 if matters else worst
            return Pair(value, value, value, asked=False)
        weight = SHARE_ONE / self._audit if matters else 1.0
        if known is None:
            return Pair(None, worst * weight, best * weight)
        return Pair(known * weight, known * weight, known * weight, labelled=True)

    def _bounds(self, observation: Observation) -> tuple[float, float]:
        """The largest and the smallest value that any label could give this pair."""
        if self._scale.loss.needs == "value":
            return self._bounds_of_numbers(observation.primary, observation.candidate)
        if self._policy.task == MULTILABEL:
            return self._bounds_of_sets(observation.primary, observation.candidate)
        if self._scale.loss.name in {"brier", "log_loss"} and observation.primary.given and observation.candidate.given:
            ours, theirs = (self._over_classes(observation.attempt(variant), variant) for variant in Variant)
            if ours and theirs:
                apart = [c - p for c, p in zip(theirs, ours, strict=True)]
                return max(apart), min(apart)
        # Without class names, the two predictions stand for all labels: any other label is equally wrong for both.
        predicted = [
            answer.label for answer in (observation.primary, observation.candidate) if answer.label is not None
        ]
        values = [d for label in self._classes or predicted if (d := self._difference(observation, label)) is not None]
        return (max(values), min(values)) if values else (1.0, -1.0)

    def _over_classes(self, answer: Attempt, variant: Variant) -> list[float] | None:
        """The loss in [0, 1] for each possible label; None if each label has to be scored by itself."""
        raw = losses.over_classes(self._scale.loss.name, answer, self._at[variant], self._classes)
        return None if raw is None else [self._scale.bounded(loss) for loss in raw]

    def _bounds_of_numbers(self, primary: Attempt, candidate: Attempt) -> tuple[float, float]:
        failed = (not primary.given, not candidate.given)
        if all(failed):
            return 0.0, 0.0
        if any(failed):
            value = 1.0 if failed[1] else -1.0
            certain = not self._scale.loss.of_one  # a model without an answer loses, whatever the other one's error is
            return max(value, value if certain else 0.0), min(value, value if certain else 0.0)
        apart = losses.distance(primary, candidate, self._scale.loss.power)
        if apart is None or self._scale.loss.widest is None:
            return 1.0, -1.0
        most = self._scale.loss.widest(apart / (self._scale.clip or 1.0))
        return most, -most

    def _bounds_of_sets(self, primary: Attempt, candidate: Attempt) -> tuple[float, float]:
        """As `_bounds`, for labels that are any set of classes: each class may be true or false, whatever the others are."""
        failed = (not primary.given, not candidate.given)
        if any(failed):
            return (0.0, 0.0) if all(failed) else (1.0, 0.0) if failed[1] else (0.0, -1.0)
        if self._scale.loss.name == "zero_one":
            most = float(primary.label != candidate.label)
            return most, -most
        ours, theirs = (
            losses.by_class(self._scale.loss.name, answer, self._models[variant].classes)
            for variant, answer in ((Variant.PRIMARY, primary), (Variant.CANDIDATE, candidate))
        )
        if ours is None or theirs is None or ours.keys() != theirs.keys():
            return 1.0, -1.0
        apart = [[c - p for c, p in zip(theirs[name], ours[name], strict=True)] for name in ours]
        worst, best = (sum(map(pick, apart)) / len(apart) / self._scale.most for pick in (max, min))
        if self._scale.clip is None:
            return worst, best
        # Cutting both losses brings them no further apart, and turns none of them around.
        return min(max(worst, 0.0), 1.0), max(min(best, 0.0), -1.0)

    def _difference(self, observation: Observation, label: Label) -> float | None:
        if not self._scale.loss.of_one:
            return losses.nearer(observation.primary, observation.candidate, label)
        candidate = self.loss(observation.candidate, Variant.CANDIDATE, label)
        primary = self.loss(observation.primary, Variant.PRIMARY, label)
        return None if candidate is None or primary is None else candidate - primary

    def _of_served(self, observation: Observation, label: Label | None) -> Pair | None:
        drawn = observation.drawn
        answer = observation.attempt(drawn)
        if answer.status is Status.WITHHELD:
            answer = Attempt(Status.INVALID)  # what its caller did not get has influenced no label
        if not counts(observation) or observation.point is None or answer.status not in TRIED:
            return self._away(observation, label)
        loss = None if label is None else self.loss(answer, drawn, label)
        if loss is not None and label is not None:
            clipped = frozenset({drawn} if self._is_clipped(answer, drawn, label) else ())
            return Pair(loss, loss, loss, labelled=True, clipped=clipped)
        lost = None if label is None else NO_LOSS
        found = [loss for each in self._classes if (loss := self.loss(answer, drawn, each)) is not None]
        if not answer.given:
            found = [1.0]
        most, least = max(found, default=1.0), min(found, default=0.0)
        if drawn is Variant.CANDIDATE:
            return Pair(None, most, least, lost=lost)
        return Pair(None, least, most, lost=lost)


def largest_pair(policy: Policy) -> float:
    """The largest value of a pair: a sampled one carries the weight of its chance."""
    return 1.0 if policy.labels.audit is None else SHARE_ONE / policy.labels.audit
