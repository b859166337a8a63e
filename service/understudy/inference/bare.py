"""Makes the card of a bare `.onnx` file from its graph, one run and the rollout file.

Nothing is guessed that could change a verdict: class names come from the graph or from the rollout file's `classes`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from understudy.errors import ConfigurationError
from understudy.inference.cards import MULTILABEL, Card, Dtype, InputSpec, OutputSpec, Role, Task
from understudy.inference.class_names import class_names, last_operator
from understudy.inference.decoding import Array

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
SUM_TOLERANCE = 1e-3
"""How much the sum of a row's probabilities may differ from 1: float16 has three digits."""

UNBOUNDED = {"Add", "Gemm", "LinearRegressor", "MatMul", "Mul", "Sub"}
"""Operators whose outputs are unbounded, so they are no probabilities even if one run's output is between 0 and 1."""

Classes = list[int | str]
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
class Bare:
    """The card of a bare file.

    Attributes:
        unnamed: how many probabilities a row has without class names; 0 if there are none or they have names.
    """

    card: Card
    unnamed: int = 0


@dataclass(slots=True)
class _Signature:
    outputs: list[OutputSpec]
    classes: Classes = field(default_factory=list)
    width: int = 0
    multilabel: bool = False
    description: str = "Made from the graph's signature."

    def names(self, *roles: str) -> list[str]:
        return [output.name for role in roles for output in self.outputs if output.role == role]


def read(
    session: Session,
    path: Path,
    graph: bytes,
    digest: str,
    classes: Sequence[int | str],
    run: Callable[[Sequence[InputSpec]], Mapping[str, RawOutput]],
    task: str = "other",
) -> Bare:
    """Make the card of a session's model.

    Args:
        session: the opened model.
        path: the `.onnx` file.
        graph: the bytes of the file.
        digest: the model's digest.
        classes: the class names in the rollout file, in the order of the probabilities; empty if it has none.
        run: runs the smallest batch and returns its raw outputs.
        task: the task in the rollout file. Only the task tells a multilabel classifier from a multiclass one.

    Raises:
        ConfigurationError: an input or output has an unsupported type, or `classes` does not fit the model.
        InferenceError: the model fails on the smallest batch.
    """
    inputs = [InputSpec(name=i.name, dtype=_dtype(i, path), shape=_shape(i.shape)) for i in session.get_inputs()]
    found = _Signature(
        [_output(output, path, alone=len(session.get_outputs()) == 1) for output in session.get_outputs()]
    )
    found.multilabel = task == MULTILABEL
    unnamed = 0
    if found.names("probabilities", "label"):
        _name(found, path, graph, classes, run(inputs))
        unnamed = 0 if found.classes else found.width
    elif matrices := [
        o for o in found.outputs if o.role == "other" and len(o.shape) == 2 and o.dtype.startswith("float")
    ]:
        unnamed = _matrix(found, path, matrices, classes, run(inputs))
    elif found.names("value") and task != "regression":
        unnamed = _column(found, path, graph, classes, run(inputs))
    return Bare(
        Card(
            name=path.stem,
            version="0",
            task=_task(found),
            description=found.description,
            inputs=inputs,
            outputs=found.outputs,
            classes=found.classes,
            positive=None if found.multilabel else _positive(found.classes),
            digest=digest,
        ),
        unnamed,
    )


def _output(output: Node, path: Path, *, alone: bool) -> OutputSpec:
    """An output with its role, by the conventions of converters: a label, a matrix of probabilities, or one number per row."""
    if output.type.startswith("seq(map("):
        return OutputSpec(name=output.name, dtype="float32", shape=[None, None], role="probabilities")
    dtype, shape, name = _dtype(output, path), _shape(output.shape), output.name.lower()
    role: Role = "other"
    if "label" in name and dtype in {"int64", "string"}:
        role = "label"
    elif "prob" in name and len(shape) == 2:
        role = "probabilities"
    elif alone and (len(shape) == 1 or shape[1:] == [1]):
        role = "value"
    return OutputSpec(name=output.name, dtype=dtype, shape=shape, role=role)


def _name(
    found: _Signature, path: Path, graph: bytes, classes: Sequence[int | str], ran: Mapping[str, RawOutput]
) -> None:
    """Find the class names in a ZipMap's dicts, in the graph, or in the rollout file."""
    names: Classes = []
    _sets(found, path, ran)
    for name in found.names("probabilities"):
        given = ran[name]
        names = list(given[0]) if isinstance(given, list) else []
        found.width = len(names) or int(np.asarray(given).shape[-1])
    if not names and not found.multilabel:  # its graph has a binary classifier per class
        names = class_names(graph, found.names("label", "probabilities"), found.width) or []
        names = names if _fit(names, found, ran) else []
    if names and classes and not set(names) <= set(classes):
        raise ConfigurationError(
            f"{path} names its own classes {names}, and the rollout file's `classes` are {list(classes)}: leave `classes` out, or "
            "let it name all classes of both models as they do"
        )
    found.classes = names or _from_rollout_file(classes, found.width, path)
    if not found.classes:
        found.description += (
            " Nothing names its classes: probabilities are a list. The rollout file's `classes`, or a card.json beside model.onnx, "
            "can name them."
        )


def _sets(found: _Signature, path: Path, ran: Mapping[str, RawOutput]) -> None:
    """Recognize a multilabel classifier: its label has a number per class, which says whether the class applies."""
    for name in found.names("label"):
        label = np.asarray(ran[name])
        if label.ndim != 2 or label.shape[1] < 2:
            continue
        for other, values in ran.items():
            if np.asarray(values).shape[:1] != label.shape[:1]:
                raise ConfigurationError(
                    f"{path} gives several labels a row, and its output {other} has shape {list(np.asarray(values).shape)} for "
                    f"{len(label)} rows: its first axis is not the rows, so nothing says which row a number belongs to. Export the "
                    "model with probabilities of the shape [rows, labels] (scikit-learn: `OneVsRestClassifier`), or without them"
                )
        found.multilabel, found.width = True, label.shape[1]


def _fit(names: Classes, found: _Signature, ran: Mapping[str, RawOutput]) -> bool:
    """Whether there are as many names as probabilities, and the label of a run is one of them."""
    if found.width and len(names) != found.width:
        return False
    labels = {each for name in found.names("label") for each in np.asarray(ran[name]).reshape(-1).tolist()}
    return len(set(names)) == len(names) and labels <= set(names)


def _from_rollout_file(classes: Sequence[int | str], width: int, path: Path) -> Classes:
    if classes and width and len(classes) != width:
        raise ConfigurationError(
            f"the rollout file's `classes` names {len(classes)} classes, and {path} gives {width} probabilities a row: name all of "
            "them, in the order of the probabilities, or give the model a folder with a card.json of its own"
        )
    return list(classes)


def _matrix(
    found: _Signature,
    path: Path,
    matrices: Sequence[OutputSpec],
    classes: Sequence[int | str],
    ran: Mapping[str, RawOutput],
) -> int:
    """Treat a matrix as probabilities if `classes` names its columns, in a graph without named label or probabilities.

    Returns:
        How many columns of its only matrix look like probabilities without names; 0 otherwise.
    """
    widths = {each.name: int(np.asarray(ran[each.name]).shape[-1]) for each in matrices}
    if not classes:
        name, width = next(iter(widths.items()))
        return width if len(widths) == 1 and width > 1 and _sums_to_one(ran[name]) else 0
    fitting = [name for name, width in widths.items() if width == len(classes)]
    if len(fitting) != 1:
        columns = ", ".join(f"`{name}` with {width}" for name, width in widths.items())
        raise ConfigurationError(
            f"the rollout file's `classes` names {len(classes)} classes, and of the outputs of {path} {len(fitting)} have so many "
            f"columns (they are {columns}): a card.json beside model.onnx says which one holds the probabilities"
        )
    if found.multilabel:
        if not _between_0_and_1(ran[fitting[0]]):
            raise ConfigurationError(
                f"the output `{fitting[0]}` of {path} holds no probabilities: some are below 0 or above 1. If they are logits, end "
                "the graph with a Sigmoid"
            )
    elif not _sums_to_one(ran[fitting[0]]):
        raise ConfigurationError(
            f"the output `{fitting[0]}` of {path} holds no probabilities: the {len(classes)} numbers of a row sum to "
            f"{float(np.asarray(ran[fitting[0]])[0].sum()):.4g}, or one is negative. If they are logits, end the graph with a "
            "Softmax; "
            "otherwise leave `classes` out"
        )
    found.outputs = [o.model_copy(update={"role": "probabilities"}) if o.name in fitting else o for o in found.outputs]
    found.classes, found.width = list(classes), len(classes)
    return 0


def _column(
    found: _Signature, path: Path, graph: bytes, classes: Sequence[int | str], ran: Mapping[str, RawOutput]
) -> int:
    """Treat one number per row as the probability of the second class, if `classes` names two.

    Returns:
        2 if the number comes from a Sigmoid and there are no class names; 0 otherwise.
    """
    (name,) = found.names("value")
    operator = last_operator(graph, name)
    if len(classes) != 2:
        return 2 if not classes and operator == "Sigmoid" else 0
    if operator not in UNBOUNDED and np.isnan(np.asarray(ran[name])).any():
        raise ConfigurationError(
            f"the output `{name}` of {path} was NaN on a row of zeros, which it is tried with, so nothing tells whether it is a "
            "probability (a logarithm of an input may be the cause). Give it a folder with a card.json that says what it is"
        )
    if operator in UNBOUNDED or not _between_0_and_1(ran[name]):
        raise ConfigurationError(
            f"the rollout file's `classes` names two classes, and the output `{name}` of {path} is no probability of the second: "
            f"it comes from {operator or 'an unknown operator'}, and was "
            f"{float(np.asarray(ran[name]).ravel()[0]):.4g}. If it is a logit, "
            "end the graph with a Sigmoid; if the model predicts a number, leave `classes` out and write `task: regression`"
        )
    found.outputs = [o.model_copy(update={"role": "probabilities", "shape": [o.shape[0], 2]}) for o in found.outputs]
    found.classes, found.width = list(classes), 2
    found.description += f" {name} is the probability of {classes[1]}."
    return 0


def _between_0_and_1(values: RawOutput) -> bool:
    numbers = np.asarray(values, dtype=np.float64)
    return bool((numbers >= 0).all() and (numbers <= 1 + SUM_TOLERANCE).all())


def _sums_to_one(values: RawOutput) -> bool:
    numbers = np.asarray(values, dtype=np.float64)
    return bool((numbers >= 0).all() and (np.abs(numbers.sum(axis=-1) - 1.0) <= SUM_TOLERANCE).all())


def _task(found: _Signature) -> Task:
    if found.names("value"):
        return "regression"
    if not found.names("probabilities", "label"):
        return "other"
    if found.multilabel:
        return MULTILABEL
    return "binary-classification" if (found.width or len(found.classes)) == 2 else "multiclass-classification"


def _positive(classes: Classes) -> int | str | None:
    """The positive one of two classes: the last when sorted, as converters sort them (numbers before strings)."""
    if len(classes) != 2:
        return None
    return max(classes, key=lambda name: (isinstance(name, str), name))


def _dtype(node: Node, path: Path) -> Dtype:
    if node.type not in DTYPES:
        raise ConfigurationError(
            f"{path}: {node.name} is {node.type}; only tensors of numbers, booleans and strings are served"
        )
    return DTYPES[node.type]


def _shape(raw: Sequence[object]) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in raw]
