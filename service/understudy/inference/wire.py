"""How columns travel between processes: MessagePack, numbers as their raw little-endian bytes, strings as a list.

Both ends are this code on one machine, so the format carries no version; a body that does not decode is an error.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from understudy.inference.decoding import Array

DIGEST_HEADER = "X-Model-Digest"
"""The digest of the model that a call is for; a process that has another one refuses."""
MEDIA_TYPE = "application/vnd.msgpack"


class _Columns(msgspec.Struct, array_like=True, gc=False):
    """Columns of one dtype and shape, one after the other: most of a table's are alike."""

    names: list[str]
    dtype: str
    shape: tuple[int, ...]
    data: bytes | list[str]


class _Call(msgspec.Struct, array_like=True, gc=False):
    """Rows of several requests for the candidate's process; `sizes`: how many rows each request has."""

    sizes: list[int]
    columns: list[_Columns]


class _Part(msgspec.Struct, array_like=True, gc=False):
    requests: int
    columns: list[_Columns] = []
    error: str | None = None
    misshapen: bool = False


class _Reply(msgspec.Struct, array_like=True, gc=False):
    parts: list[_Part]
    retries: int = 0


class Part(msgspec.Struct, gc=False):
    """What came of some requests of a call, one after the other, that were one run of the model.

    Attributes:
        requests: how many; one where the run failed.
        outputs: of the run, by name.
        error: what the model said instead of giving any; `misshapen`: what it gave was not of the promised shape.
    """

    requests: int
    outputs: Mapping[str, Array] = {}
    error: str | None = None
    misshapen: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Columns]).decode
_decode_call = msgspec.msgpack.Decoder(_Call).decode
_decode_reply = msgspec.msgpack.Decoder(_Reply).decode


def pack_call(columns: Mapping[str, Array], sizes: Sequence[int]) -> bytes:
    """The bytes of a call: the rows of all its requests as columns, and how many rows each request has."""
    return _encode(_Call(list(sizes), _packed(columns)))


def unpack_call(body: bytes) -> tuple[dict[str, Array], list[int]]:
    """The columns of a call, and how many rows each of its requests has.

    Raises:
        ValueError: when the bytes are not what `pack_call` makes.
    """
    call = _decode_call(body)
    rows = sum(call.sizes)
    if not call.columns or any(columns.shape[:1] != (rows,) for columns in call.columns):
        raise ValueError("the columns of the call have not as many rows as its requests")
    return _unpacked(call.columns), call.sizes


def pack_reply(parts: Sequence[Part], retries: int) -> bytes:
    """The bytes of the answer to a call; `retries`: joint runs that failed and were run again in parts."""
    packed = [_Part(part.requests, _packed(part.outputs), part.error, part.misshapen) for part in parts]
    return _encode(_Reply(packed, retries))


def unpack_reply(body: bytes) -> tuple[list[Part], int]:
    """The parts of the answer to a call, and the retries.

    Raises:
        ValueError: when the bytes are not what `pack_reply` makes.
    """
    reply = _decode_reply(body)
    return [Part(p.requests, _unpacked(p.columns), p.error, p.misshapen) for p in reply.parts], reply.retries


def pack(columns: Mapping[str, Array]) -> bytes:
    """The bytes of some columns."""
    return _encode(_packed(columns))


def _packed(columns: Mapping[str, Array]) -> list[_Columns]:
    alike: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, array in columns.items():
        alike.setdefault(("O" if array.dtype.kind in "OU" else array.dtype.str, array.shape), []).append(name)
    return [
        _Columns(names, dtype, shape, [text for name in names for text in columns[name].reshape(-1).tolist()])
        if dtype == "O"
        else _Columns(names, dtype, shape, b"".join([columns[name].tobytes() for name in names]))
        for (dtype, shape), names in alike.items()
    ]


def unpack(body: bytes) -> dict[str, Array]:
    """The columns in some bytes. The arrays are read-only views of `body` where they can be.

    Raises:
        ValueError: when the bytes are not what `pack` makes.
    """
    return _unpacked(_decode(body))


def _unpacked(packed: Sequence[_Columns]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for columns in packed:
        if isinstance(columns.data, list):
            together: Array = np.array(columns.data, dtype=object)
        else:
            together = np.frombuffer(columns.data, dtype=np.dtype(columns.dtype))
        found.update(zip(columns.names, together.reshape(len(columns.names), *columns.shape), strict=True))
    return found
