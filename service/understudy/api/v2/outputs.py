"""What callers see of a model's outputs, whichever of the two models answers. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy.domain import Variant
from understudy.inference import Scores
from understudy.inference.cards import Card, OutputSpec
from understudy.inference.decoding import Array


@dataclass(frozen=True, slots=True)
class OutputSource:
    """How one variant gives an output: by what name, and in which order its classes stand."""

    name: str
    order: Array | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """An output as callers see it, whoever answers.

    Attributes:
        given: by variant; dtype: the spec's, None for strings, which stay as they are.
    """

    spec: OutputSpec
    given: Mapping[Variant, OutputSource]
    dtype: "np.dtype[Any] | None"

    def array(self, scores: Scores, variant: Variant) -> Array:
        """The output's values, of shape [rows, …], in the spec's dtype and order of classes."""
        how = self.given[variant]
        found = scores.array(how.name)
        if how.order is not None:
            found = found[:, how.order]
        if found.ndim != len(self.spec.shape) and self.spec.role in {"label", "value"}:
            found = found.reshape(len(found), *(1 for _ in self.spec.shape[1:]))
        return found if self.dtype is None else found.astype(self.dtype, copy=False)


def outputs_of(cards: Mapping[Variant, Card]) -> list[Output]:
    """The first card's outputs that all the others give as well: by role, or those without one by name."""
    first, *_ = cards.values()
    found = []
    for spec in first.outputs:
        given = {variant: _given(spec, first, card) for variant, card in cards.items()}
        known = {variant: how for variant, how in given.items() if how is not None}
        if len(known) == len(cards):
            found.append(Output(spec, known, None if spec.dtype == "string" else np.dtype(spec.dtype)))
    return found


def _given(spec: OutputSpec, first: Card, card: Card) -> OutputSource | None:
    for own in card.outputs:
        same = own.name == spec.name if spec.role == "other" else own.role == spec.role
        if same and (own.dtype == "string") == (spec.dtype == "string"):
            if spec.role != "probabilities" or card.classes == first.classes:
                return OutputSource(own.name)
            if sorted(map(str, card.classes)) == sorted(map(str, first.classes)):
                return OutputSource(own.name, np.array([card.classes.index(name) for name in first.classes]))
    return None
