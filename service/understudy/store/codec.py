"""Converts domain values to rows of the tables and back."""

import functools
import json
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from understudy.domain import (
    Attempt,
    Event,
    Label,
    LabelReport,
    Mode,
    Observation,
    Phase,
    Plan,
    Status,
    Variant,
)

Row: TypeAlias = Sequence[Any]
"""A row that was read: the types of its columns are in `schema`."""

SqlValue: TypeAlias = str | int | float | None

ObservationRow: TypeAlias = tuple[int, str, *tuple[SqlValue, ...]]
"""The values of `schema.OBSERVATION_COLUMNS`: the rollout, the prediction's id, and the others."""

ROW_BYTES = 70
"""Bytes that a row takes on disk in addition to its own text and numbers: record headers, the keys of three b-trees and
their unused space. Measured on SQLite with ids in random order; a test compares it with the size of a file."""


def to_json(value: object) -> str:
    """Compact JSON, ASCII (so that every driver takes it), with numpy's scalars and arrays as plain numbers."""
    return json.dumps(value, separators=(",", ":"), default=_plain)


def _plain(value: object) -> object:
    """A numpy scalar or array as plain numbers."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"{type(value).__name__} cannot be stored: it has no JSON form")
    return value.tolist()


from_json = json.loads
_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(tuple[float, ...]).decode

# A model has few classes, and each row has one. `typed` distinguishes 1, 1.0 and True.
_scalar_text = functools.lru_cache(maxsize=1024, typed=True)(to_json)


def _label_text(label: Label) -> str:
    # Tuples are not cached: the cache does not distinguish (1,) from (1.0,).
    return to_json(label) if isinstance(label, tuple) else _scalar_text(label)


@functools.lru_cache(maxsize=1024)
def label_value(text: str) -> Label:
    """The label in a column's text."""
    value = from_json(text)
    return tuple(value) if isinstance(value, list) else value


def _numbers_text(numbers: Sequence[float]) -> str:
    """A row's numbers as JSON. For finite Python numbers this is ten times as fast as `to_json`."""
    try:
        text = _encode(numbers).decode()
    except TypeError:
        return to_json(numbers)
    return to_json(numbers) if "n" in text else text  # null: one is not finite


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return _decode(text)
    except msgspec.DecodeError:
        return tuple(from_json(text))


def kept(observation: Observation) -> Observation:
    """The observation as a store returns it: a score of NaN becomes None."""
    return replace(observation, primary=_kept(observation.primary), candidate=_kept(observation.candidate))


def _kept(answer: Attempt) -> Attempt:
    probabilities = None if answer.probabilities is None else tuple(map(float, answer.probabilities))
    vector = None if answer.vector is None else tuple(map(float, answer.vector))
    return replace(answer, score=_score(answer.score), probabilities=probabilities, vector=vector)


def _score(score: float | None) -> float | None:
    # float() because SQLite's driver would store numpy's float32 as four bytes of binary.
    return None if score is None or score != score else float(score)


def observation_row(rollout: int, observation: Observation) -> ObservationRow:
    """The values of `schema.OBSERVATION_COLUMNS`. Runs once per prediction, and holds the interpreter lock."""
    primary, candidate = observation.primary, observation.candidate
    _number("at", observation.at)
    own, request = observation.prediction_id, observation.request_id
    return (
        rollout,
        own,
        None if request == own else request,
        observation.at,
        observation.revision,
        observation.variant._value_,
        observation.mode._value_,
        observation.share,
        observation.unit,
        observation.fallback,
        primary.status._value_,
        None if primary.label is None else _label_text(primary.label),
        None if (first := primary.score) is None else _score(first),
        None if primary.probabilities is None else _numbers_text(primary.probabilities),
        primary.seconds,
        candidate.status._value_,
        None if candidate.label is None else _label_text(candidate.label),
        None if (second := candidate.score) is None else _score(second),
        None if candidate.probabilities is None else _numbers_text(candidate.probabilities),
        candidate.seconds,
        observation.point,
        None if primary.vector is None else _numbers_text(primary.vector),
        None if candidate.vector is None else _numbers_text(candidate.vector),
        None if observation.agrees is None else int(observation.agrees),
        None if observation.sampled else 0,
        observation.replay,
        observation.received_at,
    )


def _number(name: str, value: float) -> None:
    if value != value:
        raise ValueError(f"cannot store this: `{name}` is not a number")


# Dictionaries, because calling an enumeration takes several times as long, and each row needs four.
_VARIANTS = {each.value: each for each in Variant}
_MODES = {each.value: each for each in Mode}
_STATUSES = {each.value: each for each in Status}


def observation_of(row: Row) -> Observation:
    """The observation in a row that begins with `schema.OBSERVATION_COLUMNS`."""
    # Unpacked at once and by position, because this runs for every row that the judge reads.
    (
        _,
        own,
        request,
        at,
        revision,
        variant,
        mode,
        share,
        unit,
        fallback,
        status,
        label,
        score,
        probabilities,
        seconds,
        status_2,
        label_2,
        score_2,
        probabilities_2,
        seconds_2,
        point,
        vector,
        vector_2,
        agrees,
        unsampled,
        replay,
        received_at,
        *_,
    ) = row
    return Observation(
        own,
        own if request is None else request,
        at,
        revision,
        _VARIANTS[variant],
        _MODES[mode],
        share,
        _answer_of(status, label, score, probabilities, seconds, vector),
        _answer_of(status_2, label_2, score_2, probabilities_2, seconds_2, vector_2),
        unit,
        fallback,
        point,
        None if agrees is None else bool(agrees),
        unsampled is None,
        replay,
        received_at,
    )


def _answer_of(
    status: str, label: str | None, score: float | None, probabilities: str | None, seconds: float, vector: str | None
) -> Attempt:
    return Attempt(
        _STATUSES[status],
        None if label is None else label_value(label),
        score,
        None if probabilities is None else _numbers(probabilities),
        seconds,
        None if vector is None else _numbers(vector),
    )


def row_bytes(row: Row) -> int:
    """An estimate of the bytes that this row of `observations` takes on disk, including its share of the indexes."""
    values = sum(len(value.encode()) if isinstance(value, str) else 8 * isinstance(value, float) for value in row)
    return ROW_BYTES + values + len(row[1])  # the prediction's id is in the table and in an index


def plan_row(rollout: int, plan: Plan) -> dict[str, SqlValue]:
    """The row of `plans`."""
    return {
        "rollout": rollout,
        "phase": plan.phase.value,
        "weight": plan.weight,
        "shadow": plan.shadow,
        "salt": str(plan.salt),
        "step": plan.step,
        "revision": plan.revision,
        "updated_at": plan.updated_at,
        "trial": plan.trial,
    }


def plan_of(row: Row) -> Plan:
    """The plan in a row of `plans`, in the table's order."""
    _, phase, weight, shadow, salt, step, revision, updated_at, trial = row
    return Plan(Phase(phase), weight, shadow, int(salt), step, revision, updated_at, trial)


def event_row(rollout: int, event: Event) -> dict[str, SqlValue]:
    """The row of `events` without its id."""
    return {
        "rollout": rollout,
        "at": event.at,
        "kind": event.kind,
        "actor": event.actor,
        "reason": event.reason,
        "revision": event.revision,
        "details": to_json(dict(event.details)),
    }


def event_of(row: Row) -> Event:
    """The event in a row of `events`, in the table's order."""
    number, _, at, kind, actor, reason, revision, details = row
    return Event(at, kind, actor, reason, revision, from_json(details), number)


def label_row(rollout: int, report: LabelReport, received_at: float) -> dict[str, SqlValue]:
    """The columns that `labels` and `label_conflicts` share, of a report from `label_rules.received`."""
    _number("at", report.at)
    return {
        "rollout": rollout,
        "prediction_id": report.prediction_id,
        "label": _label_text(report.label),
        "at": report.at,
        "received_at": received_at,
    }


def report_of(prediction_id: str, label: str, at: float, received_at: float) -> LabelReport:
    """The report in a row of `labels`; `label` is JSON. See `label_rules.received`."""
    return LabelReport(prediction_id, label_value(label), at, timed=at != received_at)


def moved_on(expected: int, current: int) -> str:
    """The message for a caller whose plan is no longer in force."""
    return (
        f"the plan is at revision {current}, not {expected}: it has changed since you looked. Look again, then decide."
    )
