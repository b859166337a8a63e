"""A graph with several labels a row, or several numbers, was taken for a classifier of one class or for nothing. It is read as
what it is now, or refused in words; the rollout file's `task` says what the one output of a bare graph is.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.support.graphs import save
from understudy.errors import ConfigurationError
from understudy.inference.cards import OutputSpec
from understudy.inference.onnx import OnnxEngine
from understudy.inference.tasks import fitted, mismatch
from understudy.offline.evaluate.run import ColumnNames, EvaluationRequest, run
from understudy.testing import card

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def sets(path: Path, *, probabilities: str = "Sigmoid") -> Path:
    """A multilabel classifier of three classes, as `OneVsRestClassifier` is exported."""
    half = helper.make_tensor("half", FLOAT, [1], [0.5])
    nodes = [
        helper.make_node(probabilities, ["x"], ["probabilities"]),
        helper.make_node("Greater", ["probabilities", "half"], ["over"]),
        helper.make_node("Cast", ["over"], ["label"], to=INT),
    ]
    ends = [("x", FLOAT, ["n", 3])], [("label", INT, ["n", 3]), ("probabilities", FLOAT, ["n", 3])]
    save(path, nodes, *ends, [half])
    return path


def matrix(path: Path, node: str = "Identity") -> Path:
    save(path, [helper.make_node(node, ["x"], ["y"])], [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 3])])
    return path


def opened(path: Path, **given: Any) -> OnnxEngine:
    return OnnxEngine(path, device="cpu", warm_max_rows=1, **given)


def test_a_label_of_several_numbers_a_row_is_a_set_of_classes(tmp_path: Path) -> None:
    """Its class names are not guessed."""
    path = sets(tmp_path / "m.onnx")
    assert (opened(path).card.task, opened(path).card.classes) == ("multilabel-classification", [])
    assert opened(path, classes=["a", "b", "c"]).card.classes == ["a", "b", "c"]


def test_the_rollout_file_says_that_a_matrix_holds_independent_probabilities(tmp_path: Path) -> None:
    """They need not sum to 1."""
    said = {"classes": ["a", "b", "c"], "task": "multilabel-classification"}
    found = opened(matrix(tmp_path / "m.onnx", "Sigmoid"), **said).card
    assert (found.task, found.roles) == ("multilabel-classification", {"probabilities"})


def test_several_labels_with_probabilities_of_both_sides_are_a_multilabel_classifier(tmp_path: Path) -> None:
    """As scikit-learn's forests are exported: [labels, rows, 2]; callers get the probability that each label is true."""
    nodes = [
        helper.make_node("Cast", ["x"], ["label"], to=INT),
        helper.make_node("Concat", ["row", "row"], ["probabilities"], axis=0),
        helper.make_node("Unsqueeze", ["shares", "axes"], ["row"]),
        helper.make_node("Softmax", ["x"], ["shares"], axis=-1),
    ]
    axes = helper.make_tensor("axes", INT, [1], [0])
    ends = [("x", FLOAT, ["n", 2])], [("label", INT, ["n", 2]), ("probabilities", FLOAT, [2, "n", 2])]
    save(tmp_path / "m.onnx", [nodes[0], nodes[3], nodes[2], nodes[1]], *ends, [axes])
    engine = opened(tmp_path / "m.onnx")
    probabilities = engine.run({"x": np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)})["probabilities"]

    assert (engine.card.task, engine.card.roles) == ("multilabel-classification", {"label", "probabilities"})
    assert np.allclose(probabilities, 1 / (1 + np.exp([[0.8, 0.8], [-0.6, -0.6]])))


def test_the_rollout_file_says_that_a_matrix_is_a_vector_of_numbers(tmp_path: Path) -> None:
    found = opened(matrix(tmp_path / "m.onnx")).card
    assert found.task == "other"
    assert fitted(found, "regression").roles == {"value"}
    assert fitted(found, "agreement") == found


def test_what_could_be_several_outputs_is_refused() -> None:
    outputs = [OutputSpec(name=name, dtype="float32", shape=[None, 3]) for name in ("a", "b")]
    several = card(task="other", classes=[], positive=None, outputs=outputs)
    with pytest.raises(ConfigurationError, match="several outputs could be the value"):
        fitted(several, "regression")
    with pytest.raises(
        ConfigurationError, match="is a binary-classification model, and the rollout file says `task: regression`"
    ):
        fitted(card(), "regression")


def test_two_models_that_no_label_fits_are_refused() -> None:
    def value(width: int) -> Any:
        outputs = [OutputSpec(name="y", dtype="float32", shape=[None, width], role="value")]
        return card(task="regression", classes=[], positive=None, outputs=outputs)

    def topics(*classes: int | str) -> Any:
        return card(task="multilabel-classification", classes=list(classes), positive=None)

    assert mismatch(value(3), value(3)) is None
    assert "predicts 3 numbers a row" in str(mismatch(value(3), value(2)))
    assert mismatch(topics("a", "b"), topics("b", "a")) is None
    assert "only fake has b" in str(mismatch(topics("a", "b"), topics("a", "c")))


def test_evaluate_says_that_it_scores_one_class_or_one_number(tmp_path: Path) -> None:
    path = sets(tmp_path / "m.onnx")
    with pytest.raises(ConfigurationError, match="predicts a set of classes per row"):
        run(EvaluationRequest([str(path)], None, tmp_path / "none.csv", ColumnNames("y"), ()))
