"""Reads the protobuf fields and the external data files of an ONNX file, without the `onnx` package. Pure.

An ONNX model keeps weights in the `.onnx` file or in files beside it ("external data"), each named by a tensor's `location`.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TypeAlias

from understudy.errors import ConfigurationError

EXTERNAL_FILES_MAX = 4_096
"""The most external data files of a model; exporters write one, or one per tensor."""
_EXTERNAL_KEY = b"\x0a\x08location"  # the key of a tensor's entry that names its file

Buffer: TypeAlias = bytes | memoryview
Value: TypeAlias = int | memoryview

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Where tensors lie in a model: message → field number → the message in that field (onnx.proto3).
_NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


def fields(message: Buffer) -> Iterator[tuple[int, Value]]:
    """The fields of a protobuf message: each one's number, and its integer or bytes (string, message or fixed-size number).

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    data = memoryview(message)
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            number, at = _varint(data, at)
            yield tag >> 3, number
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in {_FIXED64, _FIXED32}:
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"protobuf wire type {kind} is not known")
        if at + size > end:
            raise ValueError("a protobuf field extends beyond its message")
        yield tag >> 3, data[at : at + size]
        at += size


def external_files(model: bytes, source: str) -> list[str]:
    """The external data files of a model, relative to its folder, sorted; most models have none.

    Args:
        model: the bytes of the `.onnx` file.
        source: the model's name in error messages.

    Raises:
        ConfigurationError: a file lies outside of the model's folder, or there are too many.
    """
    if _EXTERNAL_KEY not in model:  # walking a large forest's attributes would take seconds
        return []
    try:
        names = sorted(set(_locations(model, "model")))
    except (ValueError, RecursionError):
        return []  # not an ONNX file: ONNX Runtime will report it
    if len(names) > EXTERNAL_FILES_MAX:
        raise ConfigurationError(
            f"{source} names {len(names)} external data files; at most {EXTERNAL_FILES_MAX} are read"
        )
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\x00" in name:
            raise ConfigurationError(
                f"{source} names the external data file {name!r}, which is outside of its folder; export the model again with its "
                "data beside it"
            )
    return names


def _locations(message: Buffer, kind: str) -> Iterator[str]:
    nested = _NESTED[kind]
    for number, value in fields(message):
        inner = nested.get(number)
        if inner is None or isinstance(value, int):
            continue
        if inner != "entry":
            yield from _locations(value, inner)
            continue
        entry = dict(fields(value))
        if bytes(entry.get(1, b"")) == b"location":
            yield bytes(entry.get(2, b"")).decode()


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a protobuf number does not end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
