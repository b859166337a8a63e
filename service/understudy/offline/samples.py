"""Rows to try models on: drawn from the profiles on their cards, or read from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import ConfigurationError, InvalidInput, UnderstudyError
from understudy.inference.cards import InputSpec
from understudy.inference.decoding import Decoder, Row
from understudy.inference.profile import CategoricalProfile, NumericProfile

SEED = 20130131


def drawn(specs: Sequence[InputSpec], rows: int) -> list[Row]:
    """Rows with the fields of `specs` in their order, each field by itself as its profile says; the same ones every time.

    Without a profile: standard normal floats, 0 to 9 for whole numbers, empty strings. Fields are independent here, so
    the rows are plausible one field at a time and not as a whole.
    """
    chance = np.random.default_rng(SEED)
    columns = [_column(spec, rows, chance) for spec in specs]
    return list(zip(*columns, strict=True))


def read(path: Path, decoder: Decoder, most: int) -> list[Row]:
    """Rows of a file, one JSON object a line as `POST /predict` takes them in `rows`; the first `most` of them.

    Raises:
        ConfigurationError: naming the line and what is wrong with it.
    """
    found: list[Row] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if len(found) == most:
                break
            try:
                found += decoder.decode(b'{"rows":[' + line.strip() + b"]}").rows
            except InvalidInput as error:
                said = "; ".join(f"{each.get('field') or 'row'} {each['problem']}" for each in error.errors)
                raise ConfigurationError(f"{path}, line {number}: {said}") from None
            except UnderstudyError as error:
                raise ConfigurationError(f"{path}, line {number}: {error.detail}") from None
    if not found:
        raise ConfigurationError(f"{path} has no rows: one JSON object a line, as in `rows` of POST /predict")
    return found


def _column(spec: InputSpec, rows: int, chance: np.random.Generator) -> list[Any]:
    shape = [size or 1 for size in spec.shape[1:]]
    profile = spec.profile
    values: Any
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
        values = values.round().astype(spec.dtype)
    scalar = all(size == 1 for size in shape)
    found: list[Any] = values.reshape(rows).tolist() if scalar else values.tolist()
    if scalar and spec.nullable and profile is not None:
        gone = chance.random(rows) < profile.missing
        found = [None if absent else value for value, absent in zip(found, gone, strict=True)]
    return found


def _numbers(profile: NumericProfile, shape: list[int], chance: np.random.Generator) -> Any:
    """Uniform inside the profile's bins."""
    edges = np.array([profile.minimum, *profile.edges, profile.maximum])
    shares = np.array(profile.shares)
    bins = chance.choice(len(shares), size=shape, p=shares / shares.sum())
    low, high = np.minimum(edges[bins], profile.maximum), np.minimum(edges[bins + 1], profile.maximum)
    values = low + (high - low) * chance.random(shape)
    # Where training saw whole numbers alone, the edges are whole: a day of 3.7 would be no day.
    return values.round() if np.all(edges == edges.round()) and len(edges) > 2 else values
