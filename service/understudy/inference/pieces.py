"""Decodes large JSON bodies in small pieces. Pure.

A body of 8 MiB can hold millions of numbers, and decoding it at once keeps the interpreter for up to a second: the event loop waits
as well, even if that happens in a thread. In pieces of `PIECE` bytes, each of which takes a few milliseconds, other threads run in
between. Arrays become NumPy arrays at once, which need a tenth of the memory of nested lists.

A list is cut at commas that are likely to be between two of its elements. It is safe: if all pieces are valid lists, no comma was
inside of an element.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
import numpy as np

from understudy.errors import InputProblem, InvalidInput, TooLarge, not_json
from understudy.inference.decoding import (
    Array,
    Decoder,
    Field,
    InferenceRequest,
    Row,
    without_null,
)
from understudy.inference.fields import element_type, list_decoder, value_type

PIECE = 32 * 1024
"""Bytes of a piece."""
RETRIES = 100
"""How often a piece is extended to the next likely comma, before the list is decoded at once."""

_ROW_END = re.compile(rb"\}\s*,")
_NUMBER_END = re.compile(rb",")
_TEXT_END = re.compile(rb'"\s*,')
_LIST_ENDS = [re.compile(rb"(?:\]\s*){%d}," % depth) for depth in range(1, 33)]

_Decoded = TypeVar("_Decoded")
_raw_rows = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_scan = msgspec.json.Decoder(msgspec.Raw).decode
_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class NotAList(ValueError):
    """The text is no JSON list."""


def inside(text: msgspec.Raw | bytes | memoryview) -> memoryview:
    """The text of a list's elements.

    Raises:
        NotAList: it is no list.
    """
    view = memoryview(text)
    start, end = 0, len(view)
    while start < end and view[start] in b" \t\r\n":
        start += 1
    while end > start and view[end - 1] in b" \t\r\n":
        end -= 1
    if end - start < 2 or view[start] != ord("[") or view[end - 1] != ord("]"):
        raise NotAList
    return view[start + 1 : end - 1]


def decoded(
    elements: memoryview, comma: "re.Pattern[bytes]", decode: Callable[[bytes], _Decoded]
) -> Iterator[tuple[bytes, _Decoded | None]]:
    """Decode the elements of a list in pieces.

    Args:
        elements: see `inside`; part of a text that is known to be JSON.
        comma: finds likely ends of an element.
        decode: decodes a list.

    Yields:
        The text of each list, and what it was decoded to; None for a text that is much larger than a piece, because an element is.

    Raises:
        msgspec.ValidationError: an element has another type.
    """
    at, size = 0, len(elements)
    while at < size:
        end = at
        for retry in range(RETRIES + 1):
            found = comma.search(elements, end + (1 if retry else PIECE)) if retry < RETRIES else None
            end = found.end() - 1 if found is not None else size
            text = b"".join((b"[", elements[at:end], b"]"))
            try:
                if len(text) > 4 * PIECE:
                    _scan(text)
                    yield text, None
                else:
                    yield text, decode(text)
                break
            except msgspec.ValidationError:
                raise
            except msgspec.DecodeError:  # the comma was inside of an element, in a string
                if end == size:
                    raise
        at = end + 1


class _Invalid(Exception):
    """Rows that do not match the fields."""

    def __init__(self, text: bytes, why: str) -> None:
        super().__init__(why)
        self.text, self.why = text, why


class ArrayReader:
    """Decodes a large array.

    Args:
        field: its dtype, and the shape of a row's value.
        optional: whether elements may be null.
    """

    def __init__(self, field: Field, *, optional: bool = False) -> None:
        self._text = field.dtype == "string"
        self._dtype = np.dtype(object if self._text else field.dtype)
        kind: Any = element_type(field)
        if optional:
            kind = kind | None
        self._optional = optional
        self._decoders: list[Callable[[bytes], list[Any]]] = []
        for _ in range(max(2, len(field.shape) + 1)):
            kind = list[kind]
            self._decoders.append(list_decoder(field, kind))

    def read(self, text: msgspec.Raw | bytes | memoryview, depth: int) -> Array:
        """The array that is nested `depth` lists deep.

        Raises:
            NotAList: it is nested in another way.
            msgspec.ValidationError: an element has another type.
            ValueError: its parts differ in length.
        """
        elements = inside(text)
        flat = _TEXT_END if self._text else _NUMBER_END
        comma = flat if depth == 1 else _LIST_ENDS[min(depth - 1, len(_LIST_ENDS)) - 1]
        parts: list[Array] = []
        for piece, values in decoded(elements, comma, self._decoders[depth - 1]):
            if values is not None:
                parts.append(self._array(values, depth))
            elif depth == 1:
                parts.append(self._array(self._decoders[0](piece), 1))
            else:
                parts += [self.read(part, depth - 1)[None] for part in _raw_list(piece)]
        if not parts:
            return np.empty((0,) * depth, self._dtype)
        if any(part.shape[1:] != parts[0].shape[1:] for part in parts):
            raise ValueError("its parts differ in length")
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _array(self, values: list[Any], depth: int) -> Array:
        if self._optional and self._text:
            values = without_null(values)
        array = np.array(values, self._dtype)  # None is NaN
        if array.ndim != depth:
            if array.size:
                raise ValueError("its parts differ in length")
            array = array.reshape(*array.shape, *(0,) * (depth - array.ndim))
        return array


class LargeDecoder:
    """Decodes like `Decoder`, in pieces. Arrays become NumPy arrays; rows stay tuples.

    An error lists the problems of one piece, not of the whole body.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        body = msgspec.defstruct(
            "Body", [("rows", msgspec.Raw), ("key", decoder.key_type | None, None)], forbid_unknown_fields=True
        )
        self._top = msgspec.json.Decoder(body).decode
        self._rows = msgspec.json.Decoder(list[decoder.row_type]).decode  # type: ignore[name-defined]  # a class made at run time
        self._readers = {
            field.name: ArrayReader(field, optional=field.nullable) for field in decoder.fields if not field.scalar
        }
        self._small = {field.name: list_decoder(field, value_type(field)) for field in decoder.fields}
        self._context = msgspec.json.Decoder(decoder.context_type).decode

    def decode(self, body: bytes) -> InferenceRequest:
        """Decode a body.

        Raises:
            MalformedRequest: as `Decoder.decode`.
            TooLarge: as `Decoder.decode`.
            InvalidInput: the JSON does not match the fields; names rows and fields of the first piece that is wrong.
        """
        try:
            top: Any = self._top(body)
            elements = inside(top.rows)
        except msgspec.ValidationError as error:
            raise InvalidInput([{"problem": str(error)}]) from None
        except NotAList:
            raise InvalidInput([_problem(None, "rows", "must be a list with at least one row")]) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise not_json(error) from None
        rows: list[Row] = []
        try:
            for text, found in decoded(elements, _ROW_END, self._small_rows):
                rows += self._large_rows(text, len(rows)) if found is None else found
                if len(rows) > self._decoder.rows_max:
                    raise TooLarge(
                        f"more than {self._decoder.rows_max} rows; one request takes at most so many: send several"
                    )
        except _Invalid as error:
            raise InvalidInput(self._explained(error, len(rows))) from None
        except msgspec.ValidationError as error:
            raise InvalidInput([{"problem": str(error)}]) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise not_json(error) from None
        if not rows:
            raise InvalidInput([_problem(None, "rows", "must be a list with at least one row")])
        return InferenceRequest(rows, top.key)

    def _small_rows(self, text: bytes) -> list[Row]:
        try:
            return self._decoder.tuples(self._rows(text))
        except msgspec.ValidationError as error:
            rows = self._decoder.rows_of(text)
            if rows is None:
                raise _Invalid(text, str(error)) from None
            return rows

    def _explained(self, error: "_Invalid", first: int) -> list[InputProblem]:
        """What is wrong in a list of rows, the first of which has this number."""
        problems: list[InputProblem] = []
        found = self._decoder.explain(b'{"rows":' + error.text + b"}")
        for problem in itertools.islice(found, self._decoder.ERRORS_MAX):
            row = problem.get("row")
            problems.append({**problem, "row": None if row is None else row + first})
        return problems or [{"problem": error.why}]

    def _large_rows(self, text: bytes, first: int) -> list[Row]:
        """Rows that are much larger than a piece, field by field."""
        return [self._row(row, first + number) for number, row in enumerate(_raw_rows(text))]

    def _row(self, row: dict[str, msgspec.Raw], number: int) -> Row:
        problems: list[InputProblem] = []
        values: list[object] = []
        for field in self._decoder.fields:
            raw = row.pop(field.name, None)
            if raw is None:
                if field.required:
                    problems.append(_problem(number, field.name, f"is missing; it takes {field.describe()}"))
                values.append(None)
                continue
            try:
                values.append(self._value(field, raw))
            except (NotAList, ValueError, TypeError, OverflowError) as error:  # msgspec's errors are ValueErrors
                why = f": {error}" if str(error) else ""
                problems.append(_problem(number, field.name, f"takes {field.describe()}{why}"))
        for name in self._decoder.context:
            try:
                values.append(self._context(row.pop(name)) if name in row else None)
            except msgspec.ValidationError:
                problems.append(_problem(number, name, "takes a string"))
        known = ", ".join(self._decoder.positions)
        problems += [_problem(number, name, f"unknown; the model takes {known}") for name in row]
        if problems:
            raise InvalidInput(problems)
        return tuple(values)

    def _value(self, field: Field, raw: msgspec.Raw) -> object:
        if field.scalar or len(memoryview(raw)) <= 4 * PIECE:
            return self._small[field.name](raw)
        array = self._readers[field.name].read(raw, len(field.shape))
        if any(wanted not in (None, size) for wanted, size in zip(field.shape, array.shape, strict=True)):
            raise ValueError(f"its shape is {list(array.shape)}")
        return array


def _problem(row: int | None, field: str, problem: str) -> InputProblem:
    return {"row": row, "field": field, "problem": problem}
