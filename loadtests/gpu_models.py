"""The models of `make gpu-check`: built here, so that a machine without a network has them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from understudy.inference.cards import InputSpec

ROLLOUT = """\
model: gpu-check
task: regression
primary: poc.onnx
candidate: better.onnx
device: {device}
goals:
  quality: {{ loss: absolute_error, margin: 0.5, clip: 5 }}
steps:
  - shadow: 100
    until: {{ labels: 100000 }}
  - canary: 50
  - promote
"""
WORDS = 100


def build(folder: Path) -> dict[str, Path]:
    """All models, by name."""
    return {
        "mlp": mlp(folder / "mlp.onnx"),
        "mlp, float16": mlp(folder / "mlp16.onnx", half=True),
        "cnn": cnn(folder / "cnn.onnx"),
        "attention": attention(folder / "attention.onnx"),
    }


def mlp(path: Path, *, seed: int = 0, half: bool = False, width: int = 512) -> Path:
    """Input x [n, 16] → y [n, 1], through two hidden layers."""
    chance = np.random.default_rng(seed)
    dtype = np.float16 if half else np.float32
    weights = {
        f"w{i}": (chance.normal(size=size) / np.sqrt(size[0])).astype(dtype)
        for i, size in enumerate([(16, width), (width, width), (width, 1)])
    }
    nodes: list[Any] = [
        ("MatMul", ["x", "w0"], ["a"], {}),
        ("Relu", ["a"], ["b"], {}),
        ("MatMul", ["b", "w1"], ["c"], {}),
    ]
    nodes += [("Relu", ["c"], ["d"], {}), ("MatMul", ["d", "w2"], ["y"], {})]
    return _save(path, nodes, ("x", dtype, ["n", 16]), ("y", dtype, ["n", 1]), weights)


def cnn(path: Path) -> Path:
    """Input x [n, 3, 32, 32] → y [n, 10]."""
    chance = np.random.default_rng(0)
    shapes = {"k0": (16, 3, 3, 3), "k1": (32, 16, 3, 3), "w": (32, 10)}
    weights = {name: (chance.normal(size=s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for name, s in shapes.items()}
    nodes: list[Any] = [
        ("Conv", ["x", "k0"], ["a"], {"pads": [1, 1, 1, 1]}),
        ("Relu", ["a"], ["b"], {}),
        ("Conv", ["b", "k1"], ["c"], {"strides": [2, 2]}),
        ("Relu", ["c"], ["d"], {}),
        ("GlobalAveragePool", ["d"], ["e"], {}),
        ("Flatten", ["e"], ["f"], {}),
        ("MatMul", ["f", "w"], ["y"], {}),
    ]
    return _save(path, nodes, ("x", np.float32, ["n", 3, 32, 32]), ("y", np.float32, ["n", 10]), weights)


def attention(path: Path, *, words: int = 32, width: int = 64) -> Path:
    """Input ids [n, 32] → y [n, 32, 64]: embeddings and one attention."""
    chance = np.random.default_rng(0)
    weights = {"table": chance.normal(size=(WORDS, width)).astype(np.float32)}
    weights |= {name: (chance.normal(size=(width, width)) / width).astype(np.float32) for name in ("q", "k", "v")}
    nodes: list[Any] = [("Gather", ["table", "ids"], ["h"], {})]
    nodes += [("MatMul", ["h", name], [f"h{name}"], {}) for name in ("q", "k", "v")]
    nodes += [
        ("Transpose", ["hk"], ["t"], {"perm": [0, 2, 1]}),
        ("MatMul", ["hq", "t"], ["s"], {}),
        ("Softmax", ["s"], ["p"], {"axis": -1}),
        ("MatMul", ["p", "hv"], ["o"], {}),
        ("Add", ["h", "o"], ["y"], {}),
    ]
    return _save(path, nodes, ("ids", np.int64, ["n", words]), ("y", np.float32, ["n", words, width]), weights)


def rows_of(inputs: "Sequence[InputSpec]", rows: int) -> dict[str, Any]:
    """Plausible rows, by the inputs of a card."""
    from understudy.inference.onnx import typical

    chance = np.random.default_rng(rows)
    return {
        spec.name: _values(chance, spec.dtype, [rows, *(size or 1 for size in spec.row_shape)])
        if spec.dtype in _MADE and spec.profile is None
        else typical(spec, rows)
        for spec in inputs
    }


def feed(session: Any, rows: int) -> dict[str, Any]:
    """Plausible inputs of a session."""
    chance, kinds = np.random.default_rng(rows), {"float": "float32", "float16": "float16", "int64": "int64"}
    return {
        node.name: _values(chance, kinds[node.type[7:-1]], [rows, *node.shape[1:]]) for node in session.get_inputs()
    }


_MADE: dict[str, Callable[[np.random.Generator, list[int]], npt.NDArray[Any]]] = {
    "float32": lambda chance, shape: chance.normal(size=shape).astype(np.float32),
    "float16": lambda chance, shape: chance.normal(size=shape).astype(np.float16),
    "int64": lambda chance, shape: chance.integers(WORDS, size=shape),
}


def _values(chance: np.random.Generator, dtype: str, shape: list[int]) -> npt.NDArray[Any]:
    return _MADE[dtype](chance, shape)


def _save(path: Path, nodes: Sequence[Any], source: Any, target: Any, weights: dict[str, npt.NDArray[Any]]) -> Path:
    from onnx import helper, numpy_helper

    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
        for name, dtype, shape in (source, target)
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, outputs, **attributes) for kind, inputs, outputs, attributes in nodes],
        "g",
        values[:1],
        values[1:],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path
