"""`understudy demo`: three rollouts of the example, from real flights."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from understudy.cli.common import app, err, errors_reported, interruptible, out
from understudy.domain import JsonObject
from understudy.errors import ConfigurationError
from understudy.offline import sources
from understudy.offline.client import CallFailed, Client
from understudy.runtime import programs

if TYPE_CHECKING:
    from understudy.offline.replay import ReplaySummary

STORIES = {
    "july": (
        7,
        None,
        "promoted",
        "the POC was trained on January only, the candidate on January to June; the candidate is promoted",
    ),
    "broken": (
        7,
        "models/flight_broken",
        "aborted",
        "the candidate was exported with wrong probabilities; it is rolled back",
    ),
    "october": (10, None, "", "the candidate is no better in October; it is not promoted"),
}
"""Story → month, candidate (None: the rollout file's), phase at the end ("": any but promoted), and description."""
DEMO_RATE = 400.0
WIDTH = 60


@app.command()
def demo(
    story: Annotated[str, typer.Option(help="july, broken or october")] = "july",
    rate: Annotated[float, typer.Option(help="flights per second")] = DEMO_RATE,
    state_dir: Annotated[Path, typer.Option(help="folder for the store, the log and the rollout file")] = Path(
        ".understudy/demo"
    ),
) -> None:
    """Serve the example on a free port, replay a month of flights, and show the rollout live."""
    with errors_reported():
        if story not in STORIES:
            raise ConfigurationError(f"unknown story {story!r}; use one of {', '.join(STORIES)}")
        month, candidate, wanted, about = STORIES[story]
        flights = sources.find(sources.FLIGHTS).moments(month)
        folder = state_dir / f"{story}-{time.strftime('%Y%m%d-%H%M%S')}"
        file = _story_file(folder, candidate)
        out.print(f"story {story}: {about}")
        with _service(file, folder) as url:
            summary, state, story_ = interruptible(_play(url, flights, rate))
        _show_result(state, story_, summary, file, folder)
        ended = state["phase"] == wanted if wanted else state["phase"] != "promoted"
        if not ended or summary.failed:
            err.print(
                f"unexpected result: this story ends {wanted or 'without a promotion'}, with no failed request",
                style="bold red",
            )
            raise typer.Exit(1)


def _story_file(folder: Path, candidate: str | None) -> Path:
    """Write the example's rollout file with the story's candidate and without required load tests."""
    folder.mkdir(parents=True, exist_ok=True)
    data = yaml.safe_load(Path("rollout.yaml").read_text(encoding="utf-8"))
    data["candidate"] = candidate or data["candidate"]
    for step in data["steps"]:
        if isinstance(step, dict):
            step.pop("require", None)
    file = folder / "rollout.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return file


@contextlib.contextmanager
def _service(file: Path, folder: Path) -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    # A month passes in a minute, so the judge also looks more often; otherwise the display would skip steps.
    env = {"UNDERSTUDY_TICK_MS": "150"} | os.environ | {"UNDERSTUDY_STATE_DIR": str(folder)}
    command = programs.command_line("serve", str(file), "--port", str(port))
    with (folder / "service.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            with contextlib.suppress(CallFailed), Client(url) as client:
                client.text("/readyz")
                if client.get("/rollout")["candidate"]["up"]:
                    break
            if process.poll() is not None or time.monotonic() > until:
                raise ConfigurationError(f"the service did not start; see its log {folder / 'service.log'}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


async def _play(
    url: str, flights: Sequence[sources.Moment], rate: float
) -> tuple["ReplaySummary", JsonObject, list[JsonObject]]:
    import asyncio

    from understudy.offline.replay import Replay, ReplaySummary, settled

    client = Client(url)
    state: JsonObject = client.get("/rollout")
    moment = 0.0

    def progress(_: ReplaySummary, at: float) -> None:
        nonlocal moment
        moment = at

    job = Replay(url, rate=rate, progress=progress)
    with Live(_view(state, job.summary, len(flights), moment), console=err, refresh_per_second=4) as live:

        async def watch() -> None:
            nonlocal state
            while True:
                state = await asyncio.to_thread(client.get, "/rollout")
                live.update(_view(state, job.summary, len(flights), moment))
                await asyncio.sleep(0.4)

        watching = asyncio.create_task(watch())
        summary = await job.run(flights)
        await settled(lambda: client.get("/rollout/evidence")["counters"])
        await asyncio.sleep(2.5)  # the judge reads what was stored before its tick
        watching.cancel()
        state = client.get("/rollout")
        live.update(_view(state, summary, len(flights), moment))
    return summary, state, [e for e in client.get("/rollout/events")["events"] if e["actor"] == "judge"]


def _view(state: JsonObject, summary: "ReplaySummary", total: int, at: float) -> Group:
    """The live display: phase, progress and a band for each metric."""
    day = time.strftime("%d %b %H:%M", time.gmtime(at)) if at else ""
    labels = state["labels"]["matched"]
    head = Text(
        f"{state['phase']:<9}", style={"promoted": "bold green", "aborted": "bold red"}.get(state["phase"], "bold")
    )
    head.append(f" candidate {state['weight']:g} %   {summary.sent:,} of {total:,} flights   {labels:,} labels")
    head.append(f"   {summary.failed} failed   {day}")
    bands = Table.grid(padding=(0, 1))
    for metric in state["metrics"]:
        if metric["metric"] != "poc_target":
            bands.add_row(metric["metric"], _band(metric), Text(metric["answer"], style=_STYLE[metric["answer"]]))
    reason = Text(state["verdict"]["reason"], style="dim")
    return Group(head, ProgressBar(total=total, completed=summary.sent, width=WIDTH + 20), bands, reason)


_STYLE = {"advance": "green", "hold": "yellow", "rollback": "red"}


def _band(metric: JsonObject) -> Text:
    """A band from better (left) to worse (right) with zero in the middle; `o` is the estimate."""
    scale = {"errors": 0.005, "latency": 0.02}.get(metric["metric"], 0.15)

    def place(value: float | None) -> int:
        share = 0.5 + (value or 0.0) / (2 * scale)
        return max(0, min(WIDTH - 1, round(share * (WIDTH - 1))))

    cells = [" "] * WIDTH
    low, high = sorted((place(metric["low"]), place(metric["high"])))
    cells[low : high + 1] = ["─"] * (high - low + 1)
    cells[place(0.0)] = "│"
    cells[place(metric["estimate"])] = "o"
    return Text("better " + "".join(cells) + " worse")


def _show_result(
    state: JsonObject, story: list[JsonObject], summary: "ReplaySummary", file: Path, folder: Path
) -> None:
    for event in story:
        out.print(
            Text(
                f"{event['kind']}: {event['details'].get('from', '')} → {event['details'].get('to', '')}: {event['reason']}"
            )
        )
    fallbacks = sum(state["fallbacks"].values())
    out.print(Text(f"ended {state['phase']}, after {state['labels']['matched']:,} labels", style="bold"))
    out.print(Text(f"reason: {state['verdict']['reason']}"))
    out.print(
        f"{summary.sent:,} requests, {summary.failed} failed, {fallbacks} fallbacks; log: {folder / 'service.log'}"
    )
    out.print(
        f"to check the decisions: understudy verify {file} --store sqlite:///{(folder / 'understudy.db').absolute()}"
    )
