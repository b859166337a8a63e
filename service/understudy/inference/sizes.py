"""The size of a request before its columns are built: what its run will cost, and which requests may share one. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from understudy.inference.columns import Joined, Table
from understudy.inference.decoding import Batch, Columns, Field
from understudy.inference.ragged import is_ragged

Shape = tuple[int, ...]


class Size(NamedTuple):
    """The size of a request.

    Attributes:
        rows: the number of rows.
        elements: the number of elements in the inputs with axes that vary, and of characters in texts.
        shapes: the shapes of its first row; only requests with the same ones fit into one array.
        deferred: whether its run was cancelled once to let others go first.
    """

    rows: int
    elements: int
    shapes: tuple[Shape, ...] = ()
    deferred: bool = False


class Sizer:
    """Measures requests.

    Args:
        columns: the builder of the model's inputs.
        free: the inputs with axes that vary, besides the rows.
        text: the inputs whose characters count.
    """

    def __init__(self, columns: Columns, free: Sequence[str], text: Sequence[str]) -> None:
        self._free = [(name, columns.positions[name]) for name in free]
        self._text = [(name, columns.positions[name]) for name in text]

    def __call__(self, rows: Batch) -> Size:
        """The size of a request, or of several that were joined."""
        if isinstance(rows, Joined):
            parts = [self(part) for part in rows.parts]
            alike = len({part.shapes for part in parts}) == 1
            elements = sum(part.elements for part in parts)
            return Size(sum(part.rows for part in parts), elements, parts[0].shapes if alike else ())
        if isinstance(rows, Table):
            return self._of_table(rows)
        assert isinstance(rows, list)
        elements = 0
        shapes: list[Shape] = []
        for _, place in self._free:
            sizes = [_shape(row[place]) for row in rows]
            elements += sum(map(math.prod, sizes))
            shapes.append(sizes[0])
        for _, place in self._text:
            elements += sum(_characters(row[place]) for row in rows)
        return Size(len(rows), elements, tuple(shapes))

    def _of_table(self, rows: Table) -> Size:
        free = [rows.columns[name] for name, _ in self._free if name in rows.columns]
        texts = [rows.columns[name] for name, _ in self._text if name in rows.columns]
        elements = sum(sum(row.size for row in c) if is_ragged(c) else c.size for c in free)
        elements += sum(_characters(value) for column in texts for value in column.reshape(-1).tolist())
        return Size(len(rows), elements, tuple(c[0].shape if is_ragged(c) else c.shape[1:] for c in free))


def elements_of_arrays(fields: Sequence[Field], positions: Mapping[str, int]) -> Callable[[Batch], int] | None:
    """A function that counts the elements of the arrays in a request; None if no field is an array."""
    arrays = [field for field in fields if not field.scalar]
    if not arrays:
        return None
    fixed = sum(math.prod(size or 0 for size in field.shape) for field in arrays if None not in field.shape)
    free = [field.name for field in arrays if None in field.shape]
    if not free:  # every request is asked: nothing is measured that the shapes say
        return lambda rows: len(rows) * fixed
    sizer = Sizer(Columns(fields, positions), free, ())
    return lambda rows: len(rows) * fixed + sizer(rows).elements


def _shape(value: object) -> Shape:
    """The shape of a nested list, by the first part of each list; a ragged one is found when its array is built."""
    if isinstance(value, np.ndarray):
        return tuple(value.shape)
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _characters(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_characters, value))
    if isinstance(value, np.ndarray):
        return sum(map(_characters, value.reshape(-1).tolist()))
    return len(value) if isinstance(value, str) else 0
