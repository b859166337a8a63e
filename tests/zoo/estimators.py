"""scikit-learn and LightGBM as their exporters write them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn import (
    calibration,
    cluster,
    compose,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_extraction,
    impute,
    linear_model,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

from tests.zoo.entry import Chance, Entry, Row, numbers

FIT = np.random.default_rng(3)
X = FIT.normal(size=(160, 4)).astype(np.float32)
TWO = (X[:, 0] + 0.5 * X[:, 1] > 0).astype(int)
THREE = np.digitize(X[:, 0] - X[:, 2], [-0.5, 0.5])
VALUE = (X @ np.array([1, -2, 0.5, 0], np.float32) + X[:, 1] ** 2).astype(np.float32)
LABELS = (X[:, :3] + 0.3 * X[:, [3]] > 0).astype(int)
WORDS = np.array(["low", "mid", "high"])
BY = "skl2onnx"
TEXTS = ("a red fox", "the blue sky", "red sky at night", "", "a fox in the night", "blue blue blue")

CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "logistic": linear_model.LogisticRegression,
    "sgd": lambda: linear_model.SGDClassifier(loss="log_loss", random_state=0),
    "tree": lambda: tree.DecisionTreeClassifier(max_depth=4, random_state=0),
    "forest": lambda: ensemble.RandomForestClassifier(6, max_depth=4, random_state=0),
    "boosting": lambda: ensemble.GradientBoostingClassifier(n_estimators=8, random_state=0),
    "ada": lambda: ensemble.AdaBoostClassifier(n_estimators=4, random_state=0),
    "knn": lambda: neighbors.KNeighborsClassifier(5),
    "bayes": naive_bayes.GaussianNB,
    "lda": discriminant_analysis.LinearDiscriminantAnalysis,
    "mlp": lambda: neural_network.MLPClassifier((6,), max_iter=60, random_state=0),
    "calibrated": lambda: calibration.CalibratedClassifierCV(linear_model.LogisticRegression(), cv=2),
    "bagging": lambda: ensemble.BaggingClassifier(n_estimators=4, random_state=0),
    "scaled": lambda: pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression()),
    "svc": lambda: svm.SVC(probability=False, random_state=0),
}
REGRESSORS: dict[str, Callable[[], Any]] = {
    "linear": linear_model.LinearRegression,
    "ridge": linear_model.Ridge,
    "lasso": lambda: linear_model.Lasso(0.01),
    "tree": lambda: tree.DecisionTreeRegressor(max_depth=4, random_state=0),
    "forest": lambda: ensemble.RandomForestRegressor(6, max_depth=4, random_state=0),
    "boosting": lambda: ensemble.GradientBoostingRegressor(n_estimators=8, random_state=0),
    "svr": svm.SVR,
    "knn": lambda: neighbors.KNeighborsRegressor(5),
    "mlp": lambda: neural_network.MLPRegressor(hidden_layer_sizes=(6,), max_iter=60, random_state=0),
    "poisson": lambda: linear_model.PoissonRegressor(),
}


def _write(graph: Any, path: Path) -> None:
    path.write_bytes(graph.SerializeToString())


def _classifier(name: str, target: Any, options: dict[str, Any], path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CLASSIFIERS[name]().fit(X, target)
        given = {id(model): options} if options else None
        _write(to_onnx(model, X[:1], options=given, target_opset={"": 18, "ai.onnx.ml": 3}), path)


def _regressor(name: str, target: Any, path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = np.abs(target) if name == "poisson" else target
        _write(to_onnx(REGRESSORS[name]().fit(X, y), X[:1], target_opset={"": 18, "ai.onnx.ml": 3}), path)


def _other(made: Callable[[], Any], path: Path) -> None:
    _write(to_onnx(made().fit(X), X[:1], target_opset={"": 18, "ai.onnx.ml": 3}), path)


def _multilabel(made: Callable[[], Any], path: Path) -> None:
    model = made().fit(X, LABELS)
    _write(to_onnx(model, X[:1], options={id(model): {"zipmap": False}}, target_opset={"": 18, "ai.onnx.ml": 3}), path)


def _frame(path: Path) -> None:
    """A pipeline over a data frame: numbers and words, one input a column."""
    import pandas as pd

    frame = pd.DataFrame({"age": X[:, 0], "income": X[:, 1], "city": np.where(X[:, 2] > 0, "Bonn", "Ulm")})
    columns = compose.ColumnTransformer(
        [
            ("numbers", preprocessing.StandardScaler(), ["age", "income"]),
            ("words", preprocessing.OneHotEncoder(handle_unknown="ignore"), ["city"]),
        ]
    )
    model = pipeline.Pipeline([("columns", columns), ("model", linear_model.LogisticRegression())]).fit(
        frame, WORDS[THREE]
    )
    types = [
        ("age", FloatTensorType([None, 1])),
        ("income", FloatTensorType([None, 1])),
        ("city", StringTensorType([None, 1])),
    ]
    _write(to_onnx(model, initial_types=types, target_opset={"": 18, "ai.onnx.ml": 3}), path)


def _frame_rows(chance: Chance, n: int) -> Sequence[Row]:
    return [
        {
            "age": chance.normal(size=1).astype(np.float32),
            "income": chance.normal(size=1).astype(np.float32),
            "city": np.array([("Bonn", "Ulm", "Köln")[chance.integers(3)]], object),
        }
        for _ in range(n)
    ]


def _tfidf(path: Path) -> None:
    model = pipeline.make_pipeline(
        feature_extraction.text.TfidfVectorizer(lowercase=False, token_pattern="[a-z]+"),
        linear_model.LogisticRegression(),
    )
    model.fit([t or "none" for t in TEXTS], [0, 1, 1, 0, 0, 1])
    _write(
        to_onnx(model, initial_types=[("text", StringTensorType([None]))], target_opset={"": 18, "ai.onnx.ml": 3}), path
    )


def _texts(chance: Chance, n: int) -> Sequence[Row]:
    return [{"text": np.array(TEXTS[chance.integers(len(TEXTS))] or "red", object)} for _ in range(n)]


def _imputed(path: Path) -> None:
    gaps = X.copy()
    gaps[::5, 1] = np.nan
    model = pipeline.make_pipeline(impute.SimpleImputer(), linear_model.LogisticRegression()).fit(gaps, TWO)
    _write(to_onnx(model, X[:1], target_opset={"": 18, "ai.onnx.ml": 3}), path)


def _holes(chance: Chance, n: int) -> Sequence[Row]:
    rows = chance.normal(size=(n, 4)).astype(np.float32)
    rows[::2, 1] = np.nan
    return [{"X": row} for row in rows]


def _integers(path: Path) -> None:
    model = tree.DecisionTreeClassifier(max_depth=3, random_state=0).fit(np.round(X * 10), TWO)
    _write(
        to_onnx(model, initial_types=[("counts", Int64TensorType([None, 4]))], target_opset={"": 18, "ai.onnx.ml": 3}),
        path,
    )


def _lightgbm(kind: str, target: Any, options: dict[str, Any], path: Path) -> None:
    import lightgbm
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType as Floats

    logging.getLogger("lightgbm").setLevel(logging.ERROR)
    made = {"classifier": lightgbm.LGBMClassifier, "regressor": lightgbm.LGBMRegressor}[kind]
    model = made(n_estimators=8, num_leaves=6, verbose=-1, n_jobs=1, random_state=0).fit(X, target)
    _write(convert_lightgbm(model, initial_types=[("X", Floats([None, 4]))], target_opset=15, **options), path)


def entries() -> Iterator[Entry]:
    """The models."""
    rows = numbers(X=(4,))
    for name in CLASSIFIERS:
        zipmap = {} if name == "svc" else {"zipmap": False}
        yield Entry(f"sk-{name}-2", BY, partial(_classifier, name, TWO, zipmap), rows)
    for name in ("logistic", "forest", "knn", "bayes", "mlp"):
        yield Entry(f"sk-{name}-3-zipmap-words", BY, partial(_classifier, name, WORDS[THREE], {}), rows)
        yield Entry(f"sk-{name}-3", BY, partial(_classifier, name, THREE, {"zipmap": False}), rows)
    yield Entry("sk-logistic-columns", BY, partial(_classifier, "logistic", THREE, {"zipmap": "columns"}), rows)
    yield Entry(
        "sk-logistic-raw-scores",
        BY,
        partial(_classifier, "logistic", THREE, {"zipmap": False, "raw_scores": True}),
        rows,
    )
    yield Entry(
        "sk-logistic-classes-7-9", BY, partial(_classifier, "logistic", np.where(TWO, 9, 7), {"zipmap": False}), rows
    )
    yield Entry("sk-logistic-bools", BY, partial(_classifier, "logistic", TWO.astype(bool), {"zipmap": False}), rows)
    for name in REGRESSORS:
        yield Entry(f"sk-{name}-regressor", BY, partial(_regressor, name, VALUE), rows, tolerance=1e-3)
    yield Entry(
        "sk-linear-vector",
        BY,
        partial(_regressor, "linear", np.stack([VALUE, -VALUE, X[:, 0]], 1)),
        rows,
        tolerance=1e-3,
    )
    for name, made in {
        "scaler": preprocessing.StandardScaler,
        "pca": lambda: decomposition.PCA(2),
        "kmeans": lambda: cluster.KMeans(3, n_init=1, random_state=0),
        "isolation": lambda: ensemble.IsolationForest(n_estimators=5, random_state=0),
    }.items():
        yield Entry(f"sk-{name}", BY, partial(_other, made), rows, tolerance=1e-3)
    names = ("--classes", "red,big,new")
    yield Entry(
        "sk-multilabel-forest",
        BY,
        partial(_multilabel, lambda: ensemble.RandomForestClassifier(4, max_depth=3, random_state=0)),
        rows,
        {"probabilities": 1},
        init=names,
    )
    yield Entry(
        "sk-multilabel-mlp",
        BY,
        partial(_multilabel, lambda: neural_network.MLPClassifier((6,), max_iter=60, random_state=0)),
        rows,
        init=names,
    )
    yield Entry(
        "sk-multioutput-logistic",
        BY,
        partial(_multilabel, lambda: multioutput.MultiOutputClassifier(linear_model.LogisticRegression())),
        rows,
        {"probabilities": 1},
        init=names,
        refused="seq(tensor(float))",
    )
    yield Entry("sk-frame", BY, _frame, _frame_rows)
    yield Entry("sk-tfidf", BY, _tfidf, _texts)
    yield Entry("sk-missing-values", BY, _imputed, _holes, keys={"inputs": {"X": {"nullable": True}}})
    yield Entry("sk-integers", BY, _integers, lambda c, n: [{"counts": c.integers(-20, 20, 4)} for _ in range(n)])
    by = "onnxmltools"
    yield Entry("lgbm-2", by, partial(_lightgbm, "classifier", TWO, {"zipmap": False}), rows)
    yield Entry("lgbm-2-zipmap", by, partial(_lightgbm, "classifier", TWO, {}), rows)
    yield Entry("lgbm-3", by, partial(_lightgbm, "classifier", THREE, {"zipmap": False}), rows)
    yield Entry("lgbm-3-zipmap-words", by, partial(_lightgbm, "classifier", WORDS[THREE], {}), rows)
    yield Entry("lgbm-regressor", by, partial(_lightgbm, "regressor", VALUE, {}), rows, tolerance=1e-3)
