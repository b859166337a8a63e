"""Calls the records process with batches of exchanges and with labels. Both are stored when a call returns."""

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
"""How long the records process may take for one batch."""
LABELS_TIMEOUT_S = 1.0
"""How long it may take for labels: their caller waits."""
COOL_DOWN_S = 5.0
"""How long no labels are sent to a process that did not answer, unless it has answered another call meanwhile."""
CALLS_MAX = 2
"""Concurrent calls: a batch of exchanges, and labels."""


class LabelBatch(msgspec.Struct, array_like=True, gc=False):
    """Labels that are sent to the records process.

    Attributes:
        batch_id: names the batch, so that it is stored once, whichever process stores it.
        until: when the sender stops waiting, on the machine's monotonic clock.
    """

    reports: list[LabelReport]
    batch_id: str
    until: float

    def check(self) -> None:
        """Check that the sender is still waiting.

        Raises:
            StoreError: the sender has stopped waiting and stores the labels itself.
        """
        if time.monotonic() > self.until:
            raise StoreError("the sender of these labels has stopped waiting")


pack_labels = msgspec.msgpack.encode
unpack_labels = msgspec.msgpack.Decoder(LabelBatch).decode
pack_fates = msgspec.msgpack.encode
unpack_fates = msgspec.msgpack.Decoder(list[Fate]).decode


class RecordsUnavailable(StoreError):
    """The records process did not answer; the data may be stored or not."""


class RecordsClient:
    """Calls the records process. Not thread-safe: it belongs to one event loop.

    Args:
        url: `file:///path/to.sock` or `http://host:port`.
    """

    def __init__(self, url: str) -> None:
        self._channel = Channel(url, connections_max=CALLS_MAX, media_type=wire.MEDIA_TYPE)
        self._not_before = 0.0  # no labels, on the event loop's clock

    async def write(self, packed: bytes) -> None:
        """Send a packed batch; it is stored when this returns.

        Raises:
            RecordsUnavailable: it is unknown whether the batch was stored.
            StoreError: the store is unavailable; nothing was stored.
        """
        status, answer = await self._post("/batch", packed, TIMEOUT_S)
        if status != HTTPStatus.OK:
            raise StoreError(_problem(status, answer))

    async def labels(self, reports: Sequence[LabelReport], batch_id: str) -> Sequence[Fate]:
        """Send labels; they are stored when this returns.

        Args:
            batch_id: names this batch of labels; a retry must use the same.

        Returns:
            The fate of each label, in their order.

        Raises:
            RecordsUnavailable: it is unknown whether they were stored; retry with the same batch_id.
            StoreError: the store is unavailable; nothing was stored.
            ValueError: one of them cannot be stored; nothing was stored.
        """
        if asyncio.get_running_loop().time() < self._not_before:
            raise RecordsUnavailable("the records process did not answer a moment ago")
        batch = LabelBatch(list(reports), batch_id, time.monotonic() + LABELS_TIMEOUT_S)
        status, answer = await self._post("/labels", pack_labels(batch), LABELS_TIMEOUT_S)
        if status == HTTPStatus.OK:
            return unpack_fates(answer)
        raise (ValueError if status == HTTPStatus.BAD_REQUEST else StoreError)(_problem(status, answer))

    def close(self) -> None:
        """Close the connections."""
        self._channel.close()

    async def _post(self, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._channel.post(path, body)
        except OSError as error:
            self._not_before = asyncio.get_running_loop().time() + COOL_DOWN_S
            raise RecordsUnavailable(f"the records process did not answer: {error or type(error).__name__}") from error
        self._not_before = 0.0
        return answer


def _problem(status: int, answer: bytes) -> str:
    """The error message of the records process."""
    try:
        return str(msgspec.json.decode(answer)["detail"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return f"the records process answered {status}: {answer[:300].decode(errors='replace')}"
