"""`python -m loadtests.revisions REVISION`: this checkout beside an earlier revision, interleaved, as ratios of one run.

The earlier revision is checked out into a temporary folder and runs with this environment's packages. So it must need no others.
"""

import dataclasses
import datetime
import os
import subprocess
import tempfile
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
    wrk,
)

console = Console(highlight=False)
KINDS = ("primary only", "shadow 100 %", "canary 50 %")
CONNECTIONS = 16
WARM_UP_S = 5
"""A server that has just started spends more on a request: modules are imported, caches are empty."""
NOW, BEFORE = "now", "before"


def main(
    revision: Annotated[str, typer.Argument(help="the earlier revision: a commit, a branch or a tag")],
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 15,
    seconds: Annotated[int, typer.Option(help="seconds of load per round and server")] = 2,
    write: Annotated[bool, typer.Option(help="write a dated file to loadtests/results/")] = True,
) -> None:
    """Measure this checkout beside an earlier revision: one-row JSON, primary only, in shadow and in canary."""
    need_tools()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        earlier = folder / "earlier"
        commit = _git("rev-parse", "--short", revision)
        _git("worktree", "add", "--detach", str(earlier), revision)
        try:
            pairs = {kind: _pair(folder, kind, earlier) for kind in KINDS}
            lua = asking.scripts(folder, "float", asking.matrix_bodies(1))["rows"]
            turns = iter(track(range(rounds * len(KINDS)), description="measuring", console=console))
            for kind in KINDS:
                with running(pairs[kind][NOW]) as now, running(pairs[kind][BEFORE]) as before:
                    at = {NOW: now, BEFORE: before}
                    for which, (url, _) in at.items():
                        wrk(url + pairs[kind][which].path, lua, WARM_UP_S, CONNECTIONS)
                    for number in range(rounds):
                        next(turns)
                        # Who goes first alternates, so that a machine that gets slower favours neither.
                        for which in (NOW, BEFORE) if number % 2 else (BEFORE, NOW):
                            sample(pairs[kind][which], *at[which], lua, seconds, CONNECTIONS)
        finally:
            _git("worktree", "remove", "--force", str(earlier))
    text = _report(pairs, commit, rounds, seconds)
    console.print(text, markup=False)
    if write:
        path = RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-revisions.md"
        path.write_text(text, encoding="utf-8")
        console.print(f"written to {path.relative_to(ROOT)}")


def _pair(folder: Path, kind: str, earlier: Path) -> dict[str, Server]:
    found = {}
    for which, checkout in ((NOW, ROOT), (BEFORE, earlier)):
        own = folder / which
        own.mkdir(exist_ok=True)
        model = own / "float.onnx"
        matrix.logistic(model)
        server = asking.Rollout("float", model, model).server(own, kind, "/predict")
        env = server.env | {"PYTHONPATH": str(checkout)}
        found[which] = dataclasses.replace(server, name=which, folder=checkout, env=env, samples=[])
    return found


def _report(pairs: dict[str, dict[str, Server]], commit: str, rounds: int, seconds: int) -> str:
    dirty = " with uncommitted changes" if _git("status", "--porcelain", "--untracked-files=no") else ""
    head, at = _git("rev-parse", "--short", "HEAD"), datetime.datetime.now(datetime.UTC)
    method = (
        f"{rounds} interleaved rounds of {seconds} s after {WARM_UP_S} s of warm-up, both servers up, one row of 16 floats in "
        f"JSON, {CONNECTIONS} connections; both servers and all their processes on core {SERVER_CPU}, wrk on core {LOAD_CPU}. "
        f"Load at the end: {os.getloadavg()[1]:.1f}."
    )
    made = (
        "Made by `python -m loadtests.revisions`. Medians (lowest to highest) of the rounds; the ratio is the median of the "
        "rounds' ratios."
    )
    lines = [
        f"# {head}{dirty} beside {commit}, {at:%Y-%m-%d %H:%M} UTC", "",
        method, machine(("bentoml", "onnxruntime", "uvicorn", "uvloop", "numpy")), made, "",
        "| | now, requests/s | before, requests/s | now / before | p99 ms: now, before | CPU µs a request: both | by process |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for kind, pair in pairs.items():
        now, before = pair[NOW], pair[BEFORE]
        ratios = sorted(a.rate / b.rate for a, b in zip(now.samples, before.samples, strict=True))
        shown = [
            f"{each.median('rate'):,.0f} ({min(s.rate for s in each.samples):,.0f}-{max(s.rate for s in each.samples):,.0f})"
            for each in (now, before)
        ]
        ratio = f"{ratios[len(ratios) // 2]:.3f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        p99 = f"{now.median('p99_ms'):.2f}, {before.median('p99_ms'):.2f}"
        cpu = f"{now.cpu():.0f}, {before.cpu():.0f} | {_by_process(now, before)}"
        lines.append(f"| {kind} | {shown[0]} | {shown[1]} | {ratio} | {p99} | {cpu} |")
    return "\n".join([*lines, ""])


def _by_process(now: Server, before: Server) -> str:
    names = sorted({name for sample in now.samples for name in sample.cpu_us} - {"server"})
    return "; ".join(f"{name} {now.cpu(name):.0f}, {before.cpu(name):.0f}" for name in names)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    typer.run(main)
