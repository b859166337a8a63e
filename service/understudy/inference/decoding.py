"""Decodes request bodies into columns of numpy arrays, or names each row and field that is wrong. Pure.

::

    bytes ──Decoder.decode──▶ Rows (tuples in field order) ──Columns.build──▶ {input name: array}
              │ does not fit
              └──explain (slow, thorough)──▶ InvalidInput: every row and field that is wrong

Rows that arrive as columns stay columns (`understudy.inference.columns`). Users of `Rows` ask for the number of rows, a
field's texts or a model's arrays, and need not know the form.

The fast path is one pass of a msgspec decoder generated from the signature, which decodes and validates in one step. A body that
fails is decoded again to describe everything that is wrong.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from understudy.errors import InvalidInput, TooLarge, not_json
from understudy.inference.canonical import text_of, text_or_missing
from understudy.inference.explain import Explainer
from understudy.inference.fields import Field, element_type, value_type, whole_numbers
from understudy.inference.ragged import of_rows

__all__ = [
    "Array",
    "Batch",
    "Columnar",
    "Columns",
    "Decoder",
    "Field",
    "InferenceRequest",
    "Row",
    "Rows",
    "Tabular",
    "element_type",
    "value_type",
    "without_null",
]

Row: TypeAlias = tuple[Any, ...]
Array: TypeAlias = npt.NDArray[Any]


_Group: TypeAlias = tuple[tuple[int | None, ...], list[str], list[int]]
"""Shape of a row's value, names, and positions in a row."""


class Columnar(Protocol):
    """Rows as columns, to be given to a model."""

    def __len__(self) -> int:
        """How many rows."""
        ...

    def arrays(self, columns: "Columns") -> dict[str, Array]:
        """See `Columns.build`."""
        ...


class Tabular(Columnar, Protocol):
    """The rows of one request as columns."""

    def values(self, name: str, rows: int | None = None) -> list[object]:
        """A scalar field's values as Python objects, of all rows or of the first `rows`; None where a row has no value."""
        ...


Batch: TypeAlias = list[Row] | Columnar
"""The rows of one run of a model."""
Rows: TypeAlias = list[Row] | Tabular
"""The rows of one request."""

_Converter: TypeAlias = Callable[[Sequence[object]], Array]
"""Makes a column, [rows, *field.shape], of a field's values."""
_UNSAFE = re.compile(r'["\\\x00-\x1f]')
LARGE = 4 * 1024
"""Numbers of an array from which on it is converted by itself."""


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A decoded prediction request: rows in field order, and the routing key in the body."""

    rows: list[Row]
    key: str | None


class Decoder:
    """Decodes the bodies of `POST /predict`.

    Attributes:
        positions: each field's position in a row.
        row_type: the msgspec type of a row; `key_type` and `context_type` are those of the key and of a context field.

    Args:
        fields: the fields of a row.
        context: names of further fields that are used for routing or counting and are no input of a model.
        rows_max: the most rows in a request.
        key_max_chars: the longest routing key.
    """

    ERRORS_MAX = 100  # a response lists at most this many problems

    def __init__(
        self, fields: Sequence[Field], *, context: Sequence[str] = (), rows_max: int, key_max_chars: int
    ) -> None:
        self.fields = tuple(fields)
        names = {field.name for field in fields}
        self.context = tuple(dict.fromkeys(name for name in context if name and name not in names))
        self.rows_max, self.key_max_chars = rows_max, key_max_chars
        texts = {f.name: text_of(f.dtype, may_be_missing=f.nullable or not f.required) for f in fields if f.scalar}
        self._texts = texts | dict.fromkeys(self.context, text_or_missing)
        self.positions = {name: i for i, name in enumerate([f.name for f in fields] + list(self.context))}
        # msgspec decodes no key with a quote, a backslash or a control character: the second try renames all keys then.
        plain = all(not _UNSAFE.search(name) for name in self.positions)
        self._keys = {name: name if plain else f"\uf8ff{i}" for name, i in self.positions.items()}
        self._renamed = not plain
        columns: list[tuple[str, Any] | tuple[str, Any, None]] = [
            (f"f{i}", value_type(f)) if f.required else (f"f{i}", value_type(f) | None, None)
            for i, f in enumerate(fields)
        ]
        text = Annotated[str, msgspec.Meta(max_length=key_max_chars)]
        whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
        self.key_type, self.context_type = text, text | whole | None
        columns += [(f"f{len(fields) + i}", self.context_type, None) for i in range(len(self.context))]
        columns.sort(key=len)  # a struct's required fields come first
        self.row_type = row = msgspec.defstruct(
            "Row",
            columns,
            rename={f"f{i}": self._keys[name] for name, i in self.positions.items()},
            forbid_unknown_fields=True,
            gc=False,
        )
        self._order = [int(column[0][1:]) for column in columns]
        self._identity = self._order == list(range(len(columns)))
        body = msgspec.defstruct(
            "Body",
            [("rows", Annotated[list[row], msgspec.Meta(min_length=1)]), ("key", text | None, None)],  # type: ignore[valid-type]
            forbid_unknown_fields=True,
            gc=False,
        )
        self._body_type = body
        self._decode = msgspec.json.Decoder(body).decode
        self._whole = [field.name for field in fields if field.whole]
        self.explain = Explainer(self.fields, self.context, rows_max).problems

    def decode(self, body: bytes) -> InferenceRequest:
        """Decode a body.

        Raises:
            MalformedRequest: the bytes are not JSON in UTF-8.
            TooLarge: more rows than `rows_max`.
            InvalidInput: the JSON does not match the fields; names every row and field that is wrong.
        """
        try:
            decoded: Any = self._decode(body)
        except msgspec.ValidationError as error:
            decoded = self._second_try(body, self._body_type)
            if decoded is None:
                errors = list(itertools.islice(self.explain(body), self.ERRORS_MAX))
                raise InvalidInput(errors or [{"problem": str(error)}]) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise not_json(error) from None
        if len(decoded.rows) > self.rows_max:
            raise TooLarge(f"{len(decoded.rows)} rows; one request takes at most {self.rows_max}: send several")
        return InferenceRequest(self.tuples(decoded.rows), decoded.key)

    def rows_of(self, text: bytes) -> list[Row] | None:
        """The rows in the text of a JSON list, decoded as on the second try; None if they do not match the fields."""
        decoded = self._second_try(b'{"rows":' + text + b"}", self._body_type)
        return None if decoded is None else self.tuples(decoded.rows)

    def _second_try(self, body: bytes, kind: Any) -> Any:
        """Decode a body that the fast path refused: whole floats are whole numbers, and any name is a key.

        Returns:
            An instance of `kind`; None if the body does not match the fields.
        """
        if not self._whole and not self._renamed:
            return None
        try:
            data = msgspec.json.decode(body)
            rows = data["rows"]
            for row in rows:
                for name in self._whole:
                    if name in row:
                        row[name] = whole_numbers(row[name])
            if self._renamed:
                data["rows"] = [{self._keys[name]: value for name, value in row.items()} for row in rows]
            return msgspec.convert(data, kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError, TypeError, AttributeError):
            return None  # the explanation says what is wrong

    def tuples(self, decoded: Sequence[Any]) -> list[Row]:
        """Rows in the order of `positions`, from instances of `row_type`."""
        rows = [msgspec.structs.astuple(row) for row in decoded]
        if not self._identity:
            rows = [tuple(value for _, value in sorted(zip(self._order, row, strict=True))) for row in rows]
        return rows

    def value(self, row: Row, name: str | None) -> str | None:
        """A field's value in a row as canonical text, for the routing key and the unit. None if the row has no value.

        The text depends on the value that the model gets, not on the protocol: a number is cast to the field's dtype first,
        and -0.0 becomes 0.0. NaN is no value, nor is the empty string where a value may be missing.
        """
        return None if name is None else self._texts[name](row[self.positions[name]])

    def first(self, rows: Rows, name: str | None) -> str | None:
        """Like `value`, for the first row."""
        if name is None:
            return None
        value = rows[0][self.positions[name]] if isinstance(rows, list) else rows.values(name, 1)[0]
        return self._texts[name](value)

    def values(self, rows: Rows, name: str | None) -> list[str | None]:
        """Like `value`, for every row."""
        if name is None:
            return [None] * len(rows)
        text = self._texts[name]
        if not isinstance(rows, list):
            return [text(value) for value in rows.values(name)]
        position = self.positions[name]
        return [text(row[position]) for row in rows]


class Columns:
    """Builds one model's input arrays from rows. A model's inputs have the names of the decoder's fields.

    Args:
        inputs: the model's inputs.
        positions: each field's position in a row.
    """

    def __init__(self, inputs: Sequence[Field], positions: Mapping[str, int]) -> None:
        self.inputs = tuple(inputs)
        self.positions = positions

    @functools.cached_property
    def _plan(self) -> tuple[list[_Group], list[tuple[Field, int, _Converter]]]:
        """Each input's position in a row: scalar float32 inputs grouped by shape, the others one by one."""
        together: dict[tuple[int | None, ...], list[str]] = {}
        alone = []
        for field in self.inputs:
            if field.dtype == "float32" and field.scalar:
                together.setdefault(field.shape, []).append(field.name)
            else:
                alone.append((field, self.positions[field.name], _converter(field)))
        return [(shape, names, [self.positions[n] for n in names]) for shape, names in together.items()], alone

    def build(self, rows: Batch) -> dict[str, Array]:
        """Build arrays of shape [rows, *field.shape], C-contiguous, in the model's dtypes; null is NaN or the empty string.

        Where sizes vary and rows differ in shape, the column is an object array of shape [rows] with one array per row.

        Raises:
            InvalidInput: a null in an input that has no missing value, or an array that is ragged or too large.
        """
        if not isinstance(rows, list):
            return rows.arrays(self)
        count = len(rows)
        by_field = list(zip(*rows, strict=True))
        columns: dict[str, Array] = {}
        # One numpy call for all scalar float32 columns (most columns of a table) instead of one each.
        together, alone = self._plan
        for shape, names, places in together:
            block = np.array([by_field[place] for place in places], dtype=np.float32)
            columns.update(zip(names, block.reshape(len(names), count, *shape), strict=True))
        for field, place, convert in alone:
            columns[field.name] = convert(by_field[place])
        return columns


def _converter(field: Field) -> _Converter:
    """The conversion of a field's values to a column, chosen once: most arrays are small, of floats and of one shape."""
    size = math.prod(size or 0 for size in field.shape)
    if field.scalar:
        return lambda values: _array(field, values).reshape(len(values), *field.shape)
    if None in field.shape or field.dtype not in {"float32", "float64"} or size > LARGE:
        return functools.partial(_array, field)
    dtype, shape = np.dtype(field.dtype), field.shape

    def small(values: Sequence[object]) -> Array:
        try:
            array = np.array(values, dtype)
        except (ValueError, TypeError, OverflowError):
            return _array(field, values)  # this raises the reason
        return array if array.shape[1:] == shape else _array(field, values)

    return small


def _array(field: Field, values: Sequence[object]) -> Array:
    """A column; one array per row if sizes vary and rows have different shapes."""
    if field.dtype == "string" and (field.nullable or not field.required):
        values = [without_null(value) for value in values]
    if field.scalar:
        return _converted(field, values)
    if None not in field.shape:
        each = math.prod(size or 0 for size in field.shape)
        # Many large arrays one by one: other threads run in between.
        array = np.stack([_converted(field, value) for value in values]) if each > LARGE else _converted(field, values)
        if array.shape[1:] != field.shape:  # only where a dimension is 0, which a list cannot say
            if None in values:
                raise _does_not_fit(field, "it is missing")
            array = array.reshape(len(values), *field.shape)
        return array
    return of_rows([_row(field, value) for value in values])


def _row(field: Field, value: object) -> Array:
    array = _converted(field, value)
    if array.ndim < len(field.shape) and not array.size:  # an empty list does not say its further sizes
        array = array.reshape(*array.shape, *(size or 0 for size in field.shape[array.ndim :]))
    if array.ndim != len(field.shape):
        raise _does_not_fit(field, "its parts differ in length")
    return array


def _converted(field: Field, values: object) -> Array:
    try:
        if field.whole and _are(float, values):  # the field's numbers are floats, and this model takes whole ones
            return _cast(np.array(values, np.float64), field.dtype)
        if field.dtype == "bool" and (not _are(bool, values) or (isinstance(values, list | tuple) and None in values)):
            return _cast(np.array(values, np.float64), field.dtype)
        if field.dtype == "float16":  # another model's field may hold larger numbers
            with np.errstate(over="raise"):
                return np.array(values, np.float16)
        return np.array(values, dtype=object if field.dtype == "string" else field.dtype)
    except (ValueError, TypeError, OverflowError, FloatingPointError) as error:
        raise _does_not_fit(field, str(error)) from None


def _does_not_fit(field: Field, why: str) -> InvalidInput:
    return InvalidInput([{"row": None, "field": field.name, "problem": f"takes {field.describe()}: {why}"}])


def without_null(value: Any) -> Any:
    """Texts, nested or not, with "" for null."""
    if isinstance(value, list):
        return [without_null(each) for each in value]
    return "" if value is None else value


def _cast(numbers: Array, dtype: str) -> Array:
    """Numbers of another model's field in this model's type."""
    with np.errstate(invalid="ignore"):
        found = numbers.astype(dtype)
    if not (found == numbers).all():
        raise ValueError("a number is missing, or has no equal of this type")
    return found


def _are(kind: type, values: Any) -> bool:
    """Whether the values of one field are of a type: the first says it, because a decoder gives each field one type."""
    while isinstance(values, list | tuple):
        if not values:
            return False
        values = values[0]
    if isinstance(values, np.ndarray):
        return bool(values.dtype.kind == ("f" if kind is float else "b"))
    return isinstance(values, kind)
