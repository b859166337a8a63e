"""`understudy loadtest`: the launch load test, its gate, the capacity behind it, and the settings to choose.

The generator (`understudy.loadtest`, on locust) runs in processes of its own; this one only asks for it and says what came out.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from understudy.cli.common import File, Json, SourceName, Token, Url, app, err, out
from understudy.errors import ConfigurationError, UnderstudyError
from understudy.offline import sources
from understudy.offline.client import DEFAULT_URL, Client

if TYPE_CHECKING:  # loaded by the commands that are about load tests
    from understudy.rollout.loadtest import LaunchGoals, Record

EXITS = {"pass": 0, "fail": 1, "invalid": 2}
STYLES = {"pass": "bold green", "fail": "bold red", "invalid": "bold yellow"}
FIND_START_RPS = 100.0
FIND_SECONDS = 6.0


@app.command()
def loadtest(
    file: File = Path("rollout.yaml"),
    url: Url = DEFAULT_URL,
    token: Token = None,
    own: Annotated[bool, typer.Option("--own", help="test a service of its own, whatever runs at --url")] = False,
    rate: Annotated[
        float | None,
        typer.Option(help="requests a second, at the shape's peak; `goals.throughput_rps` if left out", min=0.1),
    ] = None,
    duration: Annotated[
        float | None, typer.Option(help="seconds that are measured; 30, and 3,600 for a soak", min=1)
    ] = None,
    warm_up: Annotated[float, typer.Option(help="seconds before, which are not counted", min=0)] = 5.0,
    shape: Annotated[str, typer.Option(help="steady, soak, step, ramp, spike or diurnal")] = "steady",
    rows: Annotated[str, typer.Option(help="rows a request: `100`, or a mix with weights")] = "1:8,10:1,100:1",
    feedback: Annotated[float, typer.Option(help="reports of labels for each predict request", min=0, max=10)] = 0.1,
    protocol: Annotated[str, typer.Option(help="rest, v2 (Open Inference Protocol) or both")] = "rest",
    rows_file: Annotated[
        str, typer.Option(help="rows of your own, one JSON object a line, in place of a data source")
    ] = "",
    source: SourceName = sources.FLIGHTS,
    processes: Annotated[int, typer.Option(help="generators that share the rate", min=1, max=64)] = 1,
    workers_elsewhere: Annotated[
        int,
        typer.Option(
            help="in their place, wait on port 5557 for so many workers on other machines", min=0, max=256, metavar="N"
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="the same seed sends the same requests at the same moments")] = 2013,
    find: Annotated[bool, typer.Option("--find", help="search for the highest rate that meets the goals")] = False,
    peak: Annotated[
        float | None, typer.Option(help="with --find: requests a second to say replicas and cost for", min=0.1)
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="find the capacity with each setting: `workers=1,2`; may be given several times"),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="where the record and the report are written, in a folder of their own"),
    ] = Path(".understudy/loadtests"),
    post: Annotated[
        Path | None, typer.Option(help="only file this record, taken before, with the service at --url")
    ] = None,
    as_json: Json = False,
) -> None:
    """Test the launch: open loop, judged by the goals. Exits 0 for a pass, 1 for a fail, 2 when it says nothing."""
    with _said():
        if post is not None:
            from understudy.rollout.loadtest import Record

            record = Record.model_validate_json(post.read_bytes())
            _file_with(url, token, record, quiet=as_json)
            raise typer.Exit(EXITS[record.verdict])
        from understudy.loadtest.run import LoadTest

        seconds = duration or (3_600.0 if shape == "soak" else FIND_SECONDS if find or sweep else 30.0)
        test = LoadTest(
            url=url, rate=rate or 0.0, seconds=seconds, warm_up_s=warm_up, shape=shape, mix=rows, feedback=feedback,
            processes=processes, rows_file=rows_file, source=source, seed=seed, token=token, protocol=protocol,
            workers_elsewhere=workers_elsewhere,
        )  # fmt: skip
        folder = output / time.strftime("%Y%m%d-%H%M%S")
        if sweep:
            raise typer.Exit(_sweep(test, file, folder, sweep, quiet=as_json))
        with _target(test, file, own=own) as (target, running):
            if find:
                raise typer.Exit(_find(target, file, folder, peak, quiet=as_json))
            code = _one(target, file, folder, gate=(url, token) if running else None, quiet=as_json)
        raise typer.Exit(code)


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """An error of ours is one line, and exit code 2: no test was taken, so nothing is known."""
    try:
        yield
    except (UnderstudyError, OSError, ValueError) as error:
        err.print(f"understudy: {getattr(error, 'detail', error)}", style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        err.print("interrupted: what was begun is stopped, and nothing was recorded")
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _target(test: Any, file: Path, *, own: bool) -> Iterator[tuple[Any, bool]]:
    """The test aimed at the service that runs at its URL, or at one of its own; and whether one runs there."""
    import dataclasses

    from understudy.loadtest import own as own_service

    running = own_service.answers(test.url, test.token)
    if running and not own:
        yield test, True
        return
    with tempfile.TemporaryDirectory(prefix="understudy-own-") as state:
        err.print(f"a service of its own is started from {file}" + ("" if running else f": none runs at {test.url}"))
        with own_service.service(file, Path(state), weight=_weight(file)) as found:
            yield dataclasses.replace(test, url=found, token=None), running


def _weight(file: Path) -> float | None:
    """The weight of the step that the test opens: what it will carry is what is tested. Else the last canary step's."""
    from understudy.rollout.policy import CanaryStep, parse

    canaries = [s for s in parse(file.read_text(encoding="utf-8"), str(file)).steps if isinstance(s, CanaryStep)]
    gated = [s for s in canaries if "loadtest" in s.require] or canaries[-1:]
    return gated[0].canary / 100 if gated else None


def _one(test: Any, file: Path, folder: Path, *, gate: tuple[str, str | None] | None, quiet: bool) -> int:
    from understudy.loadtest import report

    goals = _goals(test)
    asked = test.rate or goals.throughput_rps
    if not asked:
        raise ConfigurationError(f"{file} sets no `goals.throughput_rps`: say which --rate to test at, or --find one")
    outcome = _measured(_at(test, asked, test.seconds), file, None, quiet=quiet)
    paths = report.write(outcome, folder)
    record = outcome.record
    filed = _file_with(*gate, record, quiet=quiet) if gate else None
    if quiet:
        told = {
            "record": json.loads(record.model_dump_json()),
            "filed": filed,
            "files": {k: str(v) for k, v in paths.items()},
        }
        print(json.dumps(told, indent=1))
    else:
        _show(record, paths)
        if gate is None:
            out.print(
                f"to open the gate of a service: understudy loadtest --url … --post {paths['record.json']}",
                markup=False,
            )
    return EXITS[record.verdict]


def _goals(test: Any) -> "LaunchGoals":
    from understudy.rollout.loadtest import LaunchGoals

    with Client(test.url, test.token) as client:
        return LaunchGoals.model_validate(client.get("/rollout/loadtest")["goals"])


def _at(test: Any, rate: float, seconds: float) -> Any:
    import dataclasses

    return dataclasses.replace(test, rate=rate, seconds=seconds)


def _measured(test: Any, file: Path, goals: "LaunchGoals | None", *, quiet: bool) -> Any:
    from understudy.loadtest.run import run

    with _progress(test, show=not quiet) as say:
        return run(test, goals=goals, rollout_file=file, say=say)


@contextlib.contextmanager
def _progress(test: Any, *, show: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not show) as bar:
        task = bar.add_task("starting", total=test.warm_up_s + test.seconds, said="")

        def say(told: Mapping[str, Any]) -> None:
            what = f"warming up at {test.rate:,.0f}/s" if told["at"] < 0 else f"measuring at {test.rate:,.0f}/s"
            said = f"{told['due']:,} due, {told['ok']:,} answered, {told['failed']:,} failed"
            bar.update(
                task,
                description=what,
                completed=min(test.warm_up_s + told["at"], test.warm_up_s + test.seconds),
                said=said,
            )

        yield say


def _file_with(url: str, token: str | None, record: "Record", *, quiet: bool) -> dict[str, Any]:
    """File a record with a service and say whether its gate is open."""
    with Client(url, token) as client:
        filed: dict[str, Any] = client.post("/rollout/loadtest", json.loads(record.model_dump_json()))
    if not quiet:
        gate = "open" if filed["met"] else f"closed: {filed['reason']}"
        out.print(f"filed as event {filed['event']}; the gate is {gate}", markup=False, soft_wrap=True)
    return filed


def _find(test: Any, file: Path, folder: Path, peak: float | None, *, quiet: bool) -> int:
    from understudy.loadtest import capacity, report

    goals = _goals(test)
    found = _capacity(test, file, goals, capacity.PRECISION, quiet=quiet)
    goal = goals.throughput_rps
    headroom = found.rate / goal - 1 if goal else None
    rows = found.best.record.measured.rows_per_request if found.best else 1.0
    need = capacity.need(found, peak, goals, rows) if peak else None
    paths = report.write(found.best, folder) if found.best else {}
    told = found.as_json() | {"headroom": headroom, "need": None if need is None else need.__dict__,
                              "files": {k: str(v) for k, v in paths.items()}}  # fmt: skip
    if quiet:
        print(json.dumps(told, indent=1))
    else:
        _show_capacity(found, goal, headroom, need)
    if found.invalid or not found.steps:
        return EXITS["invalid"]
    return EXITS["pass"] if found.rate and (headroom is None or headroom >= 0) else EXITS["fail"]


def _capacity(test: Any, file: Path, goals: "LaunchGoals", precision: float, *, quiet: bool) -> Any:
    from understudy.loadtest import capacity

    def try_at(rate: float) -> Any:
        seconds = capacity.seconds_for(rate, goals, test.seconds)
        held = goals.model_copy(update={"throughput_rps": rate})
        outcome = _measured(_at(test, rate, seconds), file, held, quiet=quiet)
        if not quiet:
            record = outcome.record
            p99 = record.measured.latency.p99_ms
            err.print(
                Text(f"{rate:>9,.0f}/s  {record.verdict:<8}", style=STYLES[record.verdict])
                + Text(
                    f"p99 {'-' if p99 is None else f'{p99:,.1f} ms'}  {record.reasons[0] if record.reasons else ''}",
                    style="",
                )
            )
        return outcome

    return capacity.find(try_at, test.rate or goals.throughput_rps or FIND_START_RPS, precision=precision)


def _show_capacity(found: Any, goal: float | None, headroom: float | None, need: Any) -> None:
    if found.invalid:
        out.print(f"invalid: {found.invalid}", style=STYLES["invalid"], markup=False, soft_wrap=True)
        out.print(f"the capacity is at least {found.rate:,.0f} requests/s")
    else:
        above = "" if found.above is None else f"; at {found.above:,.0f} they are missed"
        out.print(
            f"capacity: {found.rate:,.0f} requests/s meet the goals, to {found.precision:.0%}{above}", style="bold"
        )
    if headroom is not None:
        out.print(f"headroom over the goal of {goal:,.0f}: {headroom:+.0%}")
    out.print(f"bottleneck: {found.bottleneck}", markup=False, soft_wrap=True)
    if need is not None:
        cost = (
            ""
            if need.per_hour is None
            else f", {need.per_hour:.2f} an hour, {need.per_million:.4f} a million predictions"
        )
        out.print(f"a peak of {need.peak:,.0f} requests/s takes {need.replicas} replicas at most 70 % full{cost}")


def _sweep(test: Any, file: Path, folder: Path, axes: list[str], *, quiet: bool) -> int:
    from understudy.loadtest import own as own_service
    from understudy.loadtest import report
    from understudy.loadtest import sweep as sweeping

    found = sweeping.settings(axes)

    def measure(setting: dict[str, str]) -> Any:
        err.print(" ".join(f"{k}={v}" for k, v in setting.items()), style="bold")
        with contextlib.ExitStack() as stack:
            changed = next(stack.enter_context(contextlib.closing(sweeping.rollout_with(file, setting))))  # type: ignore[type-var]
            state = stack.enter_context(tempfile.TemporaryDirectory(prefix="understudy-own-"))
            served = own_service.service(changed, Path(state), sweeping.environment(setting), weight=_weight(file))
            import dataclasses

            aimed = dataclasses.replace(test, url=stack.enter_context(served), token=None)
            return _capacity(aimed, file, _goals(aimed), 0.1, quiet=quiet)

    points = sweeping.sweep(found, measure)
    from understudy.rollout.policy import parse

    goal = parse(file.read_text(encoding="utf-8"), str(file)).goals.throughput_rps
    chosen = sweeping.best(points, goal)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.html").write_text(sweeping.page(points, chosen, report.STYLE), encoding="utf-8")
    (folder / "sweep.json").write_text(json.dumps(sweeping.as_json(points, chosen), indent=1), encoding="utf-8")
    if quiet:
        print(json.dumps(sweeping.as_json(points, chosen), indent=1))
    else:
        _show_sweep(sweeping.HEAD, sweeping.rows(points))
        out.print(
            f"best for the goals: {chosen.name}" if chosen else "no setting reaches the goals",
            style="bold",
            markup=False,
        )
        out.print(f"the plot is in {folder / 'sweep.html'}", markup=False)
    return EXITS["pass"] if chosen else EXITS["fail"]


def _show_sweep(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The numbers as a table, and below it in sentences what bounds each setting."""
    table = Table(box=None)
    table.add_column(head[0], no_wrap=True)
    for name in head[1:-1]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(Text, row[:-1]))
    out.print(table)
    for name, *_, bound in rows:
        out.print(Text(f"{name}: ", style="dim"), Text(bound), sep="", soft_wrap=True)


def _show(record: "Record", paths: Mapping[str, Path]) -> None:
    table = Table("goal", "met", "measured", box=None)
    for finding in record.findings:
        met = Text("yes", style="green") if finding.met else Text("no", style="bold red")
        table.add_row(finding.goal, met, Text(finding.says))
    out.print(table)
    m, g = record.measured, record.generator
    out.print(
        f"{m.latency.requests:,} answers in {m.seconds:g} s, {m.rows_per_request:.1f} rows a request; the generator used "
        f"{max(g['cpu_share'], default=0):.0%} of a core and sent one in a hundred {g['lag_p99_ms'] or 0:.2f} ms late"
    )
    out.print(Text(record.verdict, style=STYLES[record.verdict]), *([":"] if record.reasons else []), sep="")
    for reason in record.reasons:
        out.print(Text(f"  {reason}"), soft_wrap=True)
    out.print(f"the report is {paths['report.html']}", markup=False)
