"""Work on large bodies and answers, in a thread: decoding or encoding them on the event loop would hold all callers."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from understudy.errors import Overloaded
from understudy.runtime.memory import give_back

TRIM_AFTER_S = 0.5
"""How long after large work its memory is given back to the system: by then it is usually answered."""

_Result = TypeVar("_Result")


class Offload:
    """Runs work in one thread. The work does many short steps, so that the event loop runs in between.

    Args:
        from_bytes: bodies of this size and more are decoded here.
        queue_max_bytes: the most bytes that wait.
    """

    def __init__(self, from_bytes: int, queue_max_bytes: int) -> None:
        self.from_bytes, self._queue_max_bytes = from_bytes, queue_max_bytes
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="large")
        self._loop = asyncio.get_running_loop()
        self._waiting = 0  # bytes
        self._trim: asyncio.TimerHandle | None = None

    def run(self, size: int, work: Callable[[], _Result], done: Callable[[_Result | Exception], None]) -> None:
        """Run `work` in the thread, and `done` with its result or error on the event loop.

        Args:
            size: of the body, in bytes; 0 for an answer, whose memory is in use anyway.
            work: returns the result.
            done: must not raise.

        Raises:
            Overloaded: too many bytes are waiting.
        """
        if size and self._waiting and self._waiting + size > self._queue_max_bytes:
            raise Overloaded(
                f"{self._waiting:,} bytes of large requests are waiting to be decoded (the limit is {self._queue_max_bytes:,})"
            )
        self._waiting += size

        def ended(future: "asyncio.Future[_Result]") -> None:
            self._waiting -= size
            if self._trim is None:
                self._trim = self._loop.call_later(TRIM_AFTER_S, self._give_back)
            error = future.exception()
            if error is None:
                done(future.result())
            elif isinstance(error, Exception):
                done(error)

        self._loop.run_in_executor(self._executor, work).add_done_callback(ended)

    def _give_back(self) -> None:
        """Give back the memory of what has been answered by now."""
        self._trim = None
        self._loop.run_in_executor(self._executor, give_back)

    def close(self) -> None:
        """Wait for the work in progress, and drop the rest."""
        if self._trim is not None:
            self._trim.cancel()
        self._executor.shutdown(wait=True, cancel_futures=True)
