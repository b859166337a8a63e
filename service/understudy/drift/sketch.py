"""The counts of one hour of requests: one additive vector, stored as JSON.

::

    rows │ primary: answers with probabilities, Σ P(right), Σ expected Brier │ candidate: the same │ bins of the first watched
    feature, missing values last │ bins of the second │ …
"""

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from understudy.domain import Attempt, Label, Observation, Status, Variant
from understudy.drift.bins import Bins, Column, Counts, Values, bins_of
from understudy.inference.profile import CategoricalProfile, NumericProfile

PREDICTION = "(prediction)"
"""The feature name of a variant's own predictions."""
_HEAD = 1 + 3 * len(Variant)


class CountsDocument(TypedDict):
    """The stored form of counts. `layout` names the profiles that they belong to."""

    layout: str
    head: list[float]
    bins: list[float]


@dataclass(frozen=True, slots=True)
class Watched:
    """A feature, or the predictions, of one variant, with its profile.

    Attributes:
        rows: number of rows from which the profile was made.
    """

    variant: Variant
    feature: str
    profile: NumericProfile | CategoricalProfile
    rows: int
    bins: Bins

    @property
    def key(self) -> str:
        """A name that is unique in a rollout."""
        return f"{self.variant.value}/{self.feature}"


def watch(variant: Variant, feature: str, profile: NumericProfile | CategoricalProfile, rows: int) -> Watched:
    """A watched feature with its bins."""
    return Watched(variant, feature, profile, rows, bins_of(profile))


@dataclass(frozen=True, slots=True)
class Expected:
    """A variant's estimate of its own quality, from its probabilities. It is right only if they are calibrated.

    Attributes:
        rows: number of answers with probabilities.
        accuracy: mean P(most likely class).
        brier: mean expected Brier loss.
    """

    rows: int
    accuracy: float
    brier: float


class Layout:
    """The meaning of each number in the vector."""

    def __init__(self, watched: Sequence[Watched]) -> None:
        self.watched = tuple(watched)
        starts = np.cumsum([_HEAD, *(each.bins.size + 1 for each in watched)]).tolist()
        self._slices = [slice(a, b) for a, b in itertools.pairwise(starts)]
        self.size: int = starts[-1]
        profiles = ";".join(f"{each.key} {each.profile.model_dump_json()}" for each in watched)
        self.name = f"{zlib.crc32(profiles.encode()):08x}"

    def rows(self, counts: Counts) -> int:
        """The number of rows that were counted."""
        return round(float(counts[0]))

    def parts(self, counts: Counts) -> Iterator[tuple[Watched, Counts]]:
        """Each watched feature with its counts, missing values last."""
        return ((each, counts[where]) for each, where in zip(self.watched, self._slices, strict=True))

    def expected(self, counts: Counts, variant: Variant) -> Expected | None:
        """The estimate of a variant's quality without labels; None if it gave no probabilities."""
        start = 1 + 3 * list(Variant).index(variant)
        rows, right, brier = counts[start : start + 3].tolist()
        return Expected(round(rows), right / rows, brier / rows) if rows else None

    def count(self, columns: Mapping[str, Column], observations: Sequence[Observation], weight: float = 1.0) -> Counts:
        """The counts of rows of one hour.

        Args:
            columns: feature → its values.
            observations: the observation of each row.
            weight: the number of rows that each of them represents.
        """
        counts = np.zeros(self.size)
        counts[0] = len(observations)
        answers = {v: [a for o in observations if (a := o.attempt(v)).status is Status.OK] for v in Variant}
        for each, where in zip(self.watched, self._slices, strict=True):
            values: Values = columns.get(each.feature, ())
            if each.feature == PREDICTION:
                values = [_prediction(attempt) for attempt in answers[each.variant]]
            if len(values) > 0:
                counts[where] = np.bincount(each.bins.code(values), minlength=each.bins.size + 1)
        for i, attempts in enumerate(answers.values()):
            sums = [expectation for attempt in attempts if (expectation := expected(attempt)) is not None]
            if sums:
                counts[1 + 3 * i : 4 + 3 * i] = [len(sums), *map(sum, zip(*sums, strict=True))]
        return counts * weight

    def document(self, counts: Counts) -> CountsDocument:
        """The stored form."""
        bins = [int(n) if n.is_integer() else round(n, 3) for n in counts[_HEAD:].tolist()]
        return {"layout": self.name, "head": counts[:_HEAD].tolist(), "bins": bins}

    def counts(self, document: CountsDocument) -> Counts | None:
        """The counts in a stored document; None if it belongs to other profiles."""
        if document["layout"] != self.name:
            return None
        return np.array([*document["head"], *document["bins"]], dtype=np.float64)


def _prediction(attempt: Attempt) -> Label | None:
    """The prediction that is watched: the probability of the positive class, the value, or the class."""
    return attempt.label if attempt.score is None else attempt.score


def expected(answer: Attempt) -> tuple[float, float] | None:
    """What a calibrated classifier expects of its own answer: P(it is right), and its Brier loss.

    For p = P(positive) these are max(p, 1 − p) and p (1 − p); for several classes max p and (1 − Σ p²) / 2, since `losses`
    halves it. None for an answer without probabilities, and for a set of classes, which may be partly right.
    """
    if answer.label is None or isinstance(answer.label, tuple):
        return None
    if answer.score is not None:
        return max(answer.score, 1 - answer.score), answer.score * (1 - answer.score)
    if answer.probabilities is not None:
        return max(answer.probabilities), (1 - sum(p * p for p in answer.probabilities)) / 2
    return None
