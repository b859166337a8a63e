"""Compares both models' answers to the same rows, a batch at a time: from `Scores` to the arrays of `rollout.comparison`."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np

from understudy.domain import Label, Status, Variant
from understudy.errors import ConfigurationError
from understudy.inference import OutputReader, Scores, Value
from understudy.inference.cards import Card
from understudy.rollout import comparison
from understudy.rollout.comparison import PROBABILITIES, ComparisonSums
from understudy.rollout.loss_table import DISAGREEMENT
from understudy.rollout.policy import Policy, Tolerance
from understudy.runtime.fairness import yield_cpu, yielding

COMPARED = "compare/"
"""Prefix of the names of `ComparisonSums.sums` among the store's counters."""
VALUE = "value"
"""Name of a regression's output here, whatever its name in the graph."""
EXACT = Tolerance(atol=0.0, rtol=0.0)


class Attempted(Protocol):
    """The part of an attempt that is compared."""

    @property
    def status(self) -> Status:
        """The outcome."""
        ...

    @property
    def scores(self) -> Scores | None:
        """The answers, or None."""
        ...


class Answered(Protocol):
    """The part of an exchange that is compared."""

    @property
    def primary(self) -> Attempted:
        """The primary's attempt."""
        ...

    @property
    def candidate(self) -> Attempted:
        """The candidate's attempt."""
        ...


class Pairs:
    """Compares two models' scores.

    Args:
        readers: read each variant's scores.
        tolerances: by output; an output that is not named has `Tolerance()`.
        floor: the noise floor by output: smaller differences count as equal. See `comparison.floor_of`.
        judged: whether the rollout is judged by agreement. Then each row records whether the two answers are equal.
    """

    def __init__(
        self,
        readers: Mapping[Variant, OutputReader],
        tolerances: Mapping[str, Tolerance],
        floor: Mapping[str, float],
        *,
        judged: bool = False,
    ) -> None:
        self._judged = judged
        sides = [readers.get(variant) for variant in Variant]
        self._multilabel = any(side.multilabel for side in sides if side)
        classes = [list(side.classes) if side else [] for side in sides]
        self._aligned = comparison.aligned(*classes) if all(classes) else None
        self._classes: list[Label] = list(dict.fromkeys(chain(*classes)))
        self._tolerances, self._floor = tolerances, floor

    def counts(self, batch: Sequence[Answered]) -> dict[str, float]:
        """The increments of the store's counters for the rows that both models answered; names as in `ComparisonSums.sums`."""
        both = {
            i: scores
            for i, scores in _both(batch).items()
            if batch[i].primary.status is batch[i].candidate.status is Status.OK
        }
        if not both:
            return {}
        primary, candidate = (joined(scores) for scores in zip(*both.values(), strict=True))
        yield_cpu()
        return {COMPARED + name: value for name, value in self.compare(primary, candidate).sums.items()}

    def agreement(self, batch: Sequence[Answered]) -> Mapping[int, Sequence[bool]]:
        """Which rows have equal answers, for each exchange that both models answered, by its position in the batch.

        Empty if the rollout is not judged by agreement.
        """
        both = _both(batch) if self._judged else {}
        if not both:
            return {}
        primary, candidate = (joined(scores) for scores in zip(*both.values(), strict=True))
        yield_cpu()
        equal, start = self.equal(primary, candidate).tolist(), 0
        found: dict[int, Sequence[bool]] = {}
        for place, (scores, _) in both.items():
            found[place] = equal[start : start + scores.rows]
            start += scores.rows
        return found

    def equal(self, primary: Scores, candidate: Scores) -> Any:
        """Which rows have equal answers: the same label, and every number of every common output within its tolerance.

        Another label counts as the same where the probabilities differ by no more than the noise floor.

        Returns:
            Shape [rows], bool.
        """
        found = np.ones(primary.rows, bool)
        labels = None
        if primary.labels is not None and candidate.labels is not None:
            labels = np.array([a == b for a, b in zip(primary.labels, candidate.labels, strict=True)], bool)
        if primary.probabilities is not None and candidate.probabilities is not None:
            a, b = self._side_by_side(primary.probabilities, candidate.probabilities)
            found &= comparison.close(
                a, b, self._tolerances.get(PROBABILITIES, Tolerance()), self._floor.get(PROBABILITIES, 0.0)
            )
            if labels is not None:
                labels |= comparison.close(a, b, EXACT, self._floor.get(PROBABILITIES, 0.0))
        if labels is not None:
            found &= labels
        if primary.values is not None and candidate.values is not None:
            found &= self._close(VALUE, primary.values, candidate.values)
        others = candidate.others or {}
        for name, values in (primary.others or {}).items():
            if name in others:
                found &= self._close(name, values, others[name])
        return found

    def compare(self, primary: Scores, candidate: Scores) -> ComparisonSums:
        """Compare every output that both models have."""
        found = ComparisonSums({"rows": float(primary.rows)})
        equal = None
        if primary.probabilities is not None and candidate.probabilities is not None:
            summary, equal = self._probabilities(primary.probabilities, candidate.probabilities)
            found.merge(summary)
            yield_cpu()
        if primary.labels is not None and candidate.labels is not None:
            found.merge(comparison.labels(primary.labels, candidate.labels, self._classes, equal))
        if primary.values is not None and candidate.values is not None:
            found.merge(self._tensor(VALUE, primary.values, candidate.values))
        others = candidate.others or {}
        for name, values in (primary.others or {}).items():
            if name in others:
                found.merge(self._tensor(name, values, others[name]))
        return found

    def _close(self, name: str, primary: Any, candidate: Any) -> Any:
        return comparison.close(primary, candidate, self._tolerances.get(name, Tolerance()), self._floor.get(name, 0.0))

    def _tensor(self, name: str, primary: Any, candidate: Any) -> ComparisonSums:
        return comparison.tensors(
            name, primary, candidate, self._tolerances.get(name, Tolerance()), self._floor.get(name, 0.0)
        )

    def _probabilities(self, primary: Any, candidate: Any) -> tuple[ComparisonSums, Any]:
        a, b = self._side_by_side(primary, candidate)
        if self._multilabel or a.shape != b.shape:  # no distribution, or different numbers of unnamed classes
            return self._tensor(PROBABILITIES, a, b), None
        return comparison.probabilities(a, b, self._floor.get(PROBABILITIES, 0.0))

    def _side_by_side(self, primary: Any, candidate: Any) -> tuple[Any, Any]:
        """Both models' probabilities as matrices, with the same order of classes."""
        a, b = _matrix(primary), _matrix(candidate)
        yield_cpu()
        if self._aligned is not None:
            at_primary, at_candidate, width = self._aligned
            a, b = comparison.widened(a, at_primary, width), comparison.widened(b, at_candidate, width)
        return a, b


def _both(batch: Sequence[Answered]) -> dict[int, tuple[Scores, Scores]]:
    """The scores of each exchange of which both models answered at least some rows, by its position in the batch."""
    return {
        i: (a, b)
        for i, e in enumerate(yielding(batch))
        if (a := e.primary.scores) is not None and (b := e.candidate.scores) is not None
    }


def _matrix(rows: Sequence[Sequence[float]]) -> Any:
    # Twice as fast as np.array(rows), which checks that the lists have the same length.
    return np.array([value for row in rows for value in row], np.float64).reshape(len(rows), -1)


def tolerances(policy: Policy, cards: Iterable[Card]) -> Mapping[str, Tolerance]:
    """The rollout file's `compare`, checked against the models' outputs.

    Raises:
        ConfigurationError: when it names an output that none of them compares.
    """
    specs = [spec for card in cards for spec in card.outputs]
    there = {VALUE if spec.role == "value" else spec.name for spec in specs if spec.role in {"value", "other"}}
    if judged_by_agreement(policy):
        there |= {PROBABILITIES for spec in specs if spec.role == PROBABILITIES}
    unknown = [name for name in policy.compare if name not in there]
    if unknown:
        given = (
            ", ".join(sorted(there))
            or "none: labels have no tolerance, and probabilities only with `loss: disagreement`"
        )
        raise ConfigurationError(
            f"the rollout file's `compare` names {', '.join(unknown)}; outputs with a tolerance: {given}"
        )
    return policy.compare


def judged_by_agreement(policy: Policy) -> bool:
    """Whether the quality goal is how often the two models' answers differ."""
    return policy.goals.quality is not None and policy.goals.quality.loss == DISAGREEMENT


def incomparable(primary: Card, candidate: Card) -> str | None:
    """Why the answers of two models can never be equal, as a sentence; None if they can."""
    ours, theirs = (
        {VALUE if o.role == "value" else o.role if o.role != "other" else o.name: o for o in card.outputs}
        for card in (primary, candidate)
    )
    shared = [name for name in ours if name in theirs]
    if not shared:
        return (
            f"{primary.name} gives {', '.join(ours)} and {candidate.name} gives {', '.join(theirs)}: no output of the same name "
            "or role to compare. Export the candidate with the primary's output names"
        )
    for name in shared:
        a, b = ours[name], theirs[name]
        differ = len(a.row_shape) != len(b.row_shape) or any(
            x != y for x, y in zip(a.row_shape, b.row_shape, strict=True) if x and y
        )
        named = name == PROBABILITIES and primary.classes and candidate.classes  # classes with names are aligned
        if differ and name != "label" and not named:
            return (
                f"{name} has shape {a.shape} in {primary.name} and {b.shape} in {candidate.name}: their answers would differ on "
                "every row"
            )
        if (a.dtype == "string") != (b.dtype == "string"):
            return f"{name} is {a.dtype} in {primary.name} and {b.dtype} in {candidate.name}: they are never equal"
    return None


def joined(parts: Sequence[Scores]) -> Scores:
    """Several scores of one model as one. All have the outputs that the first one has."""
    first = parts[0]
    if len(parts) == 1:
        return first
    lists = first.run.lists
    labels: list[Label] | None = None if lists.labels is None else []
    probabilities: list[list[float]] | None = None if lists.probabilities is None else []
    values: list[Value] | None = None if lists.values is None else []
    for part in yielding(parts):
        lists, own = part.run.lists, slice(part.start, part.start + part.rows)
        if labels is not None:
            labels += (lists.labels or ())[own]
        if probabilities is not None:
            probabilities += (lists.probabilities or ())[own]
        if values is not None:
            values += (lists.values or ())[own]
    others = None
    if first.others:
        others = {name: [row for part in parts for row in (part.others or {}).get(name, ())] for name in first.others}
    return Scores(sum([part.rows for part in parts]), labels, probabilities, values, others)
