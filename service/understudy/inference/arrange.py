"""Runs rows, which are on the first axis, through a graph that has them elsewhere. Pure.

Rows of different shapes, and rows with different values of an input that has no batch axis, are run apart. An output with another
number of rows than its run is an error: nothing is cut off or given to another row.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from understudy.errors import WrongShape
from understudy.inference.decoding import Array
from understudy.inference.layout import Layout
from understudy.inference.ragged import is_ragged, of_rows

Columns = Mapping[str, Array]
Outputs = dict[str, Array]


class Arranged:
    """Runs a graph by its layout.

    Args:
        layout: where the graph has its rows.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._shared = [name for name, axis in layout.inputs.items() if axis is None]
        self._moved = {name: axis for name, axis in layout.inputs.items() if axis}
        self._size = None if layout.batch == "dynamic" else layout.size

    def run(self, columns: Columns, graph: Callable[[Columns], Outputs]) -> Outputs:
        """The outputs by name, with the rows on the first axis; one array per row where their shapes differ.

        Args:
            columns: the inputs by name, with the rows on the first axis; one array per row where their shapes differ.
            graph: runs the graph on arrays as it takes them.

        Raises:
            WrongShape: an output has another number of rows than its run.
        """
        rows = len(next(iter(columns.values())))
        runs = self._runs(columns, rows)
        if len(runs) == 1 and not any(is_ragged(array) for array in columns.values()):
            return self._one(columns, rows, graph)
        found = [
            self._one({name: _picked(array, run) for name, array in columns.items()}, len(run), graph) for run in runs
        ]
        if len(found) == 1:
            return found[0]
        order = np.argsort(np.concatenate([np.asarray(run) for run in runs]), kind="stable")
        return {name: _in_order([outputs[name] for outputs in found], order) for name in found[0]}

    def _runs(self, columns: Columns, rows: int) -> list[Sequence[int]]:
        """The rows of each run of the graph."""
        if self._layout.batch == "one":
            return [[row] for row in range(rows)]
        keys = [key for name, array in columns.items() if (key := self._key(name, array)) is not None]
        if not keys:
            together: list[Sequence[int]] = [range(rows)]
        else:
            groups: dict[object, list[int]] = {}
            for row in range(rows):
                groups.setdefault(tuple(key(row) for key in keys), []).append(row)
            together = [*groups.values()]
        size = self._size
        if size is None:
            return together
        return [group[start : start + size] for group in together for start in range(0, len(group), size)]

    def _key(self, name: str, array: Array) -> Callable[[int], object] | None:
        """What the rows of a run must have in common; None if nothing sets these rows apart."""
        if name in self._shared:
            if is_ragged(array) or array.dtype.kind == "O":
                return lambda row: repr(np.asarray(array[row]).tolist())
            return None if (array == array[:1]).all() else lambda row: array[row].tobytes()
        return (lambda row: array[row].shape) if is_ragged(array) else None

    def _one(self, columns: Columns, rows: int, graph: Callable[[Columns], Outputs]) -> Outputs:
        """One run of the graph; a run with a fixed batch is filled up with its last row."""
        size = self._size or rows
        feed: dict[str, Array] = {}
        for name, column in columns.items():
            if name in self._shared:
                feed[name] = np.asarray(column[0], dtype=column.dtype)
                continue
            short = size - rows
            array = np.concatenate([column, np.repeat(column[-1:], short, axis=0)]) if short else column
            axis = self._moved.get(name)
            feed[name] = np.ascontiguousarray(np.moveaxis(array, 0, axis)) if axis else array
        return {name: self._rows(name, array, rows, size) for name, array in graph(feed).items()}

    def _rows(self, name: str, array: Array, rows: int, size: int) -> Array:
        axis = self._layout.outputs[name]
        if axis is None:
            # Without a batch axis, an output is that of a single row, or the same for all.
            return np.repeat(np.asarray(array)[np.newaxis], rows, axis=0)
        if array.ndim <= axis or array.shape[axis] != size:
            raise WrongShape(f"output {name!r} has shape {list(array.shape)} for a run of {size} rows on axis {axis}")
        return np.moveaxis(array, axis, 0)[:rows] if axis else array[:rows]


def _picked(array: Array, rows: Sequence[int]) -> Array:
    """Some rows, as an ordinary array: the rows of a run have one shape."""
    if is_ragged(array):
        return np.stack([array[row] for row in rows])
    if isinstance(rows, range):
        return array[rows.start : rows.stop]
    return array[rows]


def _in_order(parts: Sequence[Array], order: Array) -> Array:
    """The rows of several runs as one array, in the order of the request."""
    if all(part.shape[1:] == parts[0].shape[1:] for part in parts):
        return np.concatenate(parts)[order]
    rows = [row for part in parts for row in part]
    return of_rows([np.asarray(rows[i]) for i in order.tolist()])
