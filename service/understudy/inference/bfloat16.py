"""bfloat16, which NumPy does not have: the service sees float32, of which it is the upper half.

Outputs are exact. Inputs are rounded to the nearest bfloat16. ONNX Runtime takes and gives such tensors as `OrtValue`s only.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy.errors import InferenceError
from understudy.inference.decoding import Array
from understudy.inference.signature import Node, RawOutput, Session

ONNX_TYPE = 16
"""`TensorProto.BFLOAT16`."""
NAME = "tensor(bfloat16)"


def to_bits(array: Array) -> Array:
    """The bits of the nearest bfloat16, uint16, of float32 numbers; halves to even.

    Raises:
        InferenceError: a finite number is too large.
    """
    whole = np.ascontiguousarray(array, np.float32)
    bits = whole.view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    found = np.where(np.isnan(whole), np.uint16(0x7FC0), rounded)
    if (np.isinf(to_float(found)) & np.isfinite(whole)).any():
        raise InferenceError("a number is too large for bfloat16")
    return found


def to_float(bits: Array) -> Array:
    """The float32 numbers of the bits of bfloat16 numbers. Exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True, slots=True)
class _AsFloat:
    name: str
    type: str
    shape: Sequence[int | str | None]


class Bfloat16Session:
    """A session with inputs or outputs of bfloat16, as one of float32.

    Args:
        session: `onnxruntime.InferenceSession`.
        value: `onnxruntime.OrtValue`.
    """

    def __init__(self, session: Any, value: Any) -> None:
        self._session, self._value = session, value
        self._inputs, self._outputs = session.get_inputs(), session.get_outputs()
        self._halves = {node.name for node in self._inputs if node.type == NAME}

    def get_inputs(self) -> Sequence[Node]:
        """See `Session.get_inputs`."""
        return [_as_float(node) for node in self._inputs]

    def get_outputs(self) -> Sequence[Node]:
        """See `Session.get_outputs`."""
        return [_as_float(node) for node in self._outputs]

    def get_providers(self) -> Sequence[str]:
        """The session's execution providers."""
        found: Sequence[str] = self._session.get_providers()
        return found

    def run(
        self, output_names: Sequence[str] | None, input_feed: dict[str, Array], run_options: object = None, /
    ) -> Sequence[RawOutput]:
        """See `Session.run`."""
        feed = {
            name: self._value.ortvalue_from_numpy_with_onnx_type(to_bits(array), ONNX_TYPE)
            if name in self._halves
            else self._value.ortvalue_from_numpy(np.ascontiguousarray(array))
            for name, array in input_feed.items()
        }
        names = [node.name for node in self._outputs] if output_names is None else list(output_names)
        return [_array(found) for found in self._session.run_with_ort_values(names, feed, run_options)]


def with_float32(session: Any, value: Any) -> Session:
    """The session; one of float32 around it if an input or output is bfloat16.

    Args:
        session: `onnxruntime.InferenceSession`.
        value: `onnxruntime.OrtValue`.
    """
    own: Session = session
    halves = any(node.type == NAME for node in (*own.get_inputs(), *own.get_outputs()))
    return Bfloat16Session(session, value) if halves else own


def _as_float(node: Node) -> Node:
    return _AsFloat(node.name, "tensor(float)", node.shape) if node.type == NAME else node


def _array(value: Any) -> Array:
    if value.data_type() != NAME:
        array: Array = value.numpy()
        return array
    if value.device_name() != "cpu":
        raise InferenceError(
            "an output of bfloat16 is in the memory of another device; export the model with a Cast to float32"
        )
    shape = value.shape()
    count = math.prod(shape)
    if not count:
        return np.empty(shape, np.float32)
    pointer = ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint16))
    return to_float(np.ctypeslib.as_array(pointer, (count,))).reshape(shape)  # a copy: `value` owns the memory
