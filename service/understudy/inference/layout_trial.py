"""Runs a model a few times to find its layout, and proves that rows that are run together get the answers they get alone. Pure.

Three different rows are run together and each by itself. An output's batch axis is the one that grows with the rows and on which
each row has its own answer. Where there is none, or where a row's answer depends on the others, rows are run one at a time.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from understudy.inference.cards import Batch, InputSpec
from understudy.inference.class_names import Upstream
from understudy.inference.decoding import Array
from understudy.inference.layout import Hypothesis, Layout, Shape, Tensor, extents, hypotheses, is_batch_name

ROWS = 3
SEED = 20130131
TRIED_MAX = 3
"""The most shapes of a row that are looked for where sizes vary."""
SIZE_MAX = 16_384
"""The largest size that is taken from the graph's constants or from an error message of the runtime."""
SIZES_MAX = 32
"""The most sizes that are taken from the graph's constants."""
ELEMENTS_MAX = 1 << 22
"""The most elements of a row that is tried: 16 MiB of float32."""
RTOL = {"float16": 2e-2, "float32": 1e-3, "float64": 1e-4}
"""How much the same row's numbers may differ between two runs: the order of additions depends on the number of rows."""

Answers: TypeAlias = dict[str, Array]
Run: TypeAlias = Callable[[Answers], Answers]


@dataclass(slots=True)
class Found:
    """What a trial has found.

    Attributes:
        layout: the layout that holds.
        sentences: what is unusual about it, for people.
        tried: shapes of a row that the model has run with, by input; empty where no size varies beside the batch.
        ranks: the number of axes of each output.
    """

    layout: Layout
    sentences: list[str] = field(default_factory=list)
    tried: dict[str, list[list[int]]] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Setup:
    """Rows that a model runs with, one at a time."""

    shapes: Mapping[str, Shape]
    distinct: bool
    alone: list[Answers]


class Trial:
    """Tries a model.

    Args:
        specs: the inputs, with the profiles on their card.
        inputs: the inputs as the graph declares them.
        outputs: the outputs as the graph declares them.
        run: runs the graph on arrays as it takes them.
        behind: what an output is computed from.
        sizes: sizes that an axis may need to have, from the graph's constants.
    """

    def __init__(
        self,
        specs: Sequence[InputSpec],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        run: Run,
        behind: Callable[[str], Upstream | None],
        sizes: Sequence[int] = (),
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._inputs, self._outputs, self._run, self._behind = inputs, outputs, run, behind
        self._sizes = [size for size in sizes if 0 < size <= SIZE_MAX][:SIZES_MAX]
        self._error: Exception | None = None

    def find(self) -> Found:
        """Find the layout.

        Raises:
            Exception: the runtime's own, if the model does not run at all.
        """
        slow: Found | None = None
        for hypothesis in hypotheses(self._inputs):
            if slow is not None and not any(axis is not None for axis in hypothesis.axes.values()):
                break
            setup = self._setup(hypothesis)
            if setup is None:
                continue
            found, holds = self._examined(hypothesis, setup)
            if holds:
                return self._described(found, hypothesis, setup)
            if slow is None and hypothesis.size is None:
                slow = self._described(found, hypothesis, setup)
        if slow is not None:
            return slow
        assert self._error is not None
        raise self._error

    def declared(self, layout: Layout, hypothesis: Hypothesis) -> Found:
        """Run the model with a layout that its card declares.

        Raises:
            Exception: the runtime's own, if the model does not run.
        """
        setup = self._setup(hypothesis)
        if setup is None:
            assert self._error is not None
            raise self._error
        ranks = {name: array.ndim for name, array in setup.alone[0].items()}
        return self._described(Found(layout, ranks=ranks), hypothesis, setup)

    def _setup(self, hypothesis: Hypothesis) -> _Setup | None:
        """Shapes and values that the model runs with: different rows if it takes them, else typical ones."""
        for distinct in (True, False):
            for shapes in self._shapes(hypothesis):
                setup = self._works(hypothesis, shapes, distinct)
                if setup is not None:
                    return setup
        return None

    def _works(self, hypothesis: Hypothesis, shapes: Mapping[str, Shape], distinct: bool) -> _Setup | None:
        setup, size = _Setup(shapes, distinct, []), hypothesis.size or 1
        try:
            for row in range(ROWS):
                setup.alone.append(self._run(self._feed(hypothesis, setup, [row] * size)))
        except Exception as error:  # the runtime raises a dozen unrelated classes
            self._error = error
            return None
        return setup

    def _shapes(self, hypothesis: Hypothesis) -> Iterator[Mapping[str, Shape]]:
        """Shapes to try; at last with sizes of the graph's constants, and with those that the runtime's error names."""
        varying = False
        for shapes in extents(self._inputs, hypothesis.axes):
            varying = True
            if all(math.prod(shape) <= ELEMENTS_MAX for shape in shapes.values()):
                yield shapes
        named = [int(number) for number in re.findall(r"\d+", str(self._error)) if len(number) < 6] if varying else []
        for size in dict.fromkeys([*named, *(self._sizes if varying else ())]):
            for shapes in itertools.islice(extents(self._inputs, hypothesis.axes, [(size,)]), 1):
                if 0 < size <= SIZE_MAX and all(math.prod(shape) <= ELEMENTS_MAX for shape in shapes.values()):
                    yield shapes

    def _feed(self, hypothesis: Hypothesis, setup: _Setup, rows: Sequence[int]) -> Answers:
        """The graph's inputs for some rows. Inputs without a batch axis keep their value, unless no input has a batch axis."""
        batched = any(axis is not None for axis in hypothesis.axes.values())
        feed: Answers = {}
        for number, tensor in enumerate(self._inputs):
            spec, axis, shape = self._specs[tensor.name], hypothesis.axes[tensor.name], setup.shapes[tensor.name]
            if axis is None:
                feed[tensor.name] = _value(spec, number, shape, 0 if batched else rows[0], distinct=setup.distinct)
            else:
                values = [_value(spec, number, shape, row, distinct=setup.distinct) for row in rows]
                feed[tensor.name] = np.stack(values, axis=axis)
        return feed

    def _examined(self, hypothesis: Hypothesis, setup: _Setup) -> tuple[Found, bool]:
        """What the hypothesis means for the outputs, and whether rows can be run together as it says."""
        ranks = {name: array.ndim for name, array in setup.alone[0].items()}
        if not any(axis is not None for axis in hypothesis.axes.values()):
            sizes = ", ".join(f"{t.name} takes {_shown(t)}" for t in self._inputs)
            why = f"no input has an axis of rows ({sizes}), so each row is run by itself"
            return Found(self._layout("one", hypothesis, dict.fromkeys(ranks)), [why], ranks=ranks), True
        size = hypothesis.size or ROWS
        if size == 1:
            axes = {name: self._axis_alone(name, hypothesis, setup) for name in ranks}
            return Found(self._layout("fixed", hypothesis, axes), ["a run takes exactly one row"], ranks=ranks), True
        try:
            together = self._run(self._feed(hypothesis, setup, range(size)))
        except Exception as error:
            axes = {name: self._axis_alone(name, hypothesis, setup) for name in ranks}
            why = f"it fails on several rows ({_first_line(error)}), so each row is run by itself"
            return Found(self._layout("one", hypothesis, axes), [why], ranks=ranks), False
        axes, problems = {}, []
        for name in ranks:
            axes[name], problem = self._axis(name, together[name], hypothesis, setup)
            problems += [problem] if problem else []
        if problems:
            why = f"{problems[0]}, so each row is run by itself"
            return Found(self._layout("one", hypothesis, axes), [why], ranks=ranks), False
        said = [] if hypothesis.size is None else [f"a run takes exactly {size} rows; a part of a run is filled up"]
        batch: Batch = "dynamic" if hypothesis.size is None else "fixed"
        return Found(self._layout(batch, hypothesis, axes), said, ranks=ranks), True

    def _axis(self, name: str, together: Array, hypothesis: Hypothesis, setup: _Setup) -> tuple[int | None, str | None]:
        """The batch axis of an output, and why rows cannot be run together, if so."""
        size, one = (hypothesis.size, hypothesis.size) if hypothesis.size else (ROWS, 1)
        alone = [answers[name] for answers in setup.alone]
        follow = [
            axis
            for axis in range(together.ndim)
            if together.shape[axis] == size and all(a.ndim == together.ndim and a.shape[axis] == one for a in alone)
        ]
        declared = next((tensor.shape for tensor in self._outputs if tensor.name == name), ())
        names = self._batch_names(hypothesis)
        follow.sort(key=lambda axis: not (axis < len(declared) and declared[axis] in names))
        rows = range(min(size, ROWS))
        for axis in follow:
            named = axis < len(declared) and declared[axis] in names
            if (named or not self._depends_on_data(name)) and all(
                _same(_row_of(together, row, axis), _row_of(alone[row], 0, axis)) for row in rows
            ):
                return axis, None
        if self._constant(name, hypothesis):
            return None, None
        if not follow or (self._depends_on_data(name) and not names.intersection(declared)):
            return None, f"output {name} has no axis of rows"
        if not self._repeats(name, hypothesis, setup):
            return follow[0], None  # it is random, so runs of the same row differ as well
        return follow[0], f"the output {name} of a row depends on the other rows of a run"

    def _axis_alone(self, name: str, hypothesis: Hypothesis, setup: _Setup) -> int | None:
        """The batch axis of an output if rows can only be run alone: one whose size is always 1, by its name or the first."""
        declared = next((tensor.shape for tensor in self._outputs if tensor.name == name), ())
        shapes = [answers[name].shape for answers in setup.alone]
        always_1 = [axis for axis in range(len(shapes[0])) if all(shape[axis : axis + 1] == (1,) for shape in shapes)]
        names = self._batch_names(hypothesis)
        for axis in always_1:
            if axis < len(declared) and declared[axis] in names:
                return axis
        if 0 not in always_1 or self._constant(name, hypothesis):
            return None
        size = declared[0] if declared else None
        return 0 if size == 1 or (size is None and not self._depends_on_data(name)) or is_batch_name(size) else None

    def _batch_names(self, hypothesis: Hypothesis) -> frozenset[str]:
        """The names of the batch's dimension."""
        sizes = [t.shape[axis] for t in self._inputs if (axis := hypothesis.axes[t.name]) is not None]
        return frozenset(size for size in sizes if isinstance(size, str))

    def _constant(self, name: str, hypothesis: Hypothesis) -> bool:
        """Whether an output does not depend on any input that has rows."""
        behind = self._behind(name)
        return behind is not None and not any(
            axis is not None and tensor in behind.tensors for tensor, axis in hypothesis.axes.items()
        )

    def _depends_on_data(self, name: str) -> bool:
        """Whether the size of an output may depend on values."""
        behind = self._behind(name)
        return behind is not None and behind.sized_by_values

    def _repeats(self, name: str, hypothesis: Hypothesis, setup: _Setup) -> bool:
        again = self._run(self._feed(hypothesis, setup, [0] * (hypothesis.size or 1)))
        return _same(again[name], setup.alone[0][name])

    def _layout(self, batch: Batch, hypothesis: Hypothesis, outputs: Mapping[str, int | None]) -> Layout:
        return Layout(batch, hypothesis.size or 1 if batch == "fixed" else 1, dict(hypothesis.axes), dict(outputs))

    def _described(self, found: Found, hypothesis: Hypothesis, setup: _Setup) -> Found:
        """With sentences about inputs and outputs, and the shapes of rows that it runs with."""
        layout, said = found.layout, found.sentences
        said += [f"the rows of {name} are on axis {axis}" for name, axis in layout.inputs.items() if axis]
        said += [f"the rows of output {name} are on axis {axis}" for name, axis in layout.outputs.items() if axis]
        if any(axis is not None for axis in layout.inputs.values()) and layout.batch != "one":
            said += [
                f"{name} has no axis of rows, so only rows with the same value share a run"
                for name, axis in layout.inputs.items()
                if axis is None
            ]
            if layout.batch == "dynamic" or layout.size > 1:
                said += [
                    f"output {name} is the same for every row" for name, axis in layout.outputs.items() if axis is None
                ]
        varying = [t.name for t in self._inputs if not all(isinstance(size, int) for size in self._row(t, hypothesis))]
        if varying:
            shapes = [setup.shapes, *self._further(hypothesis, setup)]
            found.tried = {name: [list(each[name]) for each in shapes] for name in varying}
        return found

    def _further(self, hypothesis: Hypothesis, setup: _Setup) -> Iterator[Mapping[str, Shape]]:
        """Other shapes of a row that work too."""
        count = 1
        for shapes in extents(self._inputs, hypothesis.axes):
            if count == TRIED_MAX:
                return
            if shapes == setup.shapes or any(math.prod(shape) > ELEMENTS_MAX for shape in shapes.values()):
                continue
            try:
                self._run(self._feed(hypothesis, _Setup(shapes, setup.distinct, []), [0] * (hypothesis.size or 1)))
            except Exception:  # noqa: S112 - the runtime raises a dozen unrelated classes, and here each means "not this one"
                continue
            count += 1
            yield shapes

    def _row(self, tensor: Tensor, hypothesis: Hypothesis) -> list[object]:
        return [size for i, size in enumerate(tensor.shape) if i != hypothesis.axes[tensor.name]]


def _value(spec: InputSpec, number: int, shape: Shape, row: int, *, distinct: bool) -> Array:
    """A plausible value of one row of an input. Rows differ, or all are the profile's mean, zeros or empty strings."""
    profile = spec.profile
    if spec.dtype == "string":
        words = (
            sorted(profile.shares, key=lambda k: -profile.shares[k])
            if profile and profile.kind == "categorical"
            else []
        )
        words = words or (["a", "b", "c"] if distinct else [""])
        return np.full(shape, words[row % len(words)] if distinct else words[0], dtype=object)
    mean, std = (profile.mean, profile.std) if profile and profile.kind == "numeric" else (0.0, 1.0)
    if not distinct:
        return np.full(shape, mean, dtype=spec.dtype)
    chance = np.random.default_rng([SEED, number, row])
    if spec.dtype.startswith("float"):
        values = mean + std * chance.standard_normal(shape)
        if profile and profile.kind == "numeric":
            values = np.clip(values, profile.minimum, profile.maximum)
        return np.asarray(values, dtype=spec.dtype)
    if profile and profile.kind == "numeric":
        values = np.clip(np.round(mean + std * chance.standard_normal(shape)), profile.minimum, profile.maximum)
        return np.asarray(values, dtype=spec.dtype)
    if not shape:
        return np.asarray(row % 2 if spec.dtype == "bool" else row, dtype=spec.dtype)
    return np.asarray(chance.integers(0, 2 if spec.dtype == "bool" else ROWS, shape), dtype=spec.dtype)


def _row_of(array: Array, row: int, axis: int) -> Array:
    """One row of an output, as an array also where a row is one string."""
    return np.moveaxis(array, axis, 0)[row : row + 1]


def _same(one: Array, other: Array) -> bool:
    """Whether two answers to the same row are equal, up to rounding."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    largest = np.abs(a[np.isfinite(a)]).max(initial=0.0)
    rtol = RTOL.get(one.dtype.name, 1e-3)
    return bool(np.allclose(a, b, rtol=rtol, atol=rtol * 0.1 * largest, equal_nan=True))


def _shown(tensor: Tensor) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in tensor.shape)}]"


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return lines[0][:200]
