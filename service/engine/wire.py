"""How columns travel between processes: MessagePack, numbers as their raw little-endian bytes, strings as a list.

Both ends are this code on one machine, so the format carries no version; a body that does not decode is an error.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from service.inputs import Array

MEDIA_TYPE = "application/vnd.msgpack"


class _Columns(msgspec.Struct, array_like=True, gc=False):
    """Columns of one dtype and shape, one after the other: most of a table's are alike."""

    names: list[str]
    dtype: str
    shape: tuple[int, ...]
    data: bytes | list[str]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Columns]).decode


def pack(columns: Mapping[str, Array]) -> bytes:
    """The bytes of some columns."""
    alike: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, array in columns.items():
        alike.setdefault(("O" if array.dtype.kind in "OU" else array.dtype.str, array.shape), []).append(name)
    return _encode([
        _Columns(names, dtype, shape, [text for name in names for text in columns[name].reshape(-1).tolist()])
        if dtype == "O"
        else _Columns(names, dtype, shape, b"".join([columns[name].tobytes() for name in names]))
        for (dtype, shape), names in alike.items()
    ])  # fmt: skip


def unpack(body: bytes) -> dict[str, Array]:
    """The columns in some bytes. The arrays are read-only views of `body` where they can be.

    Raises:
        ValueError: when the bytes are not what `pack` makes.
    """
    found: dict[str, Array] = {}
    for columns in _decode(body):
        if isinstance(columns.data, list):
            together: Array = np.array(columns.data, dtype=object)
        else:
            together = np.frombuffer(columns.data, dtype=np.dtype(columns.dtype))
        found.update(zip(columns.names, together.reshape(len(columns.names), *columns.shape), strict=True))
    return found
