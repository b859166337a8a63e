"""One loop turn, one run; everyone gets their own rows, and one bad request fails alone."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import InferenceError, Overloaded
from understudy.inference import Scores, spread_model
from understudy.inference.batching import LocalModel
from understudy.inference.decoding import Columns, Field
from understudy.inference.spread_model import YOUNG_S, SpreadModel
from understudy.testing import FakeEngine

COLUMNS = Columns([Field("x", "float32", (1,), True), Field("s", "string", (1,))], {"x": 0, "s": 1})


def local(engine: FakeEngine, executor: Any, **limits: Any) -> LocalModel:
    settings: dict[str, Any] = {"max_rows": 64, "queue_max_rows": 1000, "inline_max_s": 0.002} | limits
    return LocalModel(engine, COLUMNS, executor, **settings)


def rows(*values: float) -> list[tuple[Any, ...]]:
    return [(value, "s") for value in values]


def positive(scores: Scores) -> list[float]:
    assert scores.probabilities is not None
    return [round(row[1], 6) for row in scores.probabilities]


def test_requests_of_one_turn_are_one_run() -> None:
    """Three requests, one run, each with its own rows back in order."""

    async def main() -> None:
        engine = FakeEngine()
        model = local(engine, None)
        one, two, three = await asyncio.gather(
            model.infer(rows(0.1, 0.2)), model.infer(rows(0.3)), model.infer(rows(0.4, 0.5, 0.6))
        )

        assert engine.runs == [6]
        assert [positive(s) for s in (one, two, three)] == [[0.1, 0.2], [0.3], [0.4, 0.5, 0.6]]
        assert three.labels == [0, 0, 1]

    asyncio.run(main())


VALUES = st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.9, 13.0]), min_size=1, max_size=5)


@given(st.lists(VALUES, min_size=1, max_size=12), st.integers(1, 8), st.booleans(), st.sampled_from([0.0, 0.001]))
def test_nobody_gets_another_s_rows_and_a_bad_request_fails_alone(
    requests: list[list[float]], max_rows: int, threaded: bool, delay: float
) -> None:
    """Whatever the sizes, the limit, whether runs go to a thread, and whether they wait for company."""

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            model = local(FakeEngine(cost_s=1.0 if threaded else 0.0), executor, max_rows=max_rows, max_delay_s=delay)
            answers = await asyncio.gather(*(model.infer(rows(*values)) for values in requests), return_exceptions=True)
        for values, answer in zip(requests, answers, strict=True):
            if 13.0 in values:
                assert isinstance(answer, InferenceError)
            else:
                assert isinstance(answer, Scores)
                assert positive(answer) == [round(float(v), 6) for v in values]

    asyncio.run(main())


def test_what_waits_for_a_long_run_is_the_next_batch() -> None:
    """While the thread is busy the loop is free, and arrivals gather."""
    started, release = threading.Event(), threading.Event()

    def before(count: int) -> None:
        if count == 1:
            started.set()
            assert release.wait(5)

    async def main() -> None:
        engine = FakeEngine(cost_s=1.0, before=before)
        with ThreadPoolExecutor(1) as executor:
            model = local(engine, executor)
            first = asyncio.ensure_future(model.infer(rows(0.1)))
            while not started.is_set():
                await asyncio.sleep(0)
            assert not model.inline(1)
            later = [asyncio.ensure_future(model.infer(rows(0.2))) for _ in range(5)]
            await asyncio.sleep(0)
            release.set()
            await asyncio.gather(first, *later)
        assert engine.runs == [1, 5]

    asyncio.run(main())


def test_a_request_that_fills_a_batch_is_run_at_once() -> None:
    """Unless others wait already, or it takes long: then it takes its turn."""

    async def main() -> None:
        engine = FakeEngine()
        model = local(engine, None, max_rows=4)
        alone = model.infer(rows(0.1, 0.2, 0.3))
        assert (alone.done(), engine.runs) == (True, [3])
        failed = model.infer(rows(0.1, 13, 0.3))
        assert isinstance(failed.exception(), InferenceError)
        small, behind = model.infer(rows(0.4)), model.infer(rows(0.5, 0.6, 0.7))
        assert not small.done()
        assert not behind.done()
        assert [positive(s) for s in await asyncio.gather(alone, small, behind)] == [
            [0.1, 0.2, 0.3],
            [0.4],
            [0.5, 0.6, 0.7],
        ]
        assert not local(FakeEngine(cost_s=1.0), None, max_rows=4).inline(3)

    asyncio.run(main())


def test_a_delay_gathers_until_it_is_over_or_the_batch_is_full() -> None:
    """Requests of several turns share a run; `max_rows` rows wait no longer; without a delay each turn is a run."""

    async def arriving(delay: float, max_rows: int) -> list[int]:
        engine = FakeEngine()
        model = local(engine, None, max_delay_s=delay, max_rows=max_rows)
        waiting = []
        for _ in range(4):
            waiting.append(model.infer(rows(0.1)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)
        assert not delay or not model.inline(1)
        return engine.runs

    assert asyncio.run(arriving(0.0, 64)) == [1, 1, 1, 1]
    assert asyncio.run(arriving(0.05, 64)) == [4]
    assert asyncio.run(arriving(60.0, 2)) == [2, 2]


def test_the_queue_has_a_limit() -> None:
    """More than `queue_max_rows` waiting rows are refused; what waits is still answered."""

    async def main() -> None:
        model = local(FakeEngine(), None, queue_max_rows=3)
        waiting = [model.infer(rows(0.1)), model.infer(rows(0.2, 0.3))]
        with pytest.raises(Overloaded, match="limit is 3"):
            model.infer(rows(0.4))
        assert [positive(s) for s in await asyncio.gather(*waiting)] == [[0.1], [0.2, 0.3]]

    asyncio.run(main())


def test_an_abandoned_request_is_not_run() -> None:
    """A caller that has gone costs nothing."""

    async def main() -> None:
        engine = FakeEngine()
        model = local(engine, None)
        gone, here = model.infer(rows(0.1)), model.infer(rows(0.2))
        gone.cancel()
        assert positive(await here) == [0.2]
        assert engine.runs == [1]

    asyncio.run(main())


def test_calls_elsewhere_may_overlap_and_fail_together() -> None:
    """Each turn is one call; a failed call fails the requests in it, and only those."""

    async def main() -> None:
        tasks: set[asyncio.Task[None]] = set()
        calls: list[int] = []

        async def call(requests: Any) -> list[Scores | Exception]:
            calls.append(len(requests))
            await asyncio.sleep(0)
            if any(row[0] == 13 for rows in requests for row in rows):
                raise TimeoutError
            return [Scores(len(rows), labels=[row[0] for row in rows]) for rows in requests]

        model = SpreadModel(
            call, lambda c: tasks.add(asyncio.get_running_loop().create_task(c)), max_rows=64, queue_max_rows=100
        )
        first = asyncio.gather(model.infer(rows(1)), model.infer(rows(2)))
        await asyncio.sleep(0)
        second = asyncio.gather(model.infer(rows(13)), model.infer(rows(3)), return_exceptions=True)
        assert [s.labels for s in await first] == [[1], [2]]
        assert [type(error) for error in await second] == [TimeoutError, TimeoutError]
        assert calls == [2, 2]

    asyncio.run(main())


class Elsewhere:
    """A model whose calls end when the test says so."""

    def __init__(self, **limits: Any) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.calls: list[tuple[list[int], asyncio.Future[None]]] = []
        limits = {"max_rows": 64, "queue_max_rows": 100} | limits
        self.model = SpreadModel(self._call, self._spawn, **limits)

    def _spawn(self, coroutine: Any) -> None:
        self.tasks.add(asyncio.get_running_loop().create_task(coroutine))

    async def _call(self, requests: Any) -> list[Scores | Exception]:
        ends: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.calls.append(([row[0] for rows in requests for row in rows], ends))
        await ends
        return [Scores(len(rows), labels=[row[0] for row in rows]) for rows in requests]

    @property
    def batches(self) -> list[list[int]]:
        return [batch for batch, _ in self.calls]


async def turns(n: int = 4) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def test_what_comes_while_a_young_call_is_under_way_is_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread_model, "YOUNG_S", 60.0)  # also on a machine that is busy with something else

    async def main() -> None:
        there = Elsewhere()
        waiting = [there.model.infer(rows(1))]
        await turns()
        for number in (2, 3, 4):
            waiting.append(there.model.infer(rows(number)))
            await turns()
        assert there.batches == [[1]]
        there.calls[0][1].set_result(None)
        await turns()
        assert there.batches == [[1], [2, 3, 4]]
        there.calls[1][1].set_result(None)
        assert [(await each).labels for each in waiting] == [[1], [2], [3], [4]]

    asyncio.run(main())


def test_a_call_that_takes_long_holds_up_nobody() -> None:
    """One that hangs would otherwise take everybody else's time with it."""

    async def main() -> None:
        there = Elsewhere()
        hangs = there.model.infer(rows(1))
        await turns()
        began = asyncio.get_running_loop().time()
        second = there.model.infer(rows(2))
        while len(there.calls) < 2:
            await asyncio.sleep(0.0005)
        assert YOUNG_S <= asyncio.get_running_loop().time() - began + 0.0005 < 1.0
        there.calls[1][1].set_result(None)
        assert (await second).labels == [2]
        third = there.model.infer(rows(3))
        await turns()
        assert there.batches == [[1], [2], [3]], "the last call has ended: nothing is waited for"
        there.calls[0][1].set_result(None)
        there.calls[2][1].set_result(None)
        assert (await hangs).labels == [1]
        assert (await third).labels == [3]

    asyncio.run(main())


def test_a_full_batch_waits_for_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread_model, "YOUNG_S", 60.0)  # also on a machine that is busy with something else

    async def main() -> None:
        there = Elsewhere(max_rows=2)
        waiting = [there.model.infer(rows(1))]
        await turns()
        waiting += [there.model.infer(rows(2)), there.model.infer(rows(3)), there.model.infer(rows(4))]
        await turns()
        assert there.batches == [[1], [2, 3]]
        there.calls[0][1].set_result(None)
        await turns()
        assert there.batches == [[1], [2, 3]], "the last call is still young"
        there.calls[1][1].set_result(None)
        await turns()
        assert there.batches == [[1], [2, 3], [4]]
        there.calls[2][1].set_result(None)
        assert [(await each).labels for each in waiting] == [[1], [2], [3], [4]]

    asyncio.run(main())
