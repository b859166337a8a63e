"""Reads held-out data through the decoder of the service, so that rows that the service would reject are found here."""

import csv
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
from understudy.inference.decoding import Decoder, Field, Row

CHUNK_ROWS = 1_000
REASONS_SHOWN = 5
"""Number of rejected rows whose reason is shown; further ones are only counted."""

RowsDone: TypeAlias = Callable[[int], None]
"""Called with the number of rows that were read since the last call."""
Record: TypeAlias = Mapping[str, object]
"""One row of a file: column → value."""


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


def read_file(
    path: Path,
    decoder: Decoder,
    columns: ColumnNames,
    classes: Sequence[int | str],
    progress: RowsDone = lambda rows: None,
) -> Sample:
    """Reads a CSV file with a header, or a file with one JSON object per line.

    Other columns are ignored. In CSV an empty cell is a missing value.

    Raises:
        ConfigurationError: if the file or one of the columns is missing, or a cell has the wrong type.
    """
    records = _csv(path, decoder.fields) if path.suffix.lower() in {".csv", ".tsv"} else _json_lines(path)
    return sample_of(str(path), records, decoder, columns, classes, progress)


def sample_of(
    source: str,
    records: Iterable[tuple[int, Record]],
    decoder: Decoder,
    columns: ColumnNames,
    classes: Sequence[int | str],
    progress: RowsDone = lambda rows: None,
) -> Sample:
    """A sample from numbered records.

    Raises:
        ConfigurationError: as `read_file`.
    """
    sample, at, predicted, months = Sample(source), list[float](), list[float](), list[str]()
    segments: dict[str, list[str]] = {name: [] for name in columns.by}
    for chunk in _chunks(records):
        for number, record, row in _decoded(chunk, decoder, sample):
            where = f"{source}, line {number}"
            sample.rows.append(row)
            sample.labels.append(_label(record, columns.label, classes, where) if columns.label else None)
            if columns.at is not None:
                at.append(_time(record, columns.at, where))
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
    chunk: Sequence[tuple[int, Record]], decoder: Decoder, sample: Sample
) -> Iterator[tuple[int, Record, Row]]:
    """The rows of a chunk that the service accepts, decoded from JSON as a caller's. The others are counted as rejected."""
    names = {each.name for each in decoder.fields} | set(decoder.context)
    bodies = [{name: record[name] for name in names & record.keys()} for _, record in chunk]
    try:
        rows = decoder.decode(json.dumps({"rows": bodies}).encode()).rows
    except InvalidInput:
        for (number, record), body in zip(chunk, bodies, strict=True):
            try:
                row = decoder.decode(json.dumps({"rows": [body]}).encode()).rows[0]
            except InvalidInput as error:
                sample.rejected += 1
                if len(sample.reasons) < REASONS_SHOWN:
                    problems = "; ".join(f"{e.get('field') or 'row'} {e['problem']}" for e in error.errors)
                    sample.reasons.append(f"line {number}: {problems}")
                continue
            yield number, record, row
        return
    for (number, record), row in zip(chunk, rows, strict=True):
        yield number, record, row


def _csv(path: Path, fields: Sequence[Field]) -> Iterator[tuple[int, Record]]:
    by_name = {each.name: each for each in fields}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        for record in reader:
            if None in record or None in record.values():
                raise ConfigurationError(f"{path}, line {reader.line_num}: the number of cells differs from the header")
            yield reader.line_num, {name: _cell(text, by_name.get(name)) for name, text in record.items()}


def _cell(text: str, own: Field | None) -> object:
    """The value of a cell: a number, a boolean or an array if the model takes one, otherwise text."""
    if text == "" or own is None or own.dtype == "string":
        return text or None
    if own.dtype == "bool":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    try:
        value: object = float(text) if own.scalar else json.loads(text)
    except ValueError:
        return text  # the decoder reports what is wrong with it
    if not isinstance(value, float) or math.isinf(value):
        return text if isinstance(value, float) else value
    if math.isnan(value):  # many tools write a missing value like this
        return None
    return int(value) if value.is_integer() else value


def _json_lines(path: Path) -> Iterator[tuple[int, Record]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise ConfigurationError(f"{path}, line {number} is not JSON: {error}") from None
                if not isinstance(record, dict):
                    raise ConfigurationError(f"{path}, line {number} is not an object of fields and their values")
                yield number, record


def _value(record: Record, name: str, where: str) -> object:
    if name not in record:
        raise ConfigurationError(f"{where} has no column {name!r}; it has {', '.join(sorted(record))}")
    return record[name]


def _label(record: Record, name: str, classes: Sequence[int | str], where: str) -> Label | None:
    value = _value(record, name, where)
    if value is None or value == "":
        return None
    if not classes:
        number = _number(record, name, where)
        if math.isinf(number):
            raise ConfigurationError(f"{where}: the label {value!r} is not a finite number")
        return None if math.isnan(number) else number  # many tools write a missing value as NaN
    for each in classes:
        # A cell may have "1" or "1.0" for the class 1, and a JSON line may have true.
        if value == each or str(value) == str(each) or (isinstance(each, int) and _as_int(value) == each):
            return each
    raise ConfigurationError(f"{where}: the label {value!r} is none of the model's classes {list(classes)}")


def _as_int(value: object) -> int | None:
    try:
        number = float(cast("str | float", value))
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def _number(record: Record, name: str, where: str) -> float:
    try:
        return float(cast("str | float", _value(record, name, where)))
    except (TypeError, ValueError):
        raise ConfigurationError(f"{where}: {name} is {record[name]!r}, not a number") from None


def _time(record: Record, name: str, where: str) -> float:
    value = _value(record, name, where)
    try:
        return float(cast("str | float", value))
    except (TypeError, ValueError):
        pass
    try:
        time = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        raise ConfigurationError(f"{where}: {name} is {value!r}; a time is Unix seconds or ISO 8601") from None
    return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()


def _segment(record: Record, name: str, where: str) -> str:
    value = _value(record, name, where)
    return "(missing)" if value is None else str(value)
