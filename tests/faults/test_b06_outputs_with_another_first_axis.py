"""B6: an output whose first axis is not the rows made every request a 500, although `check` said "ready". Right: it is served."""

from pathlib import Path

import numpy as np
import pytest
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from tests.support import layouts
from understudy.inference import OutputReader
from understudy.inference.onnx import OnnxEngine

X = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
Y = (X[:, :3] + 0.3 * X[:, [3]] > 0).astype(int)


def test_a_forest_of_several_labels_is_a_multilabel_classifier(tmp_path: Path) -> None:
    """Its probabilities are [labels, rows, 2]."""
    forest = RandomForestClassifier(5, max_depth=4, random_state=0).fit(X, Y)
    path = tmp_path / "m.onnx"
    path.write_bytes(to_onnx(forest, X[:1], options={"zipmap": False}).SerializeToString())
    engine = OnnxEngine(path, device="cpu", warm_max_rows=4, classes=["red", "big", "new"])
    scores = OutputReader(engine.card).read(engine.run({"X": X[:20]}), 20)

    assert engine.card.task == "multilabel-classification"
    expected = np.stack([label[:, 1] for label in forest.predict_proba(X[:20])], axis=1)
    assert np.allclose(scores.probabilities, expected, atol=1e-5)
    names = np.array(["red", "big", "new"])
    assert scores.labels == [tuple(names[row == 1]) for row in forest.predict(X[:20])]


def test_what_an_exporter_calls_probabilities_must_sum_to_one(tmp_path: Path) -> None:
    """skl2onnx exports a tree of several labels with a probability of 1 for both sides: callers get it, and no loss uses it."""
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(X, Y)
    path = tmp_path / "m.onnx"
    path.write_bytes(to_onnx(tree, X[:1], options={"zipmap": False}).SerializeToString())
    card = OnnxEngine(path, device="cpu", warm_max_rows=1).card

    assert card.roles == {"label", "other"}
    assert "probabilities holds no probabilities" in card.description


@pytest.mark.parametrize("kind", ["constant", "total", "centred"])
def test_an_output_beside_good_ones_takes_nothing_from_them(tmp_path: Path, kind: str) -> None:
    """A constant, a scalar over all rows, and numbers that depend on the other rows."""
    engine = OnnxEngine(layouts.aside(tmp_path / "m.onnx", kind), device="cpu", warm_max_rows=4)
    scores = OutputReader(engine.card).read(engine.run({"x": X[:6]}), 6)
    expected = {"constant": [[7.0, 8.0]] * 6, "total": X[:6].sum(axis=1).tolist(), "centred": [[0.0] * 4] * 6}
    assert scores.others is not None
    np.testing.assert_allclose(scores.others["aside"], expected[kind], rtol=1e-5)  # type: ignore[arg-type]  # numbers
    np.testing.assert_allclose(scores.others["y"], 2 * X[:6], rtol=1e-5)  # type: ignore[arg-type]  # numbers
