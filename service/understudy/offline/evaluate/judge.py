"""Evaluates models on a sample: the primary against its own target, the candidate against the primary."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeAlias, TypedDict

import msgspec
import numpy as np
import numpy.typing as npt

from understudy.domain import Attempt, JsonObject, Status
from understudy.drift.sketch import expected
from understudy.offline.evaluate.by_row import Judged, chosen, differences, notes
from understudy.offline.evaluate.data import Sample
from understudy.offline.evaluate.figures import (
    RUNS,
    Bin,
    Interval,
    Numbers,
    auc,
    blocks_of,
    calibration_error,
    interval,
    reliability,
)
from understudy.rollout.goals import Quality

SEGMENT_MIN_ROWS = 100
"""Smaller segments are left out, since chance dominates a mean over fewer rows."""
CONFIDENCE = 0.95

Indices: TypeAlias = npt.NDArray[np.intp]


class EvaluatedModel(TypedDict):
    """A model in an evaluation; `failed` is its number of rows without an answer."""

    name: str
    version: str
    digest: str
    failed: int


@dataclass(frozen=True, slots=True)
class SamplePart:
    """A month, a segment, or everything: each model's loss, and the second model's difference from the first."""

    name: str
    rows: int
    loss: list[Interval]
    accuracy: list[Interval]
    expected_accuracy: list[float | None]
    expected_loss: list[float | None]
    difference: Interval | None
    base_rate: float | None


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a question of the goals: yes, no, or not certain, and why."""

    question: str
    answer: str
    reason: str


@dataclass(slots=True)
class Evaluation:
    """The result; `as_dict` is the output of `--json`."""

    source: str
    loss: str
    models: list[EvaluatedModel]
    rows: int
    labelled: int
    method: str
    everything: SamplePart
    months: list[SamplePart]
    segments: dict[str, list[SamplePart]]
    calibration: list[list[Bin]]
    calibration_errors: list[float | None]
    auc: list[float | None]
    answers: list[Answered] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    skew: list[str] = field(default_factory=list)
    skew_checked: bool = False
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> JsonObject:
        """The evaluation as JSON values. A mean over no rows is None."""
        return {name: _without_nan(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, document: Mapping[str, object]) -> "Evaluation":
        """Read and check the result of `as_dict`.

        Raises:
            ValueError: if it is something else. The message says what and where.
        """
        return msgspec.convert(_with_nan(document), cls)


def evaluate(sample: Sample, models: Sequence[Judged], goal: Quality | None) -> Evaluation:
    """Evaluate models on a sample.

    Args:
        sample: labelled rows.
        models: the first is the primary, the second is compared with it, others are only shown.
        goal: the quality goal of the rollout file. Without one, the first loss that all models have is used.

    Raises:
        ConfigurationError: if the goal's loss cannot be computed for a model, or the models have no loss in common.
    """
    loss = chosen(models, goal)
    view = _View(sample, models, loss)
    every = np.arange(len(sample.rows))
    months = {} if sample.months is None else _by(sample.months)
    segments = {name: _by(values) for name, values in sample.segments.items()}
    tested = sum(len(rows) >= SEGMENT_MIN_ROWS for parts in segments.values() for rows in parts.values())
    # The intervals of all segments hold together with the confidence of one (Bonferroni).
    widened = 1 - (1 - CONFIDENCE) / max(tested, 1)
    evaluation = Evaluation(
        sample.source,
        loss,
        [{"name": m.name, "version": m.card.version, "digest": m.card.digest, "failed": m.failed} for m in models],
        len(sample.rows),
        sum(label is not None for label in sample.labels),
        _method(sample, tested),
        view.part("everything", every),
        [view.part(name, rows) for name, rows in months.items()],
        {
            name: [
                view.part(value, rows, widened)
                for value, rows in sorted(parts.items(), key=lambda i: -len(i[1]))
                if len(rows) >= SEGMENT_MIN_ROWS
            ]
            for name, parts in segments.items()
        },
        *view.calibration(),
        notes=notes(models, goal),
    )
    evaluation.answers = list(_answers(evaluation, models, goal))
    return evaluation


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: math.nan if name == "mean" and each is None else _with_nan(each) for name, each in value.items()}
    return [_with_nan(each) for each in value] if isinstance(value, list) else value


class _View:
    """The sample as arrays, cut into parts."""

    def __init__(self, sample: Sample, models: Sequence[Judged], loss: str) -> None:
        self._models, self._loss = models, loss
        self._days = None if sample.at is None else blocks_of(sample.at, len(sample.rows))
        positive = models[0].card.positive
        labels = sample.labels
        self._apart = differences(models[0], models[1], labels, loss) if len(models) > 1 else None
        self._positive = (
            None if positive is None else np.array([np.nan if x is None else float(x == positive) for x in labels])
        )
        self._labelled = np.array([label is not None for label in labels])
        self._expected = [_expected(model.answers) for model in models]

    def part(self, name: str, rows: Indices, confidence: float = CONFIDENCE) -> SamplePart:
        blocks = blocks_of(None, rows.size) if self._days is None else self._days[rows]
        # A loss that compares two answers has no value for a single model: its column is empty.
        nothing = np.full(rows.size, np.nan)
        by_model = [model.losses[self._loss][rows] if self._loss in model.losses else nothing for model in self._models]
        right = [1 - model.losses["zero_one"][rows] for model in self._models if "zero_one" in model.losses]
        known = rows[self._labelled[rows]]
        base = None if self._positive is None or not known.size else float(self._positive[known].mean())
        difference = None if self._apart is None else interval(self._apart[rows], blocks, confidence)
        means = [_means(each, known) for each in self._expected]
        return SamplePart(
            name,
            rows.size,
            [interval(each, blocks, confidence) for each in by_model],
            [interval(each, blocks, confidence) for each in right],
            [each[0] for each in means],
            [each[1] if self._loss == "brier" else None for each in means],
            difference,
            base,
        )

    def calibration(self) -> tuple[list[list[Bin]], list[float | None], list[float | None]]:
        tables: list[list[Bin]] = []
        errors: list[float | None] = []
        ranks: list[float | None] = []
        for model in self._models:
            confidence, happened, score = self._confidence(model)
            table = reliability(confidence, happened) if confidence.size else []
            tables.append(table)
            errors.append(calibration_error(table) if table else None)
            ranks.append(auc(confidence, happened > 0) if score and confidence.size else None)
        return tables, errors, ranks

    def _confidence(self, model: Judged) -> tuple[Numbers, Numbers, bool]:
        """A classifier's probabilities and what happened: P(positive) for two classes, P(own answer) for several."""
        wrong = model.losses.get("zero_one")
        rows = [i for i in np.flatnonzero(self._labelled) if model.answers[i].status is Status.OK]
        answers = [model.answers[i] for i in rows]
        if answers and answers[0].label is not None and answers[0].score is not None and self._positive is not None:
            return np.array([a.score for a in answers], dtype=np.float64), self._positive[rows], True
        if answers and answers[0].probabilities is not None and wrong is not None:
            return np.array([max(a.probabilities or [0.0]) for a in answers]), 1 - wrong[rows], False
        return np.array([]), np.array([]), False


def _expected(answers: Sequence[Attempt]) -> Numbers:
    """The accuracy and Brier loss that each answer expects of itself, NaN if unknown: shape [rows, 2]."""
    nothing = (np.nan, np.nan)
    values = [(expected(answer) or nothing) if answer.status is Status.OK else nothing for answer in answers]
    return np.array(values, dtype=np.float64).reshape(-1, 2)


def _means(expectations: Numbers, rows: Indices) -> tuple[float | None, float | None]:
    chosen = expectations[rows]
    chosen = chosen[~np.isnan(chosen[:, 0])]
    return (float(chosen[:, 0].mean()), float(chosen[:, 1].mean())) if chosen.size else (None, None)


def _by(values: Sequence[str]) -> dict[str, Indices]:
    names, inverse = np.unique(np.array(values, dtype=object).astype(str), return_inverse=True)
    return {str(name): np.flatnonzero(inverse == i) for i, name in enumerate(names)}


def _method(sample: Sample, segments: int) -> str:
    text = f"{CONFIDENCE:.0%} intervals by Student's t, "
    if sample.at is None:
        text += f"over {RUNS} runs of consecutive rows, since the rows have no times: shuffled rows are taken as independent"
    else:
        text += "leaving out one day at a time, since rows of one day are not independent"
    return text + (f"; intervals of the {segments} segments hold together (Bonferroni)" if segments > 1 else "")


def _answers(found: Evaluation, models: Sequence[Judged], goal: Quality | None) -> list[Answered]:
    """Answers to the questions of the quality goal, from the intervals, in raw units of the loss."""
    if goal is None:
        return []
    answers = []
    digits, unit = goal.scale.digits, f" {goal.scale.loss.unit}" if goal.scale.loss.unit else ""
    if goal.poc_target is not None:
        for i, model in enumerate(models):
            target = f"{goal.loss} {goal.poc_target:,.10g}{unit}"
            question = f"does {model.name} reach the target of the proof of concept ({target})?"
            values: list[tuple[str, Interval | None]] = [(part.name, part.loss[i]) for part in found.months]
            answers.append(
                _below(question, found.everything.loss[i], goal.poc_target, values, goal.loss, f",.{digits}f")
            )
    if found.everything.difference is not None:
        first, second = models[0].name, models[1].name
        question = f"is {second} at most {goal.margin:,.10g}{unit} worse than {first}?"
        if goal.loss == "win_rate":
            question = f"is {second} farther from the truth than {first} on at most {goal.margin:.2%} more of the rows than nearer?"
        apart = [(part.name, part.difference) for part in found.months]
        form, what = f"+,.{digits}f", f"difference of {goal.loss}"
        answers.append(_below(question, found.everything.difference, goal.margin, apart, what, form, better=True))
    return answers


def _below(
    question: str,
    found: Interval,
    line: float,
    months: Sequence[tuple[str, Interval | None]],
    what: str,
    form: str,
    *,
    better: bool = False,
) -> Answered:
    """Whether a mean is below a line, in all and by month. With `better`, months below 0 are counted instead."""
    if found.low is None or found.high is None:
        answer, between = "not certain", "too few days for an interval"
    else:
        answer = "yes" if found.high <= line else "no" if found.low > line else "not certain"
        between = f"between {found.low:{form}} and {found.high:{form}}"
    inside = [name for name, each in months if each is not None and each.mean <= (0.0 if better else line)]
    by_month = ""
    if len(months) > 1:
        verb = "better" if better else "within it"
        by_month = f"; {verb} in {len(inside)} of {len(months)} months" + (f" ({', '.join(inside)})" if inside else "")
    return Answered(question, answer, f"{what} {found.mean:{form}}, {between}{by_month}")
