"""Held-out data on its way to the models, through the decoder that serves: what a caller would be refused is found here."""

import csv
import datetime
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.domain import Label
from understudy.errors import ConfigurationError, InvalidInput
from understudy.inference.decoding import Decoder, Field, Row

CHUNK_ROWS = 1_000
REFUSED_TOLD = 5
"""Refused rows that are told in full; the others are counted."""

Progress = Callable[[int], None]
"""Takes how many more rows are done."""


@dataclass(slots=True)
class Sample:
    """Labelled rows.

    Attributes:
        source: where they come from, in words.
        rows: as the decoder gives them, in order of time where there is one.
        labels: what happened; None where nobody knows.
        at: when each row was, Unix seconds; None without a time.
        segments: by name, one value a row.
        months: which month each row counts to; None where there is no time.
        predicted: what the training pipeline predicted for each row, where the file says so.
        refused: how many rows the service would refuse, and the first of the reasons.
    """

    source: str
    rows: list[Row] = field(default_factory=list)
    labels: list[Label | None] = field(default_factory=list)
    at: npt.NDArray[np.float64] | None = None
    segments: dict[str, list[str]] = field(default_factory=dict)
    months: list[str] | None = None
    predicted: list[float] | None = None
    refused: int = 0
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which columns of a file are what.

    Attributes:
        label: what happened; None where that is not asked.
        at: when, in Unix seconds or ISO 8601; predicted: the training pipeline's own answer.
        by: columns whose values are segments.
        month: what a row's month is called; by default its time's, UTC.
    """

    label: str | None
    at: str | None = None
    predicted: str | None = None
    by: tuple[str, ...] = ()
    month: str | None = None


def read_file(
    path: Path, decoder: Decoder, wanted: Wanted, classes: Sequence[int | str], progress: Progress = lambda rows: None
) -> Sample:
    """The rows of a CSV file with a header, or of a file with one JSON object a line.

    Columns that are neither inputs nor wanted are left out. In CSV an empty cell is a missing value.

    Raises:
        ConfigurationError: when the file or one of the wanted columns is not there, or a cell is not what it should be.
    """
    records = _csv(path, decoder.fields) if path.suffix.lower() in {".csv", ".tsv"} else _json_lines(path)
    return sample_of(str(path), records, decoder, wanted, classes, progress)


def sample_of(
    source: str,
    records: Iterable[tuple[int, Mapping[str, Any]]],
    decoder: Decoder,
    wanted: Wanted,
    classes: Sequence[int | str],
    progress: Progress = lambda rows: None,
) -> Sample:
    """A sample of numbered records: field values, and the wanted columns beside them.

    Raises:
        ConfigurationError: as `read_file`.
    """
    sample, at, predicted, months = Sample(source), list[float](), list[float](), list[str]()
    segments: dict[str, list[str]] = {name: [] for name in wanted.by}
    for chunk in _chunks(records):
        for number, record, row in _decoded(chunk, decoder, sample):
            where = f"{source}, line {number}"
            sample.rows.append(row)
            sample.labels.append(_label(record, wanted.label, classes, where) if wanted.label else None)
            if wanted.at is not None:
                at.append(_time(record, wanted.at, where))
            if wanted.predicted is not None:
                predicted.append(_number(record, wanted.predicted, where))
            if wanted.at is not None or wanted.month is not None:
                months.append(str(_value(record, wanted.month, where)) if wanted.month else month_of(at[-1]))
            for name, values in segments.items():
                values.append(_segment(record, name, where))
        progress(len(chunk))
    if not sample.rows:
        told = f": {sample.reasons[0]}" if sample.reasons else ""
        raise ConfigurationError(f"{source} has no row that the service would take{told}")
    sample.segments, sample.predicted, sample.months = segments, predicted or None, months or None
    if wanted.at is not None:
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


def _chunks(records: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[list[tuple[int, Mapping[str, Any]]]]:
    records = iter(records)
    while chunk := list(itertools.islice(records, CHUNK_ROWS)):
        yield chunk


def _decoded(
    chunk: Sequence[tuple[int, Mapping[str, Any]]], decoder: Decoder, sample: Sample
) -> Iterator[tuple[int, Mapping[str, Any], Row]]:
    """The rows of a chunk that the service takes, through JSON as a caller's; the others are counted as refused."""
    names = {each.name for each in decoder.fields} | set(decoder.context)
    bodies = [{name: record[name] for name in names & record.keys()} for _, record in chunk]
    try:
        rows = decoder.decode(json.dumps({"rows": bodies}).encode()).rows
    except InvalidInput:
        for (number, record), body in zip(chunk, bodies, strict=True):
            try:
                row = decoder.decode(json.dumps({"rows": [body]}).encode()).rows[0]
            except InvalidInput as refused:
                sample.refused += 1
                if len(sample.reasons) < REFUSED_TOLD:
                    told = "; ".join(f"{e.get('field') or 'row'} {e['problem']}" for e in refused.errors)
                    sample.reasons.append(f"line {number}: {told}")
                continue
            yield number, record, row
        return
    for (number, record), row in zip(chunk, rows, strict=True):
        yield number, record, row


def _csv(path: Path, fields: Sequence[Field]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    by_name = {each.name: each for each in fields}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        for record in reader:
            if None in record or None in record.values():
                raise ConfigurationError(f"{path}, line {reader.line_num}: more or fewer cells than the header has")
            yield reader.line_num, {name: _cell(text, by_name.get(name)) for name, text in record.items()}


def _cell(text: str, own: Field | None) -> Any:
    """What a cell says: a number, a boolean or an array where the model takes one, and text otherwise."""
    if text == "" or own is None or own.dtype == "string":
        return text or None
    if own.dtype == "bool":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    try:
        found = float(text) if own.scalar else json.loads(text)
    except ValueError:
        return text  # the decoder says what is wrong with it
    if not isinstance(found, float) or math.isinf(found):
        return text if isinstance(found, float) else found
    if math.isnan(found):  # how many tools write a missing value
        return None
    return int(found) if found.is_integer() else found


def _json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
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


def _value(record: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in record:
        raise ConfigurationError(f"{where} has no column {name!r}; it has {', '.join(sorted(record))}")
    return record[name]


def _label(record: Mapping[str, Any], name: str, classes: Sequence[int | str], where: str) -> Label | None:
    value = _value(record, name, where)
    if value is None or value == "":
        return None
    if not classes:
        found = _number(record, name, where)
        if math.isinf(found):
            raise ConfigurationError(f"{where}: the label {value!r} is not a finite number")
        return None if math.isnan(found) else found  # NaN is how many tools write a missing value
    for each in classes:
        # A cell says "1" or "1.0" for the class 1, and a JSON line may say true.
        if value == each or str(value) == str(each) or (isinstance(each, int) and _as_int(value) == each):
            return each
    raise ConfigurationError(f"{where}: the label {value!r} is none of the model's classes {list(classes)}")


def _as_int(value: Any) -> int | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def _number(record: Mapping[str, Any], name: str, where: str) -> float:
    try:
        return float(_value(record, name, where))
    except (TypeError, ValueError):
        raise ConfigurationError(f"{where}: {name} is {record[name]!r}, not a number") from None


def _time(record: Mapping[str, Any], name: str, where: str) -> float:
    value = _value(record, name, where)
    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    try:
        found = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        raise ConfigurationError(f"{where}: {name} is {value!r}; a time is Unix seconds or ISO 8601") from None
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()


def _segment(record: Mapping[str, Any], name: str, where: str) -> str:
    value = _value(record, name, where)
    return "(missing)" if value is None else str(value)
