"""The form of an inference request, and how a large one is parsed in pieces. Pure."""

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from understudy.domain import JsonObject
from understudy.errors import MalformedRequest
from understudy.inference.pieces import NotAList, decoded, inside

SMALL_MAX = 64 * 1024
"""Bytes of everything but the tensors' data in a large request, member by member; real ones have a few hundred."""


class V2InputTensor(msgspec.Struct):
    """One input of a request. `data` is flat or nested; absent with `binary_data_size` in `parameters`."""

    name: str
    shape: list[Annotated[int, Meta(ge=0)]]
    datatype: str
    parameters: JsonObject | None = None
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class V2RequestedOutput(msgspec.Struct):
    """An output that the response shall have."""

    name: str
    parameters: JsonObject | None = None


class V2InferRequest(msgspec.Struct):
    """Rows to predict, as tensors."""

    inputs: list[V2InputTensor]
    id: str | None = None
    parameters: JsonObject | None = None
    outputs: list[V2RequestedOutput] | None = None


class _Tensor(msgspec.Struct):
    name: msgspec.Raw
    shape: msgspec.Raw
    datatype: msgspec.Raw
    parameters: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _Request(msgspec.Struct):
    inputs: msgspec.Raw
    id: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    parameters: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    outputs: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


NOT_PARSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for a text that is no request."""

_request = msgspec.json.Decoder(_Request).decode
_tensors = msgspec.json.Decoder(list[_Tensor]).decode
_head = msgspec.json.Decoder(V2InferRequest).decode
_head_of_tensor = msgspec.json.Decoder(V2InputTensor).decode
_TENSOR_END = re.compile(rb"\}\s*,")


def not_parsed(error: Exception) -> MalformedRequest:
    """The error for a text that is no request; `error` is one of `NOT_PARSED`."""
    if isinstance(error, msgspec.ValidationError):
        return MalformedRequest(f"the request does not follow the protocol: {error}")
    if isinstance(error, RecursionError):
        return MalformedRequest("the request is nested too deeply")
    return MalformedRequest(
        f"the request is not {'UTF-8' if isinstance(error, UnicodeDecodeError) else 'JSON'}: {error}"
    )


def parse(text: memoryview, inputs_max: int) -> V2InferRequest:
    """Parse a request; the data of its tensors stay text.

    Args:
        text: the JSON.
        inputs_max: the number of inputs that the models have together.

    Raises:
        MalformedRequest: it is no request, it has more inputs, or a member besides the data is too large.
    """
    try:
        raw = _request(text)
        members = _members(b'"inputs":[]', id=raw.id, parameters=raw.parameters, outputs=raw.outputs)
        request = _head(members)
        for piece, found in decoded(inside(raw.inputs), _TENSOR_END, _tensors):
            for tensor in _tensors(piece) if found is None else found:
                if len(request.inputs) > inputs_max:
                    raise MalformedRequest(f"it has more than the {inputs_max} inputs that there are")
                own = _members(
                    b"", name=tensor.name, shape=tensor.shape, datatype=tensor.datatype, parameters=tensor.parameters
                )
                request.inputs.append(_head_of_tensor(own))
                request.inputs[-1].data = tensor.data
    except NotAList:
        raise MalformedRequest("the request does not follow the protocol: `inputs` is no list") from None
    except NOT_PARSED as error:
        raise not_parsed(error) from None
    return request


def _members(first: bytes, **members: msgspec.Raw) -> bytes:
    """A JSON object of these members, without those that are absent.

    Raises:
        MalformedRequest: one is too large.
    """
    parts = [first] if first else []
    for name, raw in members.items():
        value = bytes(raw)
        if len(value) > SMALL_MAX:
            raise MalformedRequest(f"`{name}` has {len(value)} bytes; {SMALL_MAX} is the most")
        if value:
            parts.append(b'"%s":%s' % (name.encode(), value))
    return b"{" + b",".join(parts) + b"}"
