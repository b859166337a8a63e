"""The outputs that callers see, the same for both models. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from understudy.domain import Variant
from understudy.errors import InferenceError, MalformedRequest
from understudy.inference import Scores
from understudy.inference.cards import Card, OutputSpec
from understudy.inference.decoding import Array
from understudy.inference.mapping import counterpart, gives_label
from understudy.inference.ragged import is_ragged, of_rows


@dataclass(frozen=True, slots=True)
class OutputSource:
    """Where an output comes from in one variant.

    Attributes:
        name: the variant's output; None for a label that is the likeliest class of its probabilities.
        order: where each class of the response is in the variant's probabilities, -1 for a class that it does not know; None if
            they are the same.
    """

    name: str | None
    order: Array | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """An output as callers see it, whichever variant answers.

    Attributes:
        sources: by variant.
        dtype: the spec's; None for strings, which are not converted.
        classes: the classes of the first card.
    """

    spec: OutputSpec
    sources: Mapping[Variant, OutputSource]
    dtype: "np.dtype[np.generic] | None"
    classes: Sequence[int | str] = ()

    def array(self, scores: Scores, variant: Variant) -> Array:
        """The output's values, of shape [rows, …], in the spec's dtype and order of classes.

        Raises:
            MalformedRequest: rows of the answer differ in shape, so that they are no tensor.
        """
        source = self.sources[variant]
        values = self._labels(scores) if source.name is None else scores.array(source.name)
        if is_ragged(values):
            values = of_rows(list(values))
            if is_ragged(values):
                shapes = ", ".join(str(list(shape)) for shape in dict.fromkeys(row.shape for row in values))
                raise MalformedRequest(
                    f"output {self.spec.name!r} has rows of different shapes ({shapes[:200]}), which one tensor cannot hold: send "
                    "one row per request, leave the output out of `outputs`, or use /predict"
                )
        if source.order is not None:
            known = np.concatenate([values, np.zeros((len(values), 1), values.dtype)], axis=1)
            values = known[
                :, source.order
            ]  # the last column, of zeros, stands for the classes that the variant does not know
        if values.ndim != 1 + len(self.spec.row_shape) and self.spec.role in {"label", "value"}:
            values = values.reshape(len(values), *(1 for _ in self.spec.row_shape))
        return values if self.dtype is None or values.dtype == self.dtype else self._converted(values, self.dtype)

    def _converted(self, values: Array, dtype: "np.dtype[np.generic]") -> Array:
        """The values of a model that gives another type than the first card's.

        Raises:
            InferenceError: a number does not fit the type.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            converted = values.astype(dtype)
        exact = np.isfinite(converted) == np.isfinite(values) if dtype.kind == "f" else converted == values
        if not np.all(exact):
            raise InferenceError(f"output {self.spec.name!r} has a number that is too large for {dtype.name}")
        return converted

    def _labels(self, scores: Scores) -> Array:
        """The likeliest classes; their places where the classes are strings and the label is a number."""
        labels = list(scores.labels or [])
        if self.dtype is None:
            return np.array([str(label) for label in labels], object)
        if any(isinstance(label, str) for label in labels):
            return np.array([self.classes.index(label) if label in self.classes else -1 for label in labels])
        return np.array(labels)


def outputs_of(cards: Mapping[Variant, Card]) -> list[Output]:
    """The first card's outputs that all other cards have too: with the same role, or without a role the same name.

    Probabilities have a column for each class that any of the models knows, those of the first card first.
    """
    first, *others = cards.values()
    named = first.classes and all(card.classes for card in others)
    classes = list(dict.fromkeys([*first.classes, *(name for card in others for name in card.classes if named)]))
    outputs = []
    for spec in first.outputs:
        candidates = {variant: _source(spec, card, classes) for variant, card in cards.items()}
        sources = {variant: source for variant, source in candidates.items() if source is not None}
        if len(sources) < len(cards):
            continue
        seen = spec
        if spec.role == "probabilities" and len(classes) > len(first.classes):
            seen = spec.model_copy(update={"shape": [*spec.shape[:-1], len(classes)]})
        dtype = None if spec.dtype == "string" else np.dtype(spec.dtype)
        outputs.append(Output(seen, sources, dtype, first.classes))
    return outputs


def _source(spec: OutputSpec, card: Card, classes: Sequence[int | str]) -> OutputSource | None:
    own = counterpart(spec, card)
    if own is None:
        return OutputSource(None) if gives_label(spec, card) else None
    if spec.role != "probabilities" or not card.classes or not classes or list(card.classes) == list(classes):
        return OutputSource(own.name)
    places = {name: place for place, name in enumerate(card.classes)}
    return OutputSource(own.name, np.array([places.get(name, -1) for name in classes]))
