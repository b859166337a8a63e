"""This service's channel to its candidate process compared with `bentoml.depends`, between the same two processes.

    python -m loadtests.channels

All processes are on one core, as in the other benchmarks.
"""

import sys
import tempfile
from pathlib import Path

import httpx
import typer
from rich.console import Console

from loadtests import matrix
from loadtests.asking import Rollout
from loadtests.measuring import SERVER_CPU, Server, machine, running

console = Console(highlight=False)


def main() -> None:
    """Measure both channels and print a table."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = matrix.logistic(folder / "float.onnx")
        Rollout("float", model, model).server(folder, "shadow 100 %", "/")
        bento = str(Path(sys.executable).parent / "bentoml")
        command = [bento, "serve", "--host", "127.0.0.1", "--port", "{port}", "loadtests.peers.channels_app:Front"]
        server = Server(
            "channels",
            command,
            {
                "PEER_MODEL": str(model),
                "UNDERSTUDY_ROLLOUT_FILE": str(folder / "float-shadow.yaml"),
                "UNDERSTUDY_STATE_DIR": str(folder / "state"),
                "PYTHONPATH": str(Path.cwd()),
            },
        )
        with running(server) as (url, _):
            times = httpx.post(f"{url}/measure", json={}, timeout=300).raise_for_status().json()
    console.print(machine(("bentoml", "onnxruntime", "uvicorn", "uvloop")), markup=False)
    console.print(f"All processes on core {SERVER_CPU}. Microseconds a call, the model's run included.\n")
    console.print("| rows | channel | one at a time (median) | 16 at once | failed |\n|---|---|---|---|---|")
    for key, (alone, together, failed) in times.items():
        channel, _, rows = key.partition("/")
        console.print(f"| {rows} | {channel} | {alone:,.0f} | {together:,.0f} | {failed:.0f} |", markup=False)


if __name__ == "__main__":
    typer.run(main)
