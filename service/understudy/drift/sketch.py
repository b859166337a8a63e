"""What is counted of the requests of one hour, by one process or added up over several: one vector, additive, JSON-able.

::

    rows │ primary: answers with probabilities, Σ P(right), Σ expected Brier │ candidate: the same │ bins of the first
    thing that is watched, its missing values last │ bins of the second │ …
"""

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.domain import Attempt, Observation, Status, Variant
from understudy.drift.bins import Bins, Counts, bins_of
from understudy.inference.profile import CategoricalProfile, NumericProfile

PREDICTION = "(prediction)"
"""The feature name under which a variant's own answers are watched."""
_HEAD = 1 + 3 * len(Variant)


@dataclass(frozen=True, slots=True)
class Watched:
    """One thing that is watched: a feature, or the predictions, beside one variant's profile of it.

    Attributes:
        rows: how many rows the profile was made from.
    """

    variant: Variant
    feature: str
    profile: NumericProfile | CategoricalProfile
    rows: int
    bins: Bins

    @property
    def key(self) -> str:
        """Its name, unique in a rollout."""
        return f"{self.variant.value}/{self.feature}"


def watch(variant: Variant, feature: str, profile: NumericProfile | CategoricalProfile, rows: int) -> Watched:
    """What is watched, with its bins."""
    return Watched(variant, feature, profile, rows, bins_of(profile))


@dataclass(frozen=True, slots=True)
class Expected:
    """What a variant's own probabilities say of its answers: exact only if they are calibrated, which nobody has checked.

    Attributes:
        rows: answers with probabilities.
        accuracy: mean P(the likeliest class).
        brier: mean expected Brier loss.
    """

    rows: int
    accuracy: float
    brier: float


class Layout:
    """Which number of the vector is what."""

    def __init__(self, watched: Sequence[Watched]) -> None:
        self.watched = tuple(watched)
        starts = np.cumsum([_HEAD, *(each.bins.size + 1 for each in watched)]).tolist()
        self._slices = [slice(a, b) for a, b in itertools.pairwise(starts)]
        self.size: int = starts[-1]
        profiles = ";".join(f"{each.key} {each.profile.model_dump_json()}" for each in watched)
        self.name = f"{zlib.crc32(profiles.encode()):08x}"

    def rows(self, counts: Counts) -> int:
        """How many rows were counted."""
        return round(float(counts[0]))

    def parts(self, counts: Counts) -> Iterator[tuple[Watched, Counts]]:
        """Each thing that is watched with its bins, the missing values last."""
        return ((each, counts[where]) for each, where in zip(self.watched, self._slices, strict=True))

    def expected(self, counts: Counts, variant: Variant) -> Expected | None:
        """The label-free estimate of a variant's quality; None where it gave no probabilities."""
        start = 1 + 3 * list(Variant).index(variant)
        rows, right, brier = counts[start : start + 3].tolist()
        return Expected(round(rows), right / rows, brier / rows) if rows else None

    def count(
        self, columns: Mapping[str, npt.NDArray[Any]], observations: Sequence[Observation], weight: float = 1.0
    ) -> Counts:
        """The counts of some rows of one hour.

        Args:
            columns: by feature, each of shape [rows]: float32, NaN where missing, or strings, "" where missing.
            observations: what became of the rows, one for each.
            weight: how many rows each of these stands for.
        """
        counts = np.zeros(self.size)
        counts[0] = len(observations)
        answers = {v: [a for o in observations if (a := o.attempt(v)).status is Status.OK] for v in Variant}
        for each, where in zip(self.watched, self._slices, strict=True):
            said = each.feature == PREDICTION
            values = [_said(a) for a in answers[each.variant]] if said else columns[each.feature]
            if len(values):
                counts[where] = np.bincount(each.bins.code(values), minlength=each.bins.size + 1)
        for i, given in enumerate(answers.values()):
            sums = [expectation for answer in given if (expectation := expected(answer)) is not None]
            if sums:
                counts[1 + 3 * i : 4 + 3 * i] = [len(sums), *map(sum, zip(*sums, strict=True))]
        return counts * weight

    def document(self, counts: Counts) -> dict[str, Any]:
        """JSON-able form."""
        bins = [int(n) if n.is_integer() else round(n, 3) for n in counts[_HEAD:].tolist()]
        return {"layout": self.name, "head": counts[:_HEAD].tolist(), "bins": bins}

    def counts(self, document: Mapping[str, Any]) -> Counts | None:
        """The counts in a document; None where it was counted beside other profiles."""
        if document["layout"] != self.name:
            return None
        return np.array([*document["head"], *document["bins"]], dtype=np.float64)


def _said(answer: Attempt) -> Any:
    """What of an answer is watched: the probability of the positive class, the value, or the class."""
    return answer.label if answer.score is None else answer.score


def expected(answer: Attempt) -> tuple[float, float] | None:
    """What a calibrated classifier says of its own answer: P(it is right), and the Brier loss that it expects.

    For p = P(positive) these are max(p, 1 − p) and p (1 − p); for several classes max p and (1 − Σ p²) / 2, as `losses`
    halves it. None for an answer without probabilities, and for a set of classes, which is right in parts.
    """
    if answer.label is None or isinstance(answer.label, tuple):
        return None
    if answer.score is not None:
        return max(answer.score, 1 - answer.score), answer.score * (1 - answer.score)
    if answer.probabilities is not None:
        return max(answer.probabilities), (1 - sum(p * p for p in answer.probabilities)) / 2
    return None
