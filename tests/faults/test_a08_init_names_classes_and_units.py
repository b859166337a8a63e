"""A1, A8: `init` wrote goals that meant nothing for the models: errors cut at 5 label units, a Brier score without class names.

What it writes now passes `check`, and what only a person can know, it says.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from onnx import helper, numpy_helper
from sklearn.linear_model import LinearRegression
from typer.testing import CliRunner

from tests.faults.test_a09_class_names_come_from_the_graph import fitted, softmax
from tests.support.graphs import FLOAT, save
from understudy.cli import app
from understudy.errors import ConfigurationError
from understudy.loading.preflight import preflight
from understudy.rollout.policy import Policy, parse
from understudy.settings import read_settings


def initial(folder: Path, first: str, second: str) -> tuple[str, Policy]:
    """The file that `init` writes for two models in a folder, once it has passed what a start checks."""
    file = folder / "rollout.yaml"
    done = CliRunner().invoke(app, ["init", str(folder / first), str(folder / second), "-o", str(file)])
    assert done.exit_code == 0, done.output
    preflight(read_settings(rollout_file=file, state_dir=folder / "state"))
    text = file.read_text(encoding="utf-8")
    return text, parse(text)


@pytest.mark.parametrize("zipmap", [False, True])
def test_classes_that_the_graph_names_need_no_words(tmp_path: Path, zipmap: bool) -> None:
    fitted("linear", ["low", "mid", "high"], tmp_path / "a.onnx", zipmap=True)
    fitted("trees", ["low", "mid", "high"], tmp_path / "b.onnx", zipmap=zipmap)
    _, own = initial(tmp_path, "a.onnx", "b.onnx")

    assert (own.classes, own.task) == ([], "multiclass-classification")
    assert own.goals.quality is not None
    assert own.goals.quality.loss == "brier"


def test_a_guess_at_the_classes_is_there_to_be_seen(tmp_path: Path) -> None:
    softmax(tmp_path / "a.onnx")
    softmax(tmp_path / "b.onnx")
    text, own = initial(tmp_path, "a.onnx", "b.onnx")

    assert own.classes == [0, 1, 2]
    assert "classes: [0, 1, 2] # a guess: the models do not name the classes." in text
    assert own.goals.quality is not None
    assert own.goals.quality.loss == "brier"


def test_names_that_the_other_model_has_are_the_better_guess(tmp_path: Path) -> None:
    fitted("linear", ["low", "mid", "high"], tmp_path / "a.onnx")
    weights = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["X", "w"], ["z"]),
        helper.make_node("Softmax", ["z"], ["probabilities"], axis=1),
    ]
    save(tmp_path / "b.onnx", nodes, [("X", FLOAT, ["n", 2])], [("probabilities", FLOAT, ["n", 3])], [weights])
    sources = [str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]
    done = CliRunner().invoke(app, ["init", *sources, "-o", str(tmp_path / "r.yaml")])

    assert done.exit_code == 0, done.output
    assert yaml.safe_load((tmp_path / "r.yaml").read_text())["classes"] == ["high", "low", "mid"]


def test_without_the_names_quality_is_refused_with_what_to_write(tmp_path: Path) -> None:
    softmax(tmp_path / "a.onnx", name="probabilities")
    softmax(tmp_path / "b.onnx", name="probabilities")
    text, _ = initial(tmp_path, "a.onnx", "b.onnx")
    data: dict[str, Any] = yaml.safe_load(text)
    del data["classes"]
    (tmp_path / "rollout.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")

    with pytest.raises(ConfigurationError, match=r"`classes: \[\.\.\]`"):
        preflight(read_settings(rollout_file=tmp_path / "rollout.yaml", state_dir=tmp_path / "state"))


def test_a_regression_is_judged_by_who_is_nearer(tmp_path: Path) -> None:
    """Which needs no unit; an error needs a clip, and the refusal says how to get one."""
    from skl2onnx import to_onnx

    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    for name, scale in (("a.onnx", 1e5), ("b.onnx", 5e4)):
        graph = to_onnx(LinearRegression().fit(x, scale * x.sum(axis=1)), x[:1])
        (tmp_path / name).write_bytes(graph.SerializeToString())
    text, own = initial(tmp_path, "a.onnx", "b.onnx")

    assert own.goals.quality is not None
    assert own.goals.quality.loss == "win_rate"
    with pytest.raises(
        ConfigurationError, match=r"goals\.quality: `clip` is missing.*in label units.*understudy evaluate"
    ):
        parse(text.replace("loss: win_rate", "loss: absolute_error"))
