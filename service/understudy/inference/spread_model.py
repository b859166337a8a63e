"""Dynamic batching of calls to a model in another process."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Unpack

from understudy.inference import Scores
from understudy.inference.batching import Batcher, BatchOptions, Waiter, deliver
from understudy.inference.decoding import Batch

YOUNG_S = 0.002
"""How long new requests wait for the last call to end before another call starts."""


class SpreadModel(Batcher):
    """A model in another process. Requests that arrive during a call form the next one; a slow call does not hold up new requests.

    A call costs about as much for ten rows as for one, so as long as calls are short, one is in flight at a time. If the
    last call takes longer than `YOUNG_S`, further calls start beside it.

    A call that exceeds its time limit counts as a timeout of each of its requests, since nothing shows which of them was slow.

    Args:
        call: runs requests remotely; returns the scores or the error of each. An exception applies to all of them:
            `InferenceError`, or `TimeoutError` past the time limit.
        spawn: starts a coroutine as a task and keeps a reference to it (an event loop holds tasks weakly).
    """

    def __init__(
        self,
        call: Callable[[Sequence[Batch]], Awaitable["Sequence[Scores | Exception]"]],
        spawn: Callable[[Coroutine[object, None, None]], None],
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        self._call, self._spawn = call, spawn
        self._calls = self._ended = 0  # the number of the last call that started, and of the last that ended
        self._begun_at = 0.0  # when the last call started
        self._look: asyncio.TimerHandle | None = None  # fires when the last call has taken `YOUNG_S`

    def infer(self, rows: Batch) -> "asyncio.Future[Scores]":
        """Like `Batcher.submit`; fails with `InferenceError` or `TimeoutError`."""
        return self.submit(rows)

    def _run_waiting(self) -> None:
        self._scheduled, self._timer = False, None
        self._go()

    def _go(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None
        while self._waiting:
            now = self._loop.time()
            if self._ended != self._calls and now < self._begun_at + YOUNG_S and self._waiting_rows < self._max_rows:
                self._look = self._loop.call_at(self._begun_at + YOUNG_S, self._go)
                return
            batch = self._take()
            if batch:
                self._calls += 1
                self._begun_at = now
                self._spawn(self._one_call(batch, self._calls))

    async def _one_call(self, batch: list[Waiter], number: int) -> None:
        requests = [rows for rows, _ in batch]
        try:
            answers = await self._call(requests)
        except Exception as error:
            answers = [error] * len(batch)
        self._ended = max(self._ended, number)
        self.on_batch(sum(map(len, requests)))
        deliver(batch, answers)
        if self._waiting and not self._scheduled:
            self._go()
