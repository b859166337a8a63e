"""How columns travel between processes: MessagePack, numbers as their raw little-endian bytes, strings as a list.

Both ends are this code on one machine, so the format carries no version; a body that does not decode is an error.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from service.inputs import Array

MEDIA_TYPE = "application/vnd.msgpack"


class _Column(msgspec.Struct, array_like=True, gc=False):
    name: str
    dtype: str
    shape: list[int]
    data: bytes | list[str]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Column]).decode


def pack(columns: Mapping[str, Array]) -> bytes:
    """The bytes of some columns."""
    return _encode(
        [
            _Column(name, "O", list(array.shape), array.reshape(-1).tolist())
            if array.dtype.kind in "OU"
            else _Column(name, array.dtype.str, list(array.shape), np.ascontiguousarray(array).tobytes())
            for name, array in columns.items()
        ]
    )


def unpack(body: bytes) -> dict[str, Array]:
    """The columns in some bytes. The arrays are read-only views of `body` where they can be.

    Raises:
        ValueError: when the bytes are not what `pack` makes.
    """
    columns: dict[str, Array] = {}
    for column in _decode(body):
        if isinstance(column.data, list):
            array: Array = np.array(column.data, dtype=object)
        else:
            array = np.frombuffer(column.data, dtype=np.dtype(column.dtype))
        columns[column.name] = array.reshape(column.shape)
    return columns
