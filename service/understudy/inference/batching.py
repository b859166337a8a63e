"""Dynamic batching without added delay: the requests of one event-loop iteration share a run of the model.

A request waits only for the next iteration (`call_soon`) or for the current run. Long runs go to a thread, and the requests that
arrive meanwhile form the next batch. `max_delay_s` makes the first request of a batch wait for others, until `max_rows` rows are
there. A batch that fails is run again in smaller parts, so that only the bad request fails (`understudy.inference.joint`).
"""

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol, Required, TypeAlias, TypedDict, Unpack

from understudy.errors import ExpectedLate, InferenceError, Overloaded, RunCancelled
from understudy.inference import Cancellation, Engine, OutputReader, Scores
from understudy.inference.columns import joined
from understudy.inference.decoding import Batch, Columns
from understudy.inference.joint import JointRuns, split, spread
from understudy.inference.sizes import Size
from understudy.inference.thread_runs import Answers, ThreadRun
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
PATIENCE = 4.0
"""A run in the thread may take this many times as long as expected, if that is longer than the deadline: a rehearsal's."""
SURPRISE = 5.0
"""A run on the event loop that took so many times as much CPU time as any may sends the next of its size to the thread. By the
clock, a busy machine would do that as well: a run that loses the CPU for some milliseconds says nothing about the model."""
TRY_EVERY_S = 2.0
"""How often a request is run that is expected to miss its deadline: nothing would be learned otherwise."""
TRY_WITHIN = 20.0
"""Only if it is expected to take up to this many times as long as it may: millions of tokens could take all the memory."""
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
    """A model in this process. Short runs happen on the event loop, long ones on `executor`, one at a time.

    Here the cost of a run follows from its number of rows. `understudy.inference.sized.SizedModel` has the others.

    Args:
        executor: has one thread.
        inline_max_s: a run that is expected to take longer goes to the thread.
        deadline_s: a run in the thread is cancelled when nobody waits any longer, and after this time or several times as long as
            it was expected to take.
    """

    def __init__(
        self,
        engine: Engine,
        columns: Columns,
        executor: Executor,
        *,
        inline_max_s: float,
        deadline_s: float = math.inf,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        self._max_rows = rows_that_pay(engine.seconds, self._max_rows)
        self.engine, self.reader = engine, OutputReader(engine.card)
        self._columns, self._executor = columns, executor
        self._inline_max_s, self._deadline_s = inline_max_s, deadline_s
        self._surprise_s = SURPRISE * inline_max_s  # a run on the event loop that takes longer is learned from
        self._waits = bool(self._max_delay_s)  # no request is run at once
        self._running: ThreadRun | None = None
        self._tried_at = -math.inf  # when a run that is expected to be late was last tried

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
        began = time.thread_time()
        answers = self._run_all(batch)
        if (seconds := time.thread_time() - began) > self._surprise_s:
            self._learn_inline(seconds, batch)
        deliver(batch, answers)
        self.on_batch(len(rows))

    def enqueue_by(self, rows: Batch, callback: ScoresCallback, left_s: float) -> None:
        """Like `enqueue`, for a caller who needs the answer within `left_s`: is rejected at once if that cannot be.

        Raises:
            Overloaded: too much waits before it.
            ExpectedLate: its own run takes longer.
        """
        size = self._size(rows)
        busy_s = self._running.remaining_s() if self._running is not None else 0.0
        least_s = self.engine.costs.least(size.rows, size.elements)
        if least_s > left_s:
            now = self._loop.time()
            too_long = least_s > TRY_WITHIN * left_s
            if too_long or self._running is not None or self._waiting or now < self._tried_at + TRY_EVERY_S:
                raise ExpectedLate(
                    f"this request is expected to take {least_s * 1000:,.0f} ms on this machine, longer than its deadline: send "
                    "fewer or smaller rows in a request, or allow more with `deadline_ms` in the rollout file"
                )
            self._tried_at = now  # the machine may have become faster
        elif busy_s or self._waiting:
            expected_s = busy_s + self._queued_s(size)
            if expected_s > left_s:
                raise Overloaded(
                    f"this request would wait for about {expected_s * 1000:,.0f} ms, longer than its deadline"
                )
        self.enqueue(rows, callback)

    def fills(self, rows: int) -> bool:
        """Whether this many rows fill most of a batch."""
        return rows * 2 > self._max_rows

    def inline(self, rows: int) -> bool:
        """Whether this many rows would run on the event loop at once, so that no deadline is needed."""
        return not (self._running or self._waits) and self.engine.seconds(rows) <= self._inline_max_s

    async def idle(self) -> None:
        """Wait until no request is queued or running."""
        while self._waiting or self._running:  # noqa: ASYNC110 - once in a promotion; an event would cost every run
            await asyncio.sleep(IDLE_POLL_S)

    def stop(self) -> None:
        """Cancel the run in the thread, if there is one: the process stops."""
        if self._running is not None:
            self._running.cancel()

    def _size(self, rows: Batch) -> Size:
        """The size of a request."""
        return Size(len(rows), 0)

    def _size_of(self, batch: list[Waiter]) -> Size:
        """The size of a run."""
        return Size(sum(len(rows) for rows, _ in batch), 0)

    def _queued_s(self, size: Size) -> float:
        """How long the requests that wait take, and one more of this size."""
        whole, rest = divmod(self._waiting_rows + size.rows, self._max_rows)
        return whole * self.engine.seconds(self._max_rows) + (self.engine.seconds(rest) if rest else 0.0)

    def _is_short(self, batch: list[Waiter], rows: int) -> bool:  # noqa: ARG002 - `SizedModel` needs the requests
        """Whether a run may happen on the event loop."""
        return self.engine.seconds(rows) <= self._inline_max_s

    def _turn_s(self) -> float:
        """After how many seconds the run in the thread ends and is repeated later, so that others can go first."""
        return math.inf

    def _put_back(self, batch: list[Waiter]) -> None:
        """Queue the requests of a run that gave way again, behind the others."""
        self._waiting += batch
        self._waiting_rows += sum(len(rows) for rows, _ in batch)

    def _learn_inline(self, seconds: float, batch: list[Waiter]) -> None:
        """Learn from a run on the event loop that took unexpectedly long."""
        size = self._size_of(batch)
        self.engine.costs.took(seconds, size.rows, size.elements)

    def _run_waiting(self) -> None:
        self._timer = None
        while self._waiting:
            batch = self._take()
            if not batch:
                continue
            count = sum(len(rows) for rows, _ in batch)
            answers = None
            if self._is_short(batch, count):
                began = time.thread_time()
                answers = self._together(batch)
                if (seconds := time.thread_time() - began) > self._surprise_s:
                    self._learn_inline(seconds, batch)
                # The search for the bad requests blocks the event loop, so a long search goes to the thread as well.
                if answers is None and len(batch) * self.engine.seconds(1) <= self._inline_max_s:
                    answers = self._in_parts(batch)
            if answers is None:
                self._begin(batch)
                return  # requests that arrive during this run form the next batch
            deliver(batch, answers)
            self.on_batch(count)
        self._scheduled = False

    def _begin(self, batch: list[Waiter]) -> None:
        size = self._size_of(batch)
        expected_s = self.engine.costs.seconds(size.rows, size.elements)
        callbacks = [callback for _, callback in batch]
        background = any(isinstance(callback, asyncio.Future) for callback in callbacks)  # nobody waits for a rehearsal
        self._running = ThreadRun(
            self._executor,
            lambda cancellation: self._run_all(batch, cancellation),
            callbacks,
            expected_s=expected_s,
            limit_s=max(self._deadline_s, PATIENCE * expected_s) if background else self._deadline_s,
            give_way=lambda taken_s: taken_s > self._turn_s(),
            landed=lambda run, answers: self._landed(batch, size, run, answers),
        )

    def _landed(self, batch: list[Waiter], size: Size, run: ThreadRun, answers: Answers | None) -> None:
        self._running = None
        if answers is not None or not run.gave_way:
            self.on_batch(size.rows)
            self.engine.costs.took(run.seconds, size.rows, size.elements, ended=answers is not None)
        if answers is not None:
            deliver(batch, answers)
        elif run.gave_way:
            self._put_back(batch)
        else:
            deliver(batch, [TimeoutError()] * len(batch))
        self._run_waiting()

    def _run_all(self, batch: list[Waiter], cancellation: Cancellation | None = None) -> Answers:
        return self._together(batch, cancellation) or self._in_parts(batch, cancellation)

    def _together(self, batch: list[Waiter], cancellation: Cancellation | None = None) -> Answers | None:
        """The answers from one joint run; None if it failed or has too many requests."""
        joint = self.joint
        if len(batch) > joint.most:
            return None
        requests = [rows for rows, _ in batch]
        try:
            answers = split(requests, self._run(requests, cancellation))
        except RunCancelled:
            raise
        except Exception as error:
            if len(batch) == 1:
                return [error]
            joint.failed(len(batch))
            return None
        joint.succeeded()
        return answers

    def _in_parts(self, batch: list[Waiter], cancellation: Cancellation | None = None) -> Answers:
        requests = [rows for rows, _ in batch]
        return spread(requests, self.joint.run(requests, lambda part: self._run(part, cancellation)))

    def _run(self, requests: Sequence[Batch], cancellation: Cancellation | None) -> Scores:
        rows = joined(requests)
        try:
            columns = self._columns.build(rows)
            outputs = self.engine.run(columns) if cancellation is None else self.engine.run(columns, cancellation)
            return self.reader.read(outputs, len(rows))
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise InferenceError(f"{self.engine.card.name} gave outputs that cannot be read: {error!r}") from error


def deliver(batch: list[Waiter], answers: "Sequence[Scores | Exception]") -> None:
    """Give each request its scores or its error."""
    for (_, future), answer in zip(batch, answers, strict=True):
        if future.done():
            continue  # the request was cancelled
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
    yield_cpu()  # between two runs
