"""One tensor of the protocol: from JSON or raw bytes to values, and back. Pure.

Raw bytes are little-endian and in row-major order; a BYTES element follows its length in 4 bytes, a BOOL is a byte of 0 or 1
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

from understudy.inference.decoding import Array, Field, element_type

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
"""A tensor's elements in row-major order; None where a value is missing."""

_NESTED = re.compile(rb"\s*\[\s*\[")
_LENGTH = struct.Struct("<I")


class TensorError(ValueError):
    """What is wrong with a tensor, in words that stand behind its name."""


class Slot:
    """An input: what it takes, and how its elements are read.

    Args:
        field: as a row has it. Where a value may be missing, JSON says null, and raw floats say NaN.
        max_chars: of a string.
    """

    def __init__(self, field: Field, *, max_chars: int | None = None) -> None:
        self.field, self.name, self.required, self._max_chars = field, field.name, field.required, max_chars
        self.datatype = DATATYPES[field.dtype]
        self.optional_values = field.scalar and (field.nullable or not field.required)
        self._rest = list(field.shape)
        self._dtype = np.dtype(object) if field.dtype == "string" else np.dtype(field.dtype).newbyteorder("<")
        kind: Any = element_type(field)
        if self.optional_values:
            kind = kind | None
        self._decoders: list[Callable[[msgspec.Raw], Any]] = []
        for _ in range(max(2, len(field.shape) + 1)):
            kind = list[kind]
            self._decoders.append(msgspec.json.Decoder(kind).decode)

    @property
    def shape(self) -> list[int]:
        """As metadata say it: -1 is any number."""
        return [-1, *(-1 if size is None else size for size in self.field.shape)]

    def rows(self, shape: Sequence[int]) -> int:
        """The number of rows of a tensor of this shape. `[rows]` stands for `[rows, 1]`, and the other way round.

        Raises:
            TensorError: the model takes another shape.
        """
        wanted, rest = self.field.shape, shape[1:]
        if rest == self._rest and shape:
            return shape[0]
        if self.field.scalar:
            fits = len(rest) <= max(1, len(wanted)) and all(size == 1 for size in rest)
        else:
            fits = len(rest) == len(wanted) and all(w in {None, size} for w, size in zip(wanted, rest, strict=True))
        if not shape or not fits:
            raise TensorError(f"its shape is {_short(shape)}; the model takes {self.shape}, where -1 is any number")
        return shape[0]

    def from_json(self, data: msgspec.Raw, shape: Sequence[int]) -> Values:
        """The elements of flat or nested `data`.

        Raises:
            TensorError: wrong kinds, sizes or nesting, and where.
        """
        nested = len(shape) > 1 and _NESTED.match(data) is not None
        try:
            found: Values = self._decoders[len(shape) - 1 if nested else 0](data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise TensorError(f"its data do not fit: {error}; it takes {self._takes()}") from None
        for size in shape[1:] if nested else ():
            if any(len(part) != size for part in found):
                raise TensorError(f"its data are not nested as its shape says, {_short(shape)}")
            found = list(itertools.chain.from_iterable(found))
        if len(found) != math.prod(shape):
            raise TensorError(f"its data have {len(found)} elements; shape {_short(shape)} has {math.prod(shape)}")
        if self._max_chars is not None:
            self._limit(found)
        return found

    def from_bytes(self, data: memoryview, shape: Sequence[int]) -> Array:
        """The tensor in some raw bytes: a view of them where their address allows it, else a copy.

        Raises:
            TensorError: too many or too few bytes, or what the model does not take: NaN, infinity, bytes that are no text.
        """
        count = math.prod(shape)
        if self._dtype.kind == "O":
            texts = _texts(data, count)
            self._limit(texts)
            return _object_array(texts).reshape(shape)
        if len(data) != count * self._dtype.itemsize:
            said = f"{self.datatype} of shape {_short(shape)} has {count * self._dtype.itemsize}"
            raise TensorError(f"its binary data have {len(data)} bytes; {said}")
        array = (
            np.frombuffer(data, self._dtype if self._dtype.kind != "b" else np.uint8)
            if count
            else np.empty(0, self._dtype)
        )
        if self._dtype.kind == "b":
            if (array > 1).any():
                raise TensorError("its binary data have bytes that are neither 0 nor 1")
            array = array.view(np.bool_)
        if not array.flags.aligned:
            array = array.copy()
        if self._dtype.kind == "f":
            self._check_finite(array, shape)
        return array.reshape(shape)

    def array(self, values: Values, shape: Sequence[int]) -> Array:
        """Elements as an array in the field's dtype; NaN or "" where a value is missing.

        Raises:
            TensorError: a number too large, or a missing value where there is nothing to say it with.
        """
        if self._dtype.kind == "O":
            return _object_array(["" if value is None else value for value in values]).reshape(shape)
        try:
            return np.array(values, dtype=self._dtype).reshape(shape)
        except (ValueError, TypeError, OverflowError) as error:
            raise TensorError(f"its data do not fit: {error}; it takes {self._takes()}") from None

    def _check_finite(self, array: Array, shape: Sequence[int]) -> None:
        finite = np.isfinite(array)
        if finite.all() or (self.optional_values and not np.isinf(array).any()):
            return
        bad = int(np.argmax(np.isinf(array) if self.optional_values else ~finite))
        also = " or NaN, for a value that is missing" if self.optional_values else ""
        raise TensorError(f"row {bad // (len(array) // shape[0])} has {array[bad]}; it takes finite numbers{also}")

    def _limit(self, texts: Values) -> None:
        if self._max_chars is not None and any(isinstance(t, str) and len(t) > self._max_chars for t in texts):
            raise TensorError(f"a string is longer than {self._max_chars} characters")

    def _takes(self) -> str:
        kind = {"BYTES": "strings", "BOOL": "true and false"}.get(self.datatype, f"numbers ({self.datatype})")
        return kind + (" and null" if self.optional_values else "")


def to_json(array: Array) -> Values:
    """A tensor's elements, flat."""
    found: Values = array.reshape(-1).tolist()
    return found


def to_bytes(array: Array) -> bytes:
    """A tensor's raw bytes."""
    if array.dtype.kind in "OU":
        texts = [str(value).encode() for value in array.reshape(-1).tolist()]
        return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def _texts(data: memoryview, count: int) -> Values:
    found: Values = []
    at, end = 0, len(data)
    for i in range(count):
        start = at + 4
        if start > end:
            raise TensorError(f"its binary data end before element {i}; its shape has {count}")
        at = start + _LENGTH.unpack_from(data, at)[0]
        if at > end:
            raise TensorError(
                f"element {i} of its binary data says that it has {at - start} bytes; {end - start} are left"
            )
        try:
            found.append(str(data[start:at], "utf-8"))
        except UnicodeDecodeError as error:
            raise TensorError(f"element {i} of its binary data is not UTF-8: {error}") from None
    if at != end:
        raise TensorError(f"its binary data have {end - at} bytes after the last of {count} elements")
    return found


def _object_array(values: Values) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _short(shape: Sequence[int]) -> str:
    return str(list(shape)) if len(shape) <= 8 else f"[{', '.join(map(str, shape[:8]))}, …]"
