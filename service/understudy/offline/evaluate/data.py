"""Reads held-out data through the decoder of the service, so that rows that the service would reject are found here."""

import datetime
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from understudy.domain import Label
from understudy.errors import ConfigurationError, InvalidInput
from understudy.inference.decoding import Decoder, Row
from understudy.offline.matching import MISSING, Matching, match, number
from understudy.offline.tables import Record, open_table

CHUNK_ROWS = 1_000
SECONDS_MAX = 1e11
"""Larger times are no Unix seconds but milliseconds or less: as seconds, this is the year 5138."""
REASONS_SHOWN = 5
"""Number of rejected rows whose reason is shown; further ones are only counted."""

RowsDone: TypeAlias = Callable[[int], None]
"""Called with the number of rows that were read since the last call."""
RowOf: TypeAlias = Callable[[Record], Mapping[str, object]]
"""Makes the row that a caller would send of a record."""


@dataclass(slots=True)
class Sample:
    """Labelled rows.

    Attributes:
        source: where they come from, in words.
        rows: decoded rows, in order of time if they have times.
        labels: the label of each row, or None.
        at: time of each row, Unix seconds; None without times.
        segments: segment → the value of each row.
        months: month of each row; None without times.
        predicted: the training pipeline's prediction for each row, if the file has it.
        rejected: number of rows that the service would reject.
        reasons: the first reasons.
        notes: how the file was read, in sentences.
    """

    source: str
    rows: list[Row] = field(default_factory=list)
    labels: list[Label | None] = field(default_factory=list)
    at: npt.NDArray[np.float64] | None = None
    segments: dict[str, list[str]] = field(default_factory=dict)
    months: list[str] | None = None
    predicted: list[float] | None = None
    rejected: int = 0
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """The columns of a file that are not inputs.

    Attributes:
        label: the label; None if it is not needed.
        at: time of the row, Unix seconds or ISO 8601.
        predicted: the training pipeline's prediction.
        by: columns whose values are segments.
        month: the row's month; by default the month of its time, UTC.
    """

    label: str | None
    at: str | None = None
    predicted: str | None = None
    by: tuple[str, ...] = ()
    month: str | None = None

    @property
    def taken(self) -> list[str]:
        """The columns that have a meaning, so that they are an input only under its very name."""
        return [name for name in (self.label, self.at, self.predicted, self.month) if name is not None]


def read_file(
    path: Path,
    decoder: Decoder,
    columns: ColumnNames,
    classes: Sequence[int | str],
    progress: RowsDone = lambda rows: None,
) -> Sample:
    """Reads a table in any form that `understudy.offline.tables` knows. Columns are matched with the decoder's fields.

    Other columns are ignored. In CSV an empty cell is a missing value.

    Raises:
        ConfigurationError: if the file or one of the columns is missing, or a cell has the wrong type.
    """
    table = open_table(path)
    taken = [*columns.taken, *decoder.context]
    matching = match(decoder.fields, table.columns, taken, decimal_comma=table.decimal_comma)
    sample = sample_of(
        str(path), table.read(), decoder, columns, classes, progress, rows_of(matching, decoder), table.decimal_comma
    )
    sample.notes = [*table.notes, *matching.notes]
    return sample


def rows_of(matching: Matching, decoder: Decoder) -> RowOf:
    """Makes rows of a file's records: the matched fields, and the fields that only routing and counting read."""
    context = decoder.context

    def row(record: Record) -> Mapping[str, object]:
        return matching.body(record) | {name: record[name] for name in context if name in record}

    return row


def sample_of(
    source: str,
    records: Iterable[tuple[int, Record]],
    decoder: Decoder,
    columns: ColumnNames,
    classes: Sequence[int | str],
    progress: RowsDone = lambda rows: None,
    row_of: RowOf | None = None,
    decimal_comma: bool = False,
) -> Sample:
    """A sample from numbered records.

    Args:
        row_of: makes the row that a caller would send of a record; by default the fields of the same names.
        decimal_comma: whether labels may be written 1,5.

    Raises:
        ConfigurationError: as `read_file`.
    """
    sample, at, predicted, months = Sample(source), list[float](), list[float](), list[str]()
    segments: dict[str, list[str]] = {name: [] for name in columns.by}
    for chunk in _chunks(records):
        for line, record, row in _decoded(chunk, decoder, sample, row_of):
            where = f"{source}, line {line}"
            sample.rows.append(row)
            sample.labels.append(
                label_of(_value(record, columns.label, where), classes, where, decimal_comma=decimal_comma)
                if columns.label
                else None
            )
            if columns.at is not None:
                at.append(time_of(record, columns.at, where))
            if columns.predicted is not None:
                predicted.append(_number(record, columns.predicted, where))
            if columns.at is not None or columns.month is not None:
                months.append(str(_value(record, columns.month, where)) if columns.month else month_of(at[-1]))
            for name, values in segments.items():
                values.append(_segment(record, name, where))
        progress(len(chunk))
    if not sample.rows:
        reason = f": {sample.reasons[0]}" if sample.reasons else ""
        raise ConfigurationError(f"{source} has no row that the service would accept{reason}")
    sample.segments, sample.predicted, sample.months = segments, predicted or None, months or None
    if columns.at is not None:
        _in_order(sample, np.array(at))
    return sample


def _in_order(sample: Sample, at: npt.NDArray[np.float64]) -> None:
    order = np.argsort(at, kind="stable")
    sample.at = at[order]
    sample.rows = [sample.rows[i] for i in order]
    sample.labels = [sample.labels[i] for i in order]
    sample.segments = {name: [values[i] for i in order] for name, values in sample.segments.items()}
    if sample.predicted is not None:
        sample.predicted = [sample.predicted[i] for i in order]
    if sample.months is not None:
        sample.months = [sample.months[i] for i in order]


def day_of(at: float) -> str:
    """The day of a moment (UTC), as in 2013-07-01."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d")


def month_of(at: float) -> str:
    """The month of a moment (UTC), as in 2013-07."""
    return day_of(at)[:7]


def _chunks(records: Iterable[tuple[int, Record]]) -> Iterator[list[tuple[int, Record]]]:
    records = iter(records)
    while chunk := list(itertools.islice(records, CHUNK_ROWS)):
        yield chunk


def _decoded(
    chunk: Sequence[tuple[int, Record]], decoder: Decoder, sample: Sample, row_of: RowOf | None
) -> Iterator[tuple[int, Record, Row]]:
    """The rows of a chunk that the service accepts, decoded from JSON as a caller's. The others are counted as rejected."""
    if row_of is None:
        names = {each.name for each in decoder.fields} | set(decoder.context)
        bodies: list[Mapping[str, object]] = [
            {name: record[name] for name in names & record.keys()} for _, record in chunk
        ]
    else:
        bodies = [row_of(record) for _, record in chunk]
    try:
        rows = decoder.decode(json.dumps({"rows": bodies}).encode()).rows
    except InvalidInput:
        for (line, record), body in zip(chunk, bodies, strict=True):
            try:
                row = decoder.decode(json.dumps({"rows": [body]}).encode()).rows[0]
            except InvalidInput as error:
                sample.rejected += 1
                if len(sample.reasons) < REASONS_SHOWN:
                    problems = "; ".join(f"{e.get('field') or 'row'} {e['problem']}" for e in error.errors)
                    sample.reasons.append(f"line {line}: {problems}")
                continue
            yield line, record, row
        return
    for (line, record), row in zip(chunk, rows, strict=True):
        yield line, record, row


def _value(record: Record, name: str, where: str) -> object:
    if name not in record:
        raise ConfigurationError(f"{where} has no column {name!r}; it has {', '.join(sorted(record))}")
    return record[name]


def label_of(value: object, classes: Sequence[int | str], where: str, *, decimal_comma: bool = False) -> Label | None:
    """The label in a cell: a class, or without classes a number; None if there is none.

    Raises:
        ConfigurationError: it is none of the classes, or no finite number.
    """
    if value is None or value == "":
        return None
    if not classes:
        return _label_number(value, where, decimal_comma=decimal_comma)
    text = str(value).strip()
    for each in classes:
        # A cell may have blanks around it, "1" or "1.0" for the class 1, and a JSON line may have true.
        if value == each or text == str(each) or (isinstance(each, int) and _as_int(value) == each):
            return each
    if isinstance(value, str) and text.casefold() in MISSING:
        return None  # tools write a missing value like this; a class of this name is found above
    raise ConfigurationError(f"{where}: the label {value!r} is none of the model's classes {list(classes)}")


def _label_number(value: object, where: str, *, decimal_comma: bool) -> float | None:
    if isinstance(value, str):
        text = value.strip()
        if text.casefold() in MISSING:
            return None
        found = number(text, decimal_comma=decimal_comma)
        if found is None and text.casefold().lstrip("+-") in {"inf", "infinity"}:
            raise ConfigurationError(f"{where}: the label {value!r} is not a finite number")
        if found is None:
            raise ConfigurationError(f"{where}: the label is {value!r}, and these models predict a number")
        return float(found)
    if not isinstance(value, int | float):
        raise ConfigurationError(f"{where}: the label is {value!r}, and these models predict a number")
    if math.isinf(value):
        raise ConfigurationError(f"{where}: the label {value!r} is not a finite number")
    return None if math.isnan(value) else float(value)


def _as_int(value: object) -> int | None:
    if isinstance(value, str):
        value = {"true": 1, "false": 0}.get(value.strip().casefold(), value)
    try:
        whole = float(cast("str | float", value))
    except (TypeError, ValueError):
        return None
    return int(whole) if whole.is_integer() else None


def _number(record: Record, name: str, where: str) -> float:
    try:
        return float(cast("str | float", _value(record, name, where)))
    except (TypeError, ValueError):
        raise ConfigurationError(f"{where}: {name} is {record[name]!r}, not a number") from None


def time_of(record: Record, name: str, where: str) -> float:
    """The time in a column, Unix seconds.

    Raises:
        ConfigurationError: the column is missing, or its cell is no time.
    """
    value = _value(record, name, where)
    try:
        seconds = float(cast("str | float", value))
    except (TypeError, ValueError):
        pass
    else:
        if not abs(seconds) < SECONDS_MAX:
            raise ConfigurationError(
                f"{where}: {name} is {value!r}, too large for Unix seconds; divide milliseconds by 1,000"
            )
        return seconds
    try:
        time = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        raise ConfigurationError(f"{where}: {name} is {value!r}; a time is Unix seconds or ISO 8601") from None
    return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()


def _segment(record: Record, name: str, where: str) -> str:
    value = _value(record, name, where)
    return "(missing)" if value is None else str(value)
