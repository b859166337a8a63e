"""The fields of a request row: what values they take, and the msgspec types that check them. Pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np

_FLOAT_LIMIT = {"float16": 65504.0, "float32": float(np.finfo(np.float32).max), "float64": math.inf}
EXACT = 2**53
"""Beyond this a float does not say which whole number was meant."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a request row.

    Attributes:
        dtype: as in a model card.
        shape: the shape of one row's value; () is a number or string, None in it a size that varies.
        nullable: `null` may stand for a missing value (fed as NaN, or as the empty string); in an array, for one of its numbers.
        required: whether each row must have the field. Inputs that only the candidate has are optional.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] = ()
    nullable: bool = False
    required: bool = True

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole."""
        return self.dtype.startswith(("int", "uint"))

    @property
    def scalar(self) -> bool:
        """Whether a row's value is one number or string."""
        return all(size == 1 for size in self.shape)

    def describe(self) -> str:
        """The values that the field takes, for an error message."""
        kind = {"string": "a string", "bool": "true or false"}.get(
            self.dtype, "a number" if self.dtype.startswith("float") else f"a whole number ({self.dtype})"
        )
        if not self.scalar:
            shape = ", ".join("any" if n is None else str(n) for n in self.shape)
            kind = f"an array of shape [{shape}] of {self.dtype}"
            each = "texts" if self.dtype == "string" else "numbers"
            return f"{kind}, whose {each} may be null" if self.nullable else kind
        return kind + (" or null" if self.nullable else "")


def element_type(field: Field) -> Any:
    """The msgspec type of one number or string of a field."""
    if field.dtype == "string":
        return str
    if field.dtype == "bool":
        return bool
    if field.dtype.startswith("float"):
        limit = _FLOAT_LIMIT[field.dtype]
        return float if limit == math.inf else Annotated[float, msgspec.Meta(ge=-limit, le=limit)]
    info = np.iinfo(field.dtype)
    # msgspec's bounds are 64-bit signed; numpy rejects numbers beyond uint64.
    high = None if info.max > np.iinfo(np.int64).max else int(info.max)
    return Annotated[int, msgspec.Meta(ge=int(info.min), le=high)]


def value_type(field: Field) -> Any:
    """The msgspec type of one row's value of a field."""
    kind: Any = element_type(field)
    if field.scalar:
        return kind | None if field.nullable else kind
    if field.nullable and not field.whole and field.dtype != "bool":
        kind = kind | None  # an element of an array; an array cannot be missing
    for size in reversed(field.shape):
        kind = Annotated[list[kind], msgspec.Meta(min_length=size, max_length=size)] if size else list[kind]
    return kind


def whole_numbers(value: Any) -> Any:
    """A decoded JSON value in which whole floats are whole numbers, such as 44.0 and 1e3 (pandas makes floats of integers).

    >>> whole_numbers([44.0, 1e3, 44.5, 1e300, "44.0", None])
    [44, 1000, 44.5, 1e+300, '44.0', None]
    """
    if type(value) is float:
        return int(value) if value.is_integer() and abs(value) <= EXACT else value
    return [whole_numbers(each) for each in value] if isinstance(value, list) else value


def list_decoder(field: Field, kind: Any) -> Callable[[Any], Any]:
    """A decoder of JSON text of a type that is made of a field's elements. Whole floats are whole numbers, on a second try."""
    decode: Callable[[Any], Any] = msgspec.json.Decoder(kind).decode
    if not field.whole:
        return decode

    def lenient(text: Any) -> Any:
        try:
            return decode(text)
        except msgspec.ValidationError as error:
            try:
                return msgspec.convert(whole_numbers(msgspec.json.decode(text)), kind)
            except msgspec.ValidationError:
                raise error from None

    return lenient
