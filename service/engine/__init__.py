"""The Engine port: columns in, arrays out. `onnx.OnnxEngine` runs here, `remote.RemoteEngine` in the candidate's process.

A `Reading` makes of an engine's arrays what the rest of the house understands: labels, probabilities, values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from service.domain import Answer, Label, Status
from service.engine.catalog import Card
from service.inputs import Array


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


@dataclass(frozen=True, slots=True)
class Scores:
    """One batch's answers, ready to be read row by row: plain Python values, or None for what the model does not give."""

    rows: int
    labels: list[Label] | None = None
    probabilities: list[list[float]] | None = None
    values: list[float] | None = None
    others: dict[str, list[Any]] | None = None
    finite: bool = True

    def slice(self, start: int, rows: int) -> "Scores":
        """The answers of `rows` rows from `start` on."""
        if start == 0 and rows == self.rows:
            return self
        end = start + rows
        return Scores(
            rows,
            self.labels[start:end] if self.labels is not None else None,
            self.probabilities[start:end] if self.probabilities is not None else None,
            self.values[start:end] if self.values is not None else None,
            {name: values[start:end] for name, values in self.others.items()} if self.others else None,
            self.finite,
        )


class Reading:
    """Reads outputs by the roles on a model's card."""

    def __init__(self, card: Card) -> None:
        by_role = {output.role: output.name for output in card.outputs}
        self.label, self.probabilities, self.value = (by_role.get(role) for role in ("label", "probabilities", "value"))
        self.others = [output.name for output in card.outputs if output.role == "other"]
        self.classes: Sequence[int | str] = card.classes
        self.positive_class = card.positive
        self.positive = card.classes.index(card.positive) if card.positive in card.classes else None

    def read(self, outputs: Mapping[str, Array], rows: int) -> Scores:
        """The batch's answers; `finite` is False when a number is NaN or infinite, or a shape is not as promised."""
        labels = probabilities = values = None
        finite = True
        if self.label is not None:
            labels = outputs[self.label].reshape(-1).tolist()
            finite = len(labels) == rows
        if self.probabilities is not None:
            array = outputs[self.probabilities]
            fits = array.ndim == 2 and array.shape[1] == (len(self.classes) or array.shape[1])
            finite = finite and fits and len(array) == rows and bool(np.isfinite(array).all())
            probabilities = array.tolist()
            if labels is None and self.classes and finite:
                labels = [self.classes[i] for i in array.argmax(axis=1)]
        if self.value is not None:
            array = outputs[self.value].reshape(-1)
            finite = finite and len(array) == rows and bool(np.isfinite(array).all())
            values = array.tolist()
        others = {name: outputs[name].tolist() for name in self.others} if self.others else None
        finite = finite and all(len(answers) == rows for answers in (others or {}).values())
        return Scores(rows, labels, probabilities, values, others, finite)

    def answers(self, scores: Scores | None, status: Status, seconds: float, rows: int) -> list[Answer]:
        """One `Answer` per row, as it is recorded."""
        if scores is None:
            return [Answer(status, seconds=seconds)] * rows
        labels: Sequence[Label | None] = scores.labels or [None] * rows
        if scores.values is not None:
            return [Answer(status, score=value, seconds=seconds) for value in scores.values]
        if scores.probabilities is None:
            return [Answer(status, label=label, seconds=seconds) for label in labels]
        if self.positive is not None and len(self.classes) == 2:
            positive = self.positive
            return [
                Answer(status, label, row[positive], None, seconds)
                for label, row in zip(labels, scores.probabilities, strict=True)
            ]
        return [
            Answer(status, label, None, tuple(row), seconds)
            for label, row in zip(labels, scores.probabilities, strict=True)
        ]
