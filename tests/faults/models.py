"""Small ONNX models for the tests of faults, made on the spot, and a rollout of two of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
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


TABLES: dict[str, Any] = {
    "model": "table",
    "task": "regression",
    "primary": "poc.onnx",
    "candidate": "better.onnx",
    "goals": {"quality": {"loss": "absolute_error", "clip": 10.0, "margin": 0.5}},
    "steps": [{"shadow": 100}, {"canary": 50}, "promote"],
}
"""A rollout file beside two models of `table_model`, which answer 1 and 2."""


def tables_rollout(folder: Path) -> Path:
    """A folder with the rollout `TABLES` and its models; its rollout file."""
    table_model(folder / "poc.onnx", 1.0)
    table_model(folder / "better.onnx", 2.0)
    file = folder / "rollout.yaml"
    file.write_text(yaml.safe_dump(TABLES, sort_keys=False), encoding="utf-8")
    return file


def pair_rollout(folder: Path, make: Callable[[Path, int], Path], deadline_ms: float) -> Path:
    """A folder with two models of one kind and a rollout of them; its rollout file.

    Args:
        make: writes the model with this number (1 or 2).
        deadline_ms: of the rollout.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make(folder / "poc.onnx", 1)
    make(folder / "better.onnx", 2)
    latency = {"p99_ms": deadline_ms, "deadline_ms": deadline_ms}
    data = TABLES | {"model": "pair", "goals": TABLES["goals"] | {"latency": latency}}
    file = folder / "rollout.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return file
