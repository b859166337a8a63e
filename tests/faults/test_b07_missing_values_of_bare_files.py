"""null and NaN were refused everywhere for a model in a bare file, whatever it was trained with.

The rollout file says which inputs may be missing, for both models and all doors, numbers of an array included.
"""

from pathlib import Path

import numpy as np
import pytest

from tests.support.commands import alone, refused
from tests.support.doors import Doors
from tests.support.graphs import FLOAT, INT64, STRING, passing, save
from understudy.inference.mapping import check_names
from understudy.rollout.policy import parse

__all__ = ["alone"]

FLOAT16 = 10
INPUTS = [("x", FLOAT, ["r", 1]), ("v", FLOAT, ["r", 2]), ("h", FLOAT16, ["r", 1]), ("s", STRING, ["r", 1])]
NULLABLE = "inputs: {x: {nullable: true}, v: {nullable: true}, h: {nullable: true}, s: {nullable: true}}\n"
BASE = "model: m\ntask: agreement\nprimary: m.onnx\ncandidate: m.onnx\ngoals: {quality: {loss: disagreement, margin: 0.1}}\n"


def doors(folder: Path, *, candidate: bool = False, keys: str = NULLABLE) -> Doors:
    """A model that answers 1 where a number is NaN, and its text."""
    from onnx import helper

    nodes = [helper.make_node("IsNaN", [name], [f"{name}_missing"]) for name in "xvh"]
    nodes.append(helper.make_node("Identity", ["s"], ["s_out"]))
    outputs = [(f"{name}_missing", 9, [*shape]) for name, _, shape in INPUTS[:3]]
    save(folder / "m.onnx", nodes, INPUTS, [*outputs, ("s_out", STRING, ["r", 1])])
    (folder / "rollout.yaml").write_text(BASE + keys, encoding="utf-8")
    return Doors(folder / "rollout.yaml", candidate=candidate)


@pytest.mark.parametrize("candidate", [False, True])
def test_null_is_a_missing_value_on_every_door(tmp_path: Path, candidate: bool) -> None:
    open_ = doors(tmp_path, candidate=candidate)
    missing = {"x_missing": [True], "v_missing": [False, True], "h_missing": [True], "s_out": [""]}

    _, said = open_.predict({"x": None, "v": [1.0, None], "h": None, "s": None})
    assert said["predictions"][0]["outputs"] == missing
    given = {"x": ("FP32", [1, 1], [None]), "v": ("FP32", [1, 2], [[1, None]]), "h": ("FP16", [1, 1], [None])}
    _, said = open_.v2(**given, s=("BYTES", [1, 1], [None]))
    assert {output["name"]: output["data"] for output in said["outputs"]} == missing
    nan = float("nan")
    status, _, arrays = open_.v2_binary(
        x=("FP32", np.array([[nan]], np.float32)),
        v=("FP32", np.array([[1, nan]], np.float32)),
        h=("FP16", np.array([[nan]], np.float16)),
        s=("BYTES", np.array([[""]], object)),
    )
    assert (status, {name: array.reshape(-1).tolist() for name, array in arrays.items()}) == (200, missing)


def test_without_the_key_it_is_refused_with_the_field(tmp_path: Path) -> None:
    """And infinities are refused with it."""
    plain = doors(tmp_path, keys="")
    status, said = plain.predict({"x": None, "v": [1, None], "h": 1, "s": "a"})
    assert (status, [error["field"] for error in said["errors"]]) == (422, ["x", "v"])
    given = {"v": ("FP32", np.ones((1, 2), np.float32)), "h": ("FP16", np.ones((1, 1), np.float16))}
    text = {"s": ("BYTES", np.array([["a"]], object))}
    assert plain.v2_binary(x=("FP32", np.array([[np.nan]], np.float32)), **given, **text)[0] == 400
    (tmp_path / "rollout.yaml").write_text(BASE + NULLABLE, encoding="utf-8")
    lenient = Doors(tmp_path / "rollout.yaml")
    assert lenient.v2_binary(x=("FP32", np.array([[np.inf]], np.float32)), **given, **text)[0] == 400
    assert lenient.predict({"x": 1, "v": [[1], None], "h": 1, "s": "a"})[0] == 422


def test_a_type_without_a_missing_value_is_refused(tmp_path: Path) -> None:
    passing(tmp_path / "m.onnx", ("n", INT64, ["r", 1]))
    (tmp_path / "rollout.yaml").write_text(BASE + "inputs: {n: {nullable: true}}\n", encoding="utf-8")
    assert "m takes int64, which has no missing value: leave `nullable` out" in refused("check")


def test_the_key_overrides_the_card(tmp_path: Path) -> None:
    """Both ways, and for the primary alone."""
    open_ = doors(tmp_path)
    assert [spec.nullable for card in open_.cards.values() for spec in card.inputs] == [True] * 8
    policy = parse(BASE + NULLABLE)
    check_names(next(iter(open_.cards.values())), None, policy.inputs, policy.outputs)
