"""A9: the classes of a graph without ZipMap were taken for 0 to n-1, so a true 5 of the classes 1 to 5 had no loss.

Names come from the graph, whatever exporter wrote it; else from the rollout file's `classes`; and never from a guess.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from understudy.domain import Status
from understudy.errors import ConfigurationError
from understudy.inference import OutputReader
from understudy.inference.onnx import OnnxEngine
from understudy.rollout.losses import computable, losses
from understudy.rollout.policy import parse

MODELS: dict[str, Any] = {
    "linear": lambda: LogisticRegression(),
    "trees": lambda: RandomForestClassifier(4, random_state=0),
    "pipeline": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "bayes": lambda: GaussianNB(),
    "net": lambda: MLPClassifier((3,), max_iter=5, random_state=0),
    "one vs rest": lambda: OneVsRestClassifier(LogisticRegression()),
}
ROWS = 200


def fitted(kind: str, names: list[Any], path: Path, *, zipmap: bool = False) -> tuple[Any, Any]:
    """A model of some kind that was trained on classes with these names, and its rows."""
    from skl2onnx import to_onnx

    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 2)).astype(np.float32)
    y = np.array(names)[np.clip(np.digitize(x[:, 0], np.linspace(-1, 1, len(names) - 1)), 0, len(names) - 1)]
    model = MODELS[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y)
        graph = to_onnx(model, x[:1], options={id(model): {"zipmap": zipmap}})
    path.write_bytes(graph.SerializeToString())
    return model, x


@pytest.mark.parametrize("names", [[1, 2, 3, 4, 5], ["c", "a", "b"], [-1, 1], ["no", "yes"]], ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_the_graph_names_its_classes(kind: str, names: list[Any], tmp_path: Path) -> None:
    model, x = fitted(kind, names, tmp_path / "m.onnx")
    engine = OnnxEngine(tmp_path / "m.onnx", device="cpu", warm_max_rows=1)
    reader = OutputReader(engine.card)
    answers = reader.attempts(reader.read(engine.run({"X": x}), len(x)), Status.OK, 0.0, len(x))

    assert engine.card.classes == model.classes_.tolist() == sorted(names)
    assert computable("brier", engine.card) is None
    assert np.mean([a.label == truth for a, truth in zip(answers, model.predict(x).tolist(), strict=True)]) > 0.99
    for answer in answers[:20]:
        scored = {name: losses(answer, name, engine.card.classes, engine.card.positive) for name in engine.card.classes}
        assert all(found.keys() == {"zero_one", "brier", "log_loss"} for found in scored.values())
        assert min(scored, key=lambda name: scored[name]["brier"]) == answer.label


def softmax(path: Path, width: int = 3, *, name: str = "output", node: str = "Softmax") -> Path:
    """A network's usual graph: one matrix a row, and no label."""
    nodes = [helper.make_node(node, ["x"], [name])]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", width]) for n in ("x", name)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_without_any_source_of_names_none_are_made_up(tmp_path: Path) -> None:
    engine = OnnxEngine(softmax(tmp_path / "m.onnx", name="probabilities"), device="cpu", warm_max_rows=1)

    assert (engine.card.classes, engine.unnamed) == ([], 3)
    why = computable("brier", engine.card)
    assert why is not None
    assert "write `classes: [..]` into the rollout file" in why


@pytest.mark.parametrize("name", ["output", "probabilities"])
def test_the_rollout_file_names_the_classes_of_a_softmax(name: str, tmp_path: Path) -> None:
    path = softmax(tmp_path / "m.onnx", name=name)
    engine = OnnxEngine(path, device="cpu", warm_max_rows=1, classes=["cat", "dog", "eel"])
    reader = OutputReader(engine.card)
    (answer,) = reader.attempts(reader.read(engine.run({"x": np.eye(3, dtype=np.float32)[2:]}), 1), Status.OK, 0.0, 1)

    assert (engine.card.task, engine.card.classes, answer.label) == (
        "multiclass-classification",
        ["cat", "dog", "eel"],
        "eel",
    )
    assert computable("log_loss", engine.card) is None
    with pytest.raises(ConfigurationError, match="`classes` names 2 classes"):
        OnnxEngine(path, device="cpu", warm_max_rows=1, classes=["cat", "dog"])


def test_logits_are_no_probabilities(tmp_path: Path) -> None:
    path = softmax(tmp_path / "m.onnx", node="Identity")

    with pytest.raises(ConfigurationError, match=r"holds no probabilities.*end the graph with a Softmax"):
        OnnxEngine(path, device="cpu", warm_max_rows=1, classes=["cat", "dog", "eel"])
    assert OnnxEngine(path, device="cpu", warm_max_rows=1).unnamed == 0


def test_names_in_the_file_that_the_graph_does_not_know_are_refused(tmp_path: Path) -> None:
    fitted("linear", [1, 2, 3], tmp_path / "m.onnx")

    with pytest.raises(ConfigurationError, match=r"names its own classes \[1, 2, 3\]"):
        OnnxEngine(tmp_path / "m.onnx", device="cpu", warm_max_rows=1, classes=[0, 1, 2])
    wider = OnnxEngine(tmp_path / "m.onnx", device="cpu", warm_max_rows=1, classes=[1, 2, 3, 4])
    assert wider.card.classes == [1, 2, 3]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("[yes, no]", "in quotes"),
        ("[1, a]", "use one kind"),
        ("[a, a]", "twice"),
        ("[1.5, 2]", "whole number"),
        ("[1]", "two"),
    ],
)
def test_classes_in_the_rollout_file_are_checked(written: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        parse(f"model: m\ntask: multiclass-classification\nprimary: a\nclasses: {written}\n")


def test_other_classes_start_new_evidence() -> None:
    base = "model: m\ntask: multiclass-classification\nprimary: a\n"
    keys = {parse(base + more).key("p", "c") for more in ("", "classes: [a, b]\n", "classes: [b, a]\n")}
    assert len(keys) == 3
