"""The rehearsal: the model that did not answer scores what has been answered, in the background.

Exchanges wait in a bounded queue; what does not fit is recorded as dropped, and neither the answer nor anyone else waits
for it. One call is under way at a time, with as many rows as have gathered, for a few milliseconds at least: a candidate
that cannot keep up is pressed no harder, it loses samples, and the count of lost samples says so.
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
from understudy.inference.decoding import Batch
from understudy.inference.joint import split
from understudy.records.exchange import Exchange

log = structlog.get_logger(__name__)


class Rehearsed(Protocol):
    """Whoever wants to hear of an exchange that is complete."""

    def add(self, exchange: Exchange) -> None:
        """Take it over."""
        ...


AT_ONCE = 32
"""Rehearsed requests that are recorded in one turn of the event loop: callers wait for that."""


class Rehearsal:
    """Lets one variant score exchanges that the other has answered.

    Args:
        infer: each request's scores, or why it has none. What it raises holds for all the requests.
        done: is given each exchange once, when its rehearsal has ended one way or another.
        gather_s: how long the first of a call waits for others.
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
    ) -> None:
        self.variant = variant
        self._infer, self._done = infer, done
        self._queue: deque[Exchange] = deque()
        self._under_way: deque[Exchange] = deque()
        self._rows = 0
        self._queue_max_rows, self._batch_max_rows, self._timeout_s = queue_max_rows, batch_max_rows, timeout_s
        self._gather_s = gather_s
        self._worker: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    def offer(self, exchange: Exchange) -> None:
        """Queue an exchange, or drop it at once when the queue is full. Never blocks, never raises."""
        exchange.rehearsal = self.variant
        if self._rows + exchange.count > self._queue_max_rows and self._queue:
            self._drop([exchange])
            return
        self._queue.append(exchange)
        self._rows += exchange.count
        if self._worker is None:
            self._worker = self._loop.create_task(self._work())

    async def drained(self) -> None:
        """Wait until nothing is queued or under way."""
        while self._worker is not None:
            await asyncio.shield(self._worker)

    async def close(self, grace_s: float) -> None:
        """End: what is not rehearsed after a moment of grace is recorded as dropped, so that no answered request is lost."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.drained(), grace_s)
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
        left = [*self._under_way, *self._queue]
        for exchange in left:
            exchange.sampled = False  # the service stops, which says nothing about the request or the models
        self._drop(left)
        self._queue.clear()

    def _drop(self, exchanges: Sequence[Exchange]) -> None:
        for exchange in exchanges:
            exchange.settle(self.variant, Status.DROPPED, None, 0.0)
            self._done.add(exchange)

    async def _work(self) -> None:
        try:
            while self._queue:
                if self._gather_s and self._rows < self._batch_max_rows:
                    await asyncio.sleep(self._gather_s)  # a call costs about as much for fifty rows as for one
                batch = self._take()
                self._under_way = deque(batch)  # of it those that are not recorded yet, in its order
                await self._rehearse(batch)
        finally:
            self._worker = None

    def _take(self) -> list[Exchange]:
        batch: list[Exchange] = []
        rows = 0
        while self._queue and (not batch or rows + self._queue[0].count <= self._batch_max_rows):
            exchange = self._queue.popleft()
            rows += exchange.count
            batch.append(exchange)
        self._rows -= rows
        return batch

    async def _rehearse(self, batch: list[Exchange]) -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._infer([exchange.rows for exchange in batch])
        except (TimeoutError, UnderstudyError) as error:
            found = [error] * len(batch)
        except Exception as error:  # a bug of ours: the exchanges must be recorded all the same
            log.exception("a rehearsal broke off; please report it")
            found = [error] * len(batch)
        seconds = time.perf_counter() - started
        for number, (exchange, each) in enumerate(zip(batch, found, strict=True)):
            if number and number % AT_ONCE == 0:
                await asyncio.sleep(0)  # requests that have come meanwhile go first
            exchange.settle(self.variant, *_ended(each), seconds)
            self._done.add(self._under_way.popleft())


def _ended(found: Scores | Exception) -> tuple[Status, Scores | None]:
    if isinstance(found, CandidateAway | NotReady):
        return Status.DOWN, None
    if isinstance(found, Overloaded):
        return Status.DROPPED, None  # it was not asked: too much waits for it
    return ended(found)


async def rehearse_here(model: LocalModel, requests: Sequence[Batch]) -> Sequence[Scores | Exception]:
    """What `Rehearsal` takes, for a model in this process.

    The requests are one to the batches of those who wait for an answer, unless runs of several have failed lately.
    """
    if len(requests) <= model.joint.most:
        try:
            return split(requests, await model.infer(joined(requests)))
        except Overloaded:
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
