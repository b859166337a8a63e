"""A model of the zoo: how it is built, rows for it, and what ONNX Runtime answers to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[Any]
Row = Mapping[str, Array]
"""The inputs of one row, without a batch axis."""
Chance = np.random.Generator
ROWS = 6


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        name: unique; a path's part.
        by: what built it.
        build: writes the model to a file.
        rows: draws this many rows for it.
        axes: the batch axis of inputs and outputs; 0 where none is given, None for those that have none.
        batch: rows of a run, where the graph fixes them.
        refused: a part of the sentence that refuses it; empty: it must be right at every door.
        init: further arguments of `init`.
        keys: keys that its user adds to the rollout file.
        names: class names in order, where its label output gives their positions.
        tolerance: relative and absolute, where not float32's.
    """

    name: str
    by: str
    build: Callable[[Path], object]
    rows: Callable[[Chance, int], Sequence[Row]]
    axes: Mapping[str, int | None] = field(default_factory=dict)
    batch: int = 1
    refused: str = ""
    init: Sequence[str] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)
    names: Sequence[int | str] = ()
    tolerance: float = 1e-4


def numbers(**shapes: tuple[int, ...]) -> Callable[[Chance, int], Sequence[Row]]:
    """Rows of standard normal float32 numbers of these shapes."""
    return lambda chance, n: [
        {name: np.asarray(chance.normal(size=shape), np.float32) for name, shape in shapes.items()} for _ in range(n)
    ]


def plain(raw: Any) -> Array:
    """An output of the runtime as an array; a ZipMap's dicts as a matrix in the dicts' order."""
    if isinstance(raw, list):
        return np.array([list(row.values()) for row in raw], np.float32)
    return np.asarray(raw)


class Reference:
    """What the runtime itself answers to each row alone.

    Args:
        entry: the model.
        path: its file.
    """

    def __init__(self, entry: Entry, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._entry = entry
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = {
            i.name: f"{i.type.removeprefix('tensor(').removesuffix(')')}{_shape(i.shape)}"
            for i in self._session.get_inputs()
        }
        self.outputs = {
            o.name: f"{o.type.removeprefix('tensor(').removesuffix(')')}{_shape(o.shape)}"
            for o in self._session.get_outputs()
        }

    def answer(self, row: Row) -> dict[str, Array]:
        """The outputs of one row, without a batch axis."""
        axes, size = self._entry.axes, self._entry.batch
        feed = {}
        for name, value in row.items():
            axis = axes.get(name, 0)
            feed[name] = value if axis is None else np.repeat(np.expand_dims(value, axis), size, axis)
        found = {}
        for name, raw in zip(self.outputs, self._session.run(None, feed), strict=True):
            array, axis = plain(raw), axes.get(name, 0)
            found[name] = array if axis is None else np.asarray(np.take(array, 0, axis), array.dtype)
        return found


def _shape(shape: Sequence[object]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape or ()) + "]"
