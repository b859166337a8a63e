"""One pass over all rows of a table: what its columns hold. Needs memory for a few counters, however long the table is. Pure."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from understudy.errors import ConfigurationError
from understudy.inference.decoding import Field
from understudy.offline.evaluate.data import label_of, time_of
from understudy.offline.matching import MISSING, Matching, element, number
from understudy.offline.tables import Record

DAY_S = 86_400.0
LABELS_DISTINCT_MAX = 1_000
"""Labels with more different values are numbers and no classes."""
UNITS_MAX = 500_000
"""So many pairs of key and day are told apart; a longer table is taken to go on as it began."""
DELAYS_MAX = 100_000
KEYS_FEW = 50
"""A column with fewer values than this is a category and no caller."""
LONG_TEXT_CHARS = 60


@dataclass(frozen=True, slots=True)
class Roles:
    """The columns that are not inputs.

    Attributes:
        label: the label.
        at: the time of the request.
        key: the value that keeps a caller on one variant.
        label_at: the time at which the label became known.
    """

    label: str
    at: str | None = None
    key: str | None = None
    label_at: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """Option → column."""
        options = {"--label": self.label, "--at": self.at, "--key": self.key, "--label-at": self.label_at}
        return {option: name for option, name in options.items() if name is not None}


@dataclass(slots=True)
class CellFacts:
    """What the cells of one field hold.

    Attributes:
        missing: number of rows without a value.
        wrong: number of cells that the field does not take.
        first_wrong: line and value of the first of them.
    """

    missing: int = 0
    wrong: int = 0
    first_wrong: tuple[int, object] | None = None


@dataclass(slots=True)
class Survey:
    """The facts of a table.

    Attributes:
        rows: number of rows.
        cells: field → what its cells hold.
        labels: text of a label → number of rows; empty if there are more than `LABELS_DISTINCT_MAX`.
        labelled: rows with a label.
        numeric: whether all labels are numbers; `whole` whether they are whole numbers.
        first, last: times, Unix seconds; infinite without times.
        delays: seconds from a request to its label, of the first rows.
        units: pairs of a key and a day, of the rows with a label that were told apart; `unit_rows` is the number of these rows.
        keyless: rows without a key.
        keys: the first `KEYS_FEW` different values of the key, hashed.
    """

    rows: int = 0
    cells: dict[str, CellFacts] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    many_labels: bool = False
    labelled: int = 0
    numeric: bool = True
    whole: bool = True
    first: float = math.inf
    last: float = -math.inf
    delays: list[float] = field(default_factory=list)
    early_labels: int = 0
    units: set[int] = field(default_factory=set)
    unit_rows: int = 0
    keyless: int = 0
    keys: set[int] = field(default_factory=set)

    @property
    def days(self) -> float | None:
        """The days from the first to the last request, at least one; None without times."""
        return max(1.0, (self.last - self.first) / DAY_S) if self.first <= self.last else None

    @property
    def counted(self) -> int:
        """Labelled rows that count as evidence: with a key, only the first of its value and day."""
        if not self.unit:
            return self.labelled
        return round(self.labelled * len(self.units) / self.unit_rows)

    @property
    def few_keys(self) -> bool:
        """Whether the key has too few values to be one of callers."""
        return 0 < len(self.keys) < KEYS_FEW

    @property
    def unit(self) -> bool:
        """Whether only the first request of a key and day counts: values of the key occur more than once a day."""
        return not self.few_keys and len(self.units) < self.unit_rows


class Surveyor:
    """Adds up the rows of a table.

    Args:
        source: the file's name, for messages.
        matching: where the fields of a row come from.
        roles: the other columns.
    """

    def __init__(self, source: str, matching: Matching, roles: Roles) -> None:
        self.found = Survey(cells={field.name: CellFacts() for field in matching.fields})
        self._source, self._matching, self._roles = source, matching, roles
        self._fields = [field for field in matching.fields if field.name in matching.columns]

    def add(self, line: int, record: Record) -> None:
        """Add one row.

        Raises:
            ConfigurationError: a time or a label is none.
        """
        found, body = self.found, self._matching.body(record)
        found.rows += 1
        for each in self._fields:
            value, cells = body.get(each.name), found.cells[each.name]
            if None in flat(value):
                cells.missing += 1
            elif not takes(each, value):
                cells.wrong += 1
                cells.first_wrong = cells.first_wrong or (line, _wrong_one(each, value))
        where = f"{self._source}, line {line}"
        at = time_of(record, self._roles.at, where) if self._roles.at is not None else None
        if at is not None:
            found.first, found.last = min(found.first, at), max(found.last, at)
        if not self._add_label(record.get(self._roles.label)):
            return
        if self._roles.label_at is not None and at is not None and record.get(self._roles.label_at) is not None:
            delay = time_of(record, self._roles.label_at, where) - at
            found.early_labels += delay < 0
            if len(found.delays) < DELAYS_MAX:
                found.delays.append(delay)
        if self._roles.key is not None:
            self._add_key(record.get(self._roles.key), at)

    def _add_label(self, value: object) -> bool:
        """Count a label; whether there is one."""
        found = self.found
        text = "" if value is None else str(value).strip()
        if text.casefold() in MISSING:
            return False
        found.labelled += 1
        if found.numeric:
            amount = (
                value if isinstance(value, int | float) else number(text, decimal_comma=self._matching.decimal_comma)
            )
            found.numeric = amount is not None
            found.whole = found.whole and amount is not None and float(amount).is_integer()
        if not found.many_labels:
            found.labels[text] += 1
            if len(found.labels) > LABELS_DISTINCT_MAX:
                found.many_labels = True
                found.labels.clear()
        return True

    def _add_key(self, key: object, at: float | None) -> None:
        found = self.found
        if key is None:
            found.keyless += 1
        elif len(found.units) < UNITS_MAX:
            found.unit_rows += 1
            if len(found.keys) < KEYS_FEW:
                found.keys.add(hash(key))
            found.units.add(hash((key, None if at is None else at // DAY_S)))


def takes(each: Field, value: object) -> bool:
    """Whether a field takes a value that is present; an array is looked at by its shape later, when it is decoded."""
    if not each.scalar:
        return isinstance(value, list) and all(takes(element(each), one) for one in flat(value))
    if each.dtype == "string":
        return isinstance(value, str)
    if each.dtype == "bool":
        return isinstance(value, bool)
    return not isinstance(value, bool) and isinstance(value, int | (float if each.dtype.startswith("float") else int))


def _wrong_one(each: Field, value: object) -> object:
    """The first wrong element of a vector, else the value."""
    if isinstance(value, list):
        return next((one for one in flat(value) if not takes(element(each), one)), value)
    return value


def flat(value: object) -> Iterator[object]:
    """The elements of nested lists, or the value itself."""
    if isinstance(value, list):
        for one in value:
            yield from flat(one)
    else:
        yield value


def check_roles(source: str, columns: Sequence[str], roles: Roles, matching: Matching) -> None:
    """Check that the columns which the options name are there, and are not what a model predicts from.

    Raises:
        ConfigurationError: names the option and the columns.
    """
    for option, name in roles.named.items():
        if name not in columns:
            raise ConfigurationError(f"{source} has no column {name!r} for {option}; it has {', '.join(columns)}")
    for option in ("--label", "--label-at"):
        column = roles.named.get(option)
        inputs = [field for field, sources in matching.columns.items() if column in sources]
        if inputs:
            raise ConfigurationError(
                f"{source}: {option} names the column {column!r}, and the models read it as the input `{inputs[0]}`, so they "
                "would be given the answer. Name another column"
            )


def check_cells(source: str, found: Survey, matching: Matching) -> None:
    """Check that all cells are what the fields take.

    Raises:
        ConfigurationError: names the line, the column and the value, and what to do.
    """
    if not found.rows:
        raise ConfigurationError(f"{source} has no rows, only the names of columns")
    for each in matching.fields:
        cells = found.cells[each.name]
        if cells.first_wrong is None:
            continue
        line, value = cells.first_wrong
        shown = repr(value) if len(repr(value)) <= LONG_TEXT_CHARS else f"{repr(value)[:LONG_TEXT_CHARS]}…"
        columns = matching.columns[each.name]
        where = (
            f"column {columns[0]!r}" if len(columns) == 1 else f"one of the columns {columns[0]!r} to {columns[-1]!r}"
        )
        more = f" ({cells.wrong:,} cells of this column are like it)" if cells.wrong > 1 else ""
        raise ConfigurationError(
            f"{source}, line {line}, {where}: {shown} is not what the input `{each.name}` takes, {each.describe()}{more}. "
            f"{_way_out(each, value)}"
        )


def _way_out(each: Field, value: object) -> str:
    text = str(value)
    if not isinstance(value, str):
        return "Write the values as the model was trained on them"
    if text[:4].isdecimal() and text[4:5] in {"-", "/"}:
        return "A date is no number: write the number that the model was trained on"
    if "," in text and each.dtype != "string":
        return "Write numbers with a decimal point and without separators of thousands"
    return "Correct these cells, or leave them empty if the value is missing"


def check_labels(source: str, found: Survey, classes: Sequence[int | str]) -> None:
    """Check that the labels are of the models' classes.

    Raises:
        ConfigurationError: names the label and the classes.
    """
    if not found.labelled:
        raise ConfigurationError(f"{source}: no row has a label; is --label the right column?")
    if not classes:
        return
    if found.many_labels:
        raise ConfigurationError(
            f"{source}: the labels have more than {LABELS_DISTINCT_MAX:,} different values, and the models have "
            f"{len(classes)} classes; is --label the right column?"
        )
    for text, rows in found.labels.items():
        label_of(text, classes, f"{source} ({rows:,} rows)")


def label_names(found: Survey) -> list[int | str]:
    """The different labels, sorted: whole numbers as such, true and false as 1 and 0, other labels as texts."""
    if found.numeric and found.whole:
        return sorted({int(float(text.replace(",", "."))) for text in found.labels})
    if {text.casefold() for text in found.labels} == {"true", "false"}:
        return [0, 1]
    return [*sorted(found.labels)]
