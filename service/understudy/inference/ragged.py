"""Arrays whose rows differ in shape: object arrays of shape [rows] that hold one array per row. Pure.

Texts of different lengths, images of different sizes and the boxes of a detector have this form. Rows that share a shape are
one ordinary array.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
PIECE = 16 * 1024
"""Elements that are converted to Python values at once: other threads run in between."""


def is_ragged(array: Array) -> bool:
    """Whether an array holds one array per row. An array of strings does not."""
    return array.dtype.kind == "O" and array.ndim == 1 and len(array) > 0 and isinstance(array[0], np.ndarray)


def of_rows(rows: Sequence[Array]) -> Array:
    """Rows as one array: an ordinary one if all of them have the same shape, else a ragged one."""
    first = rows[0]
    if all(row.shape == first.shape for row in rows):
        return np.stack(rows)
    ragged = np.empty(len(rows), object)
    for i, row in enumerate(rows):
        ragged[i] = row
    return ragged


def joined(parts: Sequence[Array]) -> Array:
    """The rows of several arrays, one array after the other."""
    if all(part.shape[1:] == parts[0].shape[1:] and not is_ragged(part) for part in parts):
        return np.concatenate(parts)
    return of_rows([row for part in parts for row in part])


def nested(array: Array) -> list[Any]:
    """The rows as plain Python values: nested lists. Other threads run in between, where it is large."""
    if is_ragged(array):
        return [row.tolist() for row in array]
    if array.size <= PIECE or array.ndim == 0:
        values: list[Any] = array.tolist()
        return values
    own = array.size // len(array)
    if own > PIECE:
        return [nested(row) for row in array]
    step = PIECE // max(own, 1)
    return [value for at in range(0, len(array), step) for value in array[at : at + step].tolist()]


def finite_rows(array: Array) -> Array:
    """Which rows have only finite numbers.

    Args:
        array: numbers, ordinary or ragged.

    Returns:
        Shape [rows], bool.
    """
    if is_ragged(array) or not array.size:
        return np.array([bool(np.isfinite(row).all()) for row in array], bool)
    return np.asarray(np.isfinite(array).reshape(len(array), -1).all(axis=1))
