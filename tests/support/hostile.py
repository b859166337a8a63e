"""Models that harm the process that opens them."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.support.graphs import save

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def hanging(path: Path) -> Path:
    """y = x, after a loop that does not end: its condition stays true, and it has no most turns."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Abs", ["before"], ["after"])],
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
    nodes = [helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)]
    true = numpy_helper.from_array(np.array(True), "true")
    return save(path, nodes, [("x", FLOAT, ["n", 1])], [("y", FLOAT, ["n", 1])], [true])


def greedy(path: Path, mib: int = 4_096) -> Path:
    """y = x plus the sum of a tensor of so many MiB, which its run makes."""
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("Expand", ["x", "wide"], ["wider"]),
        helper.make_node("ReduceMax", ["x"], ["some"], keepdims=0),
        helper.make_node("Add", ["large", "some"], ["larger"]),
        helper.make_node("ReduceMax", ["larger"], ["most"], keepdims=0),
        helper.make_node("Add", ["x", "most"], ["y"]),
    ]
    size = numpy_helper.from_array(np.array([mib * 2**18], np.int64), "size")
    return save(
        path,
        [node for node in nodes if node.op_type != "Expand"],
        [("x", FLOAT, ["n", 1])],
        [("y", FLOAT, ["n", 1])],
        [size],
    )
