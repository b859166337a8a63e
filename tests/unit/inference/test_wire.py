"""Columns as bytes between processes."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.inference import wire

DTYPES = st.sampled_from([np.float32, np.float64, np.int8, np.int64, np.uint16, np.bool_])


@given(
    hnp.arrays(DTYPES, hnp.array_shapes(max_dims=3, max_side=4)), st.lists(st.text(max_size=4), min_size=1, max_size=4)
)
def test_columns_survive_the_wire(numbers: Any, words: list[str]) -> None:
    """Every dtype and shape, and strings of any kind."""
    text = np.array(words, dtype=object).reshape(-1, 1)
    back = wire.unpack(wire.pack({"n": numbers, "w": text}))

    assert back["n"].dtype == numbers.dtype
    np.testing.assert_array_equal(back["n"], numbers)
    assert back["w"].tolist() == text.tolist()
