"""Capacity by hand: wrk with more and more connections until p99 misses the goal. For comparison with `understudy loadtest --find`.

    python -m loadtests.wrk_steps http://127.0.0.1:3000 --rows 100 --p99-ms 50

wrk waits for its answers (a closed loop), so what is stepped is how many requests are under way; the answer is the highest
throughput whose p99 is inside the goal and whose records the service keeps up with.
"""

import random
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from understudy.loadtest.traffic import history
from understudy.loadtest.watching import Counts, RecordsWatch
from understudy.offline.client import Client
from understudy.offline.sources import FLIGHTS

SEED = 2013
BODIES = 50
RECORDS_LOSS = 0.01
STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128)
console = Console(highlight=False)


def script(folder: Path, rows: int, think_ms: int) -> Path:
    """A wrk script that posts one of `BODIES` seeded requests after the other, marked as load, with pauses between them."""
    moments, random_ = history(FLIGHTS, 7, SEED), random.Random(SEED)
    bodies = [b'{"rows":[' + b",".join(m.row for m in random_.choices(moments, k=rows)) + b"]}" for _ in range(BODIES)]
    text = "local bodies = {" + ",".join(f"[==[{body.decode()}]==]" for body in bodies) + "}\nlocal n = 0\n"
    text += (
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.headers["X-Rollout-Variant"] = "any"\n'
        f"request = function() n = n % {BODIES} + 1 return wrk.format(nil, nil, nil, bodies[n]) end\n"
        f"delay = function() return math.random(0, {2 * think_ms}) end\n"
    )
    path = folder / "steps.lua"
    path.write_text(text, encoding="utf-8")
    return path


def step(url: str, lua: Path, connections: int, seconds: int) -> tuple[float, float]:
    """Requests a second and p99 in milliseconds, with so many connections."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency", "-s", str(lua), url + "/predict"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in shown:
        raise SystemExit(f"the service answered errors:\n{shown}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", shown)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", shown)
    assert rate is not None
    assert p99 is not None
    return float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[p99[2]]


def main(
    url: Annotated[str, typer.Argument(help="where the service listens")] = "http://127.0.0.1:3000",
    rows: Annotated[int, typer.Option(help="rows a request", min=1)] = 100,
    p99_ms: Annotated[float, typer.Option(help="the goal")] = 50.0,
    think_ms: Annotated[
        int, typer.Option(help="a connection pauses this long before it asks again, on average", min=0)
    ] = 10,
    seconds: Annotated[int, typer.Option(help="seconds a step")] = 6,
) -> None:
    """Step by hand with wrk."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")
    best = 0.0
    with tempfile.TemporaryDirectory() as name, Client(url, timeout_s=5) as client:
        lua = script(Path(name), rows, think_ms)
        step(url, lua, 2, 2)
        for connections in STEPS:
            before = Counts.read(client)
            rate, p99 = step(url, lua, connections, seconds)
            lost = RecordsWatch.after(client, before, time.monotonic()).loss
            console.print(
                f"{connections:>4} connections  {rate:>9,.0f}/s  p99 {p99:,.1f} ms  records lost or late {lost:.1%}"
            )
            if p99 > p99_ms:
                break
            if lost <= RECORDS_LOSS:
                best = max(best, rate)
    console.print(
        f"capacity by hand: {best:,.0f} requests/s with p99 inside {p99_ms:g} ms and at most {RECORDS_LOSS:.0%} of the records lost"
    )


if __name__ == "__main__":
    typer.run(main)
