"""Dynamic batching that adds no delay: what became readable in one turn of the event loop is one run of the model.

Requests wait for nothing but the loop's own turn (`call_soon`), or for the run that is under way: when a run takes long
enough to go to a thread, what arrives meanwhile is the next batch. Where larger batches are worth a wait, `max_delay_s` says
how long the first of them waits for others, unless `max_rows` rows are there before. A batch that fails is run again in smaller
parts, so that a bad request fails alone (`understudy.inference.joint`).
"""

import asyncio
import functools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol, TypeAlias

from understudy.errors import InferenceError, Overloaded
from understudy.inference import Engine, OutputReader, Scores
from understudy.inference.columns import joined
from understudy.inference.decoding import Batch, Columns
from understudy.inference.joint import JointRuns, split, spread
from understudy.runtime.fairness import yield_cpu


class ScoresCallback(Protocol):
    """Who waits for the scores: what is needed of a future."""

    def done(self) -> bool:
        """Whether nobody waits any more."""
        ...

    def set_result(self, scores: Scores, /) -> None:
        """Here they are."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """There are none."""
        ...


Waiter: TypeAlias = tuple[Batch, ScoresCallback]


IDLE_POLL_S = 0.01
RUN_S = 50e-6
"""About what a run costs around the model: building the columns, reading the answers, a turn of the event loop."""
YOUNG_S = 0.002
"""How long what comes waits for a call that is under way."""
PAYS = 1.05
"""A batch is large enough when a row in it costs at most this much of what it costs at best."""


def rows_that_pay(seconds: Callable[[int], float], max_rows: int) -> int:
    """The fewest rows, a power of two or `max_rows`, at which a model's run is about as fast per row as it gets.

    More would only let the first wait for the last. A table's models gain with every row for long; networks whose activations
    leave the cache lose: squeezenet a seventh at 32 images.

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
    """Collects the requests of one loop turn and hands them to `_run`, in order, at most `max_rows` rows at a time.

    Attributes:
        on_batch: called with the number of rows of each run, for the batch-size histogram.
        joint: how many requests may share a run now.
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
        """The scores of `rows`, to be awaited.

        Raises:
            Overloaded: when more than `queue_max_rows` rows wait already.
        """
        future: asyncio.Future[Scores] = self._loop.create_future()
        self.enqueue(rows, future)
        return future

    def enqueue(self, rows: Batch, told: ScoresCallback) -> None:
        """As `submit`, for somebody who need not be a future: what a future does for a coroutine costs two turns of the loop."""
        if self._waiting_rows + len(rows) > self._queue_max_rows and self._waiting:
            raise Overloaded(
                f"{self._waiting_rows} rows are waiting for the model (the limit is {self._queue_max_rows})"
            )
        self._waiting.append((rows, told))
        self._waiting_rows += len(rows)
        if not self._scheduled:
            self._scheduled = True
            if self._max_delay_s:
                self._timer = self._loop.call_later(self._max_delay_s, self._turn)
            else:
                self._loop.call_soon(self._turn)
        if self._timer is not None and self._waiting_rows >= self._max_rows:
            self._timer.cancel()
            self._timer = None
            self._loop.call_soon(self._turn)

    def _take(self) -> list[Waiter]:
        """The next batch: whole requests, at least one, at most `max_rows` rows; abandoned requests are skipped."""
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
    def _turn(self) -> None:
        """Run what waits."""


class LocalModel(Batcher):
    """A model in this process: short runs inline, long ones on `executor`, one at a time."""

    def __init__(
        self, engine: Engine, columns: Columns, executor: Executor, *, inline_max_s: float, **limits: Any
    ) -> None:
        super().__init__(**limits)
        self._max_rows = rows_that_pay(engine.seconds, self._max_rows)
        self.engine, self.reader = engine, OutputReader(engine.card)
        self._columns, self._executor, self._inline_max_s = columns, executor, inline_max_s
        self._running = False  # a run is under way on the executor

    def infer(self, rows: Batch) -> "asyncio.Future[Scores]":
        """See `Batcher.submit`; fails with `InferenceError` or `InvalidInput`.

        A short run that fills a batch by itself, or nearly, is made at once: it would gain nothing by waiting for company.
        """
        count = len(rows)
        if not (self.fills(count) and self.inline(count)):
            return self.submit(rows)
        future: asyncio.Future[Scores] = self._loop.create_future()
        self.enqueue_alone(rows, future)
        return future

    def enqueue_alone(self, rows: Batch, told: ScoresCallback) -> None:
        """As `enqueue`, for a run that is `inline` and gains nothing by company: it is made at once, unless others wait.

        Raises:
            Overloaded: when more than `queue_max_rows` rows wait already.
        """
        if self._waiting:
            self.enqueue(rows, told)
            return
        batch: list[Waiter] = [(rows, told)]
        _deliver(batch, self._run_all(batch))
        self.on_batch(len(rows))

    def fills(self, rows: int) -> bool:
        """Whether so many rows are a batch by themselves, or nearly."""
        return rows * 2 > self._max_rows

    def inline(self, rows: int) -> bool:
        """Whether so many rows are run on the event loop itself, now: then no deadline can pass while waiting."""
        return not (self._running or self._max_delay_s) and self.engine.seconds(rows) <= self._inline_max_s

    async def idle(self) -> None:
        """Return when nothing waits for this model and nothing is under way."""
        while self._waiting or self._running:  # noqa: ASYNC110 - once in a promotion; an event would cost every run
            await asyncio.sleep(IDLE_POLL_S)

    def _turn(self) -> None:
        self._timer = None
        while self._waiting:
            batch = self._take()
            if not batch:
                continue
            count = sum(len(rows) for rows, _ in batch)
            answers = None
            if self.engine.seconds(count) <= self._inline_max_s:
                answers = self._together(batch)
                # Nobody is served while the event loop looks for the bad ones: a long search goes to the thread as well.
                if answers is None and len(batch) * self.engine.seconds(1) <= self._inline_max_s:
                    answers = self._in_parts(batch)
            if answers is None:
                self._running = True
                run = self._executor.submit(self._run_all, batch)
                asyncio.wrap_future(run, loop=self._loop).add_done_callback(functools.partial(self._landed, batch))
                return  # what arrives now waits for this run to end: it is the next batch
            _deliver(batch, answers)
            self.on_batch(count)
        self._scheduled = False

    def _landed(self, batch: list[Waiter], done: "asyncio.Future[Sequence[Scores | Exception]]") -> None:
        self._running = False
        _deliver(batch, done.result())
        self.on_batch(sum(len(rows) for rows, _ in batch))
        self._turn()

    def _run_all(self, batch: list[Waiter]) -> "Sequence[Scores | Exception]":
        return self._together(batch) or self._in_parts(batch)

    def _together(self, batch: list[Waiter]) -> "Sequence[Scores | Exception] | None":
        """Everybody's answers, of one run; None where that failed, or is not to be tried."""
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
            raise InferenceError(f"{self.engine.card.name} answered in an unreadable form: {error!r}") from error


class SpreadModel(Batcher):
    """A model elsewhere: what waited while the last call was under way is the next one, as long as that call is young.

    A call costs both ends about as much for ten rows as for one, so a model that answers soon is asked for all that waits, one
    call at a time. One that takes longer does not hold up what comes meanwhile: several calls are under way then.

    A call that takes longer than its time limit is charged to every request in it: each of their callers would have waited
    for it, and nothing says which of them took so long.

    Args:
        call: runs requests remotely: each one's scores, or why it has none. What it raises holds for all of them:
            `InferenceError`, or `TimeoutError` past its time limit.
        spawn: keeps a coroutine running and alive (an event loop holds tasks weakly).
    """

    def __init__(
        self,
        call: Callable[[Sequence[Batch]], Coroutine[Any, Any, "Sequence[Scores | Exception]"]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        **limits: Any,
    ) -> None:
        super().__init__(**limits)
        self._call, self._spawn = call, spawn
        self._calls = self._ended = 0  # begun; of those, the number of the last that ended
        self._begun_at = 0.0  # the last
        self._look: asyncio.TimerHandle | None = None  # when it is not young any more

    def infer(self, rows: Batch) -> "asyncio.Future[Scores]":
        """See `Batcher.submit`; fails with `InferenceError` or `TimeoutError`."""
        return self.submit(rows)

    def _turn(self) -> None:
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
            continue  # the caller has gone away
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
    yield_cpu()  # between two runs
