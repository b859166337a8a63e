"""Sample rows for models: drawn from the profiles on their cards, or read from a file."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from understudy.errors import ConfigurationError, InvalidInput, UnderstudyError
from understudy.inference.cards import InputSpec
from understudy.inference.decoding import Decoder, Row
from understudy.inference.profile import CategoricalProfile, NumericProfile
from understudy.offline.evaluate.data import ColumnNames, rows_of, sample_of
from understudy.offline.matching import lacking, match
from understudy.offline.tables import open_table

SEED = 20130131

Values: TypeAlias = npt.NDArray[np.generic]


def drawn(specs: Sequence[InputSpec], rows: int) -> list[Row]:
    """Draws rows with the fields of `specs`, each field from its profile. The seed is fixed, so the rows are always the same.

    Without a profile: standard normal floats, integers from 0 to 9, empty strings. Fields are drawn independently, so each
    value is plausible, but their combination may not be.
    """
    chance = np.random.default_rng(SEED)
    columns = [_column(spec, rows, chance) for spec in specs]
    return list(zip(*columns, strict=True))


def from_table(path: Path, decoder: Decoder, most: int, label: str | None) -> tuple[list[Row], str]:
    """Rows of a table in any form that `understudy.offline.tables` knows: its first ones, and where they come from, in words.

    Args:
        most: so many rows are read.
        label: the column with the label, which is no input.

    Raises:
        ConfigurationError: the table cannot be read, a field has no column, or the service accepts no row.
    """
    table = open_table(path)
    # A column that only routing or counting reads is no input either.
    taken = [*([label] if label is not None else []), *decoder.context]
    if label is not None and label not in table.columns:
        raise ConfigurationError(f"{path} has no column {label!r} for --label; it has {', '.join(table.columns)}")
    matching = match(decoder.fields, table.columns, taken, decimal_comma=table.decimal_comma)
    if why := lacking(matching, table.columns, taken):
        hint = "" if label is not None else ". If one of the columns is the label, name it with --label"
        raise ConfigurationError(f"{path}: {why}{hint}")
    records = itertools.islice(table.read(), most)
    sample = sample_of(str(path), records, decoder, ColumnNames(None), (), row_of=rows_of(matching, decoder))
    notes = [*table.notes, *matching.notes]
    if sample.rejected:
        notes.append(f"the service would reject {sample.rejected:,} rows: {'; '.join(sample.reasons)}")
    return sample.rows, "; ".join([f"the first of {path}", *notes])


def read(path: Path, decoder: Decoder, most: int) -> list[Row]:
    """Reads the first `most` rows of a file with one JSON object per line, as in `rows` of `POST /predict`.

    Raises:
        ConfigurationError: if a line is invalid; the message names the line and the problem.
    """
    rows: list[Row] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if len(rows) == most:
                break
            try:
                rows += decoder.decode(b'{"rows":[' + line.strip() + b"]}").rows
            except InvalidInput as error:
                problems = "; ".join(f"{each.get('field') or 'row'} {each['problem']}" for each in error.errors)
                raise ConfigurationError(f"{path}, line {number}: {problems}") from None
            except UnderstudyError as error:
                raise ConfigurationError(f"{path}, line {number}: {error.detail}") from None
    if not rows:
        raise ConfigurationError(f"{path} has no rows: write one JSON object per line, as in `rows` of POST /predict")
    return rows


def _column(spec: InputSpec, rows: int, chance: np.random.Generator) -> list[object]:
    """The values of one field. Where sizes vary, rows take turns with the shapes that the model was tried with."""
    shapes = spec.tried or [[1 if size is None else size for size in spec.row_shape]]
    if len(shapes) == 1:
        return _values(spec, rows, shapes[0], chance)
    parts = [iter(_values(spec, rows, shape, chance)) for shape in shapes]
    return [[next(part) for part in parts][row % len(parts)] for row in range(rows)]


def _values(spec: InputSpec, rows: int, shape: Sequence[int], chance: np.random.Generator) -> list[object]:
    """The values of one field, all of one shape."""
    profile = spec.profile
    values: Values
    if isinstance(profile, CategoricalProfile) and profile.shares:
        shares = np.array(list(profile.shares.values()))
        values = chance.choice(
            np.array(list(profile.shares), dtype=object), size=[rows, *shape], p=shares / shares.sum()
        )
    elif isinstance(profile, NumericProfile):
        values = _numbers(profile, [rows, *shape], chance)
    elif spec.dtype == "string":
        values = np.full([rows, *shape], "", dtype=object)
    elif spec.dtype.startswith("float"):
        values = chance.standard_normal([rows, *shape])
    else:
        values = chance.integers(0, 2 if spec.dtype == "bool" else 10, [rows, *shape])
    if not (spec.dtype == "string" or spec.dtype.startswith("float")):
        values = np.round(values.astype(np.float64)).astype(spec.dtype)
    scalar = all(size == 1 for size in spec.row_shape)
    column: list[object] = [*(values.reshape(rows) if scalar else values).tolist()]
    if scalar and spec.nullable and profile is not None:
        missing = chance.random(rows) < profile.missing
        column = [None if absent else value for value, absent in zip(column, missing, strict=True)]
    return column


def _numbers(profile: NumericProfile, shape: list[int], chance: np.random.Generator) -> Values:
    """Values drawn uniformly inside the profile's bins."""
    edges = np.array([profile.minimum, *profile.edges, profile.maximum])
    shares = np.array(profile.shares)
    bins = chance.choice(len(shares), size=shape, p=shares / shares.sum())
    low, high = np.minimum(edges[bins], profile.maximum), np.minimum(edges[bins + 1], profile.maximum)
    values: npt.NDArray[np.float64] = low + (high - low) * chance.random(shape)
    # If training had only whole numbers, the edges are whole, and so must the values be (a day of 3.7 does not exist).
    return values.round() if np.all(edges == edges.round()) and len(edges) > 2 else values
