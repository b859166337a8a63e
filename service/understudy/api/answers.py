"""Encodes large answers in pieces: a list of ten million numbers at once would keep the interpreter for a second. Pure."""

from collections.abc import Callable, Mapping

import msgspec

from understudy.http.asgi import encode
from understudy.inference import Scores
from understudy.inference.cards import Card
from understudy.inference.decoding import Array
from understudy.inference.ragged import is_ragged

PIECE = 16 * 1024
"""Numbers that are encoded at once: about a millisecond."""
LARGE = 64 * 1024
"""Numbers of an answer from which on it is encoded in pieces, in a thread."""

Sized = Callable[[Scores], bool]


def may_be_large(card: Card, rows_max: int) -> bool:
    """Whether a model's answers to one request can have `LARGE` numbers."""
    widths = [output.width for output in card.outputs]
    return any(width is None for width in widths) or sum(width or 0 for width in widths) * rows_max >= LARGE


def is_large(scores: Scores) -> bool:
    """Whether the answers to a request have `LARGE` numbers or texts."""
    start, end = scores.start, scores.start + scores.rows
    return sum(_size(array[start:end]) for array in scores.run.arrays.values()) >= LARGE


def json_of(array: Array) -> bytes:
    """An array as nested JSON lists, or that of a single value."""
    if is_ragged(array):
        return b"[" + b",".join(json_of(row) for row in array) + b"]"
    if array.size <= PIECE:
        return encode(array.tolist())
    own = array.size // len(array)
    if own > PIECE:
        return b"[" + b",".join(json_of(part) for part in array) + b"]"
    step = max(1, PIECE // max(own, 1))
    parts = (encode(array[at : at + step].tolist())[1:-1] for at in range(0, len(array), step))
    return b"[" + b",".join(parts) + b"]"


def row_of(outputs: Mapping[str, Array], at: int) -> msgspec.Raw:
    """One row of the outputs without a role, as a JSON object."""
    named = (encode(name) + b":" + json_of(_row(array, at)) for name, array in outputs.items())
    return msgspec.Raw(b"{" + b",".join(named) + b"}")


def numbers(values: list[float]) -> msgspec.Raw:
    """A long list of numbers, in pieces."""
    parts = (encode(values[at : at + PIECE])[1:-1] for at in range(0, len(values), PIECE))
    return msgspec.Raw(b"[" + b",".join(parts) + b"]")


def _row(array: Array, at: int) -> Array:
    """A row as an array, also where it is a single value."""
    row: Array = array[at] if is_ragged(array) else array[at, ...]
    return row


def _size(array: Array) -> int:
    return sum(row.size for row in array) if is_ragged(array) else array.size
