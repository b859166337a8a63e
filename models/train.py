"""How the two example models are fitted: a logistic regression on January, gradient boosting on January to June.

Both are scikit-learn pipelines over the same 18 raw inputs, with the preprocessing inside, so that the exported graphs
take what a caller has. Both are functions of their rows and the seed alone: one thread for the linear algebra, and
LightGBM's deterministic mode.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

import lightgbm
import numpy as np
import numpy.typing as npt
import threadpoolctl  # type: ignore[import-untyped]
from sklearn.base import ClassifierMixin, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from models.data import Frame, labelled, month_of
from models.features import CATEGORICAL, NUMERIC

SEED: Final = 20130101

Estimator: TypeAlias = Pipeline
"""A fitted scikit-learn pipeline."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is fitted on which months of 2013.

    Attributes:
        algorithm: one line for the card.
        months: 1 to 12, in order.
    """

    algorithm: str
    months: tuple[int, ...]


POC: Final = Recipe("logistic regression (scikit-learn, L2, C = 1) on imputed, scaled and one-hot encoded inputs", (1,))
CANDIDATE: Final = Recipe(
    "gradient boosting (LightGBM, 200 trees of 31 leaves, rate 0.08) on imputed and one-hot encoded inputs",
    (1, 2, 3, 4, 5, 6),
)


def training_rows(frame: Frame, recipe: Recipe) -> Frame:
    """The labelled rows of the recipe's months, in time order."""
    return labelled(month_of(frame, *recipe.months))


def design(frame: Frame) -> Frame:
    """The 18 inputs as the served graph sees them: float32 numbers and strings."""
    types = dict.fromkeys(NUMERIC, np.float32) | dict.fromkeys(CATEGORICAL, object)
    return frame[list(types)].astype(types)


def fit_poc(rows: Frame) -> Estimator:
    """A logistic regression of `rows`, which have labels.

    An input that is constant in the training window (`month`, in January) is centred but not divided: scikit-learn
    takes 1 for a scale of 0. Its weight stays exactly 0, so the graph neither divides by zero nor moves with the month.
    """
    numbers = Pipeline([("impute", SimpleImputer(strategy="median")), ("scale", StandardScaler())])
    return _fit(numbers, LogisticRegression(C=1.0, max_iter=2000, random_state=SEED), rows)


def fit_candidate(rows: Frame, *, trees: int = 200) -> Estimator:
    """A LightGBM classifier of `rows`, which have labels: the same trees on any number of threads."""
    model = lightgbm.LGBMClassifier(
        n_estimators=trees,
        num_leaves=31,
        learning_rate=0.08,
        random_state=SEED,
        deterministic=True,
        force_row_wise=True,
        # Measured on two cores: a second thread saves 0.6 s of 2 on an idle machine and costs 34 s on a busy one.
        n_jobs=1,
        verbose=-1,
    )
    return _fit(SimpleImputer(strategy="median"), model, rows)


def probabilities(estimator: Estimator, rows: Frame) -> npt.NDArray[np.float64]:
    """P(late) by the Python model, float64 of shape [rows]."""
    scores: npt.NDArray[np.float64] = estimator.predict_proba(design(rows))[:, 1]
    return scores


def _fit(numbers: TransformerMixin, model: ClassifierMixin, rows: Frame) -> Estimator:
    columns = ColumnTransformer(
        [
            ("numbers", numbers, list(NUMERIC)),
            # A carrier or airport that training has not seen becomes all zeros, not an error.
            ("names", OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32), list(CATEGORICAL)),
        ],
        sparse_threshold=0.0,
    )
    estimator = Pipeline([("columns", columns), ("model", model)])
    # The order of a parallel sum changes its last bits: one thread for the linear algebra.
    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        return estimator.fit(design(rows), rows["label"].to_numpy(dtype=np.int64))
