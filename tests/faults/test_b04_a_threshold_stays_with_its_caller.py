"""B4: callers whose requests shared a run got each other's threshold. Right: a run has the rows of one threshold."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import layouts
from understudy.inference.batching import LocalModel
from understudy.inference.decoding import Columns, Field, Rows
from understudy.inference.onnx import OnnxEngine


@pytest.mark.parametrize("shape", [(), (1,)])
def test_requests_with_other_thresholds_in_one_iteration_keep_their_own(tmp_path: Path, shape: tuple[Any, ...]) -> None:
    """Sixteen callers at once, and one request with rows of two thresholds."""
    engine = OnnxEngine(layouts.threshold(tmp_path / "m.onnx", shape), device="cpu", warm_max_rows=64)
    fields = [Field(s.name, s.dtype, s.row_shape) for s in engine.card.inputs]
    columns = Columns(fields, {"x": 0, "threshold": 1})
    requests: list[Rows] = [[([1.0, 1.0, 1.0, float(i)], float(i))] for i in range(16)]
    requests.append([([0.0, 0.0, 0.0, 1.0], 2.0), ([0.0, 0.0, 0.0, 1.0], -2.0)])

    async def main() -> list[Any]:
        with ThreadPoolExecutor(1) as pool:
            model = LocalModel(engine, columns, pool, max_rows=64, queue_max_rows=64, inline_max_s=1.0)
            return await asyncio.gather(*(model.infer(rows) for rows in requests))

    answers = asyncio.run(main())
    used = [np.ravel(scores.others["used"]).tolist() for scores in answers]
    assert used == [[float(i)] for i in range(16)] + [[2.0, -2.0]]
    assert [scores.others["above"] for scores in answers] == [[True]] * 16 + [[False, True]]
