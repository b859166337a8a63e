"""Answers calls in the candidate's process within the time that their callers wait.

A call has the rows of several requests. Where one of them may take much longer than the others, each is run by itself, the shortest
first, and what is not done in time is answered as late: the others keep their answers.
"""

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from understudy.errors import DeadlineExceeded, MalformedRequest, RunCancelled
from understudy.inference import Cancellation, Engine, wire
from understudy.inference.batching import TRY_WITHIN
from understudy.inference.calls import Calls
from understudy.inference.cost import elements_of
from understudy.inference.decoding import Array
from understudy.inference.sized import JOIN_SHARE, TURN_S, TURNS
from understudy.inference.thread_runs import FREES_FROM_S

ANSWER_SHARE = 0.9
"""Share of the caller's time after which a call is answered with what is done: the answer has to travel, too."""

_Result = TypeVar("_Result")


class TimedCalls:
    """Runs calls: short ones at once, the others in threads, where they are cancelled in time.

    Args:
        engine: the model.
        inline_max_s: a call that is expected to take longer goes to a thread.
    """

    def __init__(self, engine: Engine, inline_max_s: float) -> None:
        self.engine, self._calls, self._inline_max_s = engine, Calls(engine), inline_max_s
        costs = engine.costs
        self._plain = costs.foreseeable and not (costs.free or costs.text)

    async def answer(self, columns: Mapping[str, Array], sizes: Sequence[int], timeout_s: float = math.inf) -> bytes:
        """Run a call; returns the packed reply, see `wire.unpack_reply`.

        Args:
            columns: the rows of all requests.
            sizes: the number of rows of each request.
            timeout_s: how long the caller waits.

        Raises:
            DeadlineExceeded: nothing was done in time.
            MalformedRequest: a column that the model needs is missing.
        """
        calls, costs, rows, elements = self._calls, self.engine.costs, sum(sizes), 0
        if not self._plain:
            elements = self._elements(columns)
        expected_s = calls.seconds(sizes, elements)
        began = time.perf_counter()
        if expected_s <= self._inline_max_s and (self._plain or (costs.foreseeable and costs.measured(rows, elements))):
            reply = calls.run(columns, sizes)
            if (taken := time.perf_counter() - began) > self._inline_max_s:
                costs.took(taken, rows, elements)
            return reply
        if costs.least(rows, elements) > TRY_WITHIN * timeout_s and (self._plain or len(sizes) == 1):
            raise _late()
        ends = began + timeout_s * ANSWER_SHARE
        alike = self._plain or (costs.foreseeable and expected_s <= timeout_s * JOIN_SHARE)
        if not alike and (len(sizes) > 1 or not costs.foreseeable):
            return await self._one_by_one(columns, sizes, ends)
        done = await self._in_thread(lambda c: calls.run(columns, sizes, c), rows, elements, ends, expected_s)
        if done is None:
            raise _late()
        return done

    async def _one_by_one(self, columns: Mapping[str, Array], sizes: Sequence[int], ends: float) -> bytes:
        costs, starts = self.engine.costs, [0, *itertools.accumulate(sizes)]
        own = [
            {name: array[start : start + rows] for name, array in columns.items()}
            for start, rows in zip(starts, sizes, strict=False)
        ]
        elements = [self._elements(each) for each in own]
        expected = [costs.seconds(*size) for size in zip(sizes, elements, strict=True)]
        waiting = deque(sorted(range(len(sizes)), key=expected.__getitem__))
        deferred: set[int] = set()
        parts = [wire.Part(1, error="it was not answered in time", late=True) for _ in sizes]
        while waiting:
            i = waiting.popleft()
            turn_ends = ends
            if waiting and not costs.foreseeable and i not in deferred:
                turn_ends = min(ends, time.perf_counter() + max(TURN_S, TURNS * expected[i]))
            part = await self._in_thread(
                lambda c, i=i: self._calls.one(own[i], sizes[i], c),  # type: ignore[misc]  # mypy does not infer `i`
                sizes[i],
                elements[i],
                turn_ends,
                expected[i],
            )
            if part is not None:
                parts[i] = part
            elif turn_ends < ends:
                deferred.add(i)
                waiting.append(i)
        # Where the cost depends on values, a late request says nothing about the process: its caller does not open the breaker.
        if costs.foreseeable and all(part.late for part in parts):
            raise _late()
        return wire.pack_reply(parts, 0)

    async def _in_thread(
        self, work: Callable[[Cancellation], _Result], rows: int, elements: int, ends: float, expected_s: float
    ) -> _Result | None:
        """The result of a run in a thread; None if it was cancelled."""
        left_s = ends - time.perf_counter()
        if left_s <= 0 or self.engine.costs.least(rows, elements) > TRY_WITHIN * left_s:
            return None
        cancellation = Cancellation(frees=expected_s > FREES_FROM_S)
        timer = None
        if left_s < math.inf:
            timer = asyncio.get_running_loop().call_later(left_s, cancellation.cancel)
        began = time.perf_counter()
        try:
            result = await asyncio.to_thread(work, cancellation)
        except RunCancelled:
            self.engine.costs.took(time.perf_counter() - began, rows, elements, ended=False)
            return None
        finally:
            if timer is not None:
                timer.cancel()
        self.engine.costs.took(time.perf_counter() - began, rows, elements)
        return result

    def _elements(self, columns: Mapping[str, Array]) -> int:
        try:
            return elements_of(columns, self.engine.costs.free, self.engine.costs.text)
        except KeyError as error:
            raise MalformedRequest(f"the column {error} of the model is missing") from None


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the run was cancelled: its caller no longer waits")
