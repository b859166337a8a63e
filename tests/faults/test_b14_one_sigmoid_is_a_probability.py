"""B14: a Sigmoid of one number per row was a regression, and named `prob` "multiclass". Right: binary, or as the task says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.support.graphs import FLOAT, INT64, save
from understudy.inference import OutputReader
from understudy.inference.onnx import OnnxEngine

X = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)


def sigmoid(path: Path, name: str = "y", *, wide: bool = True, label: bool = False, end: str = "Sigmoid") -> Path:
    """The sigmoid of the sum of a row, [N, 1] or [N], perhaps beside a label."""
    axes = helper.make_tensor("axes", INT64, [1], [1])
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=int(wide)),
        helper.make_node(end, ["sum"], [name]),
    ]
    outputs: list[Any] = [(name, FLOAT, ["N", 1] if wide else ["N"])]
    if label:
        half = helper.make_tensor("half", FLOAT, [], [0.5])
        nodes += [
            helper.make_node("Greater", [name, "half"], ["over"]),
            helper.make_node("Cast", ["over"], ["label"], to=INT64),
        ]
        return save(path, nodes, [("x", FLOAT, ["N", 4])], [*outputs, ("label", INT64, outputs[0][2])], [axes, half])
    return save(path, nodes, [("x", FLOAT, ["N", 4])], outputs, [axes])


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("name", ["y", "prob"])
@pytest.mark.parametrize("label", [True, False])
def test_it_is_the_probability_of_the_second_class(tmp_path: Path, name: str, *, wide: bool, label: bool) -> None:
    """Whatever its name and shape; callers get both probabilities."""
    engine = OnnxEngine(sigmoid(tmp_path / "m.onnx", name, wide=wide, label=label), device="cpu", warm_max_rows=1)
    scores = OutputReader(engine.card).read(engine.run({"x": X}), len(X))
    second = 1 / (1 + np.exp(-X.sum(axis=1)))

    assert engine.card.task == "binary-classification"
    assert next(o.row_shape for o in engine.card.outputs if o.role == "probabilities") == (2,)
    np.testing.assert_allclose(scores.probabilities, np.stack([1 - second, second], axis=1), atol=1e-5)  # type: ignore[arg-type]


def test_without_class_names_that_is_said(tmp_path: Path) -> None:
    """`init` then asks for them, with a guess."""
    engine = OnnxEngine(sigmoid(tmp_path / "m.onnx"), device="cpu", warm_max_rows=1)
    assert (engine.card.classes, engine.unnamed) == ([], 2)
    assert "Nothing names its classes" in engine.card.description


def test_the_task_says_otherwise(tmp_path: Path) -> None:
    """A share between 0 and 1 may be what a regression predicts."""
    card = OnnxEngine(sigmoid(tmp_path / "m.onnx"), device="cpu", warm_max_rows=1, task="regression").card
    assert (card.task, card.outputs[0].role) == ("regression", "value")


def test_another_last_operator_is_no_probability(tmp_path: Path) -> None:
    card = OnnxEngine(sigmoid(tmp_path / "m.onnx", end="Tanh"), device="cpu", warm_max_rows=1).card
    assert (card.task, card.outputs[0].role) == ("regression", "value")


def test_of_several_outputs_the_sigmoid_needs_a_sign(tmp_path: Path) -> None:
    """Two class names in the rollout file are one; else nothing says what the output is."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1),
        helper.make_node("Sigmoid", ["sum"], ["score"]),
        helper.make_node("Identity", ["x"], ["embedding"]),
    ]
    outputs = [("score", FLOAT, ["N", 1]), ("embedding", FLOAT, ["N", 4])]
    axes = helper.make_tensor("axes", INT64, [1], [1])
    path = save(tmp_path / "m.onnx", nodes, [("x", FLOAT, ["N", 4])], outputs, [axes])

    assert OnnxEngine(path, device="cpu", warm_max_rows=1).card.task == "other"
    asked = OnnxEngine(path, device="cpu", warm_max_rows=1, classes=["no", "yes"])
    assert (asked.card.task, asked.card.positive) == ("binary-classification", "yes")
    assert asked.run({"x": X})["score"].shape == (9, 2)
