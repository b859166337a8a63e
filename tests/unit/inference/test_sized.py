"""Models whose cost is more than their rows: what shares a run, what goes to the thread, what is rejected at once."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from understudy.errors import ExpectedLate, Overloaded, RunCancelled
from understudy.inference import Cancellation
from understudy.inference.cards import InputSpec, OutputSpec
from understudy.inference.cost import SizeCosts, ValueCosts
from understudy.inference.decoding import Array, Columns, Field
from understudy.inference.sized import SizedModel, local_model
from understudy.testing import FakeEngine, card

COLUMNS = Columns([Field("x", "float32", (None,))], {"x": 0})
FAST = {(rows, rows * n): 1e-6 for rows in (1, 4) for n in (1, 8, 64)}


class Sequences(FakeEngine):
    """y = the first number of a row; a negative one is the seconds that the run takes, if nobody cancels it."""

    def __init__(self, costs: SizeCosts | ValueCosts) -> None:
        own = card(
            task="regression",
            classes=[],
            positive=None,
            inputs=[InputSpec(name="x", dtype="float32", shape=[None, None])],
            outputs=[OutputSpec(name="y", dtype="float32", shape=[None], role="value")],
        )
        super().__init__(own)
        self.costs: Any = costs
        self.shapes: list[tuple[int, ...]] = []
        self.inline: list[bool] = []

    def seconds(self, rows: int) -> float:
        return 0.0

    def run(self, columns: Mapping[str, Array], cancellation: Cancellation | None = None) -> dict[str, Array]:
        x = columns["x"]
        self.shapes.append(x.shape)
        self.inline.append(cancellation is None)
        ends = time.perf_counter() + max(0.0, -float(x[:, 0].min()))
        while time.perf_counter() < ends:
            time.sleep(0.001)
            if cancellation is not None and cancellation.cancelled:
                raise RunCancelled
        return {"y": x[:, 0]}


def model(engine: Sequences, executor: Any, **options: Any) -> SizedModel:
    settings: dict[str, Any] = {"max_rows": 64, "queue_max_rows": 1000, "inline_max_s": 0.002, "deadline_s": 5.0}
    made = local_model(engine, COLUMNS, executor, **(settings | options))
    assert isinstance(made, SizedModel)
    return made


def of(first: float, length: int = 2, rows: int = 1) -> list[tuple[Any, ...]]:
    return [([first] + [1.0] * (length - 1),)] * rows


def run(main: Callable[[Any], Any]) -> Any:
    async def within() -> Any:
        with ThreadPoolExecutor(1) as executor:
            return await main(executor)

    return asyncio.run(within())


def test_requests_of_equal_shapes_share_a_run() -> None:
    """The others would not fit into one array; padding would change answers."""
    engine = Sequences(SizeCosts(FAST, ["x"]))

    async def main(executor: Any) -> None:
        local = model(engine, executor)
        asked = [local.infer(of(value, length)) for value, length in ((1, 2), (2, 2), (3, 4), (4, 4), (5, 2))]
        assert [scores.values for scores in await asyncio.gather(*asked)] == [[1], [2], [3], [4], [5]]

    run(main)
    assert engine.shapes == [(2, 2), (2, 4), (1, 2)]
    assert all(engine.inline)


def test_sizes_that_were_never_measured_go_to_the_thread() -> None:
    """However short they are expected to be; once one has ended, the next may be run on the event loop."""
    engine = Sequences(SizeCosts(FAST, ["x"]))

    async def main(executor: Any) -> None:
        local = model(engine, executor)
        for _ in range(2):
            await local.infer(of(1, 500))

    run(main)
    assert engine.inline == [False, True]


def test_a_cost_that_depends_on_values_never_runs_on_the_event_loop() -> None:
    engine = Sequences(ValueCosts(1e-6))

    async def main(executor: Any) -> None:
        local = model(engine, executor)
        await asyncio.gather(*(local.infer(of(1)) for _ in range(3)))

    run(main)
    assert engine.inline == [False] * 3
    assert engine.shapes == [(1, 2)] * 3  # one request a run: none pays for another's loop


def test_a_long_run_gives_way_to_those_behind_it() -> None:
    """It is cancelled after its turn, the others are answered, and then it has all the time that is left."""
    engine = Sequences(ValueCosts(1e-6))

    async def main(executor: Any) -> None:
        local = model(engine, executor)
        order: list[str] = []
        long, short = local.infer(of(-0.4)), local.infer(of(1))
        long.add_done_callback(lambda _: order.append("long"))
        short.add_done_callback(lambda _: order.append("short"))
        assert (await long).values == [pytest.approx(-0.4)]
        await short
        assert order == ["short", "long"]

    run(main)


def test_a_run_that_nobody_waits_for_is_cancelled() -> None:
    """Its callers have been answered at their deadline; the thread is free for others at once."""
    engine = Sequences(SizeCosts(FAST, ["x"]))

    async def main(executor: Any) -> float:
        local = model(engine, executor)
        given_up = local.infer(of(-60.0, 500))
        await asyncio.sleep(0.05)
        given_up.cancel()
        began = time.perf_counter()
        await local.infer(of(1))
        return time.perf_counter() - began

    assert run(main) < 10


def test_a_request_that_would_wait_too_long_is_rejected_at_once() -> None:
    """By the run in the thread, by those that wait, and by its own size; not by a guess about an idle model."""
    engine = Sequences(SizeCosts({(1, n): 0.01 * n for n in (1, 10, 100)}, ["x"]))

    async def main(executor: Any) -> None:
        local = model(engine, executor, deadline_s=1.0)
        first = local.infer(of(-0.3, 30))
        await asyncio.sleep(0.02)
        waits = asyncio.get_running_loop().create_future()
        with pytest.raises(Overloaded, match="would wait"):
            local.enqueue_by(of(1, 5), waits, 0.1)
        local.enqueue_by(of(1, 5), waits, 1.0)
        too_long = asyncio.get_running_loop().create_future()
        with pytest.raises(ExpectedLate, match="longer than its deadline"):
            local.enqueue_by(of(1, 100), too_long, 0.5)
        await asyncio.gather(first, waits)
        local.enqueue_by(of(1, 100), too_long, 0.5)  # now and then one is tried: the machine may have become faster
        await too_long
        with pytest.raises(ExpectedLate):
            local.enqueue_by(of(1, 100), too_long, 0.2)

    run(main)
    assert not engine.inline[0]
    assert np.prod(engine.shapes[-1]) == 100
