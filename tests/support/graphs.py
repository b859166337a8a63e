"""Small ONNX models, written to files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from understudy.inference import cards
from understudy.inference.cards import Card, InputSpec, OutputSpec, digest_of, write_card

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
Value = tuple[str, int, Sequence[int | str | None]]


def save(
    path: Path, nodes: Sequence[Any], inputs: Sequence[Value], outputs: Sequence[Any], constants: Sequence[Any] = ()
) -> Path:
    """A graph of opset 18 in an IR that any runtime of the last years reads."""

    def info(value: Any) -> Any:
        return helper.make_tensor_value_info(*value) if isinstance(value, tuple) else value

    graph = helper.make_graph(nodes, "g", [info(v) for v in inputs], [info(v) for v in outputs], list(constants))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def summing(path: Path, rows: int | str | None = "n", width: int = 3) -> Path:
    """y = the sum of each row of x."""
    axes = helper.make_tensor("axes", INT64, [1], [1])
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)
    return save(path, [node], [("x", FLOAT, [rows, width])], [("y", FLOAT, [rows, 1])], [axes])


def classifier(path: Path, *, width: int = 2, zipmap: str | Sequence[int | str] = "") -> Path:
    """Probabilities are the softmax of x; the label is the likeliest class; with `zipmap` they are a list of dicts."""
    nodes = [
        helper.make_node("Softmax", ["x"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
    ]
    probabilities: Any = ("probabilities", FLOAT, ["n", width])
    if zipmap:
        known: dict[Any, Sequence[int | str]] = {"ints": range(width), "words": ["c", "a", "b"]}
        names = list(known[zipmap] if isinstance(zipmap, str) else zipmap)[:width]
        ints = isinstance(names[0], int)
        classes: dict[str, Any] = {"classlabels_int64s" if ints else "classlabels_strings": names}
        nodes.append(helper.make_node("ZipMap", ["probabilities"], ["zipped"], domain="ai.onnx.ml", **classes))
        row = helper.make_map_type_proto(INT64 if ints else STRING, helper.make_tensor_type_proto(FLOAT, []))
        probabilities = helper.make_value_info("zipped", helper.make_sequence_type_proto(row))
    return save(path, nodes, [("x", FLOAT, ["n", width])], [("label", INT64, ["n"]), probabilities])


def folder(path: Path, **changes: Any) -> Path:
    """A model folder around `summing`, whose card says `changes`."""
    path.mkdir(exist_ok=True)
    summing(path / cards.MODEL_FILE)
    fields: dict[str, Any] = {
        "name": "sum",
        "version": "1",
        "task": "regression",
        "digest": digest_of(path / cards.MODEL_FILE),
        "inputs": [InputSpec(name="x", dtype="float32", shape=[None, 3])],
        "outputs": [OutputSpec(name="y", dtype="float32", shape=[None, 1], role="value")],
    }
    write_card(path, Card(**(fields | changes)))
    return path


def attention(path: Path, *, width: int = 64, layers: int = 4, words: int = 100) -> Path:
    """A transformer without its feed-forward parts: `input_ids` [N, T] → `y` [N, 1], in time and memory that grow with T²."""
    chance = np.random.default_rng(0)
    constants = [numpy_helper.from_array(chance.normal(size=(words, width)).astype(np.float32), "words")]
    nodes = [helper.make_node("Gather", ["words", "input_ids"], ["h0"])]
    for i in range(layers):
        for part in "qkv":
            weights = chance.normal(size=(width, width)).astype(np.float32) / width
            constants.append(numpy_helper.from_array(weights, f"w{part}{i}"))
            nodes.append(helper.make_node("MatMul", [f"h{i}", f"w{part}{i}"], [f"{part}{i}"]))
        nodes += [
            helper.make_node("Transpose", [f"k{i}"], [f"t{i}"], perm=[0, 2, 1]),
            helper.make_node("MatMul", [f"q{i}", f"t{i}"], [f"s{i}"]),
            helper.make_node("Softmax", [f"s{i}"], [f"a{i}"], axis=-1),
            helper.make_node("MatMul", [f"a{i}", f"v{i}"], [f"o{i}"]),
            helper.make_node("Add", [f"h{i}", f"o{i}"], [f"h{i + 1}"]),
        ]
    constants += [
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(chance.normal(size=(width, 1)).astype(np.float32), "head"),
    ]
    nodes += [
        helper.make_node("ReduceMean", [f"h{layers}", "axis"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "head"], ["y"]),
    ]
    return save(path, nodes, [("input_ids", INT64, ["n", "t"])], [("y", FLOAT, ["n", 1])], constants)


def looping(path: Path, *, divisor: float = 1.0) -> Path:
    """y = x / `divisor`, computed after as many turns of a loop as the largest `turns` of the batch says."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Mul", ["before", "one"], ["same"]),
            helper.make_node("Add", ["same", "zero"], ["after"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", INT64, []),
            helper.make_tensor_value_info("go", BOOL, []),
            helper.make_tensor_value_info("before", FLOAT, ["n", 1]),
        ],
        [
            helper.make_tensor_value_info("go_on", BOOL, []),
            helper.make_tensor_value_info("after", FLOAT, ["n", 1]),
        ],
    )
    numbers = {"one": 1.0, "zero": 0.0, "divisor": divisor}
    nodes = [
        helper.make_node("ReduceMax", ["turns"], ["most"], keepdims=0),
        helper.make_node("Loop", ["most", "", "x"], ["looped"], body=body),
        helper.make_node("Div", ["looped", "divisor"], ["y"]),
    ]
    return save(
        path,
        nodes,
        [("turns", INT64, ["n", 1]), ("x", FLOAT, ["n", 1])],
        [("y", FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in numbers.items()],
    )


def scaling(path: Path, factor: float = 2.0, *, x: str = "x", y: str = "y", width: int = 3) -> Path:
    """`y` = `factor` · `x` for rows of `width` numbers, under any names."""
    constant = numpy_helper.from_array(np.array(factor, np.float32), "the factor")
    node = helper.make_node("Mul", [x, "the factor"], [y])
    return save(path, [node], [(x, FLOAT, ["n", width])], [(y, FLOAT, ["n", width])], [constant])


def passing(path: Path, *inputs: Value, suffix: str = "_out") -> Path:
    """Each output is its input, under the input's name and `suffix`."""
    nodes = [helper.make_node("Identity", [name], [name + suffix]) for name, _, _ in inputs]
    return save(path, nodes, list(inputs), [(name + suffix, kind, shape) for name, kind, shape in inputs])
