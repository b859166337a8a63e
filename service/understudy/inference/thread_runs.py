"""A run of a model in a thread: watched from the event loop, and cancelled once nobody waits for it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol

from understudy.errors import RunCancelled
from understudy.inference import Cancellation, Scores
from understudy.runtime.memory import give_back

WATCH_S = 0.01
"""How often a run in a thread is looked at."""
FREES_FROM_S = 0.05
"""A run that is expected to take longer than this gives its memory back when it ends. The runtime keeps it for others otherwise."""


class Callback(Protocol):
    """The part of `batching.ScoresCallback` that a run needs."""

    def done(self) -> bool:
        """Whether the result is no longer needed."""
        ...


Answers = Sequence[Scores | Exception]


class ThreadRun:
    """One run on the executor.

    Args:
        executor: has one thread.
        work: runs the model.
        callbacks: those who wait for it.
        expected_s: how long it should take.
        limit_s: when it is cancelled in any case.
        give_way: whether it should end now, so that others can go first; asked while it runs, with the seconds that it has taken.
        landed: called on the event loop with the answers when it has ended. They are None if it was cancelled.

    Attributes:
        cancellation: of this run.
        gave_way: whether it was cancelled to let others go first.
        seconds: how long the run took, without its wait for the thread; 0 until it has ended.
    """

    def __init__(
        self,
        executor: Executor,
        work: Callable[[Cancellation], Answers],
        callbacks: Sequence[Callback],
        *,
        expected_s: float,
        limit_s: float,
        give_way: Callable[[float], bool],
        landed: Callable[["ThreadRun", Answers | None], None],
    ) -> None:
        self._callbacks, self._expected_s, self._limit_s = callbacks, expected_s, limit_s
        self._give_way, self._landed = give_way, landed
        self.cancellation = Cancellation(frees=expected_s > FREES_FROM_S)
        self.gave_way = False
        self.seconds = 0.0
        self._loop = asyncio.get_running_loop()
        self._began: float | None = None  # set by the thread
        self._cancelled_at = 0.0
        self._watch = self._loop.call_later(WATCH_S, self._look)
        done = executor.submit(self._work, work)
        asyncio.wrap_future(done, loop=self._loop).add_done_callback(self._ended)

    def remaining_s(self) -> float:
        """How much longer it is expected to take. One that takes longer than expected is expected to take as long again."""
        if self._began is None:
            return min(self._expected_s, self._limit_s)
        self._cancel_if_over()
        now = time.perf_counter()
        taken = now - self._began
        if self.cancellation.cancelled:
            return now - self._cancelled_at  # it will end soon, unless a kernel does not end
        more = self._expected_s - taken if taken < self._expected_s else taken
        return min(more, max(self._limit_s - taken, 0.0))

    def cancel(self) -> None:
        """Cancel the run."""
        if not self.cancellation.cancelled:
            self._cancelled_at = time.perf_counter()
            self.cancellation.cancel()

    def _cancel_if_over(self) -> None:
        if self._taken_s() > self._limit_s or all(callback.done() for callback in self._callbacks):
            self.cancel()

    def _taken_s(self) -> float:
        return 0.0 if self._began is None else time.perf_counter() - self._began

    def _look(self) -> None:
        self._cancel_if_over()
        if not self.cancellation.cancelled and self._give_way(self._taken_s()):
            self.gave_way = True
            self.cancel()
        self._watch = self._loop.call_later(WATCH_S, self._look)

    def _work(self, work: Callable[[Cancellation], Answers]) -> Answers:
        self._began = time.perf_counter()
        try:
            return work(self.cancellation)
        finally:
            self.seconds = time.perf_counter() - self._began
            if self.seconds > FREES_FROM_S:
                give_back()

    def _ended(self, done: "asyncio.Future[Answers]") -> None:
        self._watch.cancel()
        try:
            answers: Answers | None = done.result()
        except RunCancelled:
            answers = None
        self._landed(self, answers)
