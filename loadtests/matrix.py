"""The matrix models of the benchmarks: one float input of 16 columns, trained on made-up rows, the same every time."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

COLUMNS = 16
ROWS = 20_000
TREES = 100


def rows(count: int, seed: int = 7) -> "np.typing.NDArray[np.float32]":
    """Some rows to ask about, of shape [count, 16]."""
    return np.random.default_rng(seed).normal(size=(count, COLUMNS)).astype(np.float32)


def logistic(path: Path) -> Path:
    """Write a logistic regression: input `x`, outputs `label` and `probabilities`."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(*_training())
    inputs = [("x", FloatTensorType([None, COLUMNS]))]
    return _write(path, to_onnx(model, initial_types=inputs, options={"zipmap": False}, target_opset=15))


def boosted(path: Path) -> Path:
    """Write a LightGBM classifier of 100 trees: input `x`, outputs `label` and `probabilities`."""
    from lightgbm import LGBMClassifier
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = LGBMClassifier(n_estimators=TREES, num_leaves=31, verbose=-1, n_jobs=1, random_state=0).fit(*_training())
    inputs = [("x", FloatTensorType([None, COLUMNS]))]
    made = convert_lightgbm(model, initial_types=inputs, zipmap=False, target_opset=15)
    # The converter promises one label for any number of rows, and ONNX Runtime complains of that at every run.
    made.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    return _write(path, made)


def _training() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    x = rows(ROWS, seed=1)
    odds = x @ np.linspace(-1, 1, COLUMNS) + 0.5 * x[:, 0] * x[:, 1]
    chance = np.random.default_rng(2).random(ROWS)
    return x, (chance < 1 / (1 + np.exp(-odds))).astype(int)


def _write(path: Path, model: "onnx.ModelProto") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path
