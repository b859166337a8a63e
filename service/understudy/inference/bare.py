"""Makes the card of a bare `.onnx` file from its graph, one run and the rollout file.

Nothing is guessed that could change a verdict: class names come from the graph or from the rollout file's `classes`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from understudy.errors import ConfigurationError
from understudy.inference.cards import MULTILABEL, Card, OutputSpec, Role, Task
from understudy.inference.class_names import class_names, last_operator
from understudy.inference.decoding import Array
from understudy.inference.signature import Signature

SUM_TOLERANCE = 1e-3
"""How much the sum of a row's probabilities may differ from 1: float16 has three digits."""

UNBOUNDED = {"Add", "Gemm", "LinearRegressor", "MatMul", "Mul", "Sub"}
"""Operators whose outputs are unbounded, so they are no probabilities even if one run's output is between 0 and 1."""

Classes = list[int | str]
_COLUMN = {(), (1,)}
"""The shapes of a row that is one number."""


@dataclass(slots=True)
class Bare:
    """The card of a bare file.

    Attributes:
        unnamed: how many probabilities a row has without class names; 0 if there are none or they have names.
    """

    card: Card
    unnamed: int = 0


@dataclass(slots=True)
class _Roles:
    outputs: list[OutputSpec]
    maps: Mapping[str, Classes]
    classes: Classes = field(default_factory=list)
    width: int = 0
    multilabel: bool = False
    column: str = ""
    description: str = "Made from the graph's signature."

    def names(self, *roles: str) -> list[str]:
        return [output.name for role in roles for output in self.outputs if output.role == role]


def read(
    signature: Signature,
    path: Path,
    graph: bytes,
    digest: str,
    classes: Sequence[int | str],
    run: Callable[[], Mapping[str, Array]],
    task: str = "other",
    public: Callable[[str], str] = str,
) -> Bare:
    """Make the card of a bare file.

    Args:
        signature: its inputs and outputs.
        path: the `.onnx` file.
        graph: the bytes of the file.
        digest: the model's digest.
        classes: the class names in the rollout file, in the order of the probabilities; empty if it has none.
        run: runs a typical row and returns its outputs, with the row on the first axis.
        task: the task in the rollout file. Only the task tells a multilabel classifier from a multiclass one.
        public: the service's name of an output, by which its role is recognized.

    Raises:
        ConfigurationError: `classes` does not fit the model.
        InferenceError: the model fails on a typical row.
    """
    alone = len(signature.outputs) == 1
    outputs = [_with_role(each, public(each.name).lower(), signature, alone=alone) for each in signature.outputs]
    found = _Roles(outputs, signature.maps)
    found.multilabel = task == MULTILABEL
    unnamed = 0
    if task not in {"regression", MULTILABEL} and len(classes) in {0, 2}:
        _find_column(found, graph, public, asked=bool(classes))
    if found.names("probabilities", "label"):
        _name(found, path, graph, classes, run())
        unnamed = 0 if found.classes else found.width
    elif matrices := [
        o for o in found.outputs if o.role == "other" and len(o.row_shape) == 1 and o.dtype.startswith("float")
    ]:
        unnamed = _matrix(found, path, matrices, classes, run())
    elif found.names("value") and task != "regression" and len(classes) == 2:
        _check_column(found, path, graph, classes, run())
    return Bare(
        Card(
            name=path.stem,
            version="0",
            task=_task(found),
            description=found.description,
            inputs=signature.inputs,
            outputs=found.outputs,
            classes=found.classes,
            positive=None if found.multilabel else _positive(found.classes),
            digest=digest,
            batch=signature.rows.batch,
            layout=signature.layout,
        ),
        unnamed,
    )


def _with_role(output: OutputSpec, name: str, signature: Signature, *, alone: bool) -> OutputSpec:
    """An output with its role, by the conventions of converters: a label, a matrix of probabilities, or one number per row."""
    shape = output.row_shape
    per_part = None in shape and any(
        spec.tried for spec in signature.inputs
    )  # such as a label for each token of a text
    role: Role = "other"
    if output.name in signature.maps:
        role = "probabilities"
    elif "label" in name and output.dtype in {"int64", "string"} and len(shape) <= 1 and not per_part:
        role = "label"
    elif "prob" in name and shape != (1,) and (len(shape) == 1 or shape[1:] == (2,)):
        role = "probabilities"
    elif alone and shape in _COLUMN and output.dtype not in {"bool", "string"}:  # those are no numbers to predict
        role = "value"
    return output.model_copy(update={"role": role})


def _find_column(found: _Roles, graph: bytes, public: Callable[[str], str], *, asked: bool) -> None:
    """Recognize one number per row as the probability of the second of two classes: a Sigmoid, or an output named so.

    Args:
        asked: whether the rollout file names two classes.
    """
    if found.names("probabilities"):
        return
    operators = {
        o.name: last_operator(graph, o.name)
        for o in found.outputs
        if o.dtype.startswith("float") and o.row_shape in _COLUMN
    }
    columns = [
        name
        for name, operator in operators.items()
        if operator == "Sigmoid" or ("prob" in public(name).lower() and operator not in UNBOUNDED)
    ]
    meant = asked or len(found.outputs) == 1 or bool(found.names("label"))
    if len(columns) != 1 or not (meant or "prob" in public(columns[0]).lower()):
        return
    _set_column(found, columns[0])


def _set_column(found: _Roles, name: str) -> None:
    """Make an output the probability of the second of two classes; callers get both."""
    outputs = []
    for output in found.outputs:
        shape: list[int | None] = [2]
        if output.batch_axis is not None:
            shape.insert(min(output.batch_axis, 1), output.shape[output.batch_axis])
        given = {"role": "probabilities", "shape": shape}
        outputs.append(output.model_copy(update=given) if output.name == name else output)
    found.outputs = outputs
    found.column, found.width = name, 2


def _name(found: _Roles, path: Path, graph: bytes, classes: Sequence[int | str], ran: Mapping[str, Array]) -> None:
    """Find the class names in a ZipMap's dicts, in the graph, or in the rollout file."""
    names: Classes = []
    _sets(found, ran)
    for name in found.names("probabilities"):
        names = list(found.maps.get(name, ()))
        found.width = len(names) or (2 if name == found.column else int(ran[name].shape[1]))
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


def _sets(found: _Roles, ran: Mapping[str, Array]) -> None:
    """Recognize a multilabel classifier: its label has a number per class, which says whether the class applies."""
    for name in found.names("label"):
        label = np.asarray(ran[name])
        if label.ndim != 2 or label.shape[1] < 2:
            continue
        found.multilabel, found.width = True, label.shape[1]
    # Probabilities are [labels], or [labels, 2] as scikit-learn's forests have them; what has another shape, or does not sum to
    # 1 (as skl2onnx exports trees of several labels), is no probability.
    for name in found.names("probabilities"):
        wanted = (found.width, 2) if found.multilabel else ()
        if ran[name].ndim > 2 and (ran[name].shape[1:] != wanted or not _sums_to_one(ran[name])):
            found.outputs = [o.model_copy(update={"role": "other"}) if o.name == name else o for o in found.outputs]
            found.description += f" {name} holds no probabilities, and is passed on as it is."


def _fit(names: Classes, found: _Roles, ran: Mapping[str, Array]) -> bool:
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
    found: _Roles,
    path: Path,
    matrices: Sequence[OutputSpec],
    classes: Sequence[int | str],
    ran: Mapping[str, Array],
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


def _check_column(
    found: _Roles, path: Path, graph: bytes, classes: Sequence[int | str], ran: Mapping[str, Array]
) -> None:
    """Treat one number per row as the probability of the second class, since `classes` names two; refuse what cannot be one."""
    (name,) = found.names("value")
    operator = last_operator(graph, name)
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
    _set_column(found, name)
    found.classes = list(classes)
    found.description += f" {name} is the probability of {classes[1]}."


def _between_0_and_1(values: Array) -> bool:
    numbers = np.asarray(values, dtype=np.float64)
    return bool((numbers >= 0).all() and (numbers <= 1 + SUM_TOLERANCE).all())


def _sums_to_one(values: Array) -> bool:
    numbers = np.asarray(values, dtype=np.float64)
    return bool((numbers >= 0).all() and (np.abs(numbers.sum(axis=-1) - 1.0) <= SUM_TOLERANCE).all())


def _task(found: _Roles) -> Task:
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
