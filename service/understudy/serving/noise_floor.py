"""The noise floor: how far a model is from itself when only the batch size and the number of threads differ.

`understudy check` measures it and leaves it in the state folder; a service that finds it there, for the same model file, calls
equal what lies below it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from understudy.domain import Variant
from understudy.inference import Engine, OutputReader, Scores
from understudy.inference.decoding import Columns, Row
from understudy.records.pairs import Pairs, joined
from understudy.rollout.comparison import ComparisonSums, floor_of

FILE = "noise-floor.json"
ALONE_ROWS = 64
"""Rows that are run one at a time; the rest of the floor is measured on all rows."""
ODD_BATCH_ROWS = 7


def scored(engine: Engine, columns: Columns, reader: OutputReader, rows: list[Row], batch: int | None = None) -> Scores:
    """What a model says of some rows, run in batches of a size, or all at once.

    Raises:
        InferenceError: when the runtime fails on them.
        InvalidInput: when a row does not fit the model.
    """
    size = batch or len(rows)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return joined([reader.read(engine.run(columns.build(part)), len(part)) for part in parts])


def measure(
    engine: Engine, other_threads: Engine, columns: Columns, reader: OutputReader, rows: list[Row]
) -> dict[str, float]:
    """The floor by output: the largest difference among runs of one model that should agree.

    Args:
        other_threads: the same model with another number of threads.
    """
    pairs = Pairs(dict.fromkeys(Variant, reader), {}, {})
    whole = scored(engine, columns, reader, rows)
    found = ComparisonSums()
    found.merge(pairs.compare(whole, scored(engine, columns, reader, rows, ODD_BATCH_ROWS)))
    found.merge(pairs.compare(whole, scored(other_threads, columns, reader, rows)))
    few = rows[:ALONE_ROWS]
    found.merge(pairs.compare(whole.slice(0, len(few)), scored(engine, columns, reader, few, 1)))
    return floor_of(found)


def write(folder: Path, digest: str, floor: Mapping[str, float]) -> Path:
    """Leave a model's floor in a state folder; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    path.write_text(json.dumps({"digest": digest, "floor": dict(floor)}, indent=1) + "\n", encoding="utf-8")
    return path


def read(folder: Path, digest: str) -> dict[str, float]:
    """The floor that was left for a model file; empty when none was, or another model's."""
    try:
        kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
        found = {str(k): float(v) for k, v in kept["floor"].items()} if kept["digest"] == digest else {}
        return {name: value for name, value in found.items() if math.isfinite(value)}  # NaN would make all rows differ
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
