"""A12: one caller was routed differently by protocol, since `str()` of a float32 and of a float64 differ.

The routing key and the unit are canonical texts of the value that the model is given: the same for JSON and raw tensors.
"""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.api.v2.codec import Signature
from understudy.api.v2.tensors import DATATYPES, to_bytes
from understudy.domain import Phase, Plan, Variant
from understudy.errors import ConfigurationError
from understudy.http.asgi import headers_under, text_of
from understudy.inference.cards import Dtype, InputSpec
from understudy.inference.decoding import Decoder, Field, Rows
from understudy.loading import check_keys, fields_of
from understudy.records.exchange import Exchange, Packer, unpack
from understudy.rollout import routing
from understudy.rollout.policy import Policy
from understudy.testing import card

INTS: dict[Dtype, tuple[int, int]] = {
    name: (int(np.iinfo(name).min), min(int(np.iinfo(name).max), 2**63 - 1))
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}  # type: ignore[misc]
DTYPES: list[Dtype] = ["bool", "string", "float16", "float32", "float64", *INTS]


def values_of(dtype: Dtype) -> st.SearchStrategy[Any]:
    """What a caller may send for an input of this dtype; decimals are not rounded to it."""
    if dtype == "bool":
        return st.booleans()
    if dtype == "string":
        return st.text(max_size=8)
    if dtype in INTS:
        return st.integers(*INTS[dtype])
    largest = 65_504.0 if dtype == "float16" else 3e38
    decimals = st.decimals(-9_999, 9_999, places=3, allow_nan=False).map(float)
    return st.floats(-largest, largest) | decimals | st.integers(-50, 50) | st.sampled_from([0.0, -0.0]) | st.none()


def both(dtype: Dtype, *, pinned: Dtype | None = None) -> tuple[Decoder, Signature]:
    spec = InputSpec(name="k", dtype=dtype, shape=[None, 1], nullable=dtype.startswith("float"))
    first = card(inputs=[spec])
    decoder = Decoder(fields_of(first, None), context=["tail"], rows_max=50, key_max_chars=50)
    asked = first if pinned is None else card(inputs=[spec.model_copy(update={"dtype": pinned})])
    return decoder, Signature(decoder, {Variant.PRIMARY: asked})


def sent(decoder: Decoder, signature: Signature, dtype: Dtype, value: Any) -> dict[str, Rows]:
    """The same value as `/predict`, as a JSON tensor, as raw bytes, and each after its way to the records process."""
    tensor = {"name": "k", "datatype": DATATYPES[dtype], "shape": [1, 1]}
    stored = np.array([math.nan if value is None else value], dtype=object if dtype == "string" else dtype)
    raw = to_bytes(stored)
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    found: dict[str, Rows] = {
        "predict": decoder.decode(json.dumps({"rows": [{"k": value}]}).encode()).rows,
        "json": signature.decode(json.dumps({"inputs": [{**tensor, "data": [value]}]}).encode(), None).rows,
        "binary": signature.decode(head + raw, len(head)).rows,
    }
    for name, rows in list(found.items()):
        packer = Packer()
        packer.add(Exchange("p", 1, rows, 0.0, 1, 0, Variant.PRIMARY, "live"))  # type: ignore[arg-type]
        found[f"{name}, recorded"] = unpack(packer.seal({}, {}, {}, 0)).exchanges[0].rows  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_a_value_has_one_text_whatever_the_protocol(dtype: Dtype, data: st.DataObject) -> None:
    decoder, signature = both(dtype)
    found = sent(decoder, signature, dtype, value := data.draw(values_of(dtype)))

    texts = {way: decoder.first(rows, "k") for way, rows in found.items()}
    assert len(set(texts.values())) == 1, (value, texts)
    assert {tuple(decoder.values(rows, "k")) for rows in found.values()} == {(texts["predict"],)}


def test_200_decimals_are_routed_alike() -> None:
    """The reproduction: 105 of 200 went elsewhere as raw tensors than as JSON."""
    plan = Plan(Phase.CANARY, weight=5_000, shadow=0, salt=7)
    decoder, signature = both("float32")
    for i in range(200):
        found = sent(decoder, signature, "float32", round(0.1 + i * 0.37, 2))
        assert len({routing.variant(plan, str(decoder.first(rows, "k"))) for rows in found.values()}) == 1


def test_short_decimals_keep_their_text() -> None:
    """Callers who send JSON stay on the variant that they had."""
    decoder, _ = both("float32")
    for value, text in ((0.1, "0.1"), (44, "44.0"), (-0.0, "0.0"), (1e30, "1e+30"), (12345.67, "12345.67")):
        assert decoder.value((value, None), "k") == text
    assert decoder.value((math.nan, None), "k") is None


def test_a_pinned_version_of_another_dtype_has_the_fields_text() -> None:
    """The field's dtype counts, not that of the model which happens to be asked."""
    decoder, signature = both("float32", pinned="float64")
    raw = to_bytes(np.array([0.1]))
    tensor = {"name": "k", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    assert decoder.first(signature.decode(head + raw, len(head)).rows, "k") == "0.1"


def test_a_key_in_a_header_is_the_same_key_as_in_a_body() -> None:
    """Header bytes are UTF-8 where they can be."""
    scope: Any = {"headers": [(b"x-rollout-key", "Zoë".encode())]}
    assert text_of(headers_under(scope, b"x-rollout-")[b"x-rollout-key"]) == "Zoë"


@pytest.mark.parametrize("key", ["route_by", "unit"])
def test_an_array_is_no_key(key: str) -> None:
    """Its text would be long, and the records process does not get arrays: the unit would be lost in silence."""
    policy = Policy.model_validate({"model": "m", "task": "other", "primary": "p.onnx", key: "image"})
    with pytest.raises(ConfigurationError, match=f"`{key}: image` names an input that takes an array"):
        check_keys(policy, [Field("image", "float32", (28, 28))])
