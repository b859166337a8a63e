"""The candidate's process answers in time: what is late is late alone, and its run is cancelled."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.graphs import attention, looping
from understudy.errors import DeadlineExceeded
from understudy.inference import wire
from understudy.inference.cost import SizeCosts, ValueCosts
from understudy.inference.onnx import OnnxEngine
from understudy.inference.timed_calls import TimedCalls

FOR_EVER = 4_000_000_000


def answered(calls: TimedCalls, columns: dict[str, Any], sizes: list[int], timeout_s: float) -> list[wire.Part]:
    return wire.unpack_reply(asyncio.run(calls.answer(columns, sizes, timeout_s)))[0]


def test_the_neighbours_of_a_loop_without_end_keep_their_answers(tmp_path: Path) -> None:
    """Rehearsals of several requests are one call; the one that never ends is late, and nothing runs on."""
    engine = OnnxEngine(looping(tmp_path / "m.onnx"), device="cpu", warm_max_rows=1)
    assert isinstance(engine.costs, ValueCosts)
    calls = TimedCalls(engine, inline_max_s=0.002)
    turns = np.array([[2], [FOR_EVER], [2], [3]], np.int64)
    columns = {"turns": turns, "x": np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)}
    began = time.perf_counter()
    first, never, last = answered(calls, columns, [1, 1, 2], 0.5)

    assert time.perf_counter() - began < 10  # the loop would take an hour
    assert (first.late, never.late, last.late) == (False, True, False)
    assert first.outputs["y"].tolist() == [[1.0]]
    assert last.outputs["y"].tolist() == [[3.0], [4.0]]


def test_a_call_that_takes_too_long_is_cancelled(tmp_path: Path) -> None:
    """The same request again and again would otherwise keep every core busy, although its callers have left."""
    engine = OnnxEngine(attention(tmp_path / "m.onnx", width=128, layers=8), device="cpu", warm_max_rows=1)
    assert isinstance(engine.costs, SizeCosts)
    calls = TimedCalls(engine, inline_max_s=0.002)
    half_s = engine.costs.seconds(64, 64 * 1024) / 2
    long = {"input_ids": np.ones((64, 1024), np.int64)}
    with pytest.raises(DeadlineExceeded):
        answered(calls, long, [64], 0.05)
    short, late = answered(calls, {"input_ids": np.ones((65, 1024), np.int64)}, [1, 64], half_s)

    assert (short.late, late.late) == (False, True)
