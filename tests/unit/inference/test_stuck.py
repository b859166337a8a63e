"""A kernel that does not end when it is cancelled: the thread is busy, others are answered by rule."""

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.unit.inference.test_sized import FAST, Sequences, model, of
from understudy.errors import Overloaded
from understudy.inference import Cancellation
from understudy.inference.cost import SizeCosts
from understudy.inference.decoding import Array


class Stuck(Sequences):
    """Ends when it is released, whatever its cancellation says."""

    released = threading.Event()

    def run(self, columns: Mapping[str, Array], cancellation: Cancellation | None = None) -> dict[str, Array]:
        if columns["x"].shape[1] > 100:
            assert self.released.wait(30)
        return {"y": columns["x"][:, 0]}


def test_requests_behind_a_kernel_that_does_not_end_are_rejected_at_once() -> None:
    """Once it has gone on for longer than they can wait: it is expected to go on for as long again."""
    engine = Stuck(SizeCosts(FAST, ["x"]))

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            local = model(engine, executor, deadline_s=0.05)
            first = asyncio.get_running_loop().create_future()
            local.enqueue_by(of(1, 500), first, 0.05)
            await asyncio.sleep(0.06)
            first.cancel()  # its caller got a 504
            await asyncio.sleep(0.2)
            with pytest.raises(Overloaded, match="would wait"):
                local.enqueue_by(of(1), asyncio.get_running_loop().create_future(), 0.05)
            engine.released.set()
            await local.idle()
            assert (await local.infer(of(1))).values == [1.0]

    asyncio.run(main())
