"""Joins the labels of several callers into one transaction: labels that arrive during a write are the next write.

A transaction costs a few hundred microseconds, and each of its labels 13 µs: with 20 labels per transaction, most of the time would
be spent on the transaction.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from understudy.domain import Fate, LabelReceipt, LabelReport
from understudy.errors import Overloaded, StoreError

TOGETHER_MAX = 2_000
"""The largest number of labels per transaction, unless one caller reports more."""

_Post = tuple[Sequence[LabelReport], asyncio.Future[LabelReceipt]]


class LabelQueue:
    """Writes labels, one transaction at a time. Not thread-safe: it belongs to one event loop.

    Args:
        write: writes labels, all or none, and returns the fate of each.
        waiting_max: the largest number of waiting labels.
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
            Overloaded: too many labels wait.
            StoreError: the store is unavailable; no label was stored.
            ValueError: one of them cannot be stored; none was stored.
        """
        if self._labels and self._labels + len(reports) > self._waiting_max:
            raise Overloaded(
                f"{self._labels} labels are waiting for the store; the limit is {self._waiting_max}. Send them again later"
            )
        receipt: asyncio.Future[LabelReceipt] = asyncio.get_running_loop().create_future()
        self._waiting.append((reports, receipt))
        self._labels += len(reports)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return await receipt

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
        except Exception as error:  # noqa: BLE001 - an error of any kind goes to the callers
            if len(posts) == 1 or isinstance(error, StoreError):
                for _, receipt in posts:
                    if not receipt.done():
                        receipt.set_exception(error)
            else:  # one caller's bad label must not affect the others
                for post in posts:
                    await self._write_all([post])
            return
        end = 0
        for reports, receipt in posts:
            start, end = end, end + len(reports)
            if not receipt.done():  # the caller may have disconnected
                receipt.set_result(LabelReceipt(fates[start:end]))
