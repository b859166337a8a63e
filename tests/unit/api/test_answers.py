"""Large answers are encoded in pieces, and give the same JSON."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.api import answers
from understudy.http.asgi import encode
from understudy.inference import ragged
from understudy.inference.cards import OutputSpec
from understudy.inference.ragged import nested, of_rows
from understudy.testing import card


@given(st.lists(st.integers(0, 4), max_size=3), st.sampled_from([1, 3, 1000]), st.sampled_from(["f4", "i8", "O"]))
def test_pieces_of_any_size_give_the_same_json(shape: list[int], piece: int, dtype: str) -> None:
    """Of any shape, with sizes of zero and single values."""
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype("U" if dtype == "O" else dtype).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "PIECE", piece)
        patch.setattr(ragged, "PIECE", piece)
        assert answers.json_of(array) == encode(array.tolist())
        if shape:
            assert nested(array) == array.tolist()


def test_rows_of_different_shapes_and_long_lists() -> None:
    rows = of_rows([np.ones((2, 2)), np.zeros((0, 2))])
    assert json.loads(answers.json_of(rows)) == [[[1, 1], [1, 1]], []]
    assert json.loads(bytes(answers.row_of({"boxes": rows, "n": np.array([2, 0])}, 0))) == {
        "boxes": [[1, 1], [1, 1]],
        "n": 2,
    }
    values = [0.5, float("nan"), 2.0] * 20_000
    assert bytes(answers.numbers(values)) == encode(values)


@pytest.mark.parametrize(("shape", "large"), [([None, 2], False), ([None, 100], True), ([None, None], True)])
def test_which_models_can_answer_at_length(shape: list[int | None], large: bool) -> None:
    """By what a row has, and by the rows of a request; known at load, so that other models are not asked with each request."""
    outputs = [OutputSpec(name="e", dtype="float32", shape=shape)]
    assert answers.may_be_large(card(outputs=outputs), 5_000) is large
