"""Decodes and encodes one tensor of the protocol, as JSON or raw bytes. Pure.

Raw bytes are little-endian and in row-major order; a BYTES element is preceded by its length in 4 bytes, a BOOL is a byte of 0 or 1
(the binary tensor data extension of Triton's documentation).
"""

import itertools
import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np

from understudy.inference.bfloat16 import to_float
from understudy.inference.decoding import Array, Field, element_type
from understudy.inference.fields import list_decoder
from understudy.inference.pieces import ArrayReader, NotAList

DATATYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
"""The protocol's name of each dtype of a model card."""

Values: TypeAlias = list[Any]
"""A tensor's elements in row-major order; None for a missing value."""

_NESTED = re.compile(rb"\s*\[\s*\[")
_LENGTH = struct.Struct("<I")


class TensorError(ValueError):
    """What is wrong with a tensor; the message follows its name."""


class Slot:
    """An input: its type and shape, and how its elements are decoded.

    Args:
        field: the field of a row. A missing value is null in JSON and NaN in raw floats.
        max_chars: longest string.
    """

    def __init__(self, field: Field, *, max_chars: int | None = None) -> None:
        self.field, self.name, self.required, self._max_chars = field, field.name, field.required, max_chars
        self.datatype = DATATYPES[field.dtype]
        self.optional_values = field.nullable or (field.scalar and not field.required)
        self._rest = list(field.shape)
        self.dtype = np.dtype(object) if field.dtype == "string" else np.dtype(field.dtype).newbyteorder("<")
        kind: Any = element_type(field)
        if self.optional_values:
            kind = kind | None
        self._reader = ArrayReader(field, optional=self.optional_values)
        self._decoders: list[Callable[[msgspec.Raw], Any]] = []
        for _ in range(max(2, len(field.shape) + 1)):
            kind = list[kind]
            self._decoders.append(list_decoder(field, kind))

    @property
    def shape(self) -> list[int]:
        """The shape in metadata: -1 stands for any number."""
        return [-1, *(-1 if size is None else size for size in self.field.shape)]

    def rows(self, shape: Sequence[int]) -> int:
        """The number of rows of a tensor of this shape. `[rows]` stands for `[rows, 1]`, and the other way round.

        Raises:
            TensorError: another shape than the model takes.
        """
        expected, rest = self.field.shape, shape[1:]
        if rest == self._rest and shape:
            return shape[0]
        if self.field.scalar:
            fits = len(rest) <= max(1, len(expected)) and all(size == 1 for size in rest)
        else:
            fits = len(rest) == len(expected) and all(e in {None, size} for e, size in zip(expected, rest, strict=True))
        if not shape or not fits:
            raise TensorError(
                f"its shape is {_short(shape)}; the model takes {self.shape}, where -1 stands for any number"
            )
        return shape[0]

    def from_large_json(self, data: msgspec.Raw, shape: Sequence[int]) -> Array:
        """Like `from_json`, in pieces, as an array of shape `shape`; NaN or "" for a missing value.

        Raises:
            TensorError: wrong types, sizes or nesting.
        """
        nested = len(shape) > 1 and _NESTED.match(data) is not None
        try:
            array = self._reader.read(data, len(shape) if nested else 1)
        except (NotAList, ValueError, TypeError, OverflowError) as error:  # msgspec's errors are ValueErrors
            raise TensorError(f"its data are invalid: {str(error) or 'no list'}; it takes {self._takes()}") from None
        if array.size != math.prod(shape):
            raise TensorError(f"its data have {array.size} elements; shape {_short(shape)} has {math.prod(shape)}")
        if nested and list(array.shape) != list(shape):
            raise TensorError(f"its data are not nested as in its shape {_short(shape)}")
        if self._max_chars is not None:
            self._limit(array.reshape(-1).tolist())
        return array.reshape(shape)

    def from_json(self, data: msgspec.Raw, shape: Sequence[int]) -> Values:
        """The elements of flat or nested `data`.

        Raises:
            TensorError: wrong types, sizes or nesting.
        """
        nested = len(shape) > 1 and _NESTED.match(data) is not None
        try:
            values: Values = self._decoders[len(shape) - 1 if nested else 0](data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise TensorError(f"its data are invalid: {error}; it takes {self._takes()}") from None
        for size in shape[1:] if nested else ():
            if any(len(part) != size for part in values):
                raise TensorError(f"its data are not nested as in its shape {_short(shape)}")
            values = list(itertools.chain.from_iterable(values))
        if len(values) != math.prod(shape):
            raise TensorError(f"its data have {len(values)} elements; shape {_short(shape)} has {math.prod(shape)}")
        if self._max_chars is not None:
            self._limit(values)
        return values

    def from_bfloat16(self, data: memoryview, shape: Sequence[int]) -> Array:
        """Like `from_bytes`, for BF16, of which each number is a float32.

        Raises:
            TensorError: as `from_bytes`.
        """
        if len(data) != math.prod(shape) * 2:
            raise TensorError(
                f"its binary data have {len(data)} bytes; BF16 of shape {_short(shape)} has {math.prod(shape) * 2}"
            )
        array = to_float(np.frombuffer(data, "<u2")) if data else np.empty(0, np.float32)
        self._check_finite(array, shape)
        return array.reshape(shape)

    def from_bytes(self, data: memoryview, shape: Sequence[int]) -> Array:
        """Decode raw bytes: a view if they are aligned, else a copy.

        Raises:
            TensorError: too many or too few bytes, or values that the model does not take: NaN, infinity, invalid UTF-8.
        """
        count = math.prod(shape)
        if self.dtype.kind == "O":
            texts = _texts(data, count)
            self._limit(texts)
            return _object_array(texts).reshape(shape)
        if len(data) != count * self.dtype.itemsize:
            expected = f"{self.datatype} of shape {_short(shape)} has {count * self.dtype.itemsize}"
            raise TensorError(f"its binary data have {len(data)} bytes; {expected}")
        array = (
            np.frombuffer(data, self.dtype if self.dtype.kind != "b" else np.uint8)
            if count
            else np.empty(0, self.dtype)
        )
        if self.dtype.kind == "b":
            if (array > 1).any():
                raise TensorError("its binary data have bytes that are neither 0 nor 1")
            array = array.view(np.bool_)
        if not array.flags.aligned:
            array = array.copy()
        if self.dtype.kind == "f":
            self._check_finite(array, shape)
        return array.reshape(shape)

    def array(self, values: Values, shape: Sequence[int]) -> Array:
        """The elements as an array of the field's dtype; NaN or "" for a missing value.

        Raises:
            TensorError: a number that is too large, or a missing value in a type that cannot express it.
        """
        if self.dtype.kind == "O":
            return _object_array(["" if value is None else value for value in values]).reshape(shape)
        try:
            return np.array(values, dtype=self.dtype).reshape(shape)
        except (ValueError, TypeError, OverflowError) as error:
            raise TensorError(f"its data are invalid: {error}; it takes {self._takes()}") from None

    def _check_finite(self, array: Array, shape: Sequence[int]) -> None:
        finite = np.isfinite(array)
        if finite.all() or (self.optional_values and not np.isinf(array).any()):
            return
        bad = int(np.argmax(np.isinf(array) if self.optional_values else ~finite))
        also = " or NaN for a missing value" if self.optional_values else ""
        raise TensorError(f"row {bad // (len(array) // shape[0])} has {array[bad]}; it takes finite numbers{also}")

    def _limit(self, texts: Values) -> None:
        if self._max_chars is not None and any(isinstance(t, str) and len(t) > self._max_chars for t in texts):
            raise TensorError(f"a string is longer than {self._max_chars} characters")

    def _takes(self) -> str:
        kind = {"BYTES": "strings", "BOOL": "true and false"}.get(self.datatype, f"numbers ({self.datatype})")
        return kind + (" and null" if self.optional_values else "")


def to_json(array: Array) -> Values:
    """A tensor's elements, flat."""
    values: Values = array.reshape(-1).tolist()
    return values


def to_bytes(array: Array) -> bytes:
    """A tensor's raw bytes."""
    if array.dtype.kind in "OU":
        texts = [str(value).encode() for value in array.reshape(-1).tolist()]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _texts(data: memoryview, count: int) -> Values:
    texts: Values = []
    at, end = 0, len(data)
    for i in range(count):
        start = at + 4
        if start > end:
            raise TensorError(f"its binary data end before element {i} of {count}")
        at = start + _LENGTH.unpack_from(data, at)[0]
        if at > end:
            raise TensorError(f"element {i} of its binary data declares {at - start} bytes; {end - start} are left")
        try:
            texts.append(str(data[start:at], "utf-8"))
        except UnicodeDecodeError as error:
            raise TensorError(f"element {i} of its binary data is not UTF-8: {error}") from None
    if at != end:
        raise TensorError(f"its binary data have {end - at} bytes after the last of {count} elements")
    return texts


def _object_array(values: Values) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _short(shape: Sequence[int]) -> str:
    return str(list(shape)) if len(shape) <= 8 else f"[{', '.join(map(str, shape[:8]))}, …]"
