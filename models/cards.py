"""What a card says of a model: profiles of its inputs in training, and its metrics on the months it has not seen."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from onnxruntime import InferenceSession
from sklearn.metrics import log_loss, roc_auc_score

from models.data import LABEL, SOURCE, Frame, labelled, month_of
from models.export import predict
from models.features import CATEGORICAL, NAMES, NULLABLE, NUMERIC
from models.train import SEED, Recipe, training_rows
from understudy.drift.learn import categorical_profile, numeric_profile
from understudy.inference.cards import Card, HeldOut, InputSpec, OutputSpec, Training

HELD_OUT_MONTHS: Final = (7, 8, 9, 10, 11, 12)
_DAYS_IN_MONTH: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def input_specs(rows: Frame) -> list[InputSpec]:
    """The 18 inputs with their profiles in the training rows, and how far windows of these were from the rest."""
    specs = []
    at = rows["scheduled_at"].to_numpy(dtype=np.float64)
    for name in NAMES:
        numeric = name in NUMERIC
        specs.append(
            InputSpec(
                name=name,
                dtype="float32" if numeric else "string",
                shape=[None, 1],
                nullable=name in NULLABLE,
                description=(NUMERIC if numeric else CATEGORICAL)[name],
                profile=numeric_profile(rows[name].to_numpy(dtype=np.float64), at)
                if numeric
                else categorical_profile(rows[name].to_numpy(dtype=object), at),
            )
        )
    return specs


def held_out(running: InferenceSession, frame: Frame, months: tuple[int, ...] = HELD_OUT_MONTHS) -> list[HeldOut]:
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
    running: InferenceSession,
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
        predictions=numeric_profile(predict(running, rows)[1], rows["scheduled_at"].to_numpy(dtype=np.float64)),
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
