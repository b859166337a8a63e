"""ONNX files as different exporters write them: scikit-learn with and without ZipMap, LightGBM, graphs like those of PyTorch."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.linear_model import LogisticRegression

Array = npt.NDArray[Any]
USED = 3
"""The models read the first three of four columns."""
OPSET = 17


def _fitted(x: Array, y: Sequence[Any]) -> LogisticRegression:
    model = LogisticRegression().fit(x[:, :USED], list(y))
    wide = np.zeros((model.coef_.shape[0], x.shape[1]))
    wide[:, :USED] = model.coef_
    model.coef_, model.n_features_in_ = wide, x.shape[1]  # the last column weighs nothing
    return model


def _sklearn(path: Path, x: Array, y: Sequence[Any], *, zip_map: bool, keep: Sequence[str] = ()) -> Path:
    model = _fitted(x, y)
    graph = convert_sklearn(
        model,
        initial_types=[("x", FloatTensorType([None, x.shape[1]]))],
        options={id(model): {"zipmap": zip_map}},
        target_opset=OPSET,
    )
    if keep:
        kept = [output for output in graph.graph.output if output.name in keep]
        del graph.graph.output[:]
        graph.graph.output.extend(kept)
    return _saved(path, graph)


def zipmap(path: Path, x: Array, y: Sequence[Any]) -> Path:
    """scikit-learn's default: a label, and a list of dicts."""
    return _sklearn(path, x, y, zip_map=True)


def matrix(path: Path, x: Array, y: Sequence[Any]) -> Path:
    """`zipmap: False`: a label, and a matrix of probabilities."""
    return _sklearn(path, x, y, zip_map=False)


def label_only(path: Path, x: Array, y: Sequence[Any]) -> Path:
    """Only the label."""
    return _sklearn(path, x, y, zip_map=False, keep=["label"])


def probabilities_only(path: Path, x: Array, y: Sequence[Any]) -> Path:
    """Only the matrix, [N, 2]."""
    return _sklearn(path, x, y, zip_map=False, keep=["probabilities"])


def lightgbm(path: Path, x: Array, y: Sequence[Any]) -> Path:
    """LightGBM through onnxmltools."""
    import lightgbm as lgb
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType as Floats

    logging.getLogger("lightgbm").setLevel(logging.ERROR)
    used = np.array(x)
    used[:, USED:] = 0.0
    model = lgb.LGBMClassifier(n_estimators=30, num_leaves=8, verbose=-1, n_jobs=1, random_state=0).fit(used, list(y))
    graph = convert_lightgbm(model, initial_types=[("x", Floats([None, x.shape[1]]))], zipmap=False, target_opset=15)
    return _saved(path, graph)


def sigmoid_column(path: Path, x: Array, y: Sequence[Any]) -> Path:
    """One probability a row, [N, 1], as a network with a single output unit has it."""
    model = _fitted(x, y)
    return _dense(path, model.coef_.T, model.intercept_, "Sigmoid")


def softmax_only(path: Path, x: Array, y: Sequence[Any]) -> Path:
    """Softmax, [N, classes], and nothing else."""
    model = _fitted(x, y)
    return _dense(path, model.coef_.T, model.intercept_, "Softmax")


def sigmoid(path: Path, weights: Array) -> Path:
    """Independent probabilities, [N, labels]."""
    return _dense(path, _wide(weights), np.zeros(weights.shape[1]), "Sigmoid")


def linear(path: Path, weights: Array, bias: float) -> Path:
    """Numbers, [N, outputs]."""
    return _dense(path, _wide(weights), np.full(weights.shape[1], bias), None)


def embedding(path: Path, weights: Array, flips: float) -> Path:
    """[N, 8]; with `flips`, the first number has another sign where the first feature is above 1 (16 % of the rows)."""
    wide = _wide(weights)
    make = helper.make_node
    first = np.zeros((1, weights.shape[1]), dtype=np.float32)
    first[0, 0] = 2.0 * flips
    nodes = [
        make("MatMul", ["x", "w"], ["plain"]),
        make("Gather", ["x", "zero"], ["column"], axis=1),
        make("Greater", ["column", "one"], ["above"]),
        make("Cast", ["above"], ["flag"], to=TensorProto.FLOAT),
        make("Mul", ["flag", "first"], ["how"]),
        make("Mul", ["how", "plain"], ["change"]),
        make("Sub", ["plain", "change"], ["embedding"]),
    ]
    constants = {
        "w": wide.astype(np.float32),
        "zero": np.array([0], dtype=np.int64),
        "one": np.array([[1.0]], dtype=np.float32),
        "first": first,
    }
    return _graph(path, nodes, constants, wide.shape[0], "embedding", weights.shape[1])


def probabilities(path: Path, rows: Array, classes: Sequence[Any]) -> npt.NDArray[np.float64]:
    """A classifier's probabilities, float64 [rows, classes], in the order of `classes`, whatever the exporter."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: rows})[-1]
    if isinstance(found, list):
        return np.array([[row[name] for name in classes] for row in found], dtype=np.float64)
    p = np.asarray(found, dtype=np.float64)
    return np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p


def _wide(weights: Array) -> Array:
    return np.concatenate([weights, np.zeros((1, weights.shape[1]))])


def _dense(path: Path, weights: Array, bias: Array, activation: str | None) -> Path:
    make = helper.make_node
    nodes = [
        make("MatMul", ["x", "w"], ["product"]),
        make("Add", ["product", "b"], ["sum" if activation else "output"]),
    ]
    if activation:
        nodes.append(make(activation, ["sum"], ["output"]))
    constants = {"w": weights.astype(np.float32), "b": bias.astype(np.float32).reshape(1, -1)}
    return _graph(path, nodes, constants, weights.shape[0], "output", weights.shape[1])


def _graph(
    path: Path, nodes: Sequence[Any], constants: dict[str, Array], width: int, output: str, outputs: int
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return _saved(path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9))


def _saved(path: Path, graph: Any) -> Path:
    onnx.save(graph, str(path))
    return path
