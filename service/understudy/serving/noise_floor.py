"""The noise floor: how much a model's outputs vary with the batch size and the number of threads.

`understudy check` measures it and writes it to the state folder. A service with the same model file then treats smaller
differences as equal.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from understudy.domain import Variant
from understudy.inference import Engine, OutputReader, Scores
from understudy.inference.decoding import Columns, Row
from understudy.records.pairs import Pairs, joined
from understudy.rollout.comparison import ComparisonSums

FILE = "noise-floor.json"
ALONE_ROWS = 64
"""Rows that are run one at a time; the other runs use all rows."""
ODD_BATCH_ROWS = 7


def scored(engine: Engine, columns: Columns, reader: OutputReader, rows: list[Row], batch: int | None = None) -> Scores:
    """A model's scores of some rows.

    Args:
        batch: the batch size; None runs all rows at once.

    Raises:
        InferenceError: the runtime fails on the rows.
        InvalidInput: a row does not fit the model.
    """
    size = batch or len(rows)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return joined([reader.read(engine.run(columns.build(part)), len(part)) for part in parts])


def differences(
    engine: Engine, other_threads: Engine, columns: Columns, reader: OutputReader, rows: list[Row], alone: int
) -> tuple[Scores, ComparisonSums]:
    """A model's scores of some rows run at once, and how far they are from those of other runs that should agree.

    Args:
        other_threads: the same model with another number of threads.
        alone: so many of the rows are also run one at a time.
    """
    pairs = Pairs(dict.fromkeys(Variant, reader), {}, {})
    whole = scored(engine, columns, reader, rows)
    sums = ComparisonSums()
    if len(rows) > ODD_BATCH_ROWS:
        sums.merge(pairs.compare(whole, scored(engine, columns, reader, rows, ODD_BATCH_ROWS)))
    sums.merge(pairs.compare(whole, scored(other_threads, columns, reader, rows)))
    if few := rows[:alone]:
        sums.merge(pairs.compare(whole.slice(0, len(few)), scored(engine, columns, reader, few, 1)))
    return whole, sums


def write(folder: Path, digest: str, floor: Mapping[str, float]) -> Path:
    """Write a model's noise floor to a state folder; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    path.write_text(json.dumps({"digest": digest, "floor": dict(floor)}, indent=1) + "\n", encoding="utf-8")
    return path


def read(folder: Path, digest: str) -> dict[str, float]:
    """Read the noise floor of a model file; empty if there is none, or only another model's."""
    try:
        kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
        limits = {str(k): float(v) for k, v in kept["floor"].items()} if kept["digest"] == digest else {}
        return {
            name: value for name, value in limits.items() if math.isfinite(value)
        }  # a NaN would make all rows differ
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
