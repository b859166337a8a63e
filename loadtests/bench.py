"""`make bench`: this service beside its peers, one run, interleaved rounds, the server on one core and wrk on the other.

Absolute figures belong to this machine and this hour; what can be quoted are the ratios of one run.
"""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import typer
import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from models.data import replay_rows
from service.errors import ConfigurationError

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
SERVER_CPU, LOAD_CPU = "0", "1"
console = Console(highlight=False)


@dataclass
class Server:
    """Something that is measured.

    Attributes:
        command: starts it on `{port}`; `env` is added to the environment.
    """

    name: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)


def servers(folder: Path) -> list[Server]:
    """This service, primary only and with all requests rehearsed, and its peers."""
    example = yaml.safe_load((ROOT / "rollout.yaml").read_text(encoding="utf-8"))
    solo = {key: value for key, value in example.items() if key not in {"candidate", "steps"}}
    (folder / "solo.yaml").write_text(yaml.safe_dump(solo), encoding="utf-8")
    model = {"PEER_MODEL": str(ROOT / "models" / "flight_poc" / "model.onnx")}
    bentoml = [sys.executable, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", "{port}"]
    ours = [sys.executable, "-m", "service.cli", "serve", "--port", "{port}"]
    return [
        Server(
            "understudy, primary only",
            [*ours, str(folder / "solo.yaml")],
            {"UNDERSTUDY_STATE_DIR": str(folder / "solo")},
        ),
        Server(
            "understudy, shadow 100 %",
            [*ours, str(ROOT / "rollout.yaml")],
            {"UNDERSTUDY_STATE_DIR": str(folder / "shadow")},
        ),
        Server(
            "BentoML, @bentoml.api",
            [*bentoml, "loadtests.peers.bentoml_api:Peer"],
            model | {"BENTOML_HOME": str(folder / "home")},
        ),
        Server(
            "bare uvicorn + orjson",
            [sys.executable, "-m", "uvicorn", "loadtests.peers.bare:app", "--no-access-log", "--port", "{port}"],
            model,
        ),
    ]


def payload(folder: Path) -> Path:
    """A wrk script that posts one July flight."""
    row = replay_rows(7, 1)[0].row
    body = msgspec.json.encode({"rows": [row]}).decode()
    script = folder / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [[{body}]]\n',
        encoding="utf-8",
    )
    return script


@contextlib.contextmanager
def running(server: Server) -> Iterator[str]:
    """The server on its core, ready; its URL."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = ["taskset", "-c", SERVER_CPU, *(word.replace("{port}", str(port)) for word in server.command)]
    env = os.environ | {"BENTOML_DO_NOT_TRACK": "True"} | server.env
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url + "/readyz").status_code < 500:
                return
        time.sleep(0.1)
    raise ConfigurationError(f"{' '.join(map(str, process.args))} did not become ready")  # type: ignore[arg-type]


def measure(server: Server, script: Path, seconds: int, connections: int, path: str = "/predict") -> None:
    """One round: a short warm-up, then wrk for `seconds`."""
    with running(server) as url:
        for length in (1, seconds):
            shown = subprocess.run(
                ["taskset", "-c", LOAD_CPU, "wrk", "-t1", f"-c{connections}", f"-d{length}", "--latency", "-s", str(script),
                 url + path],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
    if "Non-2xx" in shown or "Socket errors" in shown:
        raise ConfigurationError(f"{server.name} answered errors:\n{shown}")
    server.rates.append(float(re.search(r"Requests/sec:\s+([\d.]+)", shown)[1]))  # type: ignore[index]
    server.p50_ms.append(_milliseconds(shown, "50"))
    server.p99_ms.append(_milliseconds(shown, "99"))


def _milliseconds(shown: str, percentile: str) -> float:
    match = re.search(rf"\s{percentile}%\s+([\d.]+)(us|ms|s)", shown)
    assert match is not None, shown
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[match[2]]


def report(found: list[Server], rounds: int, seconds: int, connections: int) -> str:
    """The run as markdown: method and machine first."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    named = ("bentoml", "onnxruntime", "uvicorn", "uvloop", "numpy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in named)
    base = next(s for s in found if s.name.startswith("BentoML"))
    bare = next(s for s in found if s.name.startswith("bare"))
    method = (
        f"One-row flights JSON (18 named inputs, strings included) to the flights POC, {connections} connections, {rounds} "
        f"interleaved rounds of {seconds} s after a second of warm-up; the server and all its processes on core "
        f"{SERVER_CPU}, wrk on core {LOAD_CPU}."
    )
    machine = (
        f"Machine: {cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}; Python "
        f"{platform.python_version()}, {versions}."
    )
    lines = [
        f"# Benchmark, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC", "", method, machine,
        "Made by `make bench`. Medians (lowest to highest); absolute figures belong to this machine and hour.", "",
        "| server | requests/s | p50 ms | p99 ms | × BentoML's endpoint | × bare |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for s in found:
        rate, p99 = statistics.median(s.rates), statistics.median(s.p99_ms)
        times_base, times_bare = rate / statistics.median(base.rates), rate / statistics.median(bare.rates)
        lines.append(
            f"| {s.name} | {rate:,.0f} ({min(s.rates):,.0f}-{max(s.rates):,.0f}) | {statistics.median(s.p50_ms):.2f} | "
            f"{p99:.2f} | {times_base:.1f} | {times_bare:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main(
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 3,
    seconds: Annotated[int, typer.Option(help="seconds of load per round and server")] = 6,
    connections: Annotated[int, typer.Option(help="wrk's connections")] = 16,
    write: Annotated[bool, typer.Option(help="write a dated file to loadtests/results/")] = True,
) -> None:
    """Measure this service beside its peers."""
    for tool in ("wrk", "taskset"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is missing: apt-get install {'wrk' if tool == 'wrk' else 'util-linux'}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script, found = payload(folder), servers(folder)
        plan: list[Any] = [server for _ in range(rounds) for server in found]
        for server in track(plan, description="measuring", console=console):
            measure(server, script, seconds, connections)
    text = report(found, rounds, seconds, connections)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    table = Table(*rows[0], box=None)
    for row in rows[2:]:
        table.add_row(*row)
    console.print(table)
    if write:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-bench.md"
        path.write_text(text, encoding="utf-8")
        console.print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    typer.run(main)
