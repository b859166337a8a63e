"""The format of columns between processes: MessagePack, with numbers as raw little-endian bytes and strings as a list.

Both ends run the same code on one machine, so the format has no version. A body that does not decode is an error.
"""

import math
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec
import numpy as np

from understudy.inference.decoding import Array
from understudy.inference.ragged import is_ragged, of_rows

DIGEST_HEADER = "X-Model-Digest"
"""Header with the digest of the model that a call is for; a process with another model rejects the call."""
TIMEOUT_HEADER = "X-Timeout-Ms"
"""Header with the time after which the caller no longer waits; the process cancels the run then."""
COPY_MAX = 64 * 1024
"""Bytes of an array that is copied once more when it is packed: less work for small ones."""
MEDIA_TYPE = "application/vnd.msgpack"


class _Columns(msgspec.Struct, array_like=True, gc=False):
    """Columns with the same dtype and shape, one after the other; most columns of a table share both.

    Attributes:
        rows: of a single column whose rows differ in shape: the shape of each row. Their elements follow one another in `data`.
    """

    names: list[str]
    dtype: str
    shape: tuple[int, ...]
    data: bytes | list[str]
    rows: list[tuple[int, ...]] | None = None


class _Call(msgspec.Struct, array_like=True, gc=False):
    """A call of the candidate's process: the rows of several requests, and the number of rows of each."""

    sizes: list[int]
    columns: list[_Columns]


class _Part(msgspec.Struct, array_like=True, gc=False):
    requests: int
    columns: list[_Columns] = []
    error: str | None = None
    misshapen: bool = False
    late: bool = False


class _Reply(msgspec.Struct, array_like=True, gc=False):
    parts: list[_Part]
    retries: int = 0


class Part(msgspec.Struct, gc=False):
    """The result of one run of the model, for consecutive requests of a call.

    Attributes:
        requests: how many requests shared the run; one if it failed.
        outputs: the outputs by name.
        error: why the run failed; None if it did not.
        misshapen: whether it failed because an output has another shape than on the card.
        late: whether it was not done in time.
    """

    requests: int
    outputs: Mapping[str, Array] = {}
    error: str | None = None
    misshapen: bool = False
    late: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Columns]).decode
_decode_call = msgspec.msgpack.Decoder(_Call).decode
_decode_reply = msgspec.msgpack.Decoder(_Reply).decode


def pack_call(columns: Mapping[str, Array], sizes: Sequence[int]) -> bytes:
    """Encode a call.

    Args:
        columns: the rows of all requests.
        sizes: the number of rows of each request.
    """
    return _encode(_Call(list(sizes), _packed(columns)))


def unpack_call(body: bytes) -> tuple[dict[str, Array], list[int]]:
    """Decode a call into its columns and the number of rows of each request.

    Raises:
        ValueError: the bytes are no output of `pack_call`.
    """
    call = _decode_call(body)
    rows = sum(call.sizes)
    if not call.columns or any(columns.shape[:1] != (rows,) for columns in call.columns):
        raise ValueError("the columns of the call do not have as many rows as its requests")
    return _unpacked(call.columns), call.sizes


def pack_reply(parts: Sequence[Part], retries: int) -> bytes:
    """Encode the reply to a call.

    Args:
        parts: the results of the runs.
        retries: how many joint runs failed and were repeated in parts.
    """
    packed = [_Part(part.requests, _packed(part.outputs), part.error, part.misshapen, part.late) for part in parts]
    return _encode(_Reply(packed, retries))


def unpack_reply(body: bytes) -> tuple[list[Part], int]:
    """Decode the reply to a call into its parts and the number of retries.

    Raises:
        ValueError: the bytes are no output of `pack_reply`.
    """
    reply = _decode_reply(body)
    return [Part(p.requests, _unpacked(p.columns), p.error, p.misshapen, p.late) for p in reply.parts], reply.retries


def pack(columns: Mapping[str, Array]) -> bytes:
    """Encode columns."""
    return _encode(_packed(columns))


def _packed(columns: Mapping[str, Array]) -> list[_Columns]:
    alike: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    apart: list[_Columns] = []
    for name, array in columns.items():
        if array.dtype.kind == "O" and is_ragged(array):
            apart.append(_ragged(name, array))
            continue
        alike.setdefault(("O" if array.dtype.kind in "OU" else array.dtype.str, array.shape), []).append(name)
    return [
        _Columns(names, dtype, shape, [text for name in names for text in columns[name].reshape(-1).tolist()])
        if dtype == "O"
        else _Columns(names, dtype, shape, _bytes_of([columns[name] for name in names]))
        for (dtype, shape), names in alike.items()
    ] + apart


def _ragged(name: str, array: Array) -> _Columns:
    """A column whose rows differ in shape."""
    rows = list(array)
    shapes = [row.shape for row in rows]
    if rows[0].dtype.kind in "OU":
        return _Columns([name], "O", array.shape, [text for row in rows for text in row.reshape(-1).tolist()], shapes)
    return _Columns([name], rows[0].dtype.str, array.shape, b"".join([row.tobytes() for row in rows]), shapes)


def _bytes_of(arrays: Sequence[Array]) -> bytes:
    """The bytes of arrays of one dtype and shape, one after the other. Those of a single large one are not copied."""
    if len(arrays) == 1 and arrays[0].nbytes > COPY_MAX:
        view = np.ascontiguousarray(arrays[0]).reshape(-1).view(np.uint8).data
        return cast("bytes", view)  # msgspec packs a memoryview as it packs bytes
    return b"".join([array.tobytes() for array in arrays])


def unpack(body: bytes) -> dict[str, Array]:
    """Decode columns. Numeric arrays are read-only views of `body`.

    Raises:
        ValueError: the bytes are no output of `pack`.
    """
    return _unpacked(_decode(body))


def _unpacked(packed: Sequence[_Columns]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for columns in packed:
        if isinstance(columns.data, list):
            block: Array = np.array(columns.data, dtype=object)
        else:
            block = np.frombuffer(columns.data, dtype=columns.dtype)
        if columns.rows is not None:
            ends = np.cumsum([math.prod(shape) for shape in columns.rows])
            parts = np.split(block, ends[:-1])
            arrays[columns.names[0]] = of_rows(
                [part.reshape(shape) for part, shape in zip(parts, columns.rows, strict=True)]
            )
            continue
        if len(columns.names) == 1:  # to iterate over one block takes longer than all the rest
            arrays[columns.names[0]] = block.reshape(columns.shape)
        else:
            arrays.update(zip(columns.names, block.reshape(len(columns.names), *columns.shape), strict=True))
    return arrays
