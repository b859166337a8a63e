"""Labelled rows of a table as history that can be replayed against a running service."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from understudy.domain import JsonObject, Label
from understudy.errors import ConfigurationError
from understudy.inference.decoding import Field
from understudy.offline.evaluate.data import label_of, time_of
from understudy.offline.matching import MISSING, lacking, match
from understudy.offline.starting.survey import Roles, check_roles
from understudy.offline.tables import Records, Table, open_table

SORTED_ROWS_MAX = 1_000_000
"""A table that is not in the order of time is sorted in memory, up to so many rows."""


@dataclass(frozen=True, slots=True)
class PastRequest:
    """One row of the table; see `sources.Moment`."""

    row: JsonObject
    scheduled_at: float
    label: Label | None
    label_at: float | None


@dataclass(frozen=True, slots=True)
class TableHistory:
    """A table that was looked through once.

    Attributes:
        rows: number of rows that are sent.
        notes: how the table is read, in sentences.
        requests: the rows, in the order of time; read while they are sent.
    """

    rows: int
    notes: tuple[str, ...]
    requests: Iterator[PastRequest]


def history(
    path: Path, roles: Roles, policy: Mapping[str, object], *, over_s: float, now: float, limit: int | None = None
) -> TableHistory:
    """Prepare a table for a replay.

    Args:
        policy: `GET /rollout/policy` of the service that the rows are for.
        over_s: the time over which rows without times are spread evenly, up to `now`.
        now: Unix seconds.
        limit: the most rows that are sent, from the start.

    Raises:
        ConfigurationError: the table cannot be read, or does not have what the service takes.
    """
    table, name = open_table(path), str(path)
    documents: Sequence[Mapping[str, object]] = policy["fields"]  # type: ignore[assignment]  # a document of the service
    fields = [_field(each) for each in documents]
    context = [str(each) for each in policy.get("context", [])]  # type: ignore[attr-defined]
    taken = [*roles.named.values(), *context]
    matching = match(fields, table.columns, taken, decimal_comma=table.decimal_comma)
    check_roles(name, table.columns, roles, matching)
    if why := lacking(matching, table.columns, taken):
        raise ConfigurationError(f"{name}: {why}")
    rows, in_order = _looked_through(table, roles, limit)
    if not rows:
        raise ConfigurationError(f"{name} has no rows, only the names of columns")
    if not in_order and rows > SORTED_ROWS_MAX:
        raise ConfigurationError(f"{name} has {rows:,} rows that are not in the order of time: sort them by {roles.at}")
    classes: Sequence[int | str] = policy["classes"]  # type: ignore[assignment]

    def requests() -> Iterator[PastRequest]:
        for number, (line, record) in enumerate(itertools.islice(table.read(), limit)):
            where = f"{name}, line {line}"
            at = now - over_s * (1 - number / rows) if roles.at is None else time_of(record, roles.at, where)
            label = label_in(record.get(roles.label), classes, where, decimal_comma=table.decimal_comma)
            known = record.get(roles.label_at) if roles.label_at is not None else None
            label_at = at if known is None or roles.label_at is None else time_of(record, roles.label_at, where)
            row = matching.body(record) | {each: record[each] for each in context if record.get(each) is not None}
            yield PastRequest(row, at, label, None if label is None else max(at, label_at))

    found = requests() if in_order else iter(sorted(requests(), key=lambda each: each.scheduled_at))
    notes = [*table.notes, *matching.notes]
    if roles.at is None:
        notes.append(
            f"the rows have no times (--at), so they are spread evenly over {over_s / 86_400:g} days up to now"
        )
    if not in_order:
        notes.append(f"the rows are sorted by {roles.at}")
    return TableHistory(rows, tuple(notes), found)


def label_in(value: object, classes: Sequence[int | str], where: str, *, decimal_comma: bool = False) -> Label | None:
    """The label in a cell: a class, a number, or several of them in brackets.

    Raises:
        ConfigurationError: it is none of the classes, or no number.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise ConfigurationError(f"{where}: the label {value!r} is no list in JSON") from None
    if isinstance(value, list):
        return tuple(value)
    if not classes and isinstance(value, str) and value.strip().casefold() not in MISSING:
        try:
            return label_of(value, (), where, decimal_comma=decimal_comma)
        except ConfigurationError:
            return value  # a model that names its classes only in its answers
    return label_of(value, classes, where, decimal_comma=decimal_comma)


def _looked_through(table: Table, roles: Roles, limit: int | None) -> tuple[int, bool]:
    """The number of rows, and whether they are in the order of time."""
    records: Records = itertools.islice(table.read(), limit)
    before, in_order, rows = -math.inf, True, 0
    for line, record in records:
        rows += 1
        if roles.at is not None:
            at = time_of(record, roles.at, f"{table.path}, line {line}")
            in_order, before = in_order and at >= before, at
    return rows, in_order


def _field(document: Mapping[str, object]) -> Field:
    shape: Sequence[int | None] = document["shape"]  # type: ignore[assignment]
    return Field(
        str(document["name"]),
        str(document["dtype"]),
        tuple(shape),
        nullable=bool(document["nullable"]),
        required=bool(document["required"]),
    )
