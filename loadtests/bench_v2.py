"""`make bench-v2`: a thousand rows of raw tensors beside a bare server, and beside the runtime with no server at all.

Interleaved rounds as in `loadtests.bench`: the server on one core, wrk on the other; the bare runtime on the server's core.
"""

import datetime
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from loadtests import matrix
from loadtests.measuring import RESULTS, ROOT, SERVER_CPU, Server, machine, measure, need_tools, script

ROWS = 1_000
PATH = "/v2/models/matrix/infer"
RAW = """
import sys, time
import onnxruntime as ort
from loadtests import matrix
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x, until, runs = matrix.rows(int(sys.argv[2])), time.perf_counter() + float(sys.argv[3]), 0
began = time.perf_counter()
while time.perf_counter() < until:
    session.run(None, {"x": x})
    runs += 1
print(runs / (time.perf_counter() - began))
"""
console = Console(highlight=False)


def payload(folder: Path) -> Path:
    """A wrk script that posts the rows as one raw FP32 tensor, and wants raw tensors back."""
    raw = matrix.rows(ROWS).tobytes()
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [ROWS, matrix.COLUMNS],
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    kind = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return script(folder, "raw", head + raw, kind)


def servers(folder: Path, name: str) -> tuple[Server, Server]:
    """This service and the bare one, for one of the matrix models."""
    model = folder / f"{name}.onnx"
    (folder / f"{name}.yaml").write_text(
        f"model: matrix\ntask: binary-classification\nprimary: {model}\n"
        "goals: {latency: {p99_ms: 500, deadline_ms: 5000}}\n",
        encoding="utf-8",
    )
    ours = [sys.executable, "-m", "service.cli", "serve", "--port", "{port}", str(folder / f"{name}.yaml")]
    bare = [sys.executable, "-m", "uvicorn", "loadtests.peers.bare_v2:app", "--no-access-log", "--port", "{port}"]
    return (
        Server(f"understudy, {name}", ours, {"UNDERSTUDY_STATE_DIR": str(folder / f"state-{name}")}, PATH),
        Server(f"bare uvicorn + np.frombuffer, {name}", bare, {"PEER_MODEL": str(model)}, PATH, "/"),
    )


def raw_runs(model: Path, seconds: float) -> float:
    """Runs of the model per second with no server around it, on the server's core."""
    command = ["taskset", "-c", SERVER_CPU, sys.executable, "-c", RAW, str(model), str(ROWS), str(seconds)]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def report(found: dict[str, tuple[Server, Server, list[float]]], rounds: int, seconds: int, connections: int) -> str:
    """The results as Markdown."""
    lines = [
        f"# {ROWS:,} rows of raw tensors, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC", "",
        (f"One FP32 tensor of {ROWS} x {matrix.COLUMNS} a request over the Open Inference Protocol, {connections} connections, "
        f"{rounds} interleaved rounds of {seconds} s after a second of warm-up; the server and all its processes on core "
        f"{SERVER_CPU}, wrk on the other. Everything on but a candidate: routing, ids, metrics, records (what the store cannot "
        "take is dropped and counted). `session.run` is the same model in a loop, on the server's core."),
        machine(("bentoml", "onnxruntime", "uvicorn", "uvloop", "numpy")),
        "Made by `make bench-v2`. Medians (lowest to highest); absolute figures belong to this machine and hour.", "",
        "| model | server | requests/s | p50 ms | p99 ms | × bare | × session.run |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, (ours, bare, raw) in found.items():
        for server in (ours, bare):
            rate, rates = server.median("rate"), [sample.rate for sample in server.samples]
            lines.append(
                f"| {name} | {server.name.partition(',')[0]} | {rate:,.0f} ({min(rates):,.0f}-{max(rates):,.0f}) | "
                f"{server.median('p50_ms'):.2f} | {server.median('p99_ms'):.2f} | "
                f"{rate / bare.median('rate'):.2f} | {rate / statistics.median(raw):.2f} |"
            )
        rate = statistics.median(raw)
        lines.append(f"| {name} | session.run | {rate:,.0f} ({min(raw):,.0f}-{max(raw):,.0f}) | | | | 1.00 |")
    return "\n".join(lines) + "\n"


def main(
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 5,
    seconds: Annotated[int, typer.Option(help="seconds of load per round and server")] = 4,
    connections: Annotated[int, typer.Option(help="wrk's connections")] = 16,
    write: Annotated[bool, typer.Option(help="write a dated file to loadtests/results/")] = True,
) -> None:
    """Measure raw tensors."""
    need_tools()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lua = payload(folder)
        matrix.logistic(folder / "logistic.onnx")
        matrix.boosted(folder / "boosted.onnx")
        found = {name: (*servers(folder, name), list[float]()) for name in ("logistic", "boosted")}
        plan = [name for _ in range(rounds) for name in found]
        for name in track(plan, description="measuring", console=console):
            ours, bare, raw = found[name]
            measure(bare, lua, seconds, connections)
            measure(ours, lua, seconds, connections)
            raw.append(raw_runs(folder / f"{name}.onnx", seconds / 2))
    text = report(found, rounds, seconds, connections)
    console.print(text)
    if write:
        path = RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-bench-v2.md"
        path.write_text(text, encoding="utf-8")
        console.print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    typer.run(main)
