"""Labels on their way to the store: what callers report while one write is under way is the next one.

A transaction costs some hundreds of microseconds and each of its labels thirteen more: twenty labels in one of their own pay
mostly for that.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from understudy.domain import Fate, LabelReceipt, LabelReport
from understudy.errors import Overloaded, StoreError

TOGETHER_MAX = 2_000
"""Labels that are written together, unless one caller reports more."""

_Post = tuple[Sequence[LabelReport], asyncio.Future[LabelReceipt]]


class LabelQueue:
    """Writes labels, one transaction at a time. Not thread-safe: it belongs to one event loop.

    Args:
        write: writes labels, all or none, and returns the fate of each.
        waiting_max: labels that may wait.
    """

    def __init__(
        self, write: Callable[[Sequence[LabelReport]], Awaitable[Sequence[Fate]]], *, waiting_max: int
    ) -> None:
        self._write, self._waiting_max = write, waiting_max
        self._waiting: deque[_Post] = deque()
        self._labels = 0  # that wait
        self._task: asyncio.Task[None] | None = None

    async def add(self, reports: Sequence[LabelReport]) -> LabelReceipt:
        """Write one caller's labels. When this returns they survive `kill -9`.

        Raises:
            Overloaded: too many wait.
            StoreError: the store is away; none was written.
            ValueError: the store cannot keep one of them; none was written.
        """
        if self._labels and self._labels + len(reports) > self._waiting_max:
            raise Overloaded(f"{self._labels} labels wait for the store; at most {self._waiting_max} may")
        told: asyncio.Future[LabelReceipt] = asyncio.get_running_loop().create_future()
        self._waiting.append((reports, told))
        self._labels += len(reports)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return await told

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._write_all(self._next())
        finally:
            self._task = None

    def _next(self) -> list[_Post]:
        posts: list[_Post] = []
        count = 0
        while self._waiting and (not posts or count + len(self._waiting[0][0]) <= TOGETHER_MAX):
            posts.append(self._waiting.popleft())
            count += len(posts[-1][0])
        self._labels -= count
        return posts

    async def _write_all(self, posts: Sequence[_Post]) -> None:
        try:
            fates = await self._write([report for reports, _ in posts for report in reports])
        except Exception as error:  # noqa: BLE001 - it is the callers'
            if len(posts) == 1 or isinstance(error, StoreError):
                for _, told in posts:
                    if not told.done():
                        told.set_exception(error)
            else:  # one caller's labels are no reason to refuse another's
                for post in posts:
                    await self._write_all([post])
            return
        end = 0
        for reports, told in posts:
            start, end = end, end + len(reports)
            if not told.done():  # the caller may have gone
                told.set_result(LabelReceipt(fates[start:end]))
