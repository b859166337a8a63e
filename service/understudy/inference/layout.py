"""Where a graph has its rows: which axis of each input and output is the batch, and how many rows a run takes. Pure.

A graph rarely says which axis is the batch. `hypotheses` lists what the shapes and the names of symbolic dimensions allow, the
likeliest first; `trial` runs the model to find the one that holds.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from understudy.inference.cards import Batch, Card

Size: TypeAlias = int | str | None
"""The size of an axis in a graph: a number, the name of a symbolic dimension, or None for an unnamed one that varies."""
Shape: TypeAlias = tuple[int, ...]

_BATCH = re.compile(r"(?i)^(n|b|bs|batch|n_?batch|rows?|n_?rows|samples?|n_?samples)$|batch")
"""Names that exporters give to the batch dimension."""
_EXTENTS: Sequence[Sequence[int]] = (
    (5, 7, 11, 13, 17),
    (8,),
    (32,),
    (16,),
    (64,),
    (224,),
    (1,),
    (2,),
    (3,),
    (4,),
    (128,),
)
"""Sizes to try for the dimensions that vary beside the batch; the last one is repeated for further dimensions."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output as the graph declares it."""

    name: str
    shape: tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the rows of a model are.

    Attributes:
        batch: "dynamic": a run takes any number of rows; "fixed": exactly `size`; "one": each row is run by itself.
        size: the number of rows of a run with a fixed batch; else 1.
        inputs: the batch axis of each input; None: it has none, so all rows of a run share its value.
        outputs: the batch axis of each output; None: it has none.
    """

    batch: Batch
    size: int
    inputs: Mapping[str, int | None]
    outputs: Mapping[str, int | None]

    @classmethod
    def of(cls, card: Card) -> "Layout":
        """The layout on a card."""
        inputs = {spec.name: spec.batch_axis for spec in card.inputs}
        sizes = [spec.shape[spec.batch_axis] for spec in card.inputs if spec.batch_axis is not None and spec.shape]
        fixed = next((size for size in sizes if size is not None), 1) if None not in sizes else 1
        batch: Batch = card.batch or ("dynamic" if None in sizes else "fixed")
        outputs = {spec.name: spec.batch_axis for spec in card.outputs}
        return cls(batch, fixed if batch == "fixed" else 1, inputs, outputs)

    @property
    def first_axis(self) -> bool:
        """Whether a run takes any number of rows, on the first axis of all inputs and outputs."""
        return self.batch == "dynamic" and {*self.inputs.values(), *self.outputs.values()} == {0}


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A possible layout of the inputs.

    Attributes:
        axes: the batch axis of each input, or None.
        size: the rows of a run; None: any number.
        named: whether the name of a dimension says so.
    """

    axes: Mapping[str, int | None]
    size: int | None = None
    named: bool = False


def hypotheses(inputs: Sequence[Tensor]) -> Iterator[Hypothesis]:
    """The layouts that the inputs' shapes allow, the likeliest first. The last one has no batch axis at all."""
    known: list[Mapping[str, int | None]] = []
    for one in (*_named(inputs), *_first(inputs), *_fixed(inputs), *_other(inputs)):
        if one.axes not in known:
            known.append(one.axes)
            yield one
    yield Hypothesis({tensor.name: None for tensor in inputs}, 1)


def is_batch_name(size: Size) -> bool:
    """Whether a symbolic dimension has a name that exporters give to the batch."""
    return isinstance(size, str) and _BATCH.search(size) is not None


def _named(inputs: Sequence[Tensor]) -> Iterator[Hypothesis]:
    axes = {
        tensor.name: next((i for i, size in enumerate(tensor.shape) if is_batch_name(size)), None) for tensor in inputs
    }
    if any(axis is not None for axis in axes.values()) and not _squares(inputs, axes):
        yield Hypothesis(axes, named=True)


def _first(inputs: Sequence[Tensor]) -> Iterator[Hypothesis]:
    """The first axis: of all inputs where it varies, or only of those where it has the name that the first of them has."""
    axes = {tensor.name: 0 if tensor.shape and not isinstance(tensor.shape[0], int) else None for tensor in inputs}
    names = [tensor.shape[0] for tensor in inputs if axes[tensor.name] == 0]
    if names and not _squares(inputs, axes):
        yield Hypothesis(axes)
        if any(name != names[0] for name in names):
            yield Hypothesis({t.name: 0 if t.shape and t.shape[0] == names[0] else None for t in inputs})


def _fixed(inputs: Sequence[Tensor]) -> Iterator[Hypothesis]:
    """The first axis, with the size that the first input gives it. Inputs of another size have no batch."""
    size = next((tensor.shape[0] for tensor in inputs if tensor.shape), None)
    if isinstance(size, int) and size > 0:
        yield Hypothesis({t.name: 0 if t.shape and t.shape[0] == size else None for t in inputs}, size)


def _other(inputs: Sequence[Tensor]) -> Iterator[Hypothesis]:
    """Another axis that varies: the same dimension of all inputs by its name, or the axis with the same number."""
    if any(is_batch_name(size) for tensor in inputs for size in tensor.shape):
        return
    for size in dict.fromkeys(size for tensor in inputs for size in tensor.shape[1:] if isinstance(size, str)):
        axes = {t.name: t.shape.index(size) if size in t.shape else None for t in inputs}
        if not _squares(inputs, axes):
            yield Hypothesis(axes)
    for axis in range(1, max((len(tensor.shape) for tensor in inputs), default=0)):
        axes = {t.name: axis if len(t.shape) > axis and t.shape[axis] is None else None for t in inputs}
        if any(found is not None for found in axes.values()):
            yield Hypothesis(axes)


def _squares(inputs: Sequence[Tensor], axes: Mapping[str, int | None]) -> bool:
    """Whether the batch's dimension appears twice in an input, as in an adjacency matrix, so that no axis is the rows."""
    for tensor in inputs:
        axis = axes[tensor.name]
        if axis is not None and isinstance(tensor.shape[axis], str) and tensor.shape.count(tensor.shape[axis]) > 1:
            return True
    return False


def extents(
    inputs: Sequence[Tensor], axes: Mapping[str, int | None], choices: Sequence[Sequence[int]] = _EXTENTS
) -> Iterator[Mapping[str, Shape]]:
    """Shapes of a row to try, by input: dimensions with the same name, or unnamed ones of the same axis, get the same size.

    First every dimension has its own size, then all have the same. A name such as `past + new` is a sum.
    """
    keys = list(dict.fromkeys(key for t in inputs for key in _keys(t, axes[t.name]) if not isinstance(key, int)))
    plain = [key for key in keys if not _parts(key, keys)]
    seen = []
    for sizes in choices:
        known = {key: sizes[min(i, len(sizes) - 1)] for i, key in enumerate(plain)}
        known |= {key: sum(known[part] for part in parts) for key in keys if (parts := _parts(key, keys))}
        shapes = {
            t.name: tuple(key if isinstance(key, int) else known[key] for key in _keys(t, axes[t.name])) for t in inputs
        }
        if shapes not in seen:
            seen.append(shapes)
            yield shapes


def _keys(tensor: Tensor, batch: int | None) -> list[int | str]:
    """The sizes of a row of an input; names for those that vary."""
    return [size if isinstance(size, (int, str)) else f"axis {i}" for i, size in enumerate(tensor.shape) if i != batch]


def _parts(key: str, keys: Sequence[str]) -> list[str]:
    parts = [part.strip() for part in key.split("+")]
    return parts if len(parts) > 1 and all(part in keys and "+" not in part for part in parts) else []
