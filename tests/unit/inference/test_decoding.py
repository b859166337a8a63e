"""Bodies become columns, or every row and field that is wrong is named."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import InvalidInput, MalformedRequest, TooLarge
from understudy.inference.decoding import Columns, Decoder, Field

FIELDS = [
    Field("temp", "float32", (1,), nullable=True),
    Field("hour", "int8", ()),
    Field("carrier", "string", (1,)),
    Field("flag", "bool", ()),
    Field("gpu_0/pixels", "float32", (2, 2)),
    Field("extra", "float32", (1,), required=False),
]
GOOD = {"temp": 1.5, "hour": 7, "carrier": "UA", "flag": True, "gpu_0/pixels": [[1, 2], [3, 4]]}


def decoder(rows_max: int = 100) -> Decoder:
    return Decoder(FIELDS, context=["tailnum"], rows_max=rows_max, key_max_chars=16)


def body(*rows: Any, **more: Any) -> bytes:
    return json.dumps({"rows": list(rows), **more}).encode()


def errors(raw: bytes) -> list[dict[str, Any]]:
    with pytest.raises(InvalidInput) as caught:
        decoder().decode(raw)
    return caught.value.errors


def test_rows_become_columns_in_the_model_s_dtypes() -> None:
    """Nulls are NaN, names need not be Python names, optional fields may be absent."""
    read = decoder().decode(body(GOOD | {"temp": None, "tailnum": "N1"}, GOOD | {"extra": 2.5}, key="k"))
    columns = Columns(FIELDS, decoder().positions).build(read.rows)

    assert read.key == "k"
    assert decoder().value(read.rows[0], "tailnum") == "N1"
    assert decoder().value(read.rows[1], "tailnum") is None
    assert {name: (a.dtype, a.shape) for name, a in columns.items()} == {
        "temp": (np.float32, (2, 1)),
        "extra": (np.float32, (2, 1)),
        "hour": (np.int8, (2,)),
        "carrier": (object, (2, 1)),
        "flag": (np.bool_, (2,)),
        "gpu_0/pixels": (np.float32, (2, 2, 2)),
    }
    assert np.isnan(columns["temp"][0, 0])
    assert columns["temp"][1, 0] == np.float32(1.5)
    assert np.isnan(columns["extra"][0, 0])
    assert columns["gpu_0/pixels"][0].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"temp": "warm"}, "temp", "takes a number or null, not the string 'warm'"),
        ({"temp": True}, "temp", "not true"),
        ({"temp": 1e39}, "temp", "<= 3.4"),
        ({"temp": [1]}, "temp", "not an array"),
        ({"hour": None}, "hour", "not null"),
        ({"hour": 1.5}, "hour", "whole number"),
        ({"hour": 300}, "hour", "<= 127"),
        ({"carrier": 3}, "carrier", "takes a string"),
        ({"carrier": None}, "carrier", "not null"),
        ({"flag": 1}, "flag", "true or false"),
        ({"gpu_0/pixels": [[1, 2]]}, "gpu_0/pixels", "length >= 2"),
        ({"gpu_0/pixels": [[1, 2], [3, "x"]]}, "gpu_0/pixels", "got `str`"),
        ({"extra": "x"}, "extra", "takes a number"),
        ({"tailnum": ["N1"]}, "tailnum", "takes a string"),
        ({"Temp": 3}, "Temp", "unknown"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], field: str, says: str) -> None:
    """Row, field and problem, for one bad value in the second row."""
    found = errors(body(GOOD, GOOD | change))

    assert [(e["row"], e["field"]) for e in found] == [(1, field)]
    assert says in found[0]["problem"]


def test_everything_wrong_is_told_at_once() -> None:
    """Not only the first mistake."""
    found = errors(body({"hour": 1}, GOOD | {"hour": "x", "zz": 1}))

    assert {(e["row"], e["field"]) for e in found} == {
        (0, "temp"),
        (0, "carrier"),
        (0, "flag"),
        (0, "gpu_0/pixels"),
        (1, "hour"),
        (1, "zz"),
    }
    assert "null is allowed" in next(e["problem"] for e in found if e["field"] == "temp")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"rows",
        b"[1]",
        b'"x"',
        b'{"rows":[',
        b'{"rows":[{"temp":NaN}]}',
        b"\xff\xfe",
        b'{"rows":[{"carrier":"\xff"}]}',
        b"[" * 200_000,
        b'{"rows":' + b"[" * 200_000,
        b"\xef\xbb\xbf{}",
        b"null",
    ],
)
def test_what_is_not_json_is_malformed(raw: bytes) -> None:
    """Never another exception, however odd the bytes."""
    with pytest.raises((MalformedRequest, InvalidInput)):
        decoder().decode(raw)


@pytest.mark.parametrize(
    "raw", [b"{}", b'{"rows":[]}', b'{"rows":{}}', b'{"rows":[1]}', b'{"rows":null}', b'{"row":[]}']
)
def test_what_is_json_of_another_form_says_so(raw: bytes) -> None:
    """`rows` is a list of objects."""
    assert errors(raw)


def test_too_many_rows_are_too_large() -> None:
    """The limit is named."""
    with pytest.raises(TooLarge, match="at most 2"):
        decoder(rows_max=2).decode(body(GOOD, GOOD, GOOD))
    with pytest.raises(TooLarge, match="at most 2"):
        decoder(rows_max=2).decode(body(GOOD, GOOD, {"temp": "x"}))


LEAVES = st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5)
NAMES = st.sampled_from([*GOOD, "rows", "key", "q"])


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4)))
def test_any_json_is_read_or_refused_with_a_reason(data: Any) -> None:
    """The fast path and the explanation agree: what the one refuses, the other finds something wrong with."""
    for raw in (json.dumps(data).encode(), body(data), body(GOOD | data) if isinstance(data, dict) else b"{}"):
        try:
            decoder().decode(raw)
        except InvalidInput as error:
            assert error.errors
            assert error.problem()["detail"]
        except MalformedRequest as error:
            assert error.detail


def test_a_body_of_mistakes_is_cut_off() -> None:
    """The answer stays small when everything is wrong."""
    found = errors(body(*[{"x": 1}] * 90))

    assert len(found) == Decoder.ERRORS_MAX
    assert len(InvalidInput(found).problem()["errors"]) == InvalidInput.LISTED


def test_a_key_that_no_machine_word_holds_is_refused() -> None:
    """It could not be handed on to the records process."""
    (error,) = errors(body(GOOD | {"tailnum": 10**30}))

    assert "tailnum" in error["problem"]
    assert decoder().decode(body(GOOD | {"tailnum": 2**63 - 1})).rows[0][-1] == 2**63 - 1


def test_numbers_of_an_array_may_be_null_where_the_input_may_be_missing() -> None:
    """They are NaN for the model; the array itself is not null, and one that is not nullable has no null."""
    for nullable in (True, False):
        field = Field("x", "float32", (3,), nullable=nullable)
        decoder = Decoder([field], rows_max=10, key_max_chars=10)
        body = b'{"rows": [{"x": [1, null, 2.5]}]}'
        if not nullable:
            with pytest.raises(InvalidInput):
                decoder.decode(body)
            continue
        built = Columns([field], decoder.positions).build(decoder.decode(body).rows)["x"]
        assert built.dtype == np.float32
        np.testing.assert_array_equal(built, np.array([[1, np.nan, 2.5]], np.float32))
        assert "whose numbers may be null" in field.describe()
        with pytest.raises(InvalidInput):
            decoder.decode(b'{"rows": [{"x": null}]}')


def test_whole_numbers_of_an_array_are_never_null() -> None:
    decoder = Decoder([Field("x", "int64", (2,), nullable=True)], rows_max=10, key_max_chars=10)
    with pytest.raises(InvalidInput):
        decoder.decode(b'{"rows": [{"x": [1, null]}]}')
