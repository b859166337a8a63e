"""`python -m loadtests.revisions REVISION`: this checkout beside an earlier revision, interleaved, as ratios of one run.

The earlier revision is checked out into a temporary folder and runs with this environment's packages. So it must need no others.
"""

import dataclasses
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from loadtests import asking, matrix
from loadtests.measuring import (
    LOAD_CPU,
    RESULTS,
    ROOT,
    SERVER_CPU,
    Server,
    machine,
    need_tools,
    running,
    sample,
    script,
    wrk,
)

console = Console(highlight=False)
CONNECTIONS = 16
WARM_UP_S = 5
"""A server that has just started spends more on a request: modules are imported, caches are empty."""
ROWS, V2_BINARY, PROXIED = "rows", "V2 binary", "proxied"
PATHS = {ROWS: "/predict", V2_BINARY: "/v2/models/float/infer", PROXIED: "/predict"}
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Case:
    """One comparison: how the models are served, and what is sent.

    Attributes:
        same: this checkout beside itself, with `sent` and with one-row JSON.
    """

    title: str
    how: str
    sent: str = ROWS
    same: bool = False


CASES = (
    Case("one row, JSON", "primary only"),
    Case("one row, V2 binary", "primary only", V2_BINARY),
    Case("shadow 100 %", "shadow 100 %"),
    Case("canary 50 %", "canary 50 %"),
    Case("X-Forwarded-For beside none, both now", "primary only", PROXIED, same=True),
)


def main(
    revision: Annotated[str, typer.Argument(help="the earlier revision: a commit, a branch or a tag")],
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 15,
    seconds: Annotated[int, typer.Option(help="seconds of load per round and server")] = 2,
    only: Annotated[str, typer.Option(help="measure the cases whose title holds this text")] = "",
    write: Annotated[bool, typer.Option(help="write a dated file to loadtests/results/")] = True,
) -> None:
    """Measure this checkout beside an earlier revision: one row as JSON and as raw tensor, in shadow, in canary, proxied."""
    need_tools()
    cases = [case for case in CASES if only in case.title]
    measured: dict[Case, tuple[Server, Server]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        earlier = folder / "earlier"
        commit = _git("rev-parse", "--short", revision)
        _git("worktree", "add", "--detach", str(earlier), revision)
        try:
            scripts = _scripts(folder)
            steps = iter(track(range(rounds * len(cases)), description="measuring", console=console))
            for case in cases:
                now = _server(folder, case, ROOT, "now")
                before = _server(folder, case, ROOT if case.same else earlier, "before")
                measured[case] = now, before
                lua = scripts[case.sent], scripts[ROWS if case.same else case.sent]
                with running(now) as at_now, running(before) as at_before:
                    contestants = list(zip((now, before), (at_now, at_before), lua, strict=True))
                    for server, (url, _), asked in contestants:
                        wrk(url + server.path, asked, WARM_UP_S, CONNECTIONS)
                    for number in range(rounds):
                        next(steps, None)
                        # Who goes first alternates, so that a machine that gets slower favours neither.
                        for server, (url, pid), asked in contestants[:: 1 if number % 2 else -1]:
                            sample(server, url, pid, asked, seconds, CONNECTIONS)
        finally:
            _git("worktree", "remove", "--force", str(earlier))
    text = _report(measured, commit, rounds, seconds)
    console.print(text, markup=False, soft_wrap=True)
    if write:
        path = RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-revisions.md"
        path.write_text(text, encoding="utf-8")
        console.print(f"written to {path.relative_to(ROOT)}")


def _scripts(folder: Path) -> dict[str, Path]:
    rows = asking.matrix_bodies(1)["rows"]
    binary, headers = asking.matrix_binary(1)
    return {
        ROWS: script(folder, ROWS, rows, JSON),
        PROXIED: script(folder, PROXIED, rows, JSON | {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}),
        V2_BINARY: script(folder, "binary", binary, headers),
    }


def _server(folder: Path, case: Case, checkout: Path, name: str) -> Server:
    """A checkout's service with two equal models."""
    own = folder / case.title.replace("/", "-") / name
    own.mkdir(parents=True)
    model = own / "float.onnx"
    matrix.logistic(model)
    server = asking.Rollout("float", model, model).server(own, case.how, PATHS[case.sent])
    package = checkout / "service"
    if not (package / "understudy").is_dir():  # before the package had this name
        command = [sys.executable, "-m", "service.cli", *server.command[3:]]
        server, package = dataclasses.replace(server, command=command), checkout
    return dataclasses.replace(server, folder=checkout, env=server.env | {"PYTHONPATH": str(package)})


def _report(measured: dict[Case, tuple[Server, Server]], commit: str, rounds: int, seconds: int) -> str:
    dirty = " with uncommitted changes" if _git("status", "--porcelain", "--untracked-files=no") else ""
    head, at = _git("rev-parse", "--short", "HEAD"), datetime.datetime.now(datetime.UTC)
    method = (
        f"{rounds} interleaved rounds of {seconds} s after {WARM_UP_S} s of warm-up, both servers up, one row of 16 floats, "
        f"{CONNECTIONS} connections; both servers and all their processes on core {SERVER_CPU}, wrk on core {LOAD_CPU}. "
        f"Load at the end: {os.getloadavg()[1]:.1f}."
    )
    made = (
        "Made by `python -m loadtests.revisions`. Medians (lowest to highest) of the rounds; a ratio is the median of the rounds' "
        "ratios. CPU is that of all the service's processes, which core they would need: before / now, so that more is better, too."
    )
    lines = [
        f"# {head}{dirty} beside {commit}, {at:%Y-%m-%d %H:%M} UTC",
        "",
        method,
        machine(("bentoml", "onnxruntime", "uvicorn", "uvloop", "numpy")),
        made,
        "",
        "| | requests/s: now | before | now / before | CPU: before / now | p99 ms: both | CPU µs a request, by process: both |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_line(case, *pair) for case, pair in measured.items()), ""])


def _line(case: Case, now: Server, before: Server) -> str:
    pairs = list(zip(now.samples, before.samples, strict=True))
    rates = sorted(a.rate / b.rate for a, b in pairs)
    cpu = statistics.median(sum(b.cpu_us.values()) / sum(a.cpu_us.values()) for a, b in pairs)
    shown = [
        f"{each.median('rate'):,.0f} ({min(s.rate for s in each.samples):,.0f}-{max(s.rate for s in each.samples):,.0f})"
        for each in (now, before)
    ]
    p99 = f"{now.median('p99_ms'):.2f}, {before.median('p99_ms'):.2f}"
    ratio = f"{statistics.median(rates):.3f} ({rates[0]:.2f}-{rates[-1]:.2f})"
    return f"| {case.title} | {shown[0]} | {shown[1]} | {ratio} | {cpu:.3f} | {p99} | {_by_process(now, before)} |"


def _by_process(now: Server, before: Server) -> str:
    names = sorted({name for sample in now.samples for name in sample.cpu_us} - {"server"})
    return "; ".join(f"{name} {now.cpu(name):.0f}, {before.cpu(name):.0f}" for name in names)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    typer.run(main)
