"""A run can be cancelled from another thread, and the model answers the next one."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.graphs import looping, summing
from understudy.errors import RunCancelled
from understudy.inference import Cancellation
from understudy.inference.decoding import Array
from understudy.inference.onnx import OnnxEngine

FOR_EVER = 4_000_000_000


def turns(count: int) -> dict[str, Array]:
    return {"turns": np.array([[count]], np.int64), "x": np.array([[3.0]], np.float32)}


def test_a_loop_without_end_is_cancelled_and_the_model_answers_the_next_run(tmp_path: Path) -> None:
    """The runtime looks at the flag between two nodes, those inside of a Loop included."""
    engine = OnnxEngine(looping(tmp_path / "m.onnx"), device="cpu", warm_max_rows=1)
    cancellation = Cancellation()
    timer = threading.Timer(0.05, cancellation.cancel)
    timer.start()
    started = time.perf_counter()
    with pytest.raises(RunCancelled):
        engine.run(turns(FOR_EVER), cancellation)

    assert time.perf_counter() - started < 5  # the loop would take an hour
    assert engine.run(turns(2), Cancellation())["y"].tolist() == [[3.0]]


def test_a_run_that_was_cancelled_before_it_began_does_not_begin(tmp_path: Path) -> None:
    """Its request waited in the queue for longer than its deadline."""
    engine = OnnxEngine(looping(tmp_path / "m.onnx"), device="cpu", warm_max_rows=1)
    cancellation = Cancellation()
    cancellation.cancel()
    with pytest.raises(RunCancelled):
        engine.run(turns(FOR_EVER), cancellation)


def test_the_pieces_of_a_fixed_batch_are_cancelled_too(tmp_path: Path) -> None:
    """Each piece is a run of the runtime; those that are left do not begin."""
    engine = OnnxEngine(summing(tmp_path / "m.onnx", rows=2), device="cpu", warm_max_rows=1)
    begun: list[int] = []

    class AfterTwo(Cancellation):
        def begin(self, stop: Callable[[], None]) -> None:
            begun.append(1)
            if len(begun) == 3:
                self.cancel()
            super().begin(stop)

    with pytest.raises(RunCancelled):
        engine.run({"x": np.ones((20, 3), np.float32)}, AfterTwo())
    assert len(begun) == 3
