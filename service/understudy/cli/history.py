"""`understudy replay`: sends history through a service."""

import contextlib
import datetime
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from understudy.cli.common import Json, SourceName, Token, Url, app, err, errors_reported, interruptible, out, roles_of
from understudy.domain import JsonObject
from understudy.errors import ConfigurationError
from understudy.offline import sources
from understudy.offline.client import DEFAULT_URL, Client

if TYPE_CHECKING:
    from understudy.offline.replay import ReplaySummary
    from understudy.offline.starting.survey import Roles


@app.command()
def replay(
    month: Annotated[int | None, typer.Option(help="month of 2013", min=1, max=12)] = None,
    data: Annotated[
        Path | None, typer.Option(help="rows with labels to send: CSV, one JSON object per line, or Parquet")
    ] = None,
    label: Annotated[str | None, typer.Option(help="the column of --data with the label")] = None,
    at: Annotated[
        str | None, typer.Option(help="the column of --data with the time, as Unix seconds or ISO 8601")
    ] = None,
    label_at: Annotated[
        str | None, typer.Option(help="the column of --data with the time at which the label became known")
    ] = None,
    days: Annotated[
        float, typer.Option(help="days over which rows of --data without times are spread evenly", min=0.001)
    ] = 7.0,
    url: Url = DEFAULT_URL,
    rate: Annotated[
        float | None, typer.Option(help="requests per second; default: as fast as possible", min=0.001)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="send only this many rows from the start", min=1)] = None,
    connections: Annotated[int, typer.Option(help="concurrent requests", min=1, max=256)] = 16,
    source: SourceName = sources.FLIGHTS,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Send history in time order, each label when it became known, and check the service's counts."""
    from understudy.offline import replay as history_

    with errors_reported(), Client(url, token) as client:
        if (month is None) == (data is None):
            raise ConfigurationError("name what to send: --data FILE with --label COLUMN, or --month of a data source")
        if data is not None:
            moments, count = _table(client, data, roles_of(data, label, at, None, label_at), days, limit)
        else:
            assert month is not None
            history = sources.find(source)
            client.get("/rollout")
            held = history.moments(month, limit)
            moments, count = held, len(held)
        before = _readings(client)
        with _progress(count, show=not as_json) as step:
            job = history_.Replay(url, token=token, rate=rate, connections=connections, progress=step)
            summary = interruptible(job.run(moments))
        store = history_.difference(
            interruptible(history_.settled(lambda: client.get("/rollout/evidence")["counters"])), before[0]
        )
        metrics = history_.difference(history_.from_metrics(client.text("/metrics")), before[1])
        differ = history_.disagreements(store, metrics)
        if as_json:
            print(json.dumps(_replay_json(summary, store, differ), indent=1))
        else:
            _show_replay(summary, store, differ)
        if summary.failed or differ:
            raise typer.Exit(1)
        if summary.interrupted:
            raise typer.Exit(130)


def _table(
    client: Client, data: Path, roles: "Roles | None", days: float, limit: int | None
) -> "tuple[Iterable[sources.Moment], int]":
    """The rows of a table as requests, and how many there are. Says how the table is read."""
    from understudy.offline.table_history import history

    assert roles is not None
    found = history(data, roles, client.get("/rollout/policy"), over_s=days * 86_400, now=time.time(), limit=limit)
    counts = "the rows count as evidence; to rehearse only, serve with a state folder of its own (UNDERSTUDY_STATE_DIR)"
    for note in (*found.notes, counts):
        err.print(note, markup=False, soft_wrap=True)
    return found.requests, found.rows


def _readings(client: Client) -> tuple[Mapping[str, float], Mapping[str, float]]:
    from understudy.offline import replay as history_

    return client.get("/rollout/evidence")["counters"], history_.from_metrics(client.text("/metrics"))


@contextlib.contextmanager
def _progress(total: int, *, show: bool) -> Iterator[Callable[["ReplaySummary", float], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not show) as bar:
        task = bar.add_task("rows", total=total, rate="")

        def step(summary: "ReplaySummary", at: float) -> None:
            if summary.sent % 50 == 0 or summary.sent == total:
                day = datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%d %b %H:%M")
                labels = sum(summary.labels.values())
                bar.update(
                    task, completed=summary.sent, description=day, rate=f"{labels} labels, {summary.failed} failed"
                )

        yield step
        bar.update(task, completed=total)


def _replay_json(summary: "ReplaySummary", store: Mapping[str, float], differ: list[str]) -> JsonObject:
    from understudy.observability.summaries import figures, label_figures
    from understudy.offline.replay import variants_in

    return {
        "sent": summary.sent,
        "failed": summary.failed,
        "errors": summary.errors,
        "fallbacks": summary.fallbacks,
        "answered": summary.answered,
        "labels": summary.labels,
        "seconds": round(summary.seconds, 3),
        "requests_per_second": round(summary.sent / summary.seconds, 1) if summary.seconds else None,
        "caller_latency_ms": {name: summary.quantile_ms(q) for name, q in (("p50", 0.5), ("p99", 0.99))},
        "variants": {v.value: figures(store, v) for v in variants_in(store)},
        "label_figures": label_figures(store),
        "shadow": {k.partition("/")[2]: int(v) for k, v in store.items() if k.startswith("shadow/")},
        "metrics_agree": not differ,
        "differences": differ,
        "interrupted": summary.interrupted,
    }


def _show_replay(summary: "ReplaySummary", store: Mapping[str, float], differ: list[str]) -> None:
    data = _replay_json(summary, store, differ)
    table = Table("", *data["variants"], box=None, title=None)
    rows = (
        ("requests answered", "requests", "{:,}"),
        ("labels", "labelled", "{:,}"),
        ("accuracy", "accuracy", "{:.4f}"),
        ("Brier", "brier", "{:.4f}"),
        ("log-loss", "log_loss", "{:.4f}"),
        ("latency p50, ms", "latency_p50_ms", "{:.2f}"),
        ("latency p99, ms", "latency_p99_ms", "{:.2f}"),
    )
    for title, name, form in rows:
        values = [figures.get(name) for figures in data["variants"].values()]
        table.add_row(title, *("-" if value is None else form.format(value) for value in values))
    out.print(table)
    shadow = data["shadow"]
    caller = data["caller_latency_ms"]
    out.print(
        f"{summary.sent:,} sent in {summary.seconds:.1f} s ({data['requests_per_second']:,} per second), {summary.failed} failed, "
        f"{summary.fallbacks} fallbacks; caller latency p50 {caller['p50'] or 0:.2f} ms, p99 {caller['p99'] or 0:.2f} ms"
    )
    out.print("labels: " + ", ".join(f"{count:,} {name}" for name, count in summary.labels.items()))
    if shadow:
        out.print("rehearsals: " + ", ".join(f"{count:,} {name}" for name, count in shadow.items()))
    for error, count in summary.errors.items():
        out.print(f"{count} × {error}", style="red", markup=False)
    out.print(
        "the store and /metrics agree" if not differ else "the store and /metrics differ:",
        style="green" if not differ else "red",
    )
    for line in differ:
        out.print("  " + line, markup=False)
