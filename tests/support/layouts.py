"""Graphs that have their rows on another axis than the first, or on none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.support.graphs import FLOAT, INT64, STRING, save

Made = Callable[[Path], Path]
_CHANCE = np.random.default_rng(14)
WEIGHTS = _CHANCE.standard_normal((4, 2)).astype(np.float32)


def ints(name: str, *values: int) -> Any:
    return helper.make_tensor(name, INT64, [len(values)], values)


def text(path: Path, names: tuple[Any, Any] = ("batch", "seq"), *, per_token: bool = False) -> Path:
    """input_ids and attention_mask [N, T] → the mean embedding of the tokens [N, 4], and with `per_token` all of them [N, T, 4]."""
    table = numpy_helper.from_array(_CHANCE.standard_normal((50, 4)).astype(np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["tokens"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["tokens", "wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["pooled"], keepdims=0),
    ]
    outputs: list[Any] = [("pooled", FLOAT, [names[0], 4])]
    if per_token:
        outputs.append(("kept", FLOAT, [*names, 4]))
    inputs = [("input_ids", INT64, list(names)), ("attention_mask", INT64, list(names))]
    return save(path, nodes, inputs, outputs, [table, ints("last", -1), ints("middle", 1)])


def image(path: Path, batch: Any = "N") -> Path:
    """An image [N, 3, H, W] → its mean colours through a matrix, [N, 2]."""
    weights = numpy_helper.from_array(WEIGHTS[:3], "weights")
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["y"]),
    ]
    return save(
        path, nodes, [("image", FLOAT, [batch, 3, "H", "W"])], [("y", FLOAT, [batch, 2])], [weights, ints("axes", 2, 3)]
    )


def sequence(path: Path, names: tuple[Any, Any] = ("T", "N"), *, states: bool = True) -> Path:
    """An LSTM: x [T, N, 4] → y [T, N, 3], and its last state [1, N, 3] if `states`."""
    w, r = (
        numpy_helper.from_array(_CHANCE.standard_normal(s).astype(np.float32), n)
        for n, s in (("w", (1, 12, 4)), ("r", (1, 12, 3)))
    )
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["all", "last"], hidden_size=3),
        helper.make_node("Squeeze", ["all", "one"], ["y"]),
    ]
    outputs: list[Any] = [("y", FLOAT, [*names, 3])]
    if states:
        outputs.append(("last", FLOAT, [1, names[1], 3]))
    return save(path, nodes, [("x", FLOAT, [*names, 4])], outputs, [w, r, ints("one", 1)])


def picture(path: Path) -> Path:
    """A picture without a batch axis: [3, 16, 16] → 10 numbers."""
    weights = numpy_helper.from_array(_CHANCE.standard_normal((768, 10)).astype(np.float32), "weights")
    nodes = [
        helper.make_node("Reshape", ["picture", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["wide"]),
        helper.make_node("Squeeze", ["wide", "zero"], ["y"]),
    ]
    return save(
        path,
        nodes,
        [("picture", FLOAT, [3, 16, 16])],
        [("y", FLOAT, [10])],
        [weights, ints("flat", 1, 768), ints("zero", 0)],
    )


def detector(path: Path, batch: Any = 1) -> Path:
    """[1, 1, H, W] → the places of all numbers above 1 as boxes [K, 4], their values as scores [K], and how many, a scalar."""
    nodes = [
        helper.make_node("Greater", ["image", "limit"], ["over"]),
        helper.make_node("NonZero", ["over"], ["places"]),
        helper.make_node("Transpose", ["places"], ["boxes"], perm=[1, 0]),
        helper.make_node("GatherND", ["image", "boxes"], ["scores"]),
        helper.make_node("Cast", ["over"], ["numbers"], to=FLOAT),
        helper.make_node("ReduceSum", ["numbers"], ["count"], keepdims=0),
    ]
    outputs = [("boxes", INT64, ["K", 4]), ("scores", FLOAT, ["K"]), ("count", FLOAT, [])]
    limit = helper.make_tensor("limit", FLOAT, [], [1.0])
    return save(path, nodes, [("image", FLOAT, [batch, 1, "H", "W"])], outputs, [limit])


def threshold(path: Path, shape: tuple[Any, ...] = ()) -> Path:
    """score = the sum of x [N, 4], above = whether it is over the threshold, which has no batch axis; and the threshold itself."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["score"], keepdims=0),
        helper.make_node("Greater", ["score", "threshold"], ["above"]),
        helper.make_node("Identity", ["threshold"], ["used"]),
    ]
    inputs = [("x", FLOAT, ["N", 4]), ("threshold", FLOAT, list(shape))]
    outputs = [("score", FLOAT, ["N"]), ("above", TensorProto.BOOL, ["N"]), ("used", FLOAT, list(shape))]
    return save(path, nodes, inputs, outputs, [ints("axes", 1)])


def aside(path: Path, kind: str) -> Path:
    """y = 2 x [N, 4], beside: a `constant`, a scalar `total` over all rows, or `centred`, which depends on the other rows."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    constants = []
    if kind == "constant":
        constants.append(numpy_helper.from_array(np.array([7.0, 8.0], np.float32), "fixed"))
        nodes.append(helper.make_node("Identity", ["fixed"], ["aside"]))
        shape: list[Any] = [2]
    elif kind == "total":
        nodes.append(helper.make_node("ReduceSum", ["x"], ["aside"], keepdims=0))
        shape = []
    else:
        constants.append(ints("zero", 0))
        nodes.append(helper.make_node("ReduceMean", ["x", "zero"], ["mean"], keepdims=1))
        nodes.append(helper.make_node("Sub", ["x", "mean"], ["aside"]))
        shape = ["N", 4]
    return save(path, nodes, [("x", FLOAT, ["N", 4])], [("y", FLOAT, ["N", 4]), ("aside", FLOAT, shape)], constants)


def fixed(path: Path, size: int = 4) -> Path:
    """x [size, 4] → y = x through a matrix and turned, [2, size]: the rows of the output are on axis 1."""
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["wide"]),
        helper.make_node("Transpose", ["wide"], ["y"], perm=[1, 0]),
    ]
    return save(
        path, nodes, [("x", FLOAT, [size, 4])], [("y", FLOAT, [2, size])], [numpy_helper.from_array(WEIGHTS, "weights")]
    )


def words(path: Path) -> Path:
    """A text s [N, 2] → itself, turned to [2, N] and as a matrix [N, 2, 1] of strings."""
    nodes = [
        helper.make_node("Transpose", ["s"], ["turned"], perm=[1, 0]),
        helper.make_node("Unsqueeze", ["s", "last"], ["deep"]),
    ]
    return save(
        path,
        nodes,
        [("s", STRING, ["N", 2])],
        [("turned", STRING, [2, "N"]), ("deep", STRING, ["N", 2, 1])],
        [ints("last", -1)],
    )


def empty(path: Path) -> Path:
    """x [N, 4] → nothing of it, [N, 0], and all of it."""
    nodes = [
        helper.make_node("Slice", ["x", "zero", "zero", "one"], ["none"]),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    return save(
        path,
        nodes,
        [("x", FLOAT, ["N", 4])],
        [("none", FLOAT, ["N", 0]), ("y", FLOAT, ["N", 4])],
        [ints("zero", 0), ints("one", 1)],
    )
