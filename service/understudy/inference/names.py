"""The names that the service uses for a model's inputs and outputs, where the rollout file renames the graph's.

The primary's names are those that callers, records and the judge use. The engine translates its columns and outputs, and its card
has the service's names (`ModelNames.card`), so nothing else knows the graph's names.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import yaml

from understudy.errors import ConfigurationError
from understudy.inference.cards import Card
from understudy.inference.decoding import Array

Renames: TypeAlias = Mapping[str, str]
"""The primary's name → the candidate's."""


class InputKeys(Protocol):
    """What the rollout file says of an input (`inputs.<name>`)."""

    @property
    def nullable(self) -> bool | None:
        """Whether a value may be missing; None leaves it to the card."""
        ...

    @property
    def rename(self) -> str | None:
        """The candidate's name of the input; None if it has the same."""
        ...


@dataclass(frozen=True, slots=True)
class ModelNames:
    """How the service calls one model's inputs and outputs, and which inputs may be missing.

    Attributes:
        inputs: the service's name → the graph's, where they differ.
        outputs: the same for outputs.
        nullable: by the service's name: whether an input may be missing, where the rollout file says so.
    """

    inputs: Renames = field(default_factory=dict)
    outputs: Renames = field(default_factory=dict)
    nullable: Mapping[str, bool] = field(default_factory=dict)

    @property
    def renamed(self) -> bool:
        """Whether any name differs from the graph's."""
        return bool(self.inputs or self.outputs)

    def public_output(self, name: str) -> str:
        """The service's name of an output of the graph."""
        return next((ours for ours, theirs in self.outputs.items() if theirs == name), name)

    def to_graph(self, columns: Mapping[str, Array]) -> dict[str, Array]:
        """Input columns under the graph's names."""
        return {self.inputs.get(name, name): column for name, column in columns.items()}

    def to_service(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of a run under the service's names."""
        known = {theirs: ours for ours, theirs in self.outputs.items()}
        return {known.get(name, name): array for name, array in outputs.items()}

    def card(self, card: Card) -> Card:
        """The card of the graph's names under the service's names.

        Raises:
            ConfigurationError: the card has no input or output of a name that the rollout file gives.
        """
        if self.inputs or self.outputs:
            ours = _public("input", [spec.name for spec in card.inputs], self.inputs)
            theirs = _public("output", [spec.name for spec in card.outputs], self.outputs)
            inputs = [spec.model_copy(update={"name": ours[spec.name]}) for spec in card.inputs]
            outputs = [spec.model_copy(update={"name": theirs[spec.name]}) for spec in card.outputs]
            card = card.model_copy(update={"inputs": inputs, "outputs": outputs})
        return self.with_nullable(card)

    def graph_card(self, card: Card) -> Card:
        """The card of the service's names under the graph's, to be written beside the model."""
        inputs = [spec.model_copy(update={"name": self.inputs.get(spec.name, spec.name)}) for spec in card.inputs]
        outputs = [spec.model_copy(update={"name": self.outputs.get(spec.name, spec.name)}) for spec in card.outputs]
        return card.model_copy(update={"inputs": inputs, "outputs": outputs})

    def with_nullable(self, card: Card) -> Card:
        """The card with the `nullable` of the rollout file.

        Raises:
            ConfigurationError: the type of an input has no missing value.
        """
        if not self.nullable:
            return card
        for spec in card.inputs:
            if self.nullable.get(spec.name) and not (spec.dtype == "string" or "float" in spec.dtype):
                raise ConfigurationError(
                    f"`inputs: {{{spec.name}: {{nullable: true}}}}`: {card.name} takes {spec.dtype}, which has no missing value: "
                    "leave `nullable` out, or export the model with an input of floats"
                )
        inputs = [
            spec.model_copy(update={"nullable": self.nullable.get(spec.name, spec.nullable)}) for spec in card.inputs
        ]
        return card.model_copy(update={"inputs": inputs})


KEY_MAX_CHARS = 1_000
SHOWN_MAX_CHARS = 80
"""Longer names are cut in messages."""
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off"}
"""Words that YAML does not read as strings."""


def quoted(name: str) -> str:
    r"""A name for a message: on one line, and cut if it is long.

    >>> quoted("x"), quoted("a" + chr(10) + "b")
    ('`x`', '`a\\nb`')
    """
    return f"`{shown(name)}`"


def shown(name: str) -> str:
    """Like `quoted`, without the quotes."""
    printable = name if name.isprintable() else json.dumps(name)[1:-1]
    return f"{printable[:SHOWN_MAX_CHARS]}…" if len(printable) > SHOWN_MAX_CHARS else printable


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(map(quoted, names)) or "none"


def yaml_name(name: str) -> str:
    """A string as YAML: plain if it can be, otherwise in double quotes.

    >>> yaml_name("x_1"), yaml_name("no"), yaml_name("a: b")
    ('x_1', '"no"', '"a: b"')
    """
    if _PLAIN.fullmatch(name) and name.lower() not in _WORDS:
        return name
    return yaml.dump(name, default_style='"', width=2**30).removesuffix("\n")


def yaml_key(name: str) -> str:
    """A string as a key of a YAML mapping in braces; a key of more than 1,024 characters needs a question mark."""
    text = yaml_name(name)
    return text if len(text) < KEY_MAX_CHARS else f"? {text} "


def names_of(inputs: Mapping[str, InputKeys], outputs: Renames, *, candidate: bool) -> ModelNames:
    """A model's names, by the rollout file.

    Args:
        inputs: the key `inputs`.
        outputs: the key `outputs`.
        candidate: whether the model is the candidate; the primary keeps its graph's names.
    """
    nullable = {name: keys.nullable for name, keys in inputs.items() if keys.nullable is not None}
    if not candidate:
        return ModelNames(nullable=nullable)
    renamed = {name: keys.rename for name, keys in inputs.items() if keys.rename is not None}
    return ModelNames(renamed, dict(outputs), nullable)


def _public(what: str, names: Sequence[str], renames: Renames) -> dict[str, str]:
    """The service's name of each of a graph's inputs or outputs."""
    known = {theirs: ours for ours, theirs in renames.items()}
    if missing := [name for name in known if name not in names]:
        raise ConfigurationError(
            f"the rollout file names the candidate's {what} {quoted(missing[0])}, and the candidate has no such {what}: it has "
            f"{listed(names)}"
        )
    public = {name: known.get(name, name) for name in names}
    for name in names:
        if list(public.values()).count(public[name]) > 1:
            raise ConfigurationError(
                f"the rollout file gives the name `{public[name]}` to the candidate's {what} "
                f"`{renames[public[name]]}`, and the candidate has an {what} `{public[name]}` of its own: rename that one as well"
            )
    return public


AS_IN_THE_GRAPH = ModelNames()
