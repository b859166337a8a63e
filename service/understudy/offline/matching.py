"""Matches the columns of a table with the fields of a request row, and reads cells as what a field takes. Pure.

A column belongs to the field of its name, or of the only name that differs in case, blanks or punctuation alone. A field that
takes a vector may be spread over several columns: `x0` … `x15`, or, if so many are left, all columns that nothing else needs.
"""

import difflib
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from understudy.inference.decoding import Field
from understudy.offline.tables import Record

MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nil"})
"""How tools write a missing number, in lower case. In a field of texts only the empty cell is missing."""
BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False, "1.0": True, "0.0": False}
_NUMBERED = re.compile(r"(.*?)[\s._\[(-]*(\d+)[\])]?")
SHOWN = 12


@dataclass(frozen=True, slots=True)
class Matching:
    """Where each field of a row comes from.

    Attributes:
        columns: field → its column; several columns are a vector, in this order.
        lacking: fields without a column.
        notes: what was matched by more than the same name, in sentences.
    """

    fields: tuple[Field, ...]
    columns: Mapping[str, tuple[str, ...]]
    lacking: tuple[Field, ...]
    notes: tuple[str, ...]
    decimal_comma: bool = False

    def body(self, record: Record) -> dict[str, object]:
        """A row as a caller would send it. A field whose column this record does not have is left out."""
        row: dict[str, object] = {}
        for field in self.fields:
            columns = self.columns.get(field.name, ())
            if not columns or columns[0] not in record:
                continue
            if columns == (field.name,) or (len(columns) == 1 and field.shape != (None,)):
                row[field.name] = cell(record[columns[0]], field, decimal_comma=self.decimal_comma)
            else:
                one = element(field)
                values = [cell(record.get(name), one, decimal_comma=self.decimal_comma) for name in columns]
                row[field.name] = _nested(values, field.shape)
        return row


def match(
    fields: Sequence[Field], columns: Sequence[str], taken: Sequence[str] = (), *, decimal_comma: bool = False
) -> Matching:
    """Match fields with columns.

    Args:
        taken: columns with another meaning, such as the label: they are an input only if they have exactly its name.
    """
    exact = {field.name: (field.name,) for field in fields if field.name in columns}
    alike: dict[str, list[str]] = {}
    for name in columns:
        if name not in taken:
            alike.setdefault(folded(name), []).append(name)
    found: dict[str, tuple[str, ...]] = {}
    notes = []
    for field in fields:
        if field.name in exact:
            found[field.name] = exact[field.name]
        elif len(near := alike.get(folded(field.name), [])) == 1:
            found[field.name] = (near[0],)
            notes.append(f"input `{field.name}` is read from the column `{near[0]}`")
    for field in fields:
        if field.name in found:
            continue
        used = {name for several in found.values() for name in several}
        free = [name for name in columns if name not in used and name not in taken]
        if spread := _spread(field, free):
            found[field.name] = spread
            sizes = sizes_of(field) if None not in field.shape else str(len(spread))
            notes.append(
                f"input `{field.name}` ({sizes} numbers) is read from the columns {listed(spread)}, in this order"
            )
    lacking = tuple(field for field in fields if field.name not in found)
    return Matching(tuple(fields), found, lacking, tuple(notes), decimal_comma)


def lacking(matching: Matching, columns: Sequence[str], taken: Sequence[str] = ()) -> str | None:
    """Which inputs have no column, in a sentence with the way out; None if all have one."""
    missing = [field for field in matching.lacking if field.required or not field.nullable]
    if not missing:
        return None
    used = {name for several in matching.columns.values() for name in several} | set(taken)
    free = [name for name in columns if name not in used]
    field = missing[0]
    width = _width(field)
    if width is not None:
        return (
            f"the input `{field.name}` takes {width} numbers a row, and {len(free)} columns are left for it"
            f"{': ' + listed(free) if free else ''}. Name its columns `{field.name}0` to `{field.name}{width - 1}`, or leave "
            f"exactly {width} columns beside the label"
        )
    near = difflib.get_close_matches(folded(field.name), [folded(name) for name in free], 1)
    hint = next((f"; is it `{name}`? Then rename it" for name in free if near and folded(name) == near[0]), "")
    names = ", ".join(f"`{each.name}`" for each in missing[:SHOWN]) + (", …" if len(missing) > SHOWN else "")
    inputs = f"the input{'s' if len(missing) > 1 else ''} {names}"
    return f"no column has {inputs}{hint}. The columns are {listed(columns)}"


def folded(name: str) -> str:
    """A name without case, blanks and punctuation.

    >>> folded("Age (years)"), folded("age_years")
    ('ageyears', 'ageyears')
    """
    return "".join(each for each in unicodedata.normalize("NFKC", name).casefold() if each.isalnum())


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, shortened in the middle."""
    if len(names) > SHOWN:
        names = [*names[:3], "…", names[-1]]
    return ", ".join(name if name == "…" else f"`{name}`" for name in names)


def element(field: Field) -> Field:
    """A field that takes one number of a vector."""
    return Field(field.name, field.dtype, (), field.nullable)


def _spread(field: Field, free: Sequence[str]) -> tuple[str, ...]:
    """The columns over which a vector may be spread; none if there are others."""
    if (width := _width(field)) is not None:
        return _numbered(field, free, width) or (tuple(free) if len(free) == width else ())
    if field.shape == (None,) and field.dtype != "string":  # of any width: the model says whether it takes this one
        for width in range(len(free), 1, -1):
            if spread := _numbered(field, free, width):
                return spread
        return tuple(free)
    return ()


def _width(field: Field) -> int | None:
    """How many columns a field may be spread over; None if it is a single value, or a size of it varies."""
    sizes = [size for size in field.shape if size is not None]
    width = math.prod(sizes)
    return width if len(sizes) == len(field.shape) and width > 1 else None


def sizes_of(field: Field) -> str:
    """The shape of a field in words: 2 x 3."""
    return " x ".join("any" if size is None else str(size) for size in field.shape)


def _nested(values: Sequence[object], shape: Sequence[int | None]) -> list[object]:
    """Values as lists of a shape, in the order of C."""
    found = list(values)
    for size in reversed([size for size in shape[1:] if size is not None]):
        found = [found[start : start + size] for start in range(0, len(found), size)]
    return found


def _numbered(field: Field, free: Sequence[str], width: int) -> tuple[str, ...]:
    """Columns that are numbered from 0 or 1 to the width, those with the field's name first."""
    groups: dict[str, dict[int, str]] = {}
    for name in free:
        if parts := _NUMBERED.fullmatch(name.strip()):
            groups.setdefault(folded(parts[1]), {})[int(parts[2])] = name
    fitting = {
        prefix: tuple(group[i] for i in sorted(group))
        for prefix, group in groups.items()
        if sorted(group) in (list(range(width)), list(range(1, width + 1)))
    }
    own = fitting.get(folded(field.name))
    return own or (next(iter(fitting.values())) if len(fitting) == 1 else ())


def cell(raw: object, field: Field | None, *, decimal_comma: bool = False) -> object:
    """The value of a cell: a number, a boolean or an array if the field takes one, otherwise the text.

    A text that the field does not take is returned as it is, so that it can be reported.
    """
    if not isinstance(raw, str) or field is None or field.dtype == "string":
        return raw
    text = raw.strip()
    if text.casefold() in MISSING:
        return None
    if not field.scalar:
        return _array(text)
    if field.dtype == "bool":
        return BOOLEANS.get(text.casefold(), raw)
    value = number(text, decimal_comma=decimal_comma)
    if value is None:
        word = {"true": 1, "false": 0}.get(
            text.casefold()
        )  # a column of booleans that the model was trained on as 0 and 1
        return raw if word is None else word
    return value


def _array(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def number(text: str, *, decimal_comma: bool = False) -> int | float | None:
    """A finite number, whole if it is written so or has no fraction; None if the text is none.

    >>> number("1e3"), number("12345678901234567"), number("0,5"), number("0,5", decimal_comma=True), number("1_000")
    (1000, 12345678901234567, None, 0.5, None)
    """
    if decimal_comma and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    if "_" in text:
        return None  # Python reads it, and nobody writes numbers so
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value
