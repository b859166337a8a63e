"""Rehearsals: in the background, the model that did not answer scores answered requests.

Exchanges wait in a bounded queue. Those that do not fit are recorded as dropped, so rehearsals never delay an answer. One
call runs at a time, with the rows that have gathered over a few milliseconds. A candidate that cannot keep up gets no more
load; its rehearsals are dropped and counted.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from understudy.domain import Status, Variant
from understudy.errors import CandidateAway, NotReady, Overloaded, UnderstudyError
from understudy.inference import Scores, ended
from understudy.inference.batching import LocalModel
from understudy.inference.columns import joined
from understudy.inference.decoding import Batch, Rows
from understudy.inference.joint import split
from understudy.records.exchange import Exchange

log = structlog.get_logger(__name__)


class Rehearsed(Protocol):
    """Receives complete exchanges."""

    def add(self, exchange: Exchange) -> None:
        """Take a complete exchange."""
        ...


AT_ONCE = 32
"""Rehearsed requests recorded per event-loop iteration; new requests wait meanwhile."""


class Rehearsal:
    """Lets one variant score exchanges that the other has answered.

    Args:
        variant: the variant that rehearses.
        infer: returns the scores or the error of each request. An exception applies to all of them.
        done: receives each exchange once, however its rehearsal ended.
        queue_max_rows: the most rows that wait.
        batch_max_rows: the most rows in a call.
        timeout_s: the time limit of a call.
        gather_s: how long the first request of a call waits for others.
        queue_max_elements: the most elements of arrays that wait.
        elements_of: counts them in the rows of a request; None if no field is an array.
    """

    def __init__(
        self,
        variant: Variant,
        infer: Callable[[Sequence[Batch]], Awaitable[Sequence[Scores | Exception]]],
        done: Rehearsed,
        *,
        queue_max_rows: int,
        batch_max_rows: int,
        timeout_s: float,
        gather_s: float = 0.0,
        queue_max_elements: int = 0,
        elements_of: Callable[[Rows], int] | None = None,
    ) -> None:
        self.variant = variant
        self._infer, self._done = infer, done
        self._queue: deque[Exchange] = deque()
        self._under_way: deque[Exchange] = deque()
        self._rows = self._elements = 0  # of those in the queue
        self._sizes: deque[int] = deque()  # the elements of each
        self._queue_max_elements, self._elements_of = queue_max_elements, elements_of
        self._queue_max_rows, self._batch_max_rows, self._timeout_s = queue_max_rows, batch_max_rows, timeout_s
        self._gather_s = gather_s
        self._worker: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def offer(self, exchange: Exchange) -> None:
        """Queue an exchange, or drop it if the queue is full. Never blocks, never raises."""
        exchange.rehearsal = self.variant
        elements = 0 if self._elements_of is None else self._elements_of(exchange.rows)
        full = self._rows + exchange.count > self._queue_max_rows
        if (full or self._elements + elements > self._queue_max_elements) and self._queue:
            self._drop([exchange])
            return
        self._queue.append(exchange)
        self._sizes.append(elements)
        self._elements += elements
        self._rows += exchange.count
        if self._worker is None:
            self._worker = self._loop.create_task(self._work())

    async def drained(self) -> None:
        """Wait until no rehearsal is queued or running."""
        while self._worker is not None:
            await asyncio.shield(self._worker)

    async def close(self, grace_s: float) -> None:
        """Stop. Exchanges that are not rehearsed within `grace_s` are recorded as dropped, so that no answered request is lost."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.drained(), grace_s)
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
        left = [*self._under_way, *self._queue]
        for exchange in left:
            exchange.sampled = False  # not evidence: the reason is that the service stops
        self._drop(left)
        self._queue.clear()
        self._sizes.clear()

    def _drop(self, exchanges: Sequence[Exchange]) -> None:
        for exchange in exchanges:
            exchange.settle(self.variant, Status.DROPPED, None, 0.0)
            self._done.add(exchange)

    async def _work(self) -> None:
        try:
            while self._queue:
                if self._gather_s and self._rows < self._batch_max_rows:
                    await asyncio.sleep(self._gather_s)  # a call costs about the same for one row and for fifty
                batch = self._take()
                self._under_way = deque(batch)  # the exchanges of the batch that are not recorded yet, in order
                await self._rehearse(batch)
        finally:
            self._worker = None

    def _take(self) -> list[Exchange]:
        batch: list[Exchange] = []
        rows = 0
        while self._queue and (not batch or rows + self._queue[0].count <= self._batch_max_rows):
            exchange = self._queue.popleft()
            self._elements -= self._sizes.popleft()
            rows += exchange.count
            batch.append(exchange)
        self._rows -= rows
        return batch

    async def _rehearse(self, batch: list[Exchange]) -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                results = await self._infer([exchange.rows for exchange in batch])
        except (TimeoutError, UnderstudyError) as error:
            results = [error] * len(batch)
        except Exception as error:  # a bug: the exchanges must be recorded nevertheless
            log.exception("a rehearsal failed because of a bug; please report it")
            results = [error] * len(batch)
        seconds = time.perf_counter() - started
        for number, (exchange, each) in enumerate(zip(batch, results, strict=True)):
            if number and number % AT_ONCE == 0:
                await asyncio.sleep(0)  # let new requests go first
            exchange.settle(self.variant, *_ended(each), seconds)
            self._done.add(self._under_way.popleft())


def _ended(result: Scores | Exception) -> tuple[Status, Scores | None]:
    if isinstance(result, CandidateAway | NotReady):
        return Status.DOWN, None
    if isinstance(result, Overloaded):
        return Status.DROPPED, None  # the model's queue was full, so the model was not asked
    return ended(result)


async def rehearse_here(model: LocalModel, requests: Sequence[Batch]) -> Sequence[Scores | Exception]:
    """The `infer` of a `Rehearsal`, for a model in this process.

    The requests enter the model's queue as a single request, unless joint runs have failed recently.
    """
    if len(requests) <= model.joint.most:
        try:
            return split(requests, await model.infer(joined(requests)))
        except (Overloaded, TimeoutError):
            raise
        except Exception as error:
            if len(requests) == 1:
                return [error]
    return await asyncio.gather(*(_alone(model, rows) for rows in requests))


async def _alone(model: LocalModel, rows: Batch) -> Scores | Exception:
    try:
        return await model.infer(rows)
    except Exception as error:
        return error
