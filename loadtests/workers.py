"""What each further worker costs in memory, and what it gives where there is a core for it.

    python -m loadtests.workers          # 1 to as many workers as there are cores, and one more

The example's two models in shadow of every request. All processes may use every core, the load generator's share of them included:
on a machine with few cores the throughput says little, the memory all the same.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console

from loadtests import asking
from loadtests.measuring import ROOT, machine, need_tools, running, wrk

console = Console(highlight=False)
CONNECTIONS = 32


def main(
    most: Annotated[int, typer.Option(help="workers at most; 0: one more than there are cores")] = 0,
    seconds: Annotated[int, typer.Option(help="seconds of load for each")] = 4,
) -> None:
    """Measure one number of workers after the other and print a table."""
    need_tools()
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    console.print(machine(("bentoml", "onnxruntime", "uvicorn")), markup=False)
    console.print("\n| workers | requests/s | their memory, MiB (own) | all processes, MiB (own) |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lua = asking.scripts(folder, "flight", {"rows": asking.flight_body()})["rows"]
        models = ROOT / "models"
        rollout = asking.Rollout("flights", models / "flight_poc", models / "flight_candidate")
        for workers in range(1, (most or len(os.sched_getaffinity(0)) + 1) + 1):
            server = rollout.server(folder, "shadow 100 %", "/predict")
            server.env |= {"UNDERSTUDY_WORKERS": str(workers), "UNDERSTUDY_STATE_DIR": str(folder / f"state-{workers}")}
            with running(server, cores) as (url, pid):
                rate = wrk(url + server.path, lua, seconds, CONNECTIONS, cores).rate
                mine, every = 0.0, 0.0
                for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
                    own = process.memory_full_info().uss / 2**20
                    every += own
                    mine += own if "Understudy" in process.cmdline() else 0.0
            console.print(f"| {workers} | {rate:,.0f} | {mine:.0f} | {every:.0f} |", markup=False)


if __name__ == "__main__":
    typer.run(main)
