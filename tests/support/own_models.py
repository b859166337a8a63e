"""Pairs of models as users bring them, made by several tools, each with held-out data in a CSV file."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from onnx import helper, numpy_helper
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.support.graphs import FLOAT, save

ROWS = 4_000
START = 1_704_067_200
"""2024-01-01, UTC."""
DAYS = 20

Floats = npt.NDArray[np.float32]


def write(file: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """A CSV file; None is an empty cell."""
    with file.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    return file


def times(rows: int) -> list[str]:
    """Moments spread evenly over `DAYS`, ISO 8601."""
    seconds = START + np.arange(rows) * (DAYS * 86_400 // rows)
    return [f"{each}Z" for each in seconds.astype("datetime64[s]").astype(str).tolist()]


def _named(pipeline: Any, frame: pd.DataFrame, file: Path) -> None:
    """A scikit-learn pipeline with an input for each column, without a ZipMap."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    kinds = [
        (
            name,
            FloatTensorType([None, 1]) if pd.api.types.is_numeric_dtype(frame[name]) else StringTensorType([None, 1]),
        )
        for name in frame.columns
    ]
    graph = to_onnx(pipeline, initial_types=kinds, options={"zipmap": False}, target_opset=18)
    file.write_bytes(graph.SerializeToString())


def churn(folder: Path) -> Path:
    """scikit-learn: two numbers of which some are missing and a text; binary; a customer's id; times."""
    chance = np.random.default_rng(5)
    rows = 2 * ROWS
    age, usage = chance.uniform(18, 80, rows), chance.normal(10, 4, rows)
    plan = chance.choice(["basic", "plus", "pro"], rows)
    logit = 0.05 * (age - 50) - 0.3 * (usage - 10) + np.where(plan == "pro", -1.0, 0.6)
    label = (chance.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    age[chance.random(rows) < 0.06] = np.nan
    frame = pd.DataFrame({"age": age.astype(np.float32), "usage": usage.astype(np.float32), "plan": plan})
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    for name, fields in (("poc", ["age", "usage"]), ("better", ["age", "usage", "plan"])):
        parts = [("numbers", numbers, ["age", "usage"])]
        parts += [("texts", OneHotEncoder(handle_unknown="ignore"), ["plan"])] if "plan" in fields else []
        model = make_pipeline(ColumnTransformer(parts), LogisticRegression())
        _named(model.fit(frame[fields][:ROWS], label[:ROWS]), frame[fields], folder / f"{name}.onnx")
    held_out = frame[ROWS:]
    return write(
        folder / "held-out.csv",
        {
            "customer": [f"c{i % 997}" for i in range(ROWS)],
            "when": times(ROWS),
            "Age": ["" if np.isnan(value) else f"{value:.4g}" for value in held_out["age"]],
            "usage": [f"{value:.5g}" for value in held_out["usage"]],
            "plan": held_out["plan"].tolist(),
            "churned": label[ROWS:].tolist(),
        },
    )


def iris(folder: Path) -> Path:
    """scikit-learn: a matrix input of four numbers, three classes with names in the graph."""
    from skl2onnx import to_onnx

    chance = np.random.default_rng(6)
    centres = np.array([[5.0, 3.4, 1.5, 0.2], [5.9, 2.8, 4.2, 1.3], [6.6, 3.0, 5.5, 2.0]])
    kinds = chance.integers(0, 3, 2 * ROWS)
    x = (centres[kinds] + chance.normal(0, 0.6, (2 * ROWS, 4))).astype(np.float32)
    names = np.array(["setosa", "versicolor", "virginica"])[kinds]
    models = (
        ("poc", LogisticRegression(max_iter=50), 2),
        ("better", RandomForestClassifier(30, max_depth=6, random_state=0), 4),
    )
    for name, model, used in models:
        keep = np.where(np.arange(4) < used, x[:ROWS], 0).astype(np.float32)
        graph = to_onnx(model.fit(keep, names[:ROWS]), x[:1], options={"zipmap": False}, target_opset=18)
        (folder / f"{name}.onnx").write_bytes(graph.SerializeToString())
    held_out = dict(
        zip(("sepal length", "sepal width", "petal length", "petal width"), x[ROWS:].T.round(3).tolist(), strict=True)
    )
    return write(folder / "held-out.csv", held_out | {"species": names[ROWS:].tolist()})


def prices(folder: Path) -> Path:
    """LightGBM and scikit-learn: a regression on a matrix of three numbers."""
    from lightgbm import LGBMRegressor
    from onnxmltools.convert import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType
    from skl2onnx import to_onnx

    chance = np.random.default_rng(7)
    x = chance.uniform(0, 10, (2 * ROWS, 3)).astype(np.float32)
    y = 1000 * (3 * x[:, 0] + 20 * np.sin(x[:, 1]) + x[:, 2]) + chance.normal(0, 2_000, 2 * ROWS)
    linear = to_onnx(LinearRegression().fit(x[:ROWS], y[:ROWS].astype(np.float32)), x[:1], target_opset=18)
    (folder / "poc.onnx").write_bytes(linear.SerializeToString())
    trees = LGBMRegressor(n_estimators=60, verbose=-1, n_jobs=1).fit(x[:ROWS], y[:ROWS])
    graph = convert_lightgbm(trees, initial_types=[("X", FloatTensorType([None, 3]))], target_opset=15)
    (folder / "better.onnx").write_bytes(graph.SerializeToString())
    held_out = {f"x{i}": x[ROWS:, i].round(4).tolist() for i in range(3)}
    return write(folder / "held-out.csv", held_out | {"price": y[ROWS:].round(2).tolist()})


def torch_like(folder: Path, order: Sequence[int] = (0, 1, 2)) -> Path:
    """Graphs as PyTorch exports them: `input` [batch, 4], `output` with a softmax and no names anywhere."""
    chance = np.random.default_rng(8)
    x = chance.normal(0, 1, (ROWS, 4)).astype(np.float32)
    weights = chance.normal(0, 1.5, (4, 3)).astype(np.float32)
    logits = x @ weights
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    kinds = np.array([chance.choice(3, p=row / row.sum()) for row in shares.astype(np.float64)])
    for name, scale in (("poc", 0.3), ("better", 1.0)):
        constant = numpy_helper.from_array((scale * weights[:, list(order)]).astype(np.float32), "w")
        nodes = [
            helper.make_node("MatMul", ["input", "w"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["output"], axis=1),
        ]
        save(
            folder / f"{name}.onnx",
            nodes,
            [("input", FLOAT, ["batch", 4])],
            [("output", FLOAT, ["batch", 3])],
            [constant],
        )
    held_out = {f"feature_{i}": x[:, i].tolist() for i in range(4)}
    return write(folder / "held-out.csv", held_out | {"kind": np.array(["cat", "dog", "eel"])[kinds].tolist()})


PAIRS: Mapping[str, tuple[Callable[[Path], Path], list[str]]] = {
    "churn": (churn, ["--label", "churned", "--at", "when", "--key", "customer"]),
    "iris": (iris, ["--label", "species"]),
    "prices": (prices, ["--label", "price"]),
    "torch-like": (torch_like, ["--label", "kind"]),
}
"""Name → what writes `poc.onnx`, `better.onnx` and `held-out.csv`, and the options of `init` beside `--data`."""
