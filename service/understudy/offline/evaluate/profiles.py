"""Adds profiles of the training data to a model's card, so that drift can be measured."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from understudy import loading
from understudy.domain import Attempt, Status
from understudy.drift.learn import Times, categorical_profile, numeric_profile
from understudy.inference import OutputReader
from understudy.inference.cards import Card, InputSpec, Training
from understudy.inference.decoding import Array, Columns, Decoder, Row
from understudy.inference.onnx import FOR_ITS_CARD, OnnxEngine
from understudy.inference.profile import CategoricalProfile, NumericProfile
from understudy.loading.trial import opened
from understudy.offline.evaluate.data import ColumnNames, RowsDone, Sample, day_of, read_file
from understudy.serving.noise_floor import scored
from understudy.settings import read_settings

BATCH_ROWS = 2_048


def profiled(source: str, data: Path, at: str | None, progress: RowsDone = lambda rows: None) -> tuple[Card, Path]:
    """A model's card with the profiles of its training data, and the model's file.

    Args:
        source: the model.
        data: its training rows, as for `read_file`. Labels are not needed.
        at: the column with the time of each row. Without it profiles have no windows, and drift is judged by a rule of thumb.
        progress: called with the number of rows read.

    Raises:
        ConfigurationError: if the model or the data cannot be read.
    """
    engine = opened(source, FOR_ITS_CARD, read_settings())
    try:
        decoder = Decoder(loading.fields_of(engine.card, None), rows_max=1_000, key_max_chars=1_000)
        sample = read_file(data, decoder, ColumnNames(None, at), engine.card.classes, progress)
        return _with_profiles(engine, decoder, sample, data), engine.path
    finally:
        engine.close()


def profiles_of(
    card: Card, columns: Columns, rows: Sequence[Row], at: Times | None, answers: Sequence[Attempt]
) -> tuple[list[InputSpec], NumericProfile | CategoricalProfile | None]:
    """A card's inputs with the profiles of some rows, and the profile of the model's answers to them.

    Args:
        at: time of each row, in order; None without times.
        answers: the model's answer to each row.
    """
    built = columns.build(list(rows))
    return [_input(spec, built[spec.name], at) for spec in card.inputs], _predictions(answers, at)


def _with_profiles(engine: OnnxEngine, decoder: Decoder, sample: Sample, data: Path) -> Card:
    columns, reader = loading.inputs_of(engine.card, decoder.positions), OutputReader(engine.card)
    answers: list[Attempt] = []
    for start in range(0, len(sample.rows), BATCH_ROWS):
        batch = sample.rows[start : start + BATCH_ROWS]
        answers += reader.attempts(scored(engine, columns, reader, batch), Status.OK, 0.0, len(batch))
    inputs, predictions = profiles_of(engine.card, columns, sample.rows, sample.at, answers)
    known = engine.card.training
    first, last = ("", "") if sample.at is None else (day_of(sample.at[0]), day_of(sample.at[-1]))
    training = Training(
        data=str(data.name),
        start=first,
        end=last,
        rows=len(sample.rows),
        algorithm=known.algorithm if known else "not said",
        seed=known.seed if known else 0,
    )
    changes = {"inputs": inputs, "predictions": predictions, "training": training}
    return engine.card.model_copy(update=changes)


def _input(spec: InputSpec, values: Array, at: Times | None) -> InputSpec:
    if any(size != 1 for size in spec.row_shape):
        return spec  # a tensor has no profile of one number
    plain = values.reshape(-1)
    profile = categorical_profile(plain, at) if spec.dtype == "string" else _numeric(plain.astype(np.float64), at)
    return spec.model_copy(update={"profile": profile})


def _numeric(values: Array, at: Times | None) -> NumericProfile | None:
    return numeric_profile(values, at) if not np.isnan(values).all() else None


def _predictions(answers: Sequence[Attempt], at: Times | None) -> NumericProfile | CategoricalProfile | None:
    if all(answer.score is not None for answer in answers):
        return numeric_profile(np.array([answer.score for answer in answers], dtype=np.float64), at)
    if all(answer.label is not None and not isinstance(answer.label, tuple) for answer in answers):
        return categorical_profile(np.array([str(answer.label) for answer in answers], dtype=object), at)
    return None
