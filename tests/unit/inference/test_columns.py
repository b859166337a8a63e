"""Columns give a model exactly what the same rows would, whatever they are joined with."""

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import InvalidInput
from understudy.inference.batching import LocalModel
from understudy.inference.columns import Table, joined
from understudy.inference.decoding import Batch, Columns, Decoder, Field
from understudy.testing import FakeEngine

FIELDS = [Field("x", "float32", (1,), True), Field("n", "int64"), Field("s", "string", (1,))]
POSITIONS = {"x": 0, "n": 1, "s": 2}
COLUMNS = Columns(FIELDS, POSITIONS)
ROWS = st.lists(
    st.tuples(st.floats(width=32), st.integers(-(2**31), 2**31), st.text(max_size=3)), min_size=1, max_size=4
)


def table(rows: list[tuple[Any, ...]]) -> Table:
    x, n, s = zip(*rows, strict=True)
    return Table({"x": np.array(x, np.float32), "n": np.array(n), "s": np.array(s, object)}, len(rows))


@given(st.lists(st.tuples(st.booleans(), ROWS), min_size=1, max_size=6))
def test_columns_and_rows_are_one_to_a_model(parts: list[tuple[bool, list[tuple[Any, ...]]]]) -> None:
    """Any mixture of requests of either kind builds the arrays of all their rows in order."""
    mixed: Batch = joined([table(rows) if as_columns else rows for as_columns, rows in parts])
    found = COLUMNS.build(mixed)
    wanted = COLUMNS.build([row for _, rows in parts for row in rows])

    assert len(mixed) == sum(len(rows) for _, rows in parts)
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array, equal_nan=name == "x")


def test_one_request_is_passed_on_as_it_is() -> None:
    """No copy: the model reads the very bytes that arrived."""
    x = np.zeros((3, 1), np.float32)
    alone = Table({"x": x}, 3)

    assert joined([alone]) is alone
    assert np.shares_memory(Columns([FIELDS[0]], {"x": 0}).build(alone)["x"], x)


def test_a_field_that_was_left_out_is_missing_to_the_model() -> None:
    """NaN, or the empty string where the model takes one; whoever can take neither refuses, and names the field."""
    empty = Table({}, 2)
    assert np.isnan(Columns([Field("x", "float64", (1,))], {}).build(empty)["x"]).all()
    assert Columns([Field("s", "string", (1,), nullable=True)], {}).build(empty)["s"].tolist() == [[""], [""]]
    for field in (Field("n", "int64"), Field("s", "string"), Field("image", "float32", (2, 2))):
        with pytest.raises(InvalidInput, match=f"field '{field.name}': is missing"):
            Columns([field], {}).build(empty)


def test_a_model_that_reads_another_type_gets_it_if_the_values_allow() -> None:
    """The candidate may take whole numbers where the primary takes any."""
    wants = Columns([Field("x", "int8")], {})
    assert wants.build(Table({"x": np.array([1.0, -3.0], np.float32)}, 2))["x"].dtype == np.int8
    for value in (1.5, 300.0, np.nan):
        with pytest.raises(InvalidInput, match="takes a whole number"):
            wants.build(Table({"x": np.array([value], np.float32)}, 1))


def test_requests_whose_free_dimensions_differ_reach_the_engine_together() -> None:
    """They do not fit into one array, so the engine gets one array per row."""

    class Lengths(FakeEngine):
        def run(self, columns: Any, cancellation: Any = None) -> Any:
            shapes.extend(row.shape for row in columns["x"])
            return super().run({"x": np.array([row[0] for row in columns["x"]])})

    engine, shapes = Lengths(), list[tuple[int, ...]]()

    async def main() -> None:
        model = LocalModel(
            engine,
            Columns([Field("x", "float32", (None,))], {}),
            None,
            max_rows=9,
            queue_max_rows=9,
            inline_max_s=1.0,  # type: ignore[arg-type]
        )
        wide, wider = (
            Table({"x": np.full((2, 3), 0.25, np.float32)}, 2),
            Table({"x": np.full((1, 4), 0.5, np.float32)}, 1),
        )
        first, second = await asyncio.gather(model.infer(wide), model.infer(wider))
        assert first.probabilities == [[0.75, 0.25]] * 2
        assert second.probabilities == [[0.5, 0.5]]

    asyncio.run(main())
    assert shapes == [(3,), (3,), (4,)]
    assert engine.runs == [3]


def test_texts_of_columns_are_the_texts_of_rows() -> None:
    """For the routing key and the unit: a number is its decimal digits, what is not there is None."""
    rows = [(0.5, 7, "a"), (1.5, -1, "b")]
    decoder = Decoder(FIELDS, context=["tail"], rows_max=9, key_max_chars=9)
    for name in ("n", "s"):
        assert decoder.values(table(rows), name) == decoder.values(rows, name)
    assert decoder.values(table(rows), "tail") == decoder.values(table(rows), None) == [None, None]
