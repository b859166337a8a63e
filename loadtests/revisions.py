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
from loadtests.measuring import LOAD_CPU, RESULTS, ROOT, SERVER_CPU, Server, machine, measure, need_tools

console = Console(highlight=False)
KINDS = ("primary only", "shadow 100 %", "canary 50 %")
CONNECTIONS = 16
NOW, BEFORE = "now", "before"


def main(
    revision: Annotated[str, typer.Argument(help="the earlier revision: a commit, a branch or a tag")],
    rounds: Annotated[int, typer.Option(help="interleaved rounds")] = 5,
    seconds: Annotated[int, typer.Option(help="seconds of load per round and server")] = 3,
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
            turns = [(kind, number) for number in range(rounds) for kind in KINDS]
            for kind, number in track(turns, description="measuring", console=console):
                # Who goes first alternates, so that a machine that gets slower favours neither.
                for which in (NOW, BEFORE) if number % 2 else (BEFORE, NOW):
                    measure(pairs[kind][which], lua, seconds, CONNECTIONS)
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
        f"{rounds} interleaved rounds of {seconds} s after a second of warm-up, one row of 16 floats in JSON, {CONNECTIONS} "
        f"connections; the server and all its processes on core {SERVER_CPU}, wrk on core {LOAD_CPU}. "
        f"Load at the end: {os.getloadavg()[1]:.1f}."
    )
    made = (
        "Made by `python -m loadtests.revisions`. Medians (lowest to highest) of the rounds; the ratio is the median of the "
        "rounds' ratios."
    )
    lines = [
        f"# {head}{dirty} beside {commit}, {at:%Y-%m-%d %H:%M} UTC", "",
        method, machine(("bentoml", "onnxruntime", "uvicorn", "uvloop", "numpy")), made, "",
        "| | now, requests/s | before, requests/s | now / before | p99 now, before (ms) | CPU µs a request: now, before |",
        "|---|---|---|---|---|---|",
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
        lines.append(f"| {kind} | {shown[0]} | {shown[1]} | {ratio} | {p99} | {now.cpu():.0f}, {before.cpu():.0f} |")
    return "\n".join([*lines, ""])


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    typer.run(main)
