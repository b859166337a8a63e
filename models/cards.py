"""What a card says of a model: profiles of its inputs in training, and its metrics on the months it has not seen."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.metrics import log_loss, roc_auc_score

from models.data import LABEL, SOURCE, Frame, labelled, month_of
from models.export import predict
from models.features import CATEGORICAL, NAMES, NULLABLE, NUMERIC
from models.train import SEED, Recipe, training_rows
from service.engine.catalog import (
    Card,
    CategoricalProfile,
    HeldOut,
    InputSpec,
    NumericProfile,
    OutputSpec,
    Training,
)

HELD_OUT_MONTHS: Final = (7, 8, 9, 10, 11, 12)
_DAYS_IN_MONTH: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def numeric_profile(values: npt.NDArray[np.float64]) -> NumericProfile:
    """Deciles of the values present; an input with few distinct values gets fewer, unequal bins.

    Raises:
        ValueError: when no value is present.
    """
    present = values[~np.isnan(values)]
    if not present.size:
        raise ValueError("a profile needs at least one value that is not missing")
    edges = np.unique(np.quantile(present, np.arange(1, 10) / 10))
    # Bin i is (edges[i-1], edges[i]], so a value equal to an edge counts to the left of it.
    counts = np.bincount(np.searchsorted(edges, present, side="left"), minlength=edges.size + 1)
    return NumericProfile(
        missing=1 - present.size / values.size,
        minimum=float(present.min()),
        maximum=float(present.max()),
        mean=float(present.mean()),
        std=float(present.std()),
        edges=edges.tolist(),
        shares=(counts / present.size).tolist(),
    )


def categorical_profile(values: npt.NDArray[Any]) -> CategoricalProfile:
    """Share of each name, most frequent first and then by name."""
    names, counts = np.unique(values[values != ""].astype(str), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    total = int(counts.sum())
    shares = {str(names[i]): int(counts[i]) / total for i in order}
    return CategoricalProfile(missing=1 - total / values.size, shares=shares)


def input_specs(rows: Frame) -> list[InputSpec]:
    """The 18 inputs with their profiles in the training rows."""
    specs = []
    for name in NAMES:
        numeric = name in NUMERIC
        specs.append(
            InputSpec(
                name=name,
                dtype="float32" if numeric else "string",
                shape=[None, 1],
                nullable=name in NULLABLE,
                description=(NUMERIC if numeric else CATEGORICAL)[name],
                profile=numeric_profile(rows[name].to_numpy(dtype=np.float64))
                if numeric
                else categorical_profile(rows[name].to_numpy(dtype=object)),
            )
        )
    return specs


def held_out(running: Any, frame: Frame, months: tuple[int, ...] = HELD_OUT_MONTHS) -> list[HeldOut]:
    """Metrics of a running ONNX session, month by month, over the rows that have a label.

    Accuracy is of the graph's own `label`; the others are of its P(late). Both classes must occur in every month.
    """
    results = []
    for month in months:
        rows = labelled(month_of(frame, month))
        late = rows["label"].to_numpy(dtype=np.int64)
        labels, scores = predict(running, rows)
        results.append(
            HeldOut(
                month=f"2013-{month:02d}",
                rows=len(rows),
                base_rate=float(late.mean()),
                accuracy=float((labels == late).mean()),
                auc=float(roc_auc_score(late, scores)),
                log_loss=float(log_loss(late, scores)),
                brier=float(((scores - late) ** 2).mean()),
                mean_probability=float(scores.mean()),
            )
        )
    return results


def card_of(
    *,
    name: str,
    version: str,
    description: str,
    recipe: Recipe,
    frame: Frame,
    running: Any,
    digest: str,
    parity: float | None,
    libraries: Mapping[str, str],
) -> Card:
    """The card of one example model.

    Args:
        name: of the model, as its folder is called.
        version: of the model, as in "1.0.0".
        description: a sentence or two for people.
        recipe: what it was trained by, and on which months.
        frame: every flight of the year, as `load` gives it.
        running: the ONNX session of the model, for the metrics.
        digest: of the bytes of `model.onnx`, as `digest_of` writes it.
        parity: the largest difference from the Python model, or None where nobody compared.
        libraries: version by name of what has a part in the bytes.
    """
    rows = training_rows(frame, recipe)
    first, last = recipe.months[0], recipe.months[-1]
    return Card(
        name=name,
        version=version,
        task="binary-classification",
        description=description,
        inputs=input_specs(rows),
        outputs=[
            OutputSpec(name="label", dtype="int64", shape=[None], role="label"),
            OutputSpec(name="probabilities", dtype="float32", shape=[None, 2], role="probabilities"),
        ],
        classes=[0, 1],
        positive=1,
        label=LABEL,
        training=Training(
            data=SOURCE,
            start=f"2013-{first:02d}-01",
            end=f"2013-{last:02d}-{_DAYS_IN_MONTH[last - 1]:02d}",
            rows=len(rows),
            algorithm=recipe.algorithm,
            seed=SEED,
        ),
        held_out=held_out(running, frame),
        parity=parity,
        libraries=dict(libraries),
        digest=digest,
    )
