"""From rows to a model's outputs, through the Engine port: columns in, arrays out.

`onnx.OnnxEngine` runs a model in this process; `remote.RemoteEngine` calls the candidate's process. An `OutputReader` turns output
arrays into labels, probabilities and values.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
import numpy as np

from understudy.domain import Attempt, Label, Status
from understudy.errors import NotFinite, WrongShape
from understudy.inference.cards import MULTILABEL, Card, width_of
from understudy.inference.decoding import Array

_Value = TypeVar("_Value")
Value: TypeAlias = float | list[float]
"""What a regression predicts of a row: one number, or a vector of several."""
POSITIVE_FROM = 0.5
"""A multilabel classifier without a label output predicts the classes whose probability is at least this."""


class Engine(Protocol):
    """Runs one model on this process's threads."""

    card: Card

    def run(self, columns: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, the first dimension of each being the rows of `columns`. Thread-safe; blocks.

        Raises:
            InferenceError: when the runtime fails on these columns.
        """
        ...

    def seconds(self, rows: int) -> float:
        """How long `run` is expected to take for so many rows, from the warm-up's measurements."""
        ...

    def close(self) -> None:
        """Free the model. Calling it twice is harmless."""
        ...


class Lists(msgspec.Struct, array_like=True, gc=False):
    """A run's answers as plain Python values, or None for what the model does not give."""

    labels: list[Label] | None = None
    probabilities: list[list[float]] | None = None
    values: list[Value] | None = None


class Run:
    """What one run of a model gave; made into lists when first asked for, once for all the requests that shared the run.

    Args:
        lists: and `others`: where there is no `reader` that makes them of the arrays.

    Attributes:
        arrays: by output name, the first dimension being the run's rows.
        bad: shape [rows], bool: the rows whose answer is not finite; None where all are.
    """

    __slots__ = ("_lists", "_others", "_reader", "arrays", "bad")

    def __init__(
        self,
        reader: "OutputReader | None",
        arrays: Mapping[str, Array] | None = None,
        lists: Lists | None = None,
        others: Mapping[str, Sequence[Any]] | None = None,
        bad: Array | None = None,
    ) -> None:
        self._reader, self.arrays, self._lists, self._others = reader, arrays or {}, lists, others
        self.bad = bad

    @property
    def lists(self) -> Lists:
        """The arrays as lists."""
        if self._lists is None:
            assert self._reader is not None
            self._lists = self._reader.lists(self.arrays)
        return self._lists

    @property
    def others(self) -> Mapping[str, Sequence[Any]]:
        """Outputs without a role, by name. They may be large, and few ask for them: an image's thousand classes, say."""
        if self._others is None:
            names = self._reader.others if self._reader is not None else ()
            self._others = {name: self.arrays[name].tolist() for name in names}
        return self._others

    @property
    def other_arrays(self) -> dict[str, Array]:
        """The same as arrays."""
        if self._reader is not None:
            return {name: self.arrays[name] for name in self._reader.others}
        return {name: np.array(values) for name, values in self.others.items()}


class Scores:
    """The part of a run's answers that belongs to some of its rows.

    Args:
        bad: of these rows, those whose answer is not finite; see `Run.bad`.

    Attributes:
        run: where they are, from row `start` on, for `rows` rows.
    """

    __slots__ = ("rows", "run", "start")

    def __init__(
        self,
        rows: int,
        labels: list[Label] | None = None,
        probabilities: list[list[float]] | None = None,
        values: list[Value] | None = None,
        others: Mapping[str, Sequence[Any]] | None = None,
        bad: Array | None = None,
        *,
        run: Run | None = None,
        start: int = 0,
    ) -> None:
        self.rows, self.start = rows, start
        self.run = run or Run(None, None, Lists(labels, probabilities, values), others or {}, bad)

    @property
    def finite(self) -> bool:
        """Whether every number of these rows' answers is finite; other rows of the run do not matter."""
        return self.run.bad is None or not self.run.bad[self.start : self.start + self.rows].any()

    @property
    def bad_rows(self) -> list[int]:
        """The rows whose answer is not finite, counted from this part's first."""
        bad = self.run.bad
        return [] if bad is None else np.flatnonzero(bad[self.start : self.start + self.rows]).tolist()

    @property
    def labels(self) -> list[Label] | None:
        """The predicted classes."""
        return self._part(self.run.lists.labels)

    @property
    def probabilities(self) -> list[list[float]] | None:
        """One list per row, in the order of the card's classes."""
        return self._part(self.run.lists.probabilities)

    @property
    def values(self) -> list[Value] | None:
        """The predicted numbers, or a list of them per row."""
        return self._part(self.run.lists.values)

    @property
    def others(self) -> dict[str, Sequence[Any]] | None:
        """Outputs without a role, by name."""
        end = self.start + self.rows
        return {name: values[self.start : end] for name, values in self.run.others.items()} or None

    def array(self, name: str) -> Array:
        """One output as the model gave it."""
        return self.run.arrays[name][self.start : self.start + self.rows]

    def slice(self, start: int, rows: int) -> "Scores":
        """The answers of `rows` rows from `start` on."""
        if start == 0 and rows == self.rows:
            return self
        return Scores(rows, run=self.run, start=self.start + start)

    def _part(self, values: list[_Value] | None) -> list[_Value] | None:
        return values[self.start : self.start + self.rows] if values is not None else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scores):
            return NotImplemented
        ours, theirs = ((s.rows, s.labels, s.probabilities, s.values, s.others, s.bad_rows) for s in (self, other))
        return ours == theirs

    __hash__ = None  # type: ignore[assignment]


class OutputReader:
    """Reads outputs by the roles on a model's card.

    Attributes:
        width: how many numbers a regression predicts of a row; None where the graph leaves that open.
        multilabel: whether each class is true or false by itself: a row's label is then a set of classes.
    """

    def __init__(self, card: Card) -> None:
        by_role = {output.role: output for output in card.outputs}
        names = {role: output.name for role, output in by_role.items()}
        self.label, self.probabilities, self.value = (names.get(role) for role in ("label", "probabilities", "value"))
        self.others = [output.name for output in card.outputs if output.role == "other"]
        # Where NaN and infinities are no answers: every output but those that the card excepts.
        self._finite = [o.name for o in card.outputs if not (o.role == "other" and o.nullable)]
        self.classes: Sequence[int | str] = card.classes
        self.positive_class = card.positive
        self.positive = card.classes.index(card.positive) if card.positive in card.classes else None
        self.multilabel = card.task == MULTILABEL
        self.width = width_of(by_role["value"].shape) if self.value is not None else None

    def read(self, outputs: Mapping[str, Array], rows: int) -> Scores:
        """The batch's answers; `Scores.bad_rows` are those with NaN or an infinity in any output that is not `nullable`.

        Raises:
            WrongShape: an output is not as the card promises, so nothing says which row an answer belongs to.
        """
        self.check_shapes(outputs, rows)
        bad: Array | None = None
        for name in self._finite:
            array = outputs[name]
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                bad = np.zeros(rows, bool) if bad is None else bad
                bad |= ~np.isfinite(array).reshape(rows, -1).all(axis=1)
        return Scores(rows, run=Run(self, outputs, bad=bad))

    def check_shapes(self, outputs: Mapping[str, Array], rows: int) -> None:
        """Make sure that each output has one answer for each of the rows.

        Raises:
            WrongShape: naming the output that has not.
        """
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != rows:
                raise _misshapen(name, array, f"{rows} rows: the first axis of an output is the rows")
        if self.label is not None and not self._labels_fit(outputs[self.label], rows):
            wanted = (
                f"{rows} rows and {len(self.classes)} classes" if self.multilabel else f"{rows} rows, a label for each"
            )
            raise _misshapen(self.label, outputs[self.label], wanted)
        if self.value is not None and not self._values_fit(outputs[self.value], rows):
            wanted = f"{rows} rows, {self.width or 'some'} numbers for each"
            raise _misshapen(self.value, outputs[self.value], wanted)
        if self.probabilities is not None:
            array, width = outputs[self.probabilities], len(self.classes)
            if array.ndim != 2 or (width and array.shape[1] != width):
                raise _misshapen(self.probabilities, array, f"{rows} rows and {width or 'any number of'} classes")

    def _labels_fit(self, array: Array, rows: int) -> bool:
        if not self.multilabel:
            return array.size == rows
        return array.ndim == 2 and array.shape == (rows, len(self.classes) or array.shape[1])

    def _values_fit(self, array: Array, rows: int) -> bool:
        if self.width == 1:
            return array.size == rows
        return array.ndim == 2 and array.shape[1] == (self.width or array.shape[1]) > 0

    def lists(self, outputs: Mapping[str, Array]) -> Lists:
        """A run's arrays as plain Python values."""
        found = Lists()
        if self.multilabel:
            self._sets(outputs, found)
            return found
        if self.label is not None:
            found.labels = outputs[self.label].reshape(-1).tolist()
        if self.probabilities is not None:
            array = outputs[self.probabilities]
            found.probabilities = array.tolist()
            if found.labels is None and self.classes and array.ndim == 2 and array.shape[1] == len(self.classes):
                found.labels = [self.classes[i] for i in array.argmax(axis=1)]
        if self.value is not None:
            array = outputs[self.value]
            found.values = (array.reshape(-1) if self.width == 1 or array.shape[1:] == (1,) else array).tolist()
        return found

    def _sets(self, outputs: Mapping[str, Array], found: Lists) -> None:
        """The sets of classes that a multilabel classifier predicts, as tuples in the order of its classes."""
        true = None
        if self.probabilities is not None:
            array = outputs[self.probabilities]
            found.probabilities, true = array.tolist(), array >= POSITIVE_FROM
        if self.label is not None:
            true = outputs[self.label] != 0
        if true is not None and true.ndim == 2 and true.shape[1] == len(self.classes):
            classes = self.classes
            found.labels = [
                tuple(c for c, is_true in zip(classes, row, strict=True) if is_true) for row in true.tolist()
            ]

    def attempts(self, scores: Scores | None, status: Status, seconds: float, rows: int) -> list[Attempt]:
        """One `Attempt` per row, as it is recorded.

        Where a request failed for some of its rows, those are `Status.INVALID`, and the others `Status.WITHHELD`: there is an
        answer to each of them, which the caller did not get.
        """
        if scores is None:
            return [Attempt(status, seconds=seconds)] * rows
        if status is not Status.INVALID:
            return self._given(scores, status, seconds)
        found = self._given(scores, Status.WITHHELD, seconds)
        for row in scores.bad_rows:
            found[row] = Attempt(status, seconds=seconds)
        return found

    def _given(self, scores: Scores, status: Status, seconds: float) -> list[Attempt]:
        # By position in the whole run: slices of it would cost as much again.
        run = scores.run.lists
        own = (scores.start,) if scores.rows == 1 else range(scores.start, scores.start + scores.rows)
        labels, probabilities, values = run.labels, run.probabilities, run.values
        if values is not None:
            if values and isinstance(values[0], list):
                return [Attempt(status, seconds=seconds, vector=tuple(values[i])) for i in own]  # type: ignore[arg-type]  # all are
            return [Attempt(status, score=values[i], seconds=seconds) for i in own]  # type: ignore[arg-type]  # none is a list
        if probabilities is None:
            return [Attempt(status, label=labels[i] if labels else None, seconds=seconds) for i in own]
        if self.positive is not None and len(self.classes) == 2 and not self.multilabel:
            positive = self.positive
            return [
                Attempt(status, labels[i] if labels else None, probabilities[i][positive], None, seconds) for i in own
            ]
        return [Attempt(status, labels[i] if labels else None, None, tuple(probabilities[i]), seconds) for i in own]


def _misshapen(name: str, array: Array, wanted: str) -> WrongShape:
    return WrongShape(f"output {name!r} has shape {list(array.shape)} for {wanted}")


def ended(found: Scores | Exception) -> tuple[Status, Scores | None]:
    """How a request's attempt ended, and what is to be recorded of its scores.

    A request with a row that is not finite is invalid as a whole, since its caller gets one answer or an error; which of its rows
    were fine is kept where any were.
    """
    if isinstance(found, Scores):
        if found.finite:
            return Status.OK, found
        return Status.INVALID, found if len(found.bad_rows) < found.rows else None
    if isinstance(found, TimeoutError):
        return Status.TIMEOUT, None
    return (Status.INVALID if isinstance(found, NotFinite | WrongShape) else Status.FAILED), None
