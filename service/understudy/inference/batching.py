"""Dynamic batching without added delay: the requests of one event-loop iteration share a run of the model.

A request waits only for the next iteration (`call_soon`) or for the current run. Long runs go to a thread, and the requests that
arrive meanwhile form the next batch. `max_delay_s` makes the first request of a batch wait for others, until `max_rows` rows are
there. A batch that fails is run again in smaller parts, so that only the bad request fails (`understudy.inference.joint`).
"""

import asyncio
import functools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from typing import Protocol, Required, TypeAlias, TypedDict, Unpack

from understudy.errors import InferenceError, Overloaded
from understudy.inference import Engine, OutputReader, Scores
from understudy.inference.columns import joined
from understudy.inference.decoding import Batch, Columns
from understudy.inference.joint import JointRuns, split, spread
from understudy.runtime.fairness import yield_cpu


class ScoresCallback(Protocol):
    """Receives the scores or an error; the part of `asyncio.Future` that batching needs."""

    def done(self) -> bool:
        """Whether the result is no longer needed."""
        ...

    def set_result(self, scores: Scores, /) -> None:
        """Receive the scores."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """Receive the error."""
        ...


class BatchOptions(TypedDict, total=False):
    """The keyword arguments of `Batcher`."""

    max_rows: Required[int]
    queue_max_rows: Required[int]
    max_delay_s: float
    on_batch: Callable[[int], None]
    on_retry: Callable[[], None]


Waiter: TypeAlias = tuple[Batch, ScoresCallback]


IDLE_POLL_S = 0.01
RUN_S = 50e-6
"""Approximate overhead of a run: building the columns, reading the outputs, one event-loop iteration."""
YOUNG_S = 0.002
"""How long new requests wait for the last call to end before another call starts."""
PAYS = 1.05
"""A batch is large enough if its cost per row is at most this multiple of the lowest cost per row."""


def rows_that_pay(seconds: Callable[[int], float], max_rows: int) -> int:
    """The smallest batch, a power of two or `max_rows`, whose cost per row is close to the lowest.

    Larger batches would only add latency. Models of tables gain from large batches; networks whose activations exceed the
    CPU's cache get slower: squeezenet by a seventh at 32 images.

    >>> rows_that_pay(lambda rows: 0.001 + 0.00001 * rows, 1000)
    1000
    >>> rows_that_pay(lambda rows: 0.003 * rows if rows <= 4 else 0.0036 * rows, 1024)
    1
    >>> rows_that_pay(lambda rows: 0.0, 64)
    64
    """
    sizes = [1 << i for i in range(max_rows.bit_length()) if 1 << i < max_rows] + [max_rows]
    per_row = {rows: (RUN_S + seconds(rows)) / rows for rows in sizes}
    best = min(per_row.values())
    return next(rows for rows in sizes if per_row[rows] <= best * PAYS)


class Batcher(ABC):
    """Collects requests and runs them in order, at most `max_rows` rows at a time.

    Attributes:
        on_batch: called with the number of rows of each run, for the batch-size histogram.
        joint: limits how many requests may share a run.
    """

    def __init__(
        self,
        *,
        max_rows: int,
        queue_max_rows: int,
        max_delay_s: float = 0.0,
        on_batch: Callable[[int], None] = lambda rows: None,
        on_retry: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Waiter] = deque()
        self._waiting_rows = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._max_rows, self._queue_max_rows, self.on_batch = max_rows, queue_max_rows, on_batch
        self._max_delay_s = max_delay_s
        self.joint = JointRuns(on_retry)

    def submit(self, rows: Batch) -> "asyncio.Future[Scores]":
        """Queue a request; returns the future of its scores.

        Raises:
            Overloaded: more than `queue_max_rows` rows are waiting.
        """
        future: asyncio.Future[Scores] = self._loop.create_future()
        self.enqueue(rows, future)
        return future

    def enqueue(self, rows: Batch, callback: ScoresCallback) -> None:
        """Like `submit`, with a callback: resuming a coroutine through a future would cost two event-loop iterations."""
        if self._waiting_rows + len(rows) > self._queue_max_rows and self._waiting:
            raise Overloaded(
                f"{self._waiting_rows} rows are waiting for the model (the limit is {self._queue_max_rows})"
            )
        self._waiting.append((rows, callback))
        self._waiting_rows += len(rows)
        if not self._scheduled:
            self._scheduled = True
            if self._max_delay_s:
                self._timer = self._loop.call_later(self._max_delay_s, self._run_waiting)
            else:
                self._loop.call_soon(self._run_waiting)
        if self._timer is not None and self._waiting_rows >= self._max_rows:
            self._timer.cancel()
            self._timer = None
            self._loop.call_soon(self._run_waiting)

    def _take(self) -> list[Waiter]:
        """The next batch: at most `max_rows` rows, but at least one request; cancelled requests are skipped."""
        batch: list[Waiter] = []
        rows = 0
        while self._waiting:
            waiter = self._waiting[0]
            if batch and rows + len(waiter[0]) > self._max_rows:
                break
            self._waiting.popleft()
            self._waiting_rows -= len(waiter[0])
            if not waiter[1].done():
                batch.append(waiter)
                rows += len(waiter[0])
        return batch

    @abstractmethod
    def _run_waiting(self) -> None:
        """Run the waiting requests."""


class LocalModel(Batcher):
    """A model in this process. Short runs happen on the event loop, long ones on `executor`, one at a time."""

    def __init__(
        self,
        engine: Engine,
        columns: Columns,
        executor: Executor,
        *,
        inline_max_s: float,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        self._max_rows = rows_that_pay(engine.seconds, self._max_rows)
        self.engine, self.reader = engine, OutputReader(engine.card)
        self._columns, self._executor, self._inline_max_s = columns, executor, inline_max_s
        self._running = False  # a run is under way on the executor

    def infer(self, rows: Batch) -> "asyncio.Future[Scores]":
        """Like `Batcher.submit`; fails with `InferenceError` or `InvalidInput`.

        A short run that fills most of a batch starts at once, since it would gain nothing from waiting for other requests.
        """
        count = len(rows)
        if not (self.fills(count) and self.inline(count)):
            return self.submit(rows)
        future: asyncio.Future[Scores] = self._loop.create_future()
        self.enqueue_alone(rows, future)
        return future

    def enqueue_alone(self, rows: Batch, callback: ScoresCallback) -> None:
        """Like `enqueue`, but run at once if no request is waiting. For `inline` runs that gain nothing from sharing a batch.

        Raises:
            Overloaded: more than `queue_max_rows` rows are waiting.
        """
        if self._waiting:
            self.enqueue(rows, callback)
            return
        batch: list[Waiter] = [(rows, callback)]
        _deliver(batch, self._run_all(batch))
        self.on_batch(len(rows))

    def fills(self, rows: int) -> bool:
        """Whether this many rows fill most of a batch."""
        return rows * 2 > self._max_rows

    def inline(self, rows: int) -> bool:
        """Whether this many rows would run on the event loop at once, so that no deadline is needed."""
        return not (self._running or self._max_delay_s) and self.engine.seconds(rows) <= self._inline_max_s

    async def idle(self) -> None:
        """Wait until no request is queued or running."""
        while self._waiting or self._running:  # noqa: ASYNC110 - once in a promotion; an event would cost every run
            await asyncio.sleep(IDLE_POLL_S)

    def _run_waiting(self) -> None:
        self._timer = None
        while self._waiting:
            batch = self._take()
            if not batch:
                continue
            count = sum(len(rows) for rows, _ in batch)
            answers = None
            if self.engine.seconds(count) <= self._inline_max_s:
                answers = self._together(batch)
                # The search for the bad requests blocks the event loop, so a long search goes to the thread as well.
                if answers is None and len(batch) * self.engine.seconds(1) <= self._inline_max_s:
                    answers = self._in_parts(batch)
            if answers is None:
                self._running = True
                run = self._executor.submit(self._run_all, batch)
                asyncio.wrap_future(run, loop=self._loop).add_done_callback(functools.partial(self._landed, batch))
                return  # requests that arrive during this run form the next batch
            _deliver(batch, answers)
            self.on_batch(count)
        self._scheduled = False

    def _landed(self, batch: list[Waiter], done: "asyncio.Future[Sequence[Scores | Exception]]") -> None:
        self._running = False
        _deliver(batch, done.result())
        self.on_batch(sum(len(rows) for rows, _ in batch))
        self._run_waiting()

    def _run_all(self, batch: list[Waiter]) -> "Sequence[Scores | Exception]":
        return self._together(batch) or self._in_parts(batch)

    def _together(self, batch: list[Waiter]) -> "Sequence[Scores | Exception] | None":
        """The answers from one joint run; None if it failed or has too many requests."""
        joint = self.joint
        if len(batch) > joint.most:
            return None
        requests = [rows for rows, _ in batch]
        try:
            answers = split(requests, self._run(requests))
        except Exception as error:
            if len(batch) == 1:
                return [error]
            joint.failed(len(batch))
            return None
        joint.succeeded()
        return answers

    def _in_parts(self, batch: list[Waiter]) -> "Sequence[Scores | Exception]":
        requests = [rows for rows, _ in batch]
        return spread(requests, self.joint.run(requests, self._run))

    def _run(self, requests: Sequence[Batch]) -> Scores:
        rows = joined(requests)
        try:
            return self.reader.read(self.engine.run(self._columns.build(rows)), len(rows))
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise InferenceError(f"{self.engine.card.name} gave outputs that cannot be read: {error!r}") from error


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
        _deliver(batch, answers)
        if self._waiting and not self._scheduled:
            self._go()


def _deliver(batch: list[Waiter], answers: "Sequence[Scores | Exception]") -> None:
    for (_, future), answer in zip(batch, answers, strict=True):
        if future.done():
            continue  # the request was cancelled
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
    yield_cpu()  # between two runs
