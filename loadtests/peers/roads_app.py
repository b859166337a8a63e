"""Two roads from one BentoML process to another, side by side: this service's to its candidate, and `bentoml.depends`."""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import bentoml
import numpy as np

from loadtests import matrix
from understudy.app import Candidate
from understudy.inference.onnx import OnnxEngine
from understudy.inference.remote import RemoteEngine

CALLS, AT_ONCE = 400, 16
SIZES = (1, 16, 256)


@bentoml.service(workers=1)
class Depended:
    """The same model behind BentoML's own endpoint, with its own tensors."""

    def __init__(self) -> None:
        self.engine = OnnxEngine(os.environ["PEER_MODEL"], device="cpu", threads=1, warm_max_rows=1)

    @bentoml.api
    def infer(self, x: np.ndarray) -> np.ndarray:
        """Probabilities of rows."""
        return self.engine.run({"x": x})["probabilities"]


@bentoml.service(workers=1)
class Front:
    """Asks both."""

    depended = bentoml.depends(Depended)
    candidate = bentoml.depends(Candidate)

    @bentoml.api
    async def measure(self) -> dict[str, Any]:
        """Microseconds a call, one after the other (median) and many at once, by road and rows; and calls that failed."""
        url: Any = Candidate
        ours = RemoteEngine(url.url, connections_max=AT_ONCE)
        found: dict[str, Any] = {}
        for rows in SIZES:
            x = matrix.rows(rows)
            roads: dict[str, Callable[[Any], Awaitable[Any]]] = {
                "ours": lambda x: ours.run({"x": x}, [len(x)], 10.0),
                "bentoml.depends": lambda x: self.depended.to_async.infer(x=x),
            }
            for _ in range(3):  # interleaved
                for name, ask in roads.items():
                    found.setdefault(f"{name}/{rows}", []).append(await _timed(ask, x))
        await ours.close()
        return {
            key: [statistics.median(values) for values in zip(*rounds, strict=True)] for key, rounds in found.items()
        }


async def _timed(ask: Callable[[Any], Awaitable[Any]], x: Any) -> tuple[float, float, int]:
    alone, failed = [], 0

    async def once() -> None:
        nonlocal failed
        try:
            await ask(x)
        except Exception:  # noqa: BLE001 - of whatever kind: it is counted
            failed += 1

    for _ in range(CALLS):
        began = time.perf_counter()
        await once()
        alone.append(time.perf_counter() - began)

    async def caller() -> None:
        for _ in range(CALLS // AT_ONCE):
            await once()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return statistics.median(alone) * 1e6, (time.perf_counter() - began) / CALLS * 1e6, failed
