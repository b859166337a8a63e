"""NaN in a vector output was `null` with 200 in one format, raw in another, and promised as a 500 in the README.

One rule for all doors, and values of every type that ONNX Runtime takes come back as they were sent.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.support.commands import alone, refused
from tests.support.doors import Doors
from tests.support.graphs import FLOAT, passing, save
from understudy.api.v2.tensors import DATATYPES
from understudy.errors import ConfigurationError, InferenceError
from understudy.inference.bfloat16 import to_bits, to_float
from understudy.inference.onnx import OnnxEngine

__all__ = ["alone"]

BASE = "model: m\ntask: agreement\nprimary: m.onnx\ncandidate: m.onnx\ngoals: {quality: {loss: disagreement, margin: 0.1}}\n"
TYPES = {
    name: getattr(TensorProto, {"float32": "FLOAT", "float64": "DOUBLE"}.get(name, name.upper())) for name in DATATYPES
}


def extremes(dtype: str) -> list[Any]:
    """The largest, the smallest and the odd values of a type."""
    if dtype == "string":
        return ["", "naïve 特徴 😀", 'a"\\\n', "x" * 5_000]
    if dtype == "bool":
        return [True, False]
    if dtype.startswith("float"):
        info = np.finfo(dtype)
        return [float(v) for v in (info.max, info.min, info.tiny, info.smallest_subnormal, -0.0, 0.1, 1 / 3)]
    whole = np.iinfo(dtype)
    return [int(whole.max), int(whole.min), 0, 1]


def doors(folder: Path, *, candidate: bool) -> Doors:
    (folder / "rollout.yaml").write_text(BASE, encoding="utf-8")
    return Doors(folder / "rollout.yaml", candidate=candidate)


@pytest.mark.parametrize("candidate", [False, True])
@pytest.mark.parametrize("dtype", DATATYPES)
def test_values_come_back_as_they_were_sent_on_every_door(tmp_path: Path, dtype: str, candidate: bool) -> None:
    """Numbers, vectors and strings; bit by bit, so that the sign of zero and subnormals stay."""
    passing(tmp_path / "m.onnx", ("x", TYPES[dtype], ["n", 1]), ("v", TYPES[dtype], ["n", 2]))
    open_ = doors(tmp_path, candidate=candidate)
    values = extremes(dtype)
    array = np.array(values, object if dtype == "string" else dtype)
    x, v = array.reshape(-1, 1), np.stack([array, array[::-1]], axis=1)
    kind = DATATYPES[dtype]

    def same(found: Any, wanted: Any) -> bool:
        typed = np.array(found, wanted.dtype)
        equal = typed.tolist() == wanted.tolist()
        return equal and (dtype == "string" or typed.tobytes() == np.ascontiguousarray(wanted).tobytes())

    status, said = open_.predict(*({"x": a, "v": b} for a, b in zip(x[:, 0].tolist(), v.tolist(), strict=True)))
    assert status == 200
    outputs = [row["outputs"] for row in said["predictions"]]
    assert same([row["x_out"] for row in outputs], x)
    assert same([row["v_out"] for row in outputs], v)
    status, said = open_.v2(x=(kind, x.shape, x.tolist()), v=(kind, v.shape, v.reshape(-1).tolist()))
    assert status == 200
    assert same(said["outputs"][0]["data"], x.reshape(-1))
    assert same(said["outputs"][1]["data"], v.reshape(-1))
    status, _, arrays = open_.v2_binary(x=(kind, x), v=(kind, v))
    assert status == 200
    assert same(arrays["x_out"].tolist(), x)
    assert same(arrays["v_out"].tolist(), v)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_that_are_too_large_or_not_finite_are_refused_on_every_door(tmp_path: Path, dtype: str) -> None:
    passing(tmp_path / "m.onnx", ("x", TYPES[dtype], ["n", 1]))
    open_ = doors(tmp_path, candidate=False)
    large = {"float16": b"70000", "float32": b"3.5e38", "float64": b"1e400"}[dtype]

    assert open_.predict(b'{"x":' + large + b"}")[0] == 422
    assert open_.predict({"x": float("nan")})[0] in {400, 422}
    if dtype != "float64":
        assert open_.v2(x=(DATATYPES[dtype], [1, 1], [float(large)]))[0] == 400
    for odd in (np.nan, np.inf):
        assert open_.v2_binary(x=(DATATYPES[dtype], np.array([[odd]], dtype)))[0] == 400


@pytest.mark.parametrize("candidate", [False, True])
def test_an_output_that_is_not_finite_is_an_error_on_every_door(tmp_path: Path, candidate: bool) -> None:
    """Number or vector, NaN or infinity; the other rows of a request fail with it, other requests do not."""
    nodes = [helper.make_node("Log", ["x"], ["y"]), helper.make_node("Reciprocal", ["v"], ["w"])]
    inputs = [("x", FLOAT, ["n", 1]), ("v", FLOAT, ["n", 2])]
    save(tmp_path / "m.onnx", nodes, inputs, [("y", FLOAT, ["n", 1]), ("w", FLOAT, ["n", 2])])
    open_ = doors(tmp_path, candidate=candidate)

    for x, v in ((-1.0, [1.0, 1.0]), (0.0, [1.0, 1.0]), (1.0, [1.0, 0.0])):
        assert open_.predict({"x": 1, "v": [1, 1]}, {"x": x, "v": v})[0] == 500
        assert open_.v2(x=("FP32", [1, 1], [x]), v=("FP32", [1, 2], v))[0] == 500
        arrays = {"x": ("FP32", np.array([[x]], np.float32)), "v": ("FP32", np.array([v], np.float32))}
        assert open_.v2_binary(**arrays)[0] == 500
    assert open_.predict({"x": 1, "v": [1, 2]})[0] == 200


def test_a_number_that_the_primarys_type_does_not_hold_is_an_error(tmp_path: Path) -> None:
    """The candidate gives float64 where V2 promises the primary's FP32: 1e300 became an infinity."""
    passing(tmp_path / "m.onnx", ("x", FLOAT, ["n", 1]), suffix="y")
    for name, kind, factor in (("m.onnx", FLOAT, 1.0), ("c.onnx", TensorProto.DOUBLE, 1e300)):
        constant = helper.make_tensor("f", kind, [], [factor])
        nodes = [helper.make_node("Cast", ["x"], ["d"], to=kind), helper.make_node("Mul", ["d", "f"], ["y"])]
        save(tmp_path / name, nodes, [("x", FLOAT, ["n", 3])], [("y", kind, ["n", 3])], [constant])
    (tmp_path / "rollout.yaml").write_text(BASE.replace("candidate: m", "candidate: c"), encoding="utf-8")
    open_ = Doors(tmp_path / "rollout.yaml", candidate=True)

    status, said = open_.v2(x=("FP32", [1, 3], [1, 0, 0]))
    assert (status, "too large for float32" in said["error"]) == (500, True)
    assert open_.v2(x=("FP32", [1, 3], [0, 0, 0]))[0] == 200


def test_a_fraction_is_no_answer_for_a_whole_number(tmp_path: Path) -> None:
    """V2 would cut it off."""
    for name, kind in (("m.onnx", TensorProto.INT64), ("c.onnx", FLOAT)):
        save(
            tmp_path / name,
            [helper.make_node("Cast", ["x"], ["y"], to=kind)],
            [("x", FLOAT, ["n", 3])],
            [("y", kind, ["n", 3])],
        )
    (tmp_path / "rollout.yaml").write_text(BASE.replace("candidate: m", "candidate: c"), encoding="utf-8")
    assert "does not give the output `y` (int64 [n, 3])" in refused("check")


@pytest.mark.parametrize("candidate", [False, True])
def test_bfloat16_is_served_as_float32(tmp_path: Path, candidate: bool) -> None:
    """NumPy has no such type. V2 takes its raw bytes, and gives float32, which holds every bfloat16."""
    kind = TensorProto.BFLOAT16
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "f"], ["s"]),
        helper.make_node("Cast", ["s"], ["y"], to=kind),
    ]
    save(tmp_path / "m.onnx", nodes, [("x", kind, ["n", 2])], [("y", kind, ["n", 2])])
    open_ = doors(tmp_path, candidate=candidate)
    x = np.array([[1.5, -3.0], [0.0, 1e10]], np.float32)
    wanted = to_float(to_bits(to_float(to_bits(x)) ** 2))

    _, said = open_.predict(*({"x": row} for row in x.tolist()))
    assert np.array_equal([row["outputs"]["y"] for row in said["predictions"]], wanted)
    status, _, arrays = open_.v2_binary(x=("BF16", to_bits(x)))
    assert (status, arrays["y"].dtype) == (200, np.float32)
    assert np.array_equal(arrays["y"], wanted)
    assert open_.v2(x=("FP32", [2, 2], x.tolist()))[1]["outputs"][0]["data"] == wanted.reshape(-1).tolist()
    assert "BF16 is sent as binary data" in open_.v2(x=("BF16", [2, 2], x.tolist()))[1]["error"]
    assert open_.v2_binary(x=("BF16", np.array([[0x7F80, 0]], np.uint16)))[0] == 400, "an infinity"


def test_bfloat16_is_rounded_to_the_nearest_and_halves_to_even() -> None:
    for number, bits in (
        (1.0, 0x3F80),
        (1 + 2**-8, 0x3F80),
        (1 + 3 * 2**-8, 0x3F82),
        (-0.0, 0x8000),
        (float("nan"), 0x7FC0),
    ):
        assert to_bits(np.array([number], np.float32)).tolist() == [bits]
    with pytest.raises(InferenceError, match="too large for bfloat16"):
        to_bits(np.array([np.finfo(np.float32).max], np.float32))


@pytest.mark.parametrize("name", ["COMPLEX64", "FLOAT8E4M3FN", "INT4", "UINT4"])
def test_other_types_are_refused_with_the_way_out(tmp_path: Path, name: str) -> None:
    path = passing(tmp_path / "m.onnx", ("x", getattr(TensorProto, name), ["n", 2]))
    with pytest.raises(ConfigurationError, match=f"{name.lower()} is not served: export the model with"):
        OnnxEngine(path, device="cpu", warm_max_rows=1)


def test_a_type_that_the_runtime_takes_and_numpy_does_not_is_refused(tmp_path: Path) -> None:
    kind = TensorProto.FLOAT8E4M3FN
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=FLOAT), helper.make_node("Cast", ["f"], ["y"], to=kind)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", 2])],
        [helper.make_tensor_value_info("y", kind, ["n", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ConfigurationError, match=r"`x` is tensor\(float8e4m3fn\), which is not served"):
        OnnxEngine(tmp_path / "m.onnx", device="cpu", warm_max_rows=1)


@pytest.mark.parametrize(
    ("dtype", "kind", "fits", "does_not"),
    [
        ("int32", TensorProto.FLOAT, [[2.0, 3.0]], [[2.0, 3.5], [3e9, 0.0]]),
        ("bool", TensorProto.INT64, [[1, 0]], [[2, 0], [1, -1]]),
        ("float16", TensorProto.FLOAT, [[65504.0, 0.1]], [[1e5, 0.0]]),
    ],
)
def test_a_candidate_of_another_type_gets_no_other_numbers(
    tmp_path: Path, dtype: str, kind: int, fits: Any, does_not: Any
) -> None:
    """They were cut off or became 1 or an infinity for the candidate; the primary answers such requests."""
    for name, own in (("m.onnx", kind), ("c.onnx", TYPES[dtype])):
        nodes = [helper.make_node("Cast", ["x"], ["y"], to=FLOAT)]
        save(tmp_path / name, nodes, [("x", own, ["n", 2])], [("y", FLOAT, ["n", 2])])
    (tmp_path / "rollout.yaml").write_text(BASE.replace("candidate: m", "candidate: c"), encoding="utf-8")
    open_ = Doors(tmp_path / "rollout.yaml", candidate=True)
    datatype, numpy = ("INT64", np.int64) if kind == TensorProto.INT64 else ("FP32", np.float32)

    for rows, answers in ((fits, "candidate"), *((row, "primary") for row in ([each] for each in does_not))):
        _, said = open_.predict(*({"x": row} for row in rows))
        assert said["variant"] == answers
        _, said = open_.v2(x=(datatype, [1, 2], rows))
        assert said["parameters"]["variant"] == answers
        _, said, _ = open_.v2_binary(x=(datatype, np.array(rows, numpy)))
        assert said["parameters"]["variant"] == answers


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.BOOL, FLOAT])
@pytest.mark.parametrize("width", [1, 2])
def test_a_field_of_the_candidate_alone_that_is_left_out_is_not_made_up(tmp_path: Path, kind: int, width: int) -> None:
    """An array was an internal error, and a boolean false. A number is NaN, which is what the rollout file announces."""
    passing(tmp_path / "m.onnx", ("x", FLOAT, ["n", 2]), suffix="_")
    nodes = [
        helper.make_node("Cast", ["z"], ["f"], to=FLOAT),
        helper.make_node("ReduceSum", ["f", "axes"], ["s"], keepdims=1),
        helper.make_node("Add", ["x", "s"], ["x_"]),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    inputs = [("x", FLOAT, ["n", 2]), ("z", kind, ["n", width])]
    save(tmp_path / "c.onnx", nodes, inputs, [("x_", FLOAT, ["n", 2])], [axes])
    text = BASE.replace("candidate: m", "candidate: c") + "inputs: {z: {}}\n"
    (tmp_path / "rollout.yaml").write_text(text, encoding="utf-8")
    open_ = Doors(tmp_path / "rollout.yaml", candidate=True)
    z: Any = [1] * width if kind != TensorProto.BOOL else [True] * width

    full = {"x": [1, 2], "z": z if width > 1 else z[0]}
    assert open_.predict(full)[1]["variant"] == "candidate"
    for rows in ([{"x": [1, 2]}], [full, {"x": [1, 2]}]):
        status, said = open_.predict(*rows)
        assert (status, said["variant"], said["fallback"]) == (200, "primary", True)
