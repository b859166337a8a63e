"""Small ONNX models for the tests of faults, made on the spot."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def table_model(path: Path, value: float, *, data: str = "", rows: int = 300) -> Path:
    """A regression that looks its answer up: y = table[i], with `value` everywhere in the table.

    Args:
        path: of the `.onnx` file.
        data: the external data file that gets the table; empty: the table is in the `.onnx` file.
        rows: of the table; ONNX Runtime maps larger external data into memory.
    """
    table = numpy_helper.from_array(np.full((rows, 16), value, np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["row"], axis=0),
        helper.make_node("ReduceMean", ["row"], ["y"], axes=[1], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("i", TensorProto.INT64, [None])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not data:
        onnx.save_model(model, path)
        return path
    (path.parent / data).unlink(missing_ok=True)
    onnx.save_model(model, path, save_as_external_data=True, location=data, size_threshold=0)
    return path
