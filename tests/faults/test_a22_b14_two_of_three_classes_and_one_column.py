"""A22, B14: a candidate that knows two of three classes was refused as a model of another task; a sigmoid [N, 1] was a regression.

Right: such a candidate is served and judged, with probability 0 for the class it lacks. One probability a row is that of the
second of two classes where the rollout file names them, `init` says so as a guess, and a logit is refused.
"""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.matrix import exporters
from understudy.cli import app
from understudy.errors import ConfigurationError
from understudy.inference import OutputReader
from understudy.inference.onnx import OnnxEngine
from understudy.inference.tasks import fitted
from understudy.rollout.policy import parse

WEIGHTS = np.array([[2.0], [-1.0], [0.5], [0.0]])
X = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)


def column(path: Path, activation: str | None = "Sigmoid") -> Path:
    return exporters._dense(path, WEIGHTS, np.array([0.25]), activation)


@pytest.mark.parametrize("classes", [(0, 1), ("stays", "leaves"), ("yes", "no")])
def test_one_probability_a_row_is_that_of_the_second_class(
    tmp_path: Path, classes: tuple[int | str, int | str]
) -> None:
    """As labels, probabilities in the order of the classes, and the score of the positive class."""
    engine = OnnxEngine(column(tmp_path / "m.onnx"), device="cpu", warm_max_rows=1, classes=classes)
    second = 1 / (1 + np.exp(-(X @ WEIGHTS.astype(np.float32) + 0.25)))[:, 0]

    scores = OutputReader(engine.card).read(engine.run({"x": X}), len(X))
    assert engine.card.task == "binary-classification"
    assert np.allclose(scores.probabilities, np.stack([1 - second, second], axis=1), atol=1e-5)
    assert scores.labels == [classes[int(p > 0.5)] for p in second]


def test_a_logit_is_refused_where_classes_are_named(tmp_path: Path) -> None:
    """With the way out."""
    with pytest.raises(ConfigurationError, match="end the graph with a Sigmoid"):
        OnnxEngine(column(tmp_path / "m.onnx", None), device="cpu", warm_max_rows=1, classes=["a", "b"])


def test_a_regression_stays_one(tmp_path: Path) -> None:
    """Nothing names classes, or the rollout file says so."""
    engine = OnnxEngine(column(tmp_path / "m.onnx", None), device="cpu", warm_max_rows=1)
    assert (engine.card.task, engine.unnamed) == ("regression", 0)
    share = OnnxEngine(column(tmp_path / "s.onnx"), device="cpu", warm_max_rows=1, task="regression")
    assert (share.card.task, share.unnamed) == ("regression", 0)


def test_init_takes_a_sigmoid_for_a_probability_and_says_that_it_guesses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file can be served as it is, once the names are right."""
    monkeypatch.chdir(tmp_path)
    column(Path("poc.onnx"))
    column(Path("better.onnx"))
    result = CliRunner().invoke(app, ["init", "poc.onnx", "better.onnx"])
    assert result.exit_code == 0, result.output
    text = Path("rollout.yaml").read_text(encoding="utf-8")

    assert "classes: [0, 1] # a guess" in text
    policy = parse(text)
    assert (policy.task, policy.goals.quality and policy.goals.quality.loss) == ("binary-classification", "brier")


def test_a_model_of_two_of_the_classes_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside one of three; the other way round the task must be the larger one."""
    monkeypatch.chdir(tmp_path)
    y = np.array(["high", "low", "mid"])[np.arange(50) % 3]
    three = exporters.matrix(Path("three.onnx"), X, y.tolist())
    two = exporters.matrix(Path("two.onnx"), X[y != "mid"], y[y != "mid"].tolist())
    cards = [OnnxEngine(path, device="cpu", warm_max_rows=1).card for path in (three, two)]

    assert [fitted(card, "multiclass-classification").classes for card in cards] == [
        ["high", "low", "mid"],
        ["high", "low"],
    ]
    with pytest.raises(ConfigurationError, match="multiclass"):
        fitted(cards[0], "binary-classification")
    result = CliRunner().invoke(app, ["init", "three.onnx", "two.onnx"])
    assert result.exit_code == 0, result.output
    assert parse(Path("rollout.yaml").read_text(encoding="utf-8")).task == "multiclass-classification"
