"""Two channels from one BentoML process to another: this service's to its candidate, and `bentoml.depends`."""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import bentoml
import numpy as np
import numpy.typing as npt

from loadtests import matrix
from understudy.app import Candidate
from understudy.inference.onnx import OnnxEngine
from understudy.inference.remote import RemoteEngine

CALLS, AT_ONCE = 400, 16
SIZES = (1, 16, 256)

Matrix: TypeAlias = npt.NDArray[np.float32]
Call: TypeAlias = Callable[[Matrix], Awaitable[object]]


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
    """Calls both."""

    depended = bentoml.depends(Depended)
    candidate = bentoml.depends(Candidate)

    @bentoml.api
    async def measure(self) -> dict[str, list[float]]:
        """Microseconds a call, one after the other (median) and many at once, by channel and rows; and calls that failed."""
        # BentoML puts the URL of the running service on its class.
        ours = RemoteEngine(Candidate.url, connections_max=AT_ONCE)  # type: ignore[attr-defined]
        times: dict[str, list[tuple[float, float, int]]] = {}
        for rows in SIZES:
            x = matrix.rows(rows)
            channels: dict[str, Call] = {
                "ours": lambda x: ours.run({"x": x}, [len(x)], 10.0),
                "bentoml.depends": lambda x: self.depended.to_async.infer(x=x),
            }
            for _ in range(3):  # interleaved
                for name, call in channels.items():
                    times.setdefault(f"{name}/{rows}", []).append(await _timed(call, x))
        await ours.close()
        return {
            key: [statistics.median(values) for values in zip(*rounds, strict=True)] for key, rounds in times.items()
        }


async def _timed(call: Call, x: Matrix) -> tuple[float, float, int]:
    alone, failed = [], 0

    async def once() -> None:
        nonlocal failed
        try:
            await call(x)
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
