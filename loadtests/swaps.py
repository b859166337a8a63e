"""A hundred model swaps in one process that goes on answering: resident memory must stay flat, and no answer may be wrong.

    python -m loadtests.swaps            # exit code 1 when memory grew

What a promotion and its undoing do (`understudy.serving.slots`): open and warm the other model, install it, let the old one finish
and go.
"""

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.progress import track

from models.data import replay_rows
from understudy.inference.batching import LocalModel
from understudy.inference.decoding import Decoder
from understudy.inference.onnx import OnnxEngine
from understudy.loading import fields_of, inputs_of

ROOT = Path(__file__).parents[1] / "models"
SETTLED = 20
"""Swaps until the allocator has all it needs; what comes after them is growth."""
console = Console(highlight=False)


async def swapping(swaps: int) -> list[float]:
    """Resident memory in MiB after each swap."""
    process, found = psutil.Process(), []
    flights = [flight.row for flight in replay_rows(7, 64)]
    with ThreadPoolExecutor(1) as executor:
        old: LocalModel | None = None
        for name in track([("flight_poc", "flight_candidate")[i % 2] for i in range(swaps)], console=console):
            engine = await asyncio.to_thread(OnnxEngine, ROOT / name, device="cpu", warm_max_rows=64)
            fields = fields_of(engine.card, None)
            positions = Decoder(fields, rows_max=1, key_max_chars=16).positions
            model = LocalModel(
                engine,
                inputs_of(engine.card, positions),
                executor,
                inline_max_s=0.002,
                max_rows=64,
                queue_max_rows=1_000,
            )
            rows = [tuple(flight.get(field.name) for field in fields) for flight in flights]
            asked = [(old or model).infer([row]) for row in rows]  # under way while the model is replaced
            asked += [model.infer([row]) for row in rows]
            assert all(scores.finite for scores in await asyncio.gather(*asked))
            if old is not None:
                old.engine.close()
            old = model
            gc.collect()
            found.append(process.memory_info().rss / 2**20)
    return found


def main(
    swaps: Annotated[int, typer.Option(help="how many", min=SETTLED + 1)] = 100,
    allowed_mib: Annotated[float, typer.Option(help="most growth after the first swaps")] = 8.0,
) -> None:
    """Swap models and watch the memory."""
    memory = asyncio.run(swapping(swaps))
    for at in sorted({*range(SETTLED - 1, swaps, 20), swaps - 1}):
        console.print(f"after {at + 1:3} swaps: {memory[at]:.1f} MiB")
    grown = memory[-1] - memory[SETTLED - 1]
    console.print(f"grown by {grown:.1f} MiB after the first {SETTLED}; {allowed_mib:g} are allowed")
    raise SystemExit(1 if grown > allowed_mib else 0)


if __name__ == "__main__":
    typer.run(main)
