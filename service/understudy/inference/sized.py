"""A model in this process whose runs cost more than their number of rows says: texts, images, sequences, loops.

Its requests share a run only if their shapes are equal and the run stays short. A model whose cost depends on values runs one
request at a time, always in the thread, and a run that takes long gives way once to the requests behind it.
"""

import math
from collections import deque
from concurrent.futures import Executor
from typing import Unpack

from typing_extensions import override

from understudy.inference import Engine
from understudy.inference.batching import BatchOptions, LocalModel, ScoresCallback, Waiter
from understudy.inference.decoding import Batch, Columns
from understudy.inference.sizes import Size, Sizer

JOIN_SHARE = 0.25
"""Requests share a run that is expected to take up to this share of the deadline."""
TURN_S = 0.02
"""A run whose cost could not be foreseen gives way to waiting requests after this time, or after `TURNS` times what runs take."""
TURNS = 4.0


class SizedModel(LocalModel):
    """A model whose cost follows from the sizes of its inputs, or not even from them."""

    def __init__(
        self,
        engine: Engine,
        columns: Columns,
        executor: Executor,
        *,
        inline_max_s: float,
        deadline_s: float,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(engine, columns, executor, inline_max_s=inline_max_s, deadline_s=deadline_s, **options)
        self._max_rows = options["max_rows"]
        self._costs = engine.costs
        self._sizer = Sizer(columns, self._costs.free, self._costs.text)
        self._sizes: deque[Size] = deque()  # of the requests that wait
        self._waits, self._surprise_s = True, 0.0
        self._gave_way = False  # the request of the run in the thread, once before

    @override
    def enqueue(self, rows: Batch, callback: ScoresCallback) -> None:
        super().enqueue(rows, callback)
        self._sizes.append(self._sizer(rows))

    @override
    def _take(self) -> list[Waiter]:
        """The next batch: requests of equal shapes, as long as the run stays short."""
        batch: list[Waiter] = []
        rows = elements = 0
        first = self._sizes[0]
        self._gave_way = first.deferred
        while self._waiting:
            size = self._sizes[0]
            if batch and not (
                size.shapes == first.shapes and self._fit_together(rows + size.rows, elements + size.elements)
            ):
                break
            waiter = self._waiting.popleft()
            self._sizes.popleft()
            self._waiting_rows -= size.rows
            if not waiter[1].done():
                batch.append(waiter)
                rows, elements, first = rows + size.rows, elements + size.elements, size
        return batch

    def _fit_together(self, rows: int, elements: int) -> bool:
        return (
            self._costs.foreseeable
            and rows <= self._max_rows
            and self._costs.seconds(rows, elements) <= JOIN_SHARE * self._deadline_s
        )

    @override
    def _size(self, rows: Batch) -> Size:
        return self._sizer(rows)

    @override
    def _size_of(self, batch: list[Waiter]) -> Size:
        sizes = [self._sizer(rows) for rows, _ in batch]
        return Size(sum(size.rows for size in sizes), sum(size.elements for size in sizes))

    @override
    def _queued_s(self, size: Size) -> float:
        # An upper limit: those that share a run take less.
        return sum(self._costs.seconds(each.rows, each.elements) for each in (*self._sizes, size))

    @override
    def _is_short(self, batch: list[Waiter], rows: int) -> bool:
        size, costs = self._size_of(batch), self._costs
        return (
            costs.foreseeable
            and costs.measured(rows, size.elements)
            and costs.seconds(rows, size.elements) <= self._inline_max_s
        )

    @override
    def _turn_s(self) -> float:
        if self._costs.foreseeable or not self._waiting or self._gave_way:
            return math.inf
        return max(TURN_S, TURNS * self._costs.seconds(0))

    @override
    def _put_back(self, batch: list[Waiter]) -> None:
        super()._put_back(batch)
        self._sizes += [self._sizer(rows)._replace(deferred=True) for rows, _ in batch]


def local_model(
    engine: Engine,
    columns: Columns,
    executor: Executor,
    *,
    inline_max_s: float,
    deadline_s: float,
    **options: Unpack[BatchOptions],
) -> LocalModel:
    """The kind of local model that an engine needs. Arguments: as for `LocalModel`."""
    costs = engine.costs
    plain = costs.foreseeable and not costs.free and not costs.text
    kind = LocalModel if plain else SizedModel
    return kind(engine, columns, executor, inline_max_s=inline_max_s, deadline_s=deadline_s, **options)
