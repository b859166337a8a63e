"""`make bench-v2`: raw tensors beside a bare server, and beside the runtime with no server at all.

A thousand rows of the matrix models a request, and single images to squeezenet. Interleaved rounds as in `loadtests.bench`: the
server on one core, wrk on the other; the bare runtime on the server's core.
"""

import datetime
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.progress import track

from loadtests import matrix
from loadtests.measuring import RESULTS, ROOT, SERVER_CPU, Server, machine, measure, need_tools, script

if TYPE_CHECKING:
    import onnx

ROWS = 1_000
IMAGES_AT_ONCE = (1, 2, 4, 8, 16)
"""Batch sizes at which the bare runtime is tried on images; the best one counts."""
PATH = "/v2/models/bench/infer"
RAW = """
import sys, time
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x, name = np.load(sys.argv[2]), session.get_inputs()[0].name
until, runs = time.perf_counter() + float(sys.argv[3]), 0
began = time.perf_counter()
while time.perf_counter() < until:
    session.run(None, {name: x})
    runs += 1
print(runs * len(x) / (time.perf_counter() - began))
"""
console = Console(highlight=False)


@dataclass
class Case:
    """One model asked for raw tensors.

    Attributes:
        tensor: a request's; sizes: how many rows at once the bare runtime is run on.
        raw: its rows per second, a round each, at the best of the sizes.
    """

    name: str
    model: Path
    tensor: npt.NDArray[np.float32]
    connections: int
    sizes: tuple[int, ...]
    task: str = "binary-classification"
    raw: list[float] = field(default_factory=list)

    def prepare(self, folder: Path) -> None:
        """Write what the servers and the load generator read."""
        import onnx

        raw = self.tensor.tobytes()
        tensor = {
            "name": _input(onnx.load(self.model)).name,
            "datatype": "FP32",
            "shape": self.tensor.shape,
            "parameters": {"binary_data_size": len(raw)},
        }
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        kind = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        self.lua = script(folder, self.name, head + raw, kind)
        rollout = folder / f"{self.name}.yaml"
        rollout.write_text(
            f"model: bench\ntask: {self.task}\nprimary: {self.model}\ngoals: {{latency: {{p99_ms: 5000, deadline_ms: 20000}}}}\n",
            encoding="utf-8",
        )
        self.folder = folder
        ours = [sys.executable, "-m", "understudy.cli", "serve", "--port", "{port}", str(rollout)]
        bare = [sys.executable, "-m", "uvicorn", "loadtests.peers.bare_v2:app", "--no-access-log", "--port", "{port}"]
        self.ours = Server("understudy", ours, {"UNDERSTUDY_STATE_DIR": str(folder / f"state-{self.name}")}, PATH)
        self.bare = Server("bare uvicorn + np.frombuffer", bare, {"PEER_MODEL": str(self.model)}, PATH, "/")

    def round(self, seconds: int) -> None:
        """Measure each once."""
        for server in (self.bare, self.ours):
            measure(server, self.lua, seconds, self.connections)
        self.raw.append(max(self._raw_rows(size, max(1.0, seconds / 2 / len(self.sizes))) for size in self.sizes))

    def _raw_rows(self, size: int, seconds: float) -> float:
        """Rows per second of the model with no server around it, on the server's core."""
        place = self.folder / "raw.npy"
        np.save(place, np.repeat(self.tensor, -(-size // len(self.tensor)), axis=0)[:size])
        command = ["taskset", "-c", SERVER_CPU, sys.executable, "-c", RAW, str(self.model), str(place), str(seconds)]
        return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def _input(model: "onnx.ModelProto") -> "onnx.ValueInfoProto":
    """The input that is not a weight."""
    weights = {weight.name for weight in model.graph.initializer}
    return next(value for value in model.graph.input if value.name not in weights)


def squeezenet(path: Path) -> Path:
    """The squeezenet of onnx's own test data, without its trained weights (the work is the same), for any number of images."""
    import onnx
    from onnx.backend.test import data

    model = onnx.load(Path(str(data.__path__[0])) / "light" / "light_squeezenet.onnx")
    for value in (_input(model), *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "images"
    path.write_bytes(model.SerializeToString())
    return path


def cases(folder: Path) -> list[Case]:
    """What is measured."""
    rows, image = matrix.rows(ROWS), np.random.default_rng(7).random((1, 3, 224, 224), np.float32)
    found = [
        Case("logistic", matrix.logistic(folder / "logistic.onnx"), rows, 16, (ROWS,)),
        Case("boosted", matrix.boosted(folder / "boosted.onnx"), rows, 16, (ROWS,)),
        Case("squeezenet", squeezenet(folder / "squeezenet.onnx"), image, 32, IMAGES_AT_ONCE, "other"),
    ]
    for case in found:
        case.prepare(folder)
    return found


def report(found: list[Case], rounds: int, seconds: int) -> str:
    """The results as Markdown."""
    lines = [
        f"# Raw tensors, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        "",
        (
            f"One FP32 tensor a request over the Open Inference Protocol: {ROWS:,} rows of {matrix.COLUMNS} for the matrix models "
            "over 16 connections, one image of 3 x 224 x 224 for squeezenet over 32. "
            f"{rounds} interleaved rounds of {seconds} s after a second of warm-up; the server and all its processes on core "
            f"{SERVER_CPU}, wrk on the other. Everything on but a candidate: routing, ids, metrics, records (what the store cannot "
            "take is dropped and counted). `session.run` is the same model in a loop, one thread, on the server's core; for "
            f"squeezenet the best of {', '.join(map(str, IMAGES_AT_ONCE))} images at once."
        ),
        machine(("bentoml", "onnxruntime", "uvicorn", "uvloop", "numpy")),
        "Made by `make bench-v2`. Medians (lowest to highest); absolute figures belong to this machine and hour.",
        "",
        "| model | server | rows/s | p50 ms | p99 ms | × bare | × session.run |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in found:
        raw, count = statistics.median(case.raw), len(case.tensor)
        for server in (case.ours, case.bare):
            rate, rates = server.median("rate") * count, [sample.rate * count for sample in server.samples]
            lines.append(
                f"| {case.name} | {server.name} | {rate:,.0f} ({min(rates):,.0f}-{max(rates):,.0f}) | "
                f"{server.median('p50_ms'):.2f} | {server.median('p99_ms'):.2f} | "
                f"{rate / case.bare.median('rate') / count:.2f} | {rate / raw:.2f} |"
            )
        lines.append(
            f"| {case.name} | session.run | {raw:,.0f} ({min(case.raw):,.0f}-{max(case.raw):,.0f}) | | | | 1.00 |"
        )
    return "\n".join(lines) + "\n"


def main(
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 5,
    seconds: Annotated[int, typer.Option(help="seconds of load per round and server")] = 4,
    only: Annotated[str, typer.Option(help="one model's name")] = "",
    write: Annotated[bool, typer.Option(help="write a dated file to loadtests/results/")] = True,
) -> None:
    """Measure raw tensors."""
    need_tools()
    with tempfile.TemporaryDirectory() as place:
        found = [case for case in cases(Path(place)) if only in case.name]
        for case in track([case for _ in range(rounds) for case in found], description="measuring", console=console):
            case.round(seconds)
    text = report(found, rounds, seconds)
    console.print(text)
    if write:
        path = RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-bench-v2.md"
        path.write_text(text, encoding="utf-8")
        console.print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    typer.run(main)
