"""The outputs that callers see, the same for both models. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from understudy.domain import Variant
from understudy.errors import MalformedRequest
from understudy.inference import Scores
from understudy.inference.cards import Card, OutputSpec
from understudy.inference.decoding import Array
from understudy.inference.ragged import is_ragged, of_rows


@dataclass(frozen=True, slots=True)
class OutputSource:
    """Where an output comes from in one variant: the name there, and the order of classes if it differs."""

    name: str
    order: Array | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """An output as callers see it, whichever variant answers.

    Attributes:
        sources: by variant.
        dtype: the spec's; None for strings, which are not converted.
    """

    spec: OutputSpec
    sources: Mapping[Variant, OutputSource]
    dtype: "np.dtype[np.generic] | None"

    def array(self, scores: Scores, variant: Variant) -> Array:
        """The output's values, of shape [rows, …], in the spec's dtype and order of classes.

        Raises:
            MalformedRequest: rows of the answer differ in shape, so that they are no tensor.
        """
        source = self.sources[variant]
        values = scores.array(source.name)
        if is_ragged(values):
            values = of_rows(list(values))
            if is_ragged(values):
                shapes = ", ".join(str(list(shape)) for shape in dict.fromkeys(row.shape for row in values))
                raise MalformedRequest(
                    f"output {self.spec.name!r} has rows of different shapes ({shapes[:200]}), which one tensor cannot hold: send "
                    "one row per request, leave the output out of `outputs`, or use /predict"
                )
        if source.order is not None:
            values = values[:, source.order]
        if values.ndim != 1 + len(self.spec.row_shape) and self.spec.role in {"label", "value"}:
            values = values.reshape(len(values), *(1 for _ in self.spec.row_shape))
        return values if self.dtype is None else values.astype(self.dtype, copy=False)


def outputs_of(cards: Mapping[Variant, Card]) -> list[Output]:
    """The first card's outputs that all other cards have too: with the same role, or without a role the same name."""
    first, *_ = cards.values()
    outputs = []
    for spec in first.outputs:
        candidates = {variant: _source(spec, first, card) for variant, card in cards.items()}
        sources = {variant: source for variant, source in candidates.items() if source is not None}
        if len(sources) == len(cards):
            outputs.append(Output(spec, sources, None if spec.dtype == "string" else np.dtype(spec.dtype)))
    return outputs


def _source(spec: OutputSpec, first: Card, card: Card) -> OutputSource | None:
    for own in card.outputs:
        same = own.name == spec.name if spec.role == "other" else own.role == spec.role
        if same and (own.dtype == "string") == (spec.dtype == "string"):
            if spec.role != "probabilities" or card.classes == first.classes:
                return OutputSource(own.name)
            if sorted(map(str, card.classes)) == sorted(map(str, first.classes)):
                return OutputSource(own.name, np.array([card.classes.index(name) for name in first.classes]))
    return None
