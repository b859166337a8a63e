"""`understudy`: serve a rollout, look at it, steer it, and send history through it."""

import asyncio
import contextlib
import datetime
import ipaddress
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from service import auth
from service.client import DEFAULT_URL, Client
from service.errors import ConfigurationError, UnderstudyError

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_show_locals=False, rich_markup_mode=None,
    help="Take a proof-of-concept model to production: shadow, canary, and a verdict you can replay.",
)  # fmt: skip
out, err = Console(highlight=False), Console(stderr=True, highlight=False)

File = Annotated[Path, typer.Argument(help="the rollout file")]
Url = Annotated[str, typer.Option(help="where the service listens")]
Token = Annotated[
    str | None, typer.Option(help="needed where tokens are configured [env: UNDERSTUDY_TOKEN]", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for scripts")]
Reason = Annotated[str, typer.Option(help="why: goes into the audit log")]


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Errors of ours are one line on stderr and exit code 1."""
    try:
        yield
    except UnderstudyError as error:
        err.print(f"understudy: {error.detail}", style="bold red", markup=False)
        raise typer.Exit(1) from None


@app.command()
def init(
    poc: Annotated[Path, typer.Argument(help="the model in proof of concept: an .onnx file or a model folder")],
    candidate: Annotated[Path, typer.Argument(help="the better one to launch")],
    output: Annotated[Path, typer.Option("--output", "-o", help="the rollout file to write")] = Path("rollout.yaml"),
    force: Annotated[bool, typer.Option(help="overwrite an existing file")] = False,
) -> None:
    """Read both models' signatures and write a rollout file to start from."""
    from service.engine.onnx import OnnxEngine  # noqa: PLC0415 - a command that needs no runtime should not load it
    from service.wiring import fields_of  # noqa: PLC0415

    with _said():
        if output.exists() and not force:
            raise ConfigurationError(f"{output} exists; --force overwrites it")
        cards = []
        for source in (poc, candidate):
            engine = OnnxEngine(source, device="cpu", warm_max_rows=1)
            cards.append(engine.card)
            engine.close()
        fields = fields_of(*cards)
        loss = {"regression": "absolute_error"}.get(cards[0].task, "brier")
        quality = {} if cards[0].task == "other" else {"quality": {"loss": loss, "margin": 0.01}}
        data = {
            "model": poc.stem if poc.suffix else poc.name, "task": cards[0].task,
            "primary": str(poc), "candidate": str(candidate), "device": "auto",
            "goals": {"error_budget": 0.05, **quality, "errors": {"margin": 0.002}, "latency": {"p99_ms": 50, "deadline_ms": 250}},
            "labels": {"wait": "72h", "count": "settled"},
            "steps": [{"shadow": 100, "until": {"labels": 500}}, {"canary": 5}, {"canary": 25}, {"canary": 50}, "promote"],
        }  # fmt: skip
        output.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        out.print(f"{output}: a request row has {', '.join(f'{f.name} ({f.describe()})' for f in fields)}")
        out.print("Set the goals in it, then: understudy check, understudy serve")


@app.command()
def check(
    file: File = Path("rollout.yaml"),
    schema: Annotated[bool, typer.Option("--schema", help="print the JSON Schema of rollout files and stop")] = False,
) -> None:
    """Dry run: load, warm and compare everything that would be served, and say what is wrong."""
    from service import wiring  # noqa: PLC0415
    from service.rollout.policy import json_schema  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415

    if schema:
        print(json.dumps(json_schema(), indent=1))
        return
    with _said():
        for line in wiring.preflight(Settings(rollout_file=file)):
            out.print(line)
        out.print("ready to serve", style="green")


@app.command()
def serve(
    file: File = Path("rollout.yaml"),
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="the port to listen on", envvar="PORT")] = 3000,
    workers: Annotated[
        int | None, typer.Option(help="answering processes; the rollout file's `workers` if left out")
    ] = None,
) -> None:
    """Serve a rollout until Ctrl-C."""
    with _said():
        if not file.is_file():
            raise ConfigurationError(f"{file} is missing; `understudy init POC.onnx CANDIDATE.onnx` writes one")
        if not os.environ.get("UNDERSTUDY_TOKENS_FILE") and not _is_loopback(host):
            raise ConfigurationError(
                f"without tokens the service listens on loopback only, not on {host}: `understudy token`"
            )
    env = os.environ | {"UNDERSTUDY_ROLLOUT_FILE": str(file), "BENTOML_DO_NOT_TRACK": "True"}
    if workers is not None:
        env["UNDERSTUDY_WORKERS"] = str(workers)
    command = [sys.executable, "-m", "bentoml", "serve", "service.app:Understudy", "--host", host, "--port", str(port)]
    os.execve(sys.executable, command, env)  # noqa: S606 - becomes the server, so that signals reach it


@app.command()
def token(
    name: Annotated[str, typer.Argument(help="who gets it: goes into the audit log")],
    role: Annotated[str, typer.Option(help="viewer or operator")] = "viewer",
    file: Annotated[Path, typer.Option(help="the tokens file to append to [env: UNDERSTUDY_TOKENS_FILE]")] = Path(
        "tokens"
    ),
) -> None:
    """Make a token, print it once, and append its hash to the tokens file."""
    with _said():
        if role not in ("viewer", "operator"):
            raise ConfigurationError(f"role {role!r} is not viewer or operator")
        new = auth.new_token()
        with file.open("a", encoding="utf-8") as lines:
            lines.write(auth.line_for(name, role, new) + "\n")  # type: ignore[arg-type]  # checked above
        file.chmod(0o600)
        print(new)


@app.command()
def status(url: Url = DEFAULT_URL, token: Token = None, as_json: Json = False) -> None:
    """Show where the rollout stands."""
    with _said():
        state = Client(url, token).get("/rollout")
        if as_json:
            print(json.dumps(state, indent=1))
            return
        _show(state)


@app.command("set-weight")
def set_weight(
    weight: Annotated[
        float, typer.Argument(help="percent of live answers that the candidate gives, 0 to 100", min=0, max=100)
    ],
    reason: Reason = "",
    revision: Annotated[
        int | None, typer.Option(help="refuse when the rollout has moved on from this revision")
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Set the candidate's share of live answers by hand."""
    with _said():
        state = Client(url, token).post("/rollout/weight", {"weight": weight, "reason": reason}, revision=revision)
        if as_json:
            print(json.dumps(state, indent=1))
        else:
            out.print(f"{state['phase']}, candidate at {state['weight']:g} %, revision {state['revision']}")


@app.command()
def history(
    url: Url = DEFAULT_URL,
    token: Token = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    as_json: Json = False,
) -> None:
    """Show the audit log: who did what, when and why."""
    with _said():
        events = Client(url, token).get("/rollout/events", limit=limit)["events"]
        if as_json:
            print(json.dumps(events, indent=1))
            return
        table = Table("at", "event", "who", "why", "revision", "details", box=None)
        for event in events:
            at = datetime.datetime.fromtimestamp(event["at"], datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
            details = ", ".join(f"{k} {v}" for k, v in event["details"].items() if not isinstance(v, dict))
            table.add_row(at, event["kind"], event["actor"], event["reason"], str(event["revision"]), details)
        out.print(table)


@app.command()
def replay(
    month: Annotated[int, typer.Option(help="month of 2013", min=1, max=12)],
    url: Url = DEFAULT_URL,
    rate: Annotated[
        float | None, typer.Option(help="requests per second; as fast as it goes, if left out", min=0.001)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="only the first flights of the month", min=1)] = None,
    connections: Annotated[int, typer.Option(help="requests under way at once", min=1, max=256)] = 16,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Send a month of real flights in time order, each label when it became known, and compare what the service makes of it."""
    from models.data import replay_rows  # noqa: PLC0415 - pandas is slow to load
    from service import replay as history_  # noqa: PLC0415

    with _said():
        client = Client(url, token)
        client.get("/rollout")
        flights = replay_rows(month, limit)
        before = _readings(client)
        with _progress(len(flights), show=not as_json) as step:
            job = history_.Replay(url, token=token, rate=rate, connections=connections, progress=step)
            summary = _interruptible(job.run(flights))
        store = history_.difference(
            asyncio.run(history_.settled(lambda: client.get("/rollout/evidence")["counters"])), before[0]
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


def _readings(client: Client) -> tuple[Mapping[str, float], Mapping[str, float]]:
    from service import replay as history_  # noqa: PLC0415

    return client.get("/rollout/evidence")["counters"], history_.from_metrics(client.text("/metrics"))


def _interruptible(job: Any) -> Any:
    """Run a coroutine; Ctrl-C cancels it and it finishes what it has begun."""
    try:
        return asyncio.run(job)
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _progress(total: int, *, show: bool) -> Iterator[Callable[[Any, float], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=not show) as bar:
        task = bar.add_task("flights", total=total, rate="")

        def step(summary: Any, at: float) -> None:
            if summary.sent % 50 == 0 or summary.sent == total:
                day = datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%d %b %H:%M")
                labels = sum(summary.labels.values())
                bar.update(
                    task, completed=summary.sent, description=day, rate=f"{labels} labels, {summary.failed} failed"
                )

        yield step
        bar.update(task, completed=total)


def _replay_json(summary: Any, store: Mapping[str, float], differ: list[str]) -> dict[str, Any]:
    from service.control import figures, label_figures  # noqa: PLC0415
    from service.replay import variants_in  # noqa: PLC0415

    return {
        "sent": summary.sent, "failed": summary.failed, "errors": summary.errors, "fallbacks": summary.fallbacks,
        "answered": summary.answered, "labels": summary.labels, "seconds": round(summary.seconds, 3),
        "requests_per_second": round(summary.sent / summary.seconds, 1) if summary.seconds else None,
        "caller_latency_ms": {name: summary.quantile_ms(q) for name, q in (("p50", 0.5), ("p99", 0.99))},
        "variants": {v.value: figures(store, v) for v in variants_in(store)},
        "label_figures": label_figures(store),
        "shadow": {k.partition("/")[2]: int(v) for k, v in store.items() if k.startswith("shadow/")},
        "metrics_agree": not differ, "differences": differ, "interrupted": summary.interrupted,
    }  # fmt: skip


def _show_replay(summary: Any, store: Mapping[str, float], differ: list[str]) -> None:
    data = _replay_json(summary, store, differ)
    table = Table("", *data["variants"], box=None, title=None)
    rows = (
        ("requests answered", "requests", "{:,}"), ("labels", "labelled", "{:,}"), ("accuracy", "accuracy", "{:.4f}"),
        ("Brier", "brier", "{:.4f}"), ("log-loss", "log_loss", "{:.4f}"), ("latency p50, ms", "latency_p50_ms", "{:.2f}"),
        ("latency p99, ms", "latency_p99_ms", "{:.2f}"),
    )  # fmt: skip
    for title, name, form in rows:
        values = [figures.get(name) for figures in data["variants"].values()]
        table.add_row(title, *("-" if value is None else form.format(value) for value in values))
    out.print(table)
    shadow = data["shadow"]
    caller = data["caller_latency_ms"]
    out.print(
        f"{summary.sent:,} sent in {summary.seconds:.1f} s ({data['requests_per_second']:,} a second), {summary.failed} failed, "
        f"{summary.fallbacks} fallbacks; caller's p50 {caller['p50'] or 0:.2f} ms, p99 {caller['p99'] or 0:.2f} ms"
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


def _show(state: Mapping[str, Any]) -> None:
    primary, candidate = state["primary"], state["candidate"]
    out.print(
        f"{state['model']}: {state['phase']}, candidate at {state['weight']:g} %, revision {state['revision']}",
        style="bold",
    )
    out.print(f"primary    {primary['name']} {primary['version']}  {primary['digest'][:19]}…")
    if candidate:
        up = "up" if candidate["up"] else "down: it is being probed"
        out.print(f"candidate  {candidate['name']} {candidate['version']}  {candidate['digest'][:19]}…  {up}")
    out.print(f"verdict    {state['verdict']['answer']}: {state['verdict']['reason']}", markup=False)
    table = Table("", *state["variants"], box=None)
    names = dict.fromkeys(name for figures in state["variants"].values() for name in figures)
    for name in names:
        values = [figures.get(name) for figures in state["variants"].values()]
        table.add_row(
            name.replace("_", " "),
            *("-" if v is None else f"{v:,}" if isinstance(v, int) else f"{v:.4f}" for v in values),
        )
    out.print(table)
    labels = state["labels"]
    coverage = "" if labels["coverage"] is None else f", {labels['coverage']:.1%} of the rows"
    delay = (
        ""
        if labels["delay_p50_s"] is None
        else f", half of them within {datetime.timedelta(seconds=round(labels['delay_p50_s']))}"
    )
    out.print(f"labels     {labels['matched']:,} matched{coverage}{delay}")
    out.print("rehearsals " + ", ".join(f"{count:,} {name}" for name, count in state["shadow"].items()))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    app()
