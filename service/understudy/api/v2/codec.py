"""Decodes requests and encodes responses of the protocol in one signature: the routed model's, or that of one version."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
from msgspec import UNSET

from understudy.api.answers import json_of
from understudy.api.v2 import large
from understudy.api.v2.documents import V2Tensor
from understudy.api.v2.large import V2InferRequest, V2InputTensor
from understudy.api.v2.outputs import outputs_of
from understudy.api.v2.tensors import DATATYPES, Slot, TensorError, Values, to_bytes, to_json
from understudy.domain import JsonObject, Variant
from understudy.errors import InputProblem, InvalidInput, MalformedRequest, TooLarge
from understudy.inference import Scores
from understudy.inference.cards import Card
from understudy.inference.columns import Table
from understudy.inference.decoding import Array, Decoder, Field, Row, Rows

ERRORS_MAX = 20
"""Most problems of one request that its response lists."""
BFLOAT16 = "BF16"
"""Each of its numbers is a float32, so inputs of FP32 take it as raw bytes."""
_CONTEXT_DATATYPES = {DATATYPES[dtype]: dtype for dtype in ("string", "int64", "int32", "uint64", "uint32")}


Elements: TypeAlias = dict[str, tuple[Slot, Values | Array, list[int]]]
"""Input → its slot, elements and shape."""

_decode = msgspec.json.Decoder(V2InferRequest).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that a request asks for, and whether as raw bytes."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A decoded inference request."""

    rows: Rows
    id: str | None
    outputs: Sequence[RequestedOutput]


class Signature:
    """Inputs and outputs of one model, or of both if the router chooses.

    Args:
        decoder: has the order of a row's fields, and the limits.
        cards: of the variants that may answer. Callers see the outputs of the first.
    """

    def __init__(self, decoder: Decoder, cards: Mapping[Variant, Card]) -> None:
        self._order = list(decoder.positions)
        self._rows_max = decoder.rows_max
        self.slots = {one.name: Slot(one) for one in _fields(decoder, cards)}
        self._context = {
            name: {
                datatype: Slot(Field(name, dtype, required=False), max_chars=decoder.key_max_chars)
                for datatype, dtype in _CONTEXT_DATATYPES.items()
            }
            for name in decoder.context
        }
        self._required = [slot for slot in self.slots.values() if slot.required]
        self.outputs = {output.spec.name: output for output in outputs_of(cards)}
        self._all = {binary: [RequestedOutput(name, binary) for name in self.outputs] for binary in (False, True)}

    def decode(self, body: bytes, header_length: int | None, *, in_pieces: bool = False) -> InferenceRequest:
        """Decode a request.

        Args:
            header_length: length of the JSON in front of the raw tensors, or None if the body is nothing but JSON.
            in_pieces: let other threads run in between, for a large body in a thread.

        Raises:
            MalformedRequest: not JSON, or no request of the protocol.
            TooLarge: more rows than `rows_max`.
            InvalidInput: tensors that do not match the signature; names each of them and its problem.
        """
        if header_length is not None and header_length > len(body):
            raise MalformedRequest(
                f"Inference-Header-Content-Length is {header_length}; the body has {len(body)} bytes"
            )
        raw = memoryview(body)
        text = raw[:header_length]
        request = large.parse(text, len(self._order)) if in_pieces else _parse(text)
        tail = raw[len(body) if header_length is None else header_length :]
        count, elements = self._read(request.inputs, tail, in_pieces=in_pieces)
        return InferenceRequest(self._rows(elements, count), request.id, self._requested_outputs(request))

    def encode(
        self,
        head: Mapping[str, object],
        request: InferenceRequest,
        scores: Scores,
        variant: Variant,
        *,
        in_pieces: bool = False,
    ) -> tuple[bytes, int | None]:
        """Encode a response: its body, and the length of its JSON if raw tensors follow.

        Args:
            head: members of the response in front of its outputs.
            request: as decoded.
            scores: the answers.
            variant: the model that answered.
            in_pieces: let other threads run in between, for a large answer in a thread.
        """
        outputs, tail = [], []
        for requested in request.outputs:
            array = self.outputs[requested.name].array(scores, variant)
            tensor: JsonObject = {
                "name": requested.name,
                "datatype": DATATYPES[self.outputs[requested.name].spec.dtype],
                "shape": array.shape,
            }
            if requested.binary:
                tail.append(to_bytes(array))
                tensor["parameters"] = {"binary_data_size": len(tail[-1])}
            else:
                tensor["data"] = msgspec.Raw(json_of(array.reshape(-1))) if in_pieces else to_json(array)
            outputs.append(tensor)
        text = _encode({**head, **({} if request.id is None else {"id": request.id}), "outputs": outputs})
        return (b"".join((text, *tail)), len(text)) if tail else (text, None)

    def metadata(self) -> tuple[list[V2Tensor], list[V2Tensor]]:
        """Inputs and outputs, as model metadata describe them."""
        optional: JsonObject = {"optional": True}
        inputs = [
            V2Tensor(slot.name, slot.datatype, slot.shape, UNSET if slot.required else optional)
            for slot in sorted(self.slots.values(), key=lambda slot: not slot.required)
        ]
        inputs += [V2Tensor(name, "BYTES", [-1], optional) for name in self._context]
        outputs = [
            V2Tensor(
                name,
                DATATYPES[output.spec.dtype],
                [-1, *(-1 if size is None else size for size in output.spec.row_shape)],
            )
            for name, output in self.outputs.items()
        ]
        return inputs, outputs

    def _read(self, inputs: Sequence[V2InputTensor], raw: memoryview, *, in_pieces: bool) -> tuple[int, Elements]:
        """The number of rows, and the elements of each input: a list from JSON, an array from raw bytes."""
        elements: Elements = {}
        problems: list[InputProblem] = []
        rows, at = 0, 0
        for tensor in inputs:
            try:
                size = _binary_size(tensor, len(raw) - at)
                at += size or 0
                slot = self._slot(tensor, elements)
                count = slot.rows(tensor.shape)
                if count > self._rows_max:
                    raise TooLarge(f"{count} rows; one request takes at most {self._rows_max}: send several")
                if not count or (rows and count != rows):
                    raise TensorError(
                        f"it has {count} rows; "
                        + (f"the inputs before it have {rows}" if count else "send at least one")
                    )
                rows = count
                if size is None:
                    read = slot.from_large_json if in_pieces else slot.from_json
                    elements[tensor.name] = slot, read(tensor.data, tensor.shape), tensor.shape
                else:
                    take = slot.from_bfloat16 if tensor.datatype == BFLOAT16 else slot.from_bytes
                    elements[tensor.name] = slot, take(raw[at - size : at], tensor.shape), tensor.shape
            except TensorError as error:
                problems.append({"row": None, "field": tensor.name, "problem": str(error)})
        named = {tensor.name for tensor in inputs}
        problems += [
            {"row": None, "field": s.name, "problem": f"is missing; the model takes {s.datatype} of shape {s.shape}"}
            for s in self._required
            if s.name not in named
        ]
        if not problems and at != len(raw):
            raise MalformedRequest(f"{len(raw) - at} bytes are left after the last input's binary data")
        if problems:
            raise InvalidInput(problems, _summary(problems))
        if not elements:
            raise MalformedRequest("`inputs` is empty")
        return rows, elements

    def _slot(self, tensor: V2InputTensor, elements: Elements) -> Slot:
        if tensor.name in elements:
            raise TensorError("appears twice")
        slot = self.slots.get(tensor.name)
        if slot is None:
            of_kind = self._context.get(tensor.name)
            if of_kind is None:
                raise TensorError(f"unknown; the model takes {', '.join(self._order)}")
            slot = of_kind.get(tensor.datatype, of_kind["BYTES"])
        if tensor.datatype == BFLOAT16 and slot.datatype == "FP32":
            if bytes(tensor.data):
                raise TensorError("BF16 is sent as binary data; JSON takes FP32")
        elif tensor.datatype != slot.datatype:
            raise TensorError(f"its datatype is {tensor.datatype[:40]!r}; the model takes {slot.datatype}")
        return slot

    def _rows(self, elements: Elements, count: int) -> Rows:
        """Lists of scalars become rows, like those of `POST /predict`. Arrays stay columns."""
        if all(isinstance(values, list) and slot.field.scalar for slot, values, _ in elements.values()):
            absent = [None] * count
            columns = [elements[name][1] if name in elements else absent for name in self._order]
            rows: list[Row] = list(zip(*columns, strict=True))
            return rows
        arrays: dict[str, Array] = {}
        for name, (slot, values, shape) in elements.items():
            try:
                arrays[name] = slot.array(values, shape) if isinstance(values, list) else values
            except TensorError as error:
                raise InvalidInput([{"row": None, "field": name, "problem": str(error)}]) from None
        return Table(arrays, count)

    def _requested_outputs(self, request: V2InferRequest) -> list[RequestedOutput]:
        binary = bool(request.parameters and request.parameters.get("binary_data_output", False))
        if not request.outputs:
            return self._all[binary]
        requested: dict[str, RequestedOutput] = {}
        for output in request.outputs:
            if output.name not in self.outputs:
                raise MalformedRequest(f"output {output.name[:100]!r} is unknown; there are {', '.join(self.outputs)}")
            if output.name in requested:
                raise MalformedRequest(f"output {output.name!r} appears twice in `outputs`")
            requested[output.name] = RequestedOutput(
                output.name, bool((output.parameters or {}).get("binary_data", binary))
            )
        return list(requested.values())


def _parse(text: memoryview) -> V2InferRequest:
    try:
        return _decode(text)
    except large.NOT_PARSED as error:
        raise large.not_parsed(error) from None


def _binary_size(tensor: V2InputTensor, left: int) -> int | None:
    """The number of a tensor's raw bytes, or None if its data are in the JSON."""
    parameters = tensor.parameters or {}
    if "shared_memory_region" in parameters:
        raise MalformedRequest("shared memory is not supported: send the data")
    size = parameters.get("binary_data_size")
    if size is None:
        if not bytes(tensor.data):
            raise TensorError("has neither `data` nor `binary_data_size`")
        return None
    if bytes(tensor.data):
        raise TensorError("has both `data` and `binary_data_size`")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise MalformedRequest(f"binary_data_size of {tensor.name[:100]!r} takes a number of bytes")
    if size > left:
        raise MalformedRequest(
            f"binary_data_size of {tensor.name[:100]!r} is {size}, but only {left} bytes of the body are left after its JSON. "
            "Inference-Header-Content-Length must be the length of the JSON"
        )
    return size


def _summary(problems: Sequence[InputProblem]) -> str:
    listed = "; ".join(f"input {str(p['field'])[:100]!r}: {p['problem']}" for p in problems[:ERRORS_MAX])
    return listed + (f"; and {len(problems) - ERRORS_MAX} more" if len(problems) > ERRORS_MAX else "")


def _fields(decoder: Decoder, cards: Mapping[Variant, Card]) -> list[Field]:
    """The fields of a row. For one version its own inputs as it declares them; the other model's inputs are optional."""
    if len(cards) > 1:
        return list(decoder.fields)
    [card] = cards.values()
    own = {spec.name: Field(spec.name, spec.dtype, spec.row_shape, spec.nullable) for spec in card.inputs}
    return [own.get(f.name, Field(f.name, f.dtype, f.shape, f.nullable, required=False)) for f in decoder.fields]
