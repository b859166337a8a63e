"""Labels of several callers are written together, each caller is told of its own, and none pays for another's."""

import asyncio
from collections.abc import Sequence

import pytest

from understudy.domain import Fate, LabelReceipt, LabelReport
from understudy.errors import Overloaded, StoreError
from understudy.records.label_queue import TOGETHER_MAX, LabelQueue


class Store:
    """Takes what it is given, a batch at a time, when it is let; labels above 100 it cannot keep."""

    def __init__(self) -> None:
        self.written: list[list[str]] = []
        self.go = asyncio.Event()
        self.away = False

    async def write(self, reports: Sequence[LabelReport]) -> Sequence[Fate]:
        await self.go.wait()
        if self.away:
            raise StoreError("away")
        if any(report.label > 100 for report in reports):  # type: ignore[operator]
            raise ValueError("cannot keep this")
        self.written.append([report.prediction_id for report in reports])
        return [Fate.DUPLICATE if report.label == 0 else Fate.MATCHED for report in reports]


def labels(*ids: str, label: int = 1) -> list[LabelReport]:
    return [LabelReport(each, label, 5.0) for each in ids]


async def waiting(queue: LabelQueue, *posts: Sequence[LabelReport]) -> list["asyncio.Task[LabelReceipt]"]:
    """The posts on their way, the first of them already with the store."""
    tasks = []
    for post in posts:
        tasks.append(asyncio.create_task(queue.add(post)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return tasks


def test_what_comes_during_a_write_is_the_next_one_and_each_caller_is_told_of_its_own() -> None:
    async def main() -> None:
        store = Store()
        queue = LabelQueue(store.write, waiting_max=100)
        tasks = await waiting(queue, labels("a"), labels("b", "c", label=0), labels("d"), labels("e", label=0))
        store.go.set()
        receipts = await asyncio.gather(*tasks)
        assert store.written == [["a"], ["b", "c", "d", "e"]]
        assert [receipt.fates for receipt in receipts] == [
            [Fate.MATCHED],
            [Fate.DUPLICATE, Fate.DUPLICATE],
            [Fate.MATCHED],
            [Fate.DUPLICATE],
        ]
        assert (await queue.add(labels("f"))).fates == [Fate.MATCHED], "it goes on after a rest"

    asyncio.run(main())


def test_labels_that_the_store_cannot_keep_refuse_no_other_caller() -> None:
    async def main() -> None:
        store = Store()
        queue = LabelQueue(store.write, waiting_max=100)
        tasks = await waiting(queue, labels("a"), labels("b"), labels("bad", label=101), labels("c"))
        store.go.set()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in told] == [LabelReceipt, LabelReceipt, ValueError, LabelReceipt]
        assert store.written == [["a"], ["b"], ["c"]]

    asyncio.run(main())


def test_a_store_that_is_away_is_asked_once_and_everybody_who_waits_is_told() -> None:
    async def main() -> None:
        store = Store()
        queue = LabelQueue(store.write, waiting_max=100)
        tasks = await waiting(queue, labels("a"), labels("b"), labels("c"))
        store.away = True
        store.go.set()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in told] == [StoreError] * 3
        store.away = False
        assert (await queue.add(labels("a"))).fates == [Fate.MATCHED]

    asyncio.run(main())


def test_a_caller_that_has_gone_stops_nobody() -> None:
    async def main() -> None:
        store = Store()
        queue = LabelQueue(store.write, waiting_max=100)
        first, gone, last = await waiting(queue, labels("a"), labels("b"), labels("c"))
        gone.cancel()
        await asyncio.sleep(0)
        store.go.set()
        assert (await first).fates == (await last).fates == [Fate.MATCHED]
        assert store.written == [["a"], ["b", "c"]], "what was handed over may be kept"

    asyncio.run(main())


def test_no_more_wait_than_may_and_no_more_are_written_together_than_may() -> None:
    async def main() -> None:
        store = Store()
        queue = LabelQueue(store.write, waiting_max=2 * TOGETHER_MAX)
        half = labels(*(str(i) for i in range(TOGETHER_MAX // 2 + 1)))
        tasks = await waiting(queue, half, half, half, half)
        with pytest.raises(Overloaded, match=rf"{3 * len(half)} labels are waiting"):
            await queue.add(half)
        store.go.set()
        await asyncio.gather(*tasks)
        assert [len(batch) for batch in store.written] == [len(half)] * 4
        many = labels(*(str(i) for i in range(3 * TOGETHER_MAX)))
        assert len((await queue.add(many)).fates) == len(many), "one caller's are one transaction"

    asyncio.run(main())
