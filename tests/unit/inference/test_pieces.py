"""Bodies that are decoded in pieces give what they give at once, and no piece keeps the interpreter for long."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import InvalidInput, MalformedRequest, TooLarge
from understudy.inference import pieces
from understudy.inference.decoding import Decoder, Field
from understudy.inference.pieces import ArrayReader, LargeDecoder

FIELDS = [
    Field("x", "float32", (), nullable=True),
    Field("words", "string", (None,)),
    Field("image", "float32", (2, None)),
    Field("ids", "int64", (None, 2), required=False),
]
DECODER = Decoder(FIELDS, context=["who"], rows_max=20, key_max_chars=16)

NUMBERS = st.floats(-1e6, 1e6, width=32) | st.integers(-9, 9)
TEXTS = st.text(st.sampled_from('ab"\\,]}[{é '), max_size=6)
WIDTHS = st.integers(0, 4)


@st.composite
def rows(draw: Any) -> dict[str, Any]:
    width = draw(WIDTHS)
    row: dict[str, Any] = {
        "x": draw(NUMBERS | st.none()),
        "words": draw(st.lists(TEXTS, max_size=6)),
        "image": draw(st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=2, max_size=2)),
    }
    if draw(st.booleans()):
        row["ids"] = draw(st.lists(st.lists(st.integers(-5, 5), min_size=2, max_size=2), max_size=4))
    if draw(st.booleans()):
        row["who"] = draw(st.text("abc", max_size=4))
    return row


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


@given(st.lists(rows(), min_size=1, max_size=8), st.sampled_from([1, 7, 40, 10_000]), st.sampled_from([None, 1, " "]))
def test_pieces_of_any_size_give_the_same_rows(given_rows: list[Any], size: int, indent: Any) -> None:
    """Whatever the texts contain that looks like the end of an element."""
    body = json.dumps({"rows": given_rows, "key": "k"}, indent=indent).encode()
    whole = DECODER.decode(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", size)
        cut = LargeDecoder(DECODER).decode(body)

    assert cut.key == whole.key
    for ours, theirs in zip(cut.rows, whole.rows, strict=True):
        for mine, yours, field in zip(ours, theirs, [*FIELDS, None], strict=True):
            if isinstance(mine, np.ndarray):
                assert field is not None
                wanted = np.array(yours, object if field.dtype == "string" else field.dtype)
                assert mine.tolist() == wanted.reshape(mine.shape).tolist()
            else:
                assert mine == yours


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        (b'{"rows":[{"x":1', MalformedRequest, "not JSON"),
        (b'{"rows":[{"x":1},]}', MalformedRequest, "not JSON"),
        (b'{"rows":{"x":1}}', InvalidInput, "at least one row"),
        (b'{"rows":[]}', InvalidInput, "at least one row"),
        (b'{"row":[]}', InvalidInput, "row"),
        (b'{"rows":[{"x":1,"words":["a"],"image":[[1],["b"]]}]}', InvalidInput, "row 0, field 'image'"),
        (b'{"rows":[{"x":1,"words":["a"],"image":[[1],[1,2]]}]}', InvalidInput, "differ in length"),
        (b'{"rows":[{"x":1,"words":["a"],"image":[[1],[1],[1]]}]}', InvalidInput, "'image'"),
        (b'{"rows":[{"x":1,"words":["a"],"image":7}]}', InvalidInput, "'image'"),
        (b'{"rows":[{"x":1,"words":["a"]}]}', InvalidInput, "is missing"),
        (b'{"rows":[{"x":1,"words":["a"],"image":[[1],[1]],"y":1}]}', InvalidInput, "unknown"),
        (b'{"rows":[{"x":"?","words":["a"],"image":[[1],[1]]}]}', InvalidInput, "field 'x'"),
    ],
)
def test_what_is_wrong_is_named(body: bytes, error: type[Exception], said: str) -> None:
    """With its row and field, in rows that are larger than a piece."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", 1)
        with pytest.raises(error, match=said):
            LargeDecoder(DECODER).decode(body)


def test_a_bad_row_has_its_number_in_the_body() -> None:
    """Not in its piece."""
    good = {"x": 1, "words": [], "image": [[], []]}
    body = json.dumps({"rows": [good] * 7 + [good | {"x": "?"}]}).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", 60)
        with pytest.raises(InvalidInput) as refused:
            LargeDecoder(DECODER).decode(body)
    assert refused.value.errors[0]["row"] == 7


def test_too_many_rows_end_the_search_early() -> None:
    """A body can hold millions of empty rows."""
    body = json.dumps({"rows": [{"x": 1, "words": [], "image": [[], []]}] * 100_000}).encode()
    with pytest.raises(TooLarge, match="more than 20 rows"):
        LargeDecoder(DECODER).decode(body)


def test_missing_values_of_a_tensor() -> None:
    """Null is NaN, or the empty string."""
    numbers = ArrayReader(Field("x", "float32"), optional=True).read(b"[1, null]", 1)
    assert np.isnan(numbers[1])
    assert ArrayReader(Field("x", "string"), optional=True).read(b'["a", null]', 1).tolist() == ["a", ""]
    with pytest.raises(msgspec.ValidationError):
        ArrayReader(Field("x", "float32")).read(b"[1, null]", 1)


@pytest.mark.parametrize("element", [b"1", b"[1]", b'"a"', b'["},"]'], ids=["numbers", "lists", "texts", "commas"])
def test_no_piece_is_large(element: bytes) -> None:
    """Between two pieces other threads run. All at once, 8 MiB of lists of one number take up to a second."""
    depth = 2 if element.startswith(b"[") else 1
    dtype = "string" if b'"' in element else "float32"
    count = 2**20 // (len(element) + 1)
    reader = ArrayReader(Field("x", dtype, (None,) * depth))
    decode, sizes = reader._decoders[depth - 1], list[int]()

    def noted(piece: bytes) -> Any:
        sizes.append(len(piece))
        return decode(piece)

    reader._decoders[depth - 1] = noted
    assert len(reader.read(b"[" + b",".join([element] * count) + b"]", depth)) == count
    assert max(sizes) < 2 * pieces.PIECE
    assert len(sizes) > 16
