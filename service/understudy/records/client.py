"""The road to the records process: batches of exchanges, and labels; both are written when this returns."""

import asyncio
import time
from collections.abc import Sequence
from http import HTTPStatus

import msgspec

from understudy.domain import Fate, LabelReport
from understudy.errors import StoreError
from understudy.inference import wire
from understudy.runtime.ipc import Channel

TIMEOUT_S = 5.0
"""How long the records process may take over one batch."""
LABELS_TIMEOUT_S = 1.0
"""And over some labels: their caller waits."""
LEFT_ALONE_S = 5.0
"""How long no labels go to a process that did not answer, unless it has taken a batch meanwhile."""
CALLS_MAX = 2
"""Under way at once: a batch of exchanges, and labels."""


class LabelBatch(msgspec.Struct, array_like=True, gc=False):
    """Labels on their way.

    Attributes:
        batch_id: names the batch, so that it is stored once whoever tries.
        until: when the sender stops waiting, on the machine's monotonic clock: a later start is of no use.
    """

    reports: list[LabelReport]
    batch_id: str
    until: float

    def check(self) -> None:
        """Whether it may still be stored.

        Raises:
            StoreError: its sender has gone on without this process, and stores it elsewhere.
        """
        if time.monotonic() > self.until:
            raise StoreError("the sender of these labels has stopped waiting")


pack_labels = msgspec.msgpack.encode
unpack_labels = msgspec.msgpack.Decoder(LabelBatch).decode
pack_fates = msgspec.msgpack.encode
unpack_fates = msgspec.msgpack.Decoder(list[Fate]).decode


class RecordsUnavailable(StoreError):
    """The records process did not answer; what it was given may be written, or not."""


class RecordsClient:
    """Calls the records process. Not thread-safe: it belongs to one event loop.

    Args:
        url: `file:///path/to.sock` or `http://host:port`.
    """

    def __init__(self, url: str) -> None:
        self._channel = Channel(url, connections_max=CALLS_MAX, media_type=wire.MEDIA_TYPE)
        self._not_before = 0.0  # no labels, on the event loop's clock

    async def write(self, packed: bytes) -> None:
        """Hand over a packed batch; it is written when this returns.

        Raises:
            RecordsUnavailable: whether it was written is not known.
            StoreError: the store is away; nothing was written.
        """
        status, told = await self._post("/batch", packed, TIMEOUT_S)
        if status != HTTPStatus.OK:
            raise StoreError(_said(status, told))

    async def labels(self, reports: Sequence[LabelReport], batch_id: str) -> Sequence[Fate]:
        """Hand over labels; they are written when this returns. What became of each is told in their order.

        Args:
            batch_id: names this batch of labels; whoever tries again gives the same.

        Raises:
            RecordsUnavailable: whether they were written is not known; the batch_id tells whoever stores them again.
            StoreError: the store is away; nothing was written.
            ValueError: the store cannot keep one of them; nothing was written.
        """
        if asyncio.get_running_loop().time() < self._not_before:
            raise RecordsUnavailable("the records process did not answer a moment ago")
        batch = LabelBatch(list(reports), batch_id, time.monotonic() + LABELS_TIMEOUT_S)
        status, told = await self._post("/labels", pack_labels(batch), LABELS_TIMEOUT_S)
        if status == HTTPStatus.OK:
            return unpack_fates(told)
        raise (ValueError if status == HTTPStatus.BAD_REQUEST else StoreError)(_said(status, told))

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    async def _post(self, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._channel.post(path, body)
        except OSError as error:
            self._not_before = asyncio.get_running_loop().time() + LEFT_ALONE_S
            raise RecordsUnavailable(f"the records process: {error or type(error).__name__}") from error
        self._not_before = 0.0
        return answer


def _said(status: int, told: bytes) -> str:
    """What is wrong, as the records process says it."""
    try:
        return str(msgspec.json.decode(told)["detail"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return f"the records process answered {status}: {told[:300].decode(errors='replace')}"
