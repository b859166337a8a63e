"""The Open Inference Protocol's codec: what goes in comes out as the same rows, and what does not fit is told by name."""

import json
import math
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from understudy.api.v2.codec import Signature
from understudy.api.v2.tensors import DATATYPES, Slot, TensorError, to_bytes, to_json
from understudy.domain import Variant
from understudy.errors import InvalidInput, MalformedRequest, RequestError, TooLarge
from understudy.inference import OutputReader
from understudy.inference.cards import Card, InputSpec, OutputSpec
from understudy.inference.columns import Table
from understudy.inference.decoding import Columns, Decoder, Field
from understudy.loading import fields_of
from understudy.testing import card

CARD = card()  # x: FP32, may be missing; s: BYTES
OTHER = card(
    name="other",
    version="2",
    classes=[1, 0],
    inputs=[*CARD.inputs, InputSpec(name="extra", dtype="float64", shape=[None, 1])],
    outputs=[
        OutputSpec(name="p", dtype="float64", shape=[None, 2], role="probabilities"),
        OutputSpec(name="class", dtype="int32", shape=[None, 1], role="label"),
    ],
)


def signature(*cards: Card, context: tuple[str, ...] = ("tail",), rows_max: int = 50) -> Signature:
    first, *rest = cards or (CARD,)
    decoder = Decoder(fields_of(first, rest[0] if rest else None), context=context, rows_max=rows_max, key_max_chars=16)
    return Signature(decoder, dict(zip(Variant, (first, *rest), strict=False)))


def tensor(name: str, datatype: str, data: Any, shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data, **more}


def body(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def raw(*inputs: tuple[str, str, list[int], bytes], **more: Any) -> tuple[bytes, int]:
    """A request with raw tensors, and the length of its JSON."""
    said = body(
        *({"name": n, "datatype": d, "shape": s, "parameters": {"binary_data_size": len(b)}} for n, d, s, b in inputs),
        **more,
    )
    return said + b"".join(b for *_, b in inputs), len(said)


def texts(*values: str) -> bytes:
    return b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)


X, S = tensor("x", "FP32", [0.5, None]), tensor("s", "BYTES", ["a", "b"])


@pytest.mark.parametrize(
    "x",
    [
        tensor("x", "FP32", [0.5, None]),
        tensor("x", "FP32", [0.5, None], [2, 1]),
        tensor("x", "FP32", [[0.5], [None]], [2, 1]),
        tensor("x", "FP32", [0.5, None], parameters={"what": "ever"}),
    ],
)
def test_json_tensors_become_the_rows_of_predict(x: Any) -> None:
    """Flat or nested, [rows] or [rows, 1]; in the order of the fields, whatever the order of the inputs."""
    found = signature().decode(body(S, x, tensor("tail", "BYTES", ["N1", "N2"]), id="7"), None)

    assert found.rows == [(0.5, "a", "N1"), (None, "b", "N2")]
    assert found.id == "7"


def test_raw_tensors_become_columns() -> None:
    """Beside JSON ones, too. NaN stands for a value that is missing."""
    sent, length = raw(("x", "FP32", [2, 1], struct.pack("<ff", 0.5, math.nan)), ("s", "BYTES", [2], texts("é", "")))
    found = signature().decode(sent, length)
    assert isinstance(found.rows, Table)
    columns = found.rows.arrays(Columns([Field("x", "float32", (1,), True), Field("s", "string", (1,))], {}))

    assert np.array_equal(columns["x"], np.array([[0.5], [np.nan]], np.float32), equal_nan=True)
    assert columns["s"].tolist() == [["é"], [""]]
    assert found.rows.values("s", 1) == ["é"]


@given(st.sampled_from(sorted(DATATYPES)), st.data())
def test_every_datatype_survives_both_ways(dtype: str, data: st.DataObject) -> None:
    """As JSON and as raw bytes, any shape: the same values, in the model's dtype."""
    shape = data.draw(st.lists(st.integers(0, 3), max_size=2).map(lambda rest: [data.draw(st.integers(1, 3)), *rest]))
    kinds: dict[str, Any] = {"s": st.text(max_size=4), "b": st.booleans()}
    if dtype.startswith("float"):
        kinds["f"] = st.floats(width=int(dtype[5:]), allow_nan=False, allow_infinity=False)  # type: ignore[call-overload]
    elif "int" in dtype:
        info = np.iinfo(dtype)
        kinds["i"] = kinds["u"] = st.integers(int(info.min), int(info.max))
    values = data.draw(st.lists(kinds[dtype[0]], min_size=math.prod(shape), max_size=math.prod(shape)))
    slot = Slot(Field("t", dtype, tuple(None for _ in shape[1:])))
    wanted = np.array(values, dtype=object if dtype == "string" else dtype).reshape(shape)
    nested = msgspec.Raw(msgspec.json.encode(wanted.tolist()))
    flat = msgspec.Raw(msgspec.json.encode(to_json(wanted)))

    for found in (
        slot.array(slot.from_json(flat, shape), shape),
        slot.array(slot.from_json(nested, shape), shape),
        slot.from_bytes(memoryview(b"?" + to_bytes(wanted))[1:], shape),
    ):
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        assert found.flags.aligned
        assert np.array_equal(found, wanted)


BAD: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "not JSON"),
    "no UTF-8": (b'{"inputs": [], "id": "\xff"}', "UTF-8"),
    "too deep": (b'{"parameters": {"a":' + b"[" * 100_000, "nested too deeply"),
    "a list": (b"[]", "protocol"),
    "no inputs": (b"{}", "inputs"),
    "inputs empty": (body(), "'x': is missing"),
    "id a number": (body(X, S, id=7), "id"),
    "a missing input": (body(X), "input 's': is missing; the model takes BYTES of shape [-1, 1]"),
    "an unknown input": (body(X, S, tensor("y", "FP32", [1])), "input 'y': unknown; the model takes x, s, tail"),
    "an input twice": (body(X, X, S), "'x': appears twice"),
    "another datatype": (body(tensor("x", "FP64", [1, 2]), S), "'x': its datatype is 'FP64'; the model takes FP32"),
    "another rank": (
        body(tensor("x", "FP32", [1, 2], [2, 1, 1]), S),
        "'x': its shape is [2, 1, 1]; the model takes [-1, 1]",
    ),
    "no rank": (body({**X, "shape": []}, S), "its shape is []"),
    "a negative size": (body({**X, "shape": [-1]}, S), "shape"),
    "no rows": (body({**X, "shape": [0], "data": []}, S), "'x': it has 0 rows"),
    "other rows": (body(X, tensor("s", "BYTES", ["a"])), "'s': it has 1 rows; the inputs before it have 2"),
    "fewer elements": (body({**X, "data": [1]}, S), "'x': its data have 1 elements; shape [2] has 2"),
    "nested wrongly": (body(tensor("x", "FP32", [[1, 2]], [2, 1]), S), "not nested as in its shape"),
    "nested too little": (body({**X, "data": [[1], [2]]}, S), "'x': its data are invalid: Expected"),
    "a string that is not UTF-8": (body(X, S).replace(b'"b"', b'"\xff"'), "'s': its data are invalid: 'utf-8' codec"),
    "a string for a number": (body(tensor("x", "FP32", [1, "2"]), S), "at `$[1]`"),
    "a number for a string": (body(X, tensor("s", "BYTES", ["a", 2])), "'s': its data are invalid"),
    "beyond float32": (body(tensor("x", "FP32", [1, 1e39]), S), "'x': its data are invalid"),
    "null where none may be": (body(X, tensor("s", "BYTES", ["a", None])), "'s': its data are invalid"),
    "no data": (body({k: v for k, v in X.items() if k != "data"}, S), "neither `data` nor `binary_data_size`"),
    "data twice": (body({**X, "parameters": {"binary_data_size": 0}}, S), "both"),
    "raw bytes that are not there": (raw(("x", "FP32", [2], b"12345678"))[0][:-8], "binary_data_size of 'x' is 8"),
    "shared memory": (body({**X, "parameters": {"shared_memory_region": "r"}}, S), "shared memory"),
    "an unknown output": (
        body(X, S, outputs=[{"name": "nope"}]),
        "output 'nope' is unknown; there are label, probabilities",
    ),
    "an output twice": (body(X, S, outputs=[{"name": "label"}] * 2), "twice"),
    "a context field too long": (
        body(X, S, tensor("tail", "BYTES", ["N" * 17, ""])),
        "'tail': a string is longer than 16",
    ),
    "a context field of another type": (body(X, S, tensor("tail", "FP32", [1, 2])), "'tail': its datatype is 'FP32'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_named(name: str) -> None:
    """In the message: which input, and what is wrong with it."""
    sent, says = BAD[name]
    with pytest.raises((MalformedRequest, InvalidInput)) as caught:
        signature().decode(sent, None)
    assert says in caught.value.detail


ONE, ONE_LENGTH = raw(("x", "FP32", [1], b"1234"), ("s", "BYTES", [1], texts("a")))
BAD_RAW: dict[str, tuple[tuple[bytes, int], str]] = {
    "a header beyond the body": ((b"{}", 3), "Inference-Header-Content-Length is 3; the body has 2 bytes"),
    "too few bytes": (
        raw(("x", "FP32", [2], b"1234567"), ("s", "BYTES", [2], texts("a", "b"))),
        "'x': its binary data have 7",
    ),
    "bytes left": ((ONE + b"!", ONE_LENGTH), "1 bytes are left"),
    "infinity": (
        raw(("x", "FP32", [2], struct.pack("<ff", 1, math.inf)), ("s", "BYTES", [2], texts("", ""))),
        "row 1 has inf",
    ),
    "a string cut short": (
        raw(("x", "FP32", [1], b"1234"), ("s", "BYTES", [1], b"\x09\0\0\0abc")),
        "declares 9 bytes",
    ),
    "a string without length": (
        raw(("x", "FP32", [1], b"1234"), ("s", "BYTES", [1], b"\x09\0")),
        "end before element 0",
    ),
    "one string too many": (
        raw(("x", "FP32", [1], b"1234"), ("s", "BYTES", [1], texts("a", "b"))),
        "after the last of 1",
    ),
    "not UTF-8": (raw(("x", "FP32", [1], b"1234"), ("s", "BYTES", [1], b"\1\0\0\0\xff")), "not UTF-8"),
    "a huge free shape": (raw(("x", "FP32", [2**62], b"")), "most 50"),
}


@pytest.mark.parametrize("name", BAD_RAW)
def test_raw_bytes_that_do_not_fit_are_named(name: str) -> None:
    """Sizes are compared before anything of that size is made."""
    (sent, length), says = BAD_RAW[name]
    with pytest.raises(RequestError) as caught:
        signature().decode(sent, length)
    assert says in caught.value.detail


def test_values_that_are_no_numbers_need_a_model_that_takes_them() -> None:
    """Where no value may be missing, NaN is refused as infinity is; a BOOL is 0 or 1."""
    plain = Slot(Field("t", "float16", (2,)))
    with pytest.raises(TensorError, match="row 1 has nan; it takes finite numbers"):
        plain.from_bytes(memoryview(np.array([1, 2, 3, np.nan], np.float16).tobytes()), [2, 2])
    with pytest.raises(TensorError, match="neither 0 nor 1"):
        Slot(Field("t", "bool")).from_bytes(memoryview(b"\1\2"), [2])


def test_more_rows_than_allowed_are_too_large() -> None:
    """Said by the shape alone."""
    with pytest.raises(TooLarge, match="51 rows"):
        signature().decode(body({**X, "shape": [51]}, S), None)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Up to a limit."""
    with pytest.raises(InvalidInput) as caught:
        signature().decode(body(tensor("x", "INT8", [1]), *(tensor(f"y{i}", "FP32", [1]) for i in range(40))), None)
    assert "'x': its datatype" in caught.value.detail
    assert "'y0': unknown" in caught.value.detail
    assert "and 22 more" in caught.value.detail


ODD: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["FP32", "BYTES", "x", "s"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["name", "shape", "datatype", "data", "parameters", "binary_data_size", "inputs", "outputs", "id"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)
INPUT = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "s", "tail", "y"]),
        "datatype": st.sampled_from(["FP32", "BYTES", "INT64"]),
        "shape": st.lists(st.integers(-1, 3) | st.just(2**63), max_size=3),
    },
    optional={
        "data": ODD,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": ODD | st.integers(0, 30)}),
    },
)


@given(st.lists(INPUT, max_size=4), st.binary(max_size=40), st.none() | st.integers(0, 400), ODD)
@example([], b"", 0, None)
def test_no_request_breaks_the_codec(inputs: list[Any], tail: bytes, cut: int | None, outputs: Any) -> None:
    """Whatever is sent: rows, or one of our errors, with words."""
    said = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    for length in (None, len(said), cut):
        try:
            found = signature().decode(said + (tail if length is not None else b""), length)
        except RequestError as error:
            assert error.detail
        else:
            assert 0 < len(found.rows) <= 50


@given(st.binary(max_size=60), st.none() | st.integers(0, 70))
def test_no_bytes_break_the_codec(sent: bytes, length: int | None) -> None:
    """Random ones."""
    with pytest.raises(RequestError):
        signature().decode(sent, length)


def test_answers_are_in_the_callers_own_form_whoever_gives_them() -> None:
    """Names, dtypes, shapes and the order of classes are the first model's; JSON and raw bytes say the same."""
    both = signature(CARD, OTHER)
    question = both.decode(
        body(X, S, id="a", outputs=[{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "label"}]),
        None,
    )
    by_primary = OutputReader(CARD).read(
        {"label": np.array([0, 1]), "probabilities": np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)}, 2
    )
    by_other = OutputReader(OTHER).read(
        {"class": np.array([[0], [1]], np.int32), "p": np.array([[0.25, 0.75], [0.5, 0.5]])}, 2
    )
    answers = [
        both.encode({"model_name": "m"}, question, by_primary, Variant.PRIMARY),
        both.encode({"model_name": "m"}, question, by_other, Variant.CANDIDATE),
    ]
    sent, length = answers[0]
    assert length is not None

    assert answers[0] == answers[1]
    assert json.loads(sent[:length]) == {
        "model_name": "m",
        "id": "a",
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}},
            {"name": "label", "datatype": "INT64", "shape": [2], "data": [0, 1]},
        ],
    }
    assert np.frombuffer(sent[length:], np.float32).tolist() == [0.75, 0.25, 0.5, 0.5]


def test_all_outputs_are_given_when_none_is_named() -> None:
    """As JSON, or all as raw bytes where the request says so."""
    scores = OutputReader(CARD).read({"label": np.array([0]), "probabilities": np.array([[0.75, 0.25]], np.float32)}, 1)
    one = (tensor("x", "FP32", [0.5]), tensor("s", "BYTES", ["a"]))
    plain, none = signature().encode({}, signature().decode(body(*one), None), scores, Variant.PRIMARY)
    binary = signature().decode(body(*one, parameters={"binary_data_output": True}, outputs=[]), None)
    packed, length = signature().encode({}, binary, scores, Variant.PRIMARY)

    assert none is None
    assert [o["data"] for o in json.loads(plain)["outputs"]] == [[0], [0.75, 0.25]]
    assert packed[length:] == np.int64(0).tobytes() + np.array([0.75, 0.25], np.float32).tobytes()


def test_metadata_say_what_a_request_needs() -> None:
    """What may be left out is marked; of a version, what only the other one reads may be left out as well."""
    both = signature(CARD, OTHER)
    optional = {"parameters": {"optional": True}}
    x, s = ({"name": n, "datatype": d, "shape": [-1, 1]} for n, d in (("x", "FP32"), ("s", "BYTES")))
    tail = {"name": "tail", "datatype": "BYTES", "shape": [-1], **optional}
    extra = {"name": "extra", "datatype": "FP64", "shape": [-1, 1]}
    decoder = Decoder(fields_of(CARD, OTHER), context=["tail"], rows_max=9, key_max_chars=16)
    alone = Signature(decoder, {Variant.CANDIDATE: OTHER})

    inputs, outputs = msgspec.to_builtins(both.metadata())
    assert inputs == [x, s, extra | optional, tail]
    assert outputs == [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
    ]
    inputs, outputs = msgspec.to_builtins(alone.metadata())
    assert inputs == [x, s, extra, tail]
    assert [output["name"] for output in outputs] == ["p", "class"]


def test_outputs_that_only_one_model_gives_are_not_promised() -> None:
    """The router may choose either."""
    words = card(
        outputs=[OutputSpec(name="label", dtype="string", shape=[None], role="label"), CARD.outputs[1]],
        classes=["a", "b"],
    )

    assert list(signature(CARD, words).outputs) == ["probabilities"]
    assert list(signature(CARD).outputs) == ["label", "probabilities"]
