"""The inputs and outputs of a session, with the axes of their rows, from the graph and a trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from understudy.errors import ConfigurationError, InferenceError
from understudy.inference.cards import Card, Dtype, InputSpec, OutputSpec
from understudy.inference.class_names import constant_sizes, upstream, without_shape
from understudy.inference.decoding import Array
from understudy.inference.layout import Hypothesis, Layout, Tensor
from understudy.inference.layout_trial import Answers, Found, Trial
from understudy.inference.names import quoted

DTYPES: dict[str, Dtype] = {
    "tensor(bool)": "bool",
    "tensor(string)": "string",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
}

RawOutput: TypeAlias = Array | list[dict[int | str, float]]
"""An output of ONNX Runtime: an array, or one dict of probabilities per row from a ZipMap."""


class Node(Protocol):
    """An input or output of a session."""

    @property
    def name(self) -> str:
        """Its name in the graph."""
        ...

    @property
    def type(self) -> str:
        """Its ONNX type, such as `tensor(float)`."""
        ...

    @property
    def shape(self) -> Sequence[int | str | None]:
        """Its shape; a size that varies is a name or None."""
        ...


class Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that is used."""

    def get_inputs(self) -> Sequence[Node]:
        """The inputs of the graph."""
        ...

    def get_outputs(self) -> Sequence[Node]:
        """The outputs of the graph."""
        ...

    def run(
        self, output_names: Sequence[str] | None, input_feed: dict[str, Array], run_options: object = None, /
    ) -> Sequence[RawOutput]:
        """Run the graph; None stands for all outputs."""
        ...


@dataclass(slots=True)
class Signature:
    """What a graph takes and gives.

    Attributes:
        inputs: the inputs, with their batch axes and the shapes of rows that were tried.
        outputs: the outputs, without roles.
        rows: where the rows are.
        layout: sentences about what is unusual; see `Card.layout`.
        maps: the class names in the dicts of each ZipMap's output.
    """

    inputs: list[InputSpec]
    outputs: list[OutputSpec]
    rows: Layout
    layout: list[str]
    maps: Mapping[str, list[int | str]] = field(default_factory=dict)

    def on(self, card: Card) -> Card:
        """A card with this layout. Where the card's shape has another rank than the graph's, the graph's is right.

        Shapes of a row are those on the card if it has some, since they may be of real rows.
        """
        found = {spec.name: spec for spec in self.inputs}
        given = {spec.name: spec for spec in self.outputs}
        return card.model_copy(
            update={
                "inputs": [
                    spec.model_copy(
                        update={"batch_axis": (f := found[spec.name]).batch_axis, "tried": spec.tried or f.tried}
                        | ({"shape": f.shape} if len(f.shape) != len(spec.shape) else {})
                    )
                    for spec in card.inputs
                ],
                "outputs": [
                    spec.model_copy(update={"batch_axis": given[spec.name].batch_axis}) for spec in card.outputs
                ],
                "batch": self.rows.batch,
                "layout": self.layout,
            }
        )


def read(session: Session, path: Path, graph: bytes, card: Card | None) -> Signature:
    """Read a session's inputs and outputs, and find the axes of their rows by a trial.

    Args:
        session: the opened model.
        path: the `.onnx` file, for error messages.
        graph: the bytes of the file.
        card: the model's card, if it has one. A card that says `batch` is believed.

    Raises:
        ConfigurationError: an input or output has an unsupported type, or the card's layout does not fit the graph.
        InferenceError: the model fails in the trial.
    """
    name = card.name if card is not None else path.stem
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if not inputs:
        raise ConfigurationError(f"{path} takes no input, so every answer is the same: export it with its inputs")
    specs = [InputSpec(name=i.name, dtype=_dtype(i, path), shape=_shape(i.shape)) for i in inputs]
    given = [_output(node, path) for node in outputs]
    if card is not None:
        _check_names(card, specs, given)
        own = {spec.name: spec for spec in card.inputs}
        specs = [spec.model_copy(update={"profile": own[spec.name].profile}) for spec in specs]
    maps: dict[str, list[int | str]] = {}

    def run(feed: Answers) -> Answers:
        found = dict(zip([node.name for node in outputs], session.run(None, feed), strict=True))
        maps.update({name: list(raw[0]) for name, raw in found.items() if isinstance(raw, list) and raw})
        return {name: plain(raw, ()) for name, raw in found.items()}

    tensors, shapeless = _tensors(inputs), without_shape(graph)
    for i, spec in enumerate(specs):
        if spec.name in shapeless:
            specs[i] = spec.model_copy(update={"shape": _card_shape(spec.name, card, path)})
            tensors[i] = Tensor(spec.name, tuple(specs[i].shape))
    trial = Trial(specs, tensors, _tensors(outputs), run, lambda output: upstream(graph, output), constant_sizes(graph))
    try:
        found = trial.find() if card is None or card.batch is None else _declared(trial, card)
    except ConfigurationError:
        raise
    except Exception as error:  # the runtime raises a dozen unrelated classes
        raise InferenceError(f"{name} failed: {error}") from error
    layout = found.layout
    specs = [
        spec.model_copy(update={"batch_axis": layout.inputs[spec.name], "tried": found.tried.get(spec.name, [])})
        for spec in specs
    ]
    given = [
        spec.model_copy(
            update={"batch_axis": layout.outputs[spec.name]}
            | ({"shape": [None] * found.ranks[spec.name]} if len(spec.shape) != found.ranks[spec.name] else {})
        )
        for spec in given
    ]
    return Signature(specs, given, layout, found.sentences, maps)


def plain(value: RawOutput, classes: Sequence[int | str]) -> Array:
    """Arrays as they are; a ZipMap's list of dicts as a matrix of probabilities in class order."""
    if isinstance(value, list):
        order = list(classes) or (list(value[0]) if value else [])
        return np.array([[row[name] for name in order] for row in value], dtype=np.float32)
    return np.asarray(value)


def _declared(trial: Trial, card: Card) -> Found:
    """The layout on a card, if the model runs with it."""
    layout = Layout.of(card)
    size = None if layout.batch != "fixed" and any(axis is not None for axis in layout.inputs.values()) else layout.size
    found = trial.declared(layout, Hypothesis(layout.inputs, size))
    for name, axis in layout.outputs.items():
        if axis is not None and axis >= found.ranks[name]:
            raise ConfigurationError(
                f"{card.name}: the card says `batch_axis: {axis}` of output {name}, which has {found.ranks[name]} axes"
            )
    found.sentences = list(card.layout)
    return found


def _card_shape(name: str, card: Card | None, path: Path) -> list[int | None]:
    """The shape of an input that has none in the graph."""
    shape = next((spec.shape for spec in card.inputs if spec.name == name), []) if card is not None else []
    if not shape:
        raise ConfigurationError(
            f"{path}: the graph does not say how many axes {name} has. Export it with shapes, or write a card.json that says "
            f"the `shape` of {name}, with null for sizes that vary"
        )
    return shape


def _check_names(card: Card, inputs: Sequence[InputSpec], outputs: Sequence[OutputSpec]) -> None:
    """Check that the card has the same inputs and outputs as the graph.

    Raises:
        ConfigurationError: it does not.
    """
    for what, own, specs in (("input", card.inputs, inputs), ("output", card.outputs, outputs)):
        said, found = [spec.name for spec in own], [spec.name for spec in specs]
        if sorted(said) != sorted(found):
            raise ConfigurationError(f"{card.name}: the card's {what}s are {said}, the graph's are {found}")


def _output(node: Node, path: Path) -> OutputSpec:
    if node.type.startswith("seq(map("):
        return OutputSpec(name=node.name, dtype="float32", shape=[None, None])
    return OutputSpec(name=node.name, dtype=_dtype(node, path), shape=_shape(node.shape))


def _dtype(node: Node, path: Path) -> Dtype:
    if node.type not in DTYPES:
        raise ConfigurationError(
            f"{path}: {quoted(node.name)} is {node.type}, which is not served. Export the model with a tensor of float32 in its "
            "place (ConcatFromSequence makes one of a sequence), or without it"
        )
    return DTYPES[node.type]


def _tensors(nodes: Sequence[Node]) -> list[Tensor]:
    return [
        Tensor(node.name, tuple(None if isinstance(size, int) and size < 0 else size for size in node.shape))
        for node in nodes
    ]


def _shape(raw: Sequence[object]) -> list[int | None]:
    return [size if isinstance(size, int) and size >= 0 else None for size in raw]
