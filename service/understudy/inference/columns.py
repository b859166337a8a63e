"""Request rows as columns: from a binary request to the model's inputs without a Python object per row. Pure."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from understudy.errors import InvalidInput
from understudy.inference import ragged
from understudy.inference.decoding import Array, Batch, Columns, Field, Row, Rows


class Table:
    """The rows of one request as columns.

    Args:
        columns: by field name, arrays of shape [rows, *field.shape] in the field's dtype (object for strings). A missing
            field was left out of the request.
        count: the number of rows.
    """

    __slots__ = ("_count", "columns")

    def __init__(self, columns: Mapping[str, Array], count: int) -> None:
        self.columns, self._count = columns, count

    def __len__(self) -> int:
        """How many rows."""
        return self._count

    def values(self, name: str, rows: int | None = None) -> list[object]:
        """See `Tabular.values`."""
        column, count = self.columns.get(name), self._count if rows is None else rows
        return [None] * count if column is None else column[:count].reshape(count).tolist()

    def arrays(self, columns: Columns) -> dict[str, Array]:
        """Like `Columns.build`; a column that has the input's dtype and shape is used without a copy."""
        return {field.name: self._array(field) for field in columns.inputs}

    def _array(self, field: Field) -> Array:
        found = self.columns.get(field.name)
        if found is None:
            return self._absent(field)
        wanted = np.dtype(object if field.dtype == "string" else field.dtype)
        if found.dtype == wanted and found.shape[1:] == field.shape:
            return found
        if found.dtype != wanted:
            with np.errstate(invalid="ignore", over="ignore"):
                converted = found.astype(wanted)
            if wanted.kind != "f" and not np.array_equal(converted, found):
                raise _invalid(field, f"takes {field.describe()}")
            if wanted.kind == "f" and np.isinf(converted).any():  # what was sent is finite
                raise _invalid(field, f"has a number that is too large for {field.dtype}")
            found = converted
        return found.reshape(self._count, *field.shape) if field.scalar else found

    def _absent(self, field: Field) -> Array:
        """The column of a field that was left out: NaN or empty strings."""
        shape = (self._count, *(1 for _ in field.shape))
        if field.scalar and field.dtype.startswith("float"):
            return np.full(shape, np.nan, field.dtype)
        if field.scalar and field.dtype == "string" and field.nullable:
            return np.full(shape, "", object)
        raise _invalid(field, f"is missing; this model takes {field.describe()}")


class WithoutArrays:
    """Removes images and other arrays from a request's rows, so that they are small enough to be recorded."""

    def __init__(self, fields: Sequence[Field], positions: Mapping[str, int]) -> None:
        self._names = {field.name for field in fields if not field.scalar}
        self._places = [positions[name] for name in self._names]

    def __call__(self, rows: Rows) -> Rows:
        """The rows without their arrays."""
        if not self._names:
            return rows
        if isinstance(rows, Table):
            return Table({name: c for name, c in rows.columns.items() if name not in self._names}, len(rows))
        assert isinstance(rows, list)
        return [self._row(row) for row in rows]

    def _row(self, row: Row) -> Row:
        values = list(row)
        for place in self._places:
            values[place] = None
        return tuple(values)


class Joined:
    """The rows of several requests as one batch."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Batch]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        """How many rows."""
        return sum(map(len, self.parts))

    def arrays(self, columns: Columns) -> dict[str, Array]:
        """See `Columns.build`."""
        built = [columns.build(part) for part in self.parts]
        try:
            return {
                field.name: (ragged.joined if None in field.shape else np.concatenate)(
                    [arrays[field.name] for arrays in built]
                )
                for field in columns.inputs
            }
        except ValueError as error:
            raise InvalidInput([{"problem": f"these requests cannot share a batch: {error}"}]) from None


def joined(parts: Sequence[Batch]) -> Batch:
    """The rows of several requests as one batch, in order. A single request's rows are returned unchanged."""
    if len(parts) == 1:
        return parts[0]
    together: list[Batch] = []
    for as_rows, group in itertools.groupby(parts, lambda part: isinstance(part, list)):
        if as_rows:
            row_lists: list[Row] = [row for part in group for row in part]  # type: ignore[union-attr]
            together.append(row_lists)
        else:
            together += group
    return together[0] if len(together) == 1 else Joined(together)


def _invalid(field: Field, problem: str) -> InvalidInput:
    return InvalidInput([{"row": None, "field": field.name, "problem": problem}])
