"""Runs models behind the `Engine` port: input columns in, output arrays out.

`onnx.OnnxEngine` runs a model in this process; `remote.RemoteEngine` calls the candidate's process. An `OutputReader` turns output
arrays into labels, probabilities and values.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar

import msgspec
import numpy as np

from understudy.domain import Attempt, Label, Status
from understudy.errors import NotFinite, RunCancelled, WrongShape
from understudy.inference.cards import MULTILABEL, Card
from understudy.inference.cost import Costs
from understudy.inference.decoding import Array
from understudy.inference.ragged import finite_rows, is_ragged, nested, of_rows

_Value = TypeVar("_Value")
Value: TypeAlias = float | list[float]
"""A regression's prediction for a row: one number or a vector."""
POSITIVE_FROM = 0.5
"""A multilabel classifier without a label output predicts the classes whose probability is at least this."""


class Cancellation:
    """Cancels one run from another thread. A kernel that has begun ends first; the runtime checks between two kernels.

    Args:
        frees: whether the run gives its memory back to the system when it ends.

    Attributes:
        cancelled: whether `cancel` was called.
    """

    __slots__ = ("_stop", "cancelled", "frees")

    def __init__(self, *, frees: bool = False) -> None:
        self.cancelled, self.frees = False, frees
        self._stop: Callable[[], None] = lambda: None

    def cancel(self) -> None:
        """Stop the run as soon as possible; a run that has not begun does not begin. May be called more than once."""
        self.cancelled = True
        self._stop()

    def begin(self, stop: Callable[[], None]) -> None:
        """The engine calls this before each run of the runtime.

        Args:
            stop: stops that run. It is called in another thread.

        Raises:
            RunCancelled: the run was cancelled before.
        """
        self._stop = stop
        if self.cancelled:  # checked last: `cancel` may have called the stop function of the run before
            raise RunCancelled


class Engine(Protocol):
    """Runs one model in this process."""

    card: Card
    costs: Costs

    def run(self, columns: Mapping[str, Array], cancellation: Cancellation | None = None) -> dict[str, Array]:
        """The outputs by name; the first axis of each is the rows of `columns`. Thread-safe; blocks.

        Where rows differ in shape, a column or an output is an object array of shape [rows] with one array per row; see
        `understudy.inference.ragged`.

        Args:
            columns: the inputs by name; the first axis of each is the rows.
            cancellation: lets another thread cancel the run.

        Raises:
            RunCancelled: it was cancelled.
            InferenceError: the runtime fails on these columns.
        """
        ...

    def seconds(self, rows: int) -> float:
        """The expected duration of `run` for this many rows of the usual size."""
        ...

    def close(self) -> None:
        """Free the model. May be called more than once."""
        ...


class Lists(msgspec.Struct, array_like=True, gc=False):
    """The answers of a run as plain Python values; None for what the model does not output."""

    labels: list[Label] | None = None
    probabilities: list[list[float]] | None = None
    values: list[Value] | None = None


class Run:
    """The outputs of one run of a model. They are converted to lists on first use, once for all requests that shared the run.

    Args:
        reader: converts the arrays to lists; None if `lists` and `others` are given.
        lists: the answers, if there is no `reader`.
        others: the outputs without a role, if there is no `reader`.

    Attributes:
        arrays: the outputs by name; the first axis is the run's rows.
        bad: shape [rows], bool: the rows whose answer is not finite; None if all answers are.
    """

    __slots__ = ("_lists", "_others", "_reader", "arrays", "bad")

    def __init__(
        self,
        reader: "OutputReader | None",
        arrays: Mapping[str, Array] | None = None,
        lists: Lists | None = None,
        others: Mapping[str, Sequence[object]] | None = None,
        bad: Array | None = None,
    ) -> None:
        self._reader, self.arrays, self._lists, self._others = reader, arrays or {}, lists, others
        self.bad = bad

    @property
    def lists(self) -> Lists:
        """The answers as lists."""
        if self._lists is None:
            assert self._reader is not None
            self._lists = self._reader.lists(self.arrays)
        return self._lists

    @property
    def others(self) -> Mapping[str, Sequence[object]]:
        """The outputs without a role, by name. They may be large and are rarely used, so they are converted separately."""
        if self._others is None:
            names = self._reader.others if self._reader is not None else ()
            self._others = {name: nested(self.arrays[name]) for name in names}
        return self._others

    @property
    def other_arrays(self) -> dict[str, Array]:
        """Like `others`, as arrays."""
        if self._reader is not None:
            return {name: self.arrays[name] for name in self._reader.others}
        return {name: of_rows([np.asarray(row) for row in values]) for name, values in self.others.items()}


class Scores:
    """The answers to some consecutive rows of a run, such as those of one request.

    Args:
        bad: the rows whose answer is not finite; see `Run.bad`.

    Attributes:
        run: the run that holds the answers.
        start: the first row in the run.
        rows: the number of rows.
    """

    __slots__ = ("rows", "run", "start")

    def __init__(
        self,
        rows: int,
        labels: list[Label] | None = None,
        probabilities: list[list[float]] | None = None,
        values: list[Value] | None = None,
        others: Mapping[str, Sequence[object]] | None = None,
        bad: Array | None = None,
        *,
        run: Run | None = None,
        start: int = 0,
    ) -> None:
        self.rows, self.start = rows, start
        self.run = run or Run(None, None, Lists(labels, probabilities, values), others or {}, bad)

    @property
    def finite(self) -> bool:
        """Whether every number in the answers to these rows is finite."""
        return self.run.bad is None or not self.run.bad[self.start : self.start + self.rows].any()

    @property
    def bad_rows(self) -> list[int]:
        """The rows whose answer is not finite, counted from `start`."""
        bad = self.run.bad
        return [] if bad is None else np.flatnonzero(bad[self.start : self.start + self.rows]).tolist()

    @property
    def labels(self) -> list[Label] | None:
        """The predicted classes."""
        return self._part(self.run.lists.labels)

    @property
    def probabilities(self) -> list[list[float]] | None:
        """One list per row, in the order of the classes on the card."""
        return self._part(self.run.lists.probabilities)

    @property
    def values(self) -> list[Value] | None:
        """The predicted number or vector of each row."""
        return self._part(self.run.lists.values)

    @property
    def others(self) -> dict[str, Sequence[object]] | None:
        """The outputs without a role, by name."""
        end = self.start + self.rows
        return {name: values[self.start : end] for name, values in self.run.others.items()} or None

    def array(self, name: str) -> Array:
        """One output of the model, unconverted."""
        return self.run.arrays[name][self.start : self.start + self.rows]

    def slice(self, start: int, rows: int) -> "Scores":
        """The answers to `rows` rows from `start` on."""
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
    """Reads a model's outputs by the roles on its card.

    Attributes:
        width: how many numbers a regression predicts per row; None if the graph leaves that open.
        multilabel: whether the label of a row is a set of classes.
    """

    def __init__(self, card: Card) -> None:
        by_role = {output.role: output for output in card.outputs}
        names = {role: output.name for role, output in by_role.items()}
        self.label, self.probabilities, self.value = (names.get(role) for role in ("label", "probabilities", "value"))
        self.others = [output.name for output in card.outputs if output.role == "other"]
        # The outputs in which NaN and infinities are failures: all except those that the card marks as nullable.
        self._finite = [o.name for o in card.outputs if not (o.role == "other" and o.nullable)]
        self.classes: Sequence[int | str] = card.classes
        self.positive_class = card.positive
        self.positive = card.classes.index(card.positive) if card.positive in card.classes else None
        self.multilabel = card.task == MULTILABEL
        self.width = by_role["value"].width if self.value is not None else None
        # Outputs whose rows may differ in shape; most models have none.
        self._may_differ = [o.name for o in card.outputs if o.name in self._finite and None in o.row_shape]

    def read(self, outputs: Mapping[str, Array], rows: int) -> Scores:
        """The answers of a batch; `Scores.bad_rows` have a NaN or an infinity in an output that is not `nullable`.

        Raises:
            WrongShape: an output has another shape than on the card, so its answers cannot be matched to rows.
        """
        self.check_shapes(outputs, rows)
        bad: Array | None = None
        for name in self._finite:
            array = outputs[name]
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                bad = np.zeros(rows, bool) if bad is None else bad
                bad |= ~finite_rows(array)
        for name in self._may_differ:
            if is_ragged(outputs[name]) and outputs[name][0].dtype.kind == "f":
                finite = finite_rows(outputs[name])
                if not finite.all():
                    bad = ~finite if bad is None else bad | ~finite
        return Scores(rows, run=Run(self, outputs, bad=bad))

    def check_shapes(self, outputs: Mapping[str, Array], rows: int) -> None:
        """Check that each output has one answer per row.

        Raises:
            WrongShape: an output does not; the message names it.
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
        if is_ragged(array):
            return self.width is None and all(row.ndim == 1 and len(row) > 0 for row in array)
        return array.ndim == 2 and array.shape[1] == (self.width or array.shape[1]) > 0

    def lists(self, outputs: Mapping[str, Array]) -> Lists:
        """The arrays of a run as plain Python values."""
        lists = Lists()
        if self.multilabel:
            self._sets(outputs, lists)
            return lists
        if self.label is not None:
            lists.labels = outputs[self.label].reshape(-1).tolist()
        if self.probabilities is not None:
            array = outputs[self.probabilities]
            lists.probabilities = nested(array)
            if lists.labels is None and self.classes and array.ndim == 2 and array.shape[1] == len(self.classes):
                lists.labels = [self.classes[i] for i in array.argmax(axis=1)]
        if self.value is not None:
            array = outputs[self.value]
            alone = self.width == 1 or array.shape[1:] == (1,)
            lists.values = array.reshape(-1).tolist() if alone else nested(array)
        return lists

    def _sets(self, outputs: Mapping[str, Array], lists: Lists) -> None:
        """Set the labels of a multilabel classifier: a tuple of classes per row, in the order of the card."""
        true = None
        if self.probabilities is not None:
            array = outputs[self.probabilities]
            lists.probabilities, true = nested(array), array >= POSITIVE_FROM
        if self.label is not None:
            true = outputs[self.label] != 0
        if true is not None and true.ndim == 2 and true.shape[1] == len(self.classes):
            classes = self.classes
            lists.labels = [
                tuple(c for c, is_true in zip(classes, row, strict=True) if is_true) for row in true.tolist()
            ]

    def attempts(self, scores: Scores | None, status: Status, seconds: float, rows: int) -> list[Attempt]:
        """One `Attempt` per row, for the record.

        If a request failed because of some rows, those are `Status.INVALID` and the others `Status.WITHHELD`: the model
        answered them, but the caller got an error.
        """
        if scores is None:
            return [Attempt(status, seconds=seconds)] * rows
        if status is not Status.INVALID:
            return self._with_answers(scores, status, seconds)
        attempts = self._with_answers(scores, Status.WITHHELD, seconds)
        for row in scores.bad_rows:
            attempts[row] = Attempt(status, seconds=seconds)
        return attempts

    def _with_answers(self, scores: Scores, status: Status, seconds: float) -> list[Attempt]:
        # Indexes into the whole run: slicing the lists first would double the cost.
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


def ended(result: Scores | Exception) -> tuple[Status, Scores | None]:
    """The status of an attempt at a request, and the scores to record.

    A request with an answer that is not finite is invalid as a whole, because its caller gets either all answers or an error. Its
    scores are recorded if at least one row is finite.
    """
    if isinstance(result, Scores):
        if result.finite:
            return Status.OK, result
        return Status.INVALID, result if len(result.bad_rows) < result.rows else None
    if isinstance(result, TimeoutError):
        return Status.TIMEOUT, None
    return (Status.INVALID if isinstance(result, NotFinite | WrongShape) else Status.FAILED), None
