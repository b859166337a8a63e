"""Runs one load test for the command line, and shows its progress, its findings, and tables of capacities."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from understudy.cli.common import err, out
from understudy.loadtest.capacity import Capacity, Need
from understudy.loadtest.generator import LoadTest, Progress
from understudy.loadtest.run import LoadTestOutcome, run
from understudy.offline.client import Client
from understudy.rollout.loadtest import LaunchGoals, Record
from understudy.rollout.policy import CanaryStep, parse

EXIT_CODES = {"pass": 0, "fail": 1, "invalid": 2}
STYLES = {"pass": "bold green", "fail": "bold red", "invalid": "bold yellow"}


def weight_of(file: Path) -> float | None:
    """The weight in percent of the step that requires a load test, otherwise of the last canary step; None without one."""
    canaries = [s for s in parse(file.read_text(encoding="utf-8"), str(file)).steps if isinstance(s, CanaryStep)]
    gated = [s for s in canaries if "loadtest" in s.require] or canaries[-1:]
    return gated[0].canary / 100 if gated else None


def goals_of(test: LoadTest) -> LaunchGoals:
    """The goals of the service that is tested."""
    with Client(test.url, test.token) as client:
        return LaunchGoals.model_validate(client.get("/rollout/loadtest")["goals"])


def measure(test: LoadTest, file: Path, goals: LaunchGoals | None, *, quiet: bool) -> LoadTestOutcome:
    """Run a test with a progress bar."""
    with _progress_bar(test, show=not quiet) as update:
        return run(test, goals=goals, rollout_file=file, on_progress=update)


@contextlib.contextmanager
def _progress_bar(test: LoadTest, *, show: bool) -> Iterator[Callable[[Progress], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"), TimeElapsedColumn())
    total = test.warm_up_s + test.seconds
    with Bar(*columns, console=err, disable=not show) as bar:
        task = bar.add_task("starting", total=total, counts="")

        def update(progress: Progress) -> None:
            doing = "warming up" if progress.at < 0 else "measuring"
            counts = f"{progress.due:,} due, {progress.ok:,} answered, {progress.failed:,} failed"
            completed = min(test.warm_up_s + progress.at, total)
            bar.update(task, description=f"{doing} at {test.rate:,.0f}/s", completed=completed, counts=counts)

        yield update


def show(record: Record, paths: Mapping[str, Path]) -> None:
    """Print a record: each goal, the generator, the verdict and its reasons."""
    table = Table("goal", "met", "measured", box=None)
    for finding in record.findings:
        met = Text("yes", style="green") if finding.met else Text("no", style="bold red")
        table.add_row(finding.goal, met, Text(finding.says))
    out.print(table)
    measured, generator = record.measured, record.generator
    out.print(
        f"{measured.latency.requests:,} responses in {measured.seconds:g} s, {measured.rows_per_request:.1f} rows per request; "
        f"the generator used {max(generator['cpu_share'], default=0):.0%} of a core and sent one request in a hundred "
        f"{generator['lag_p99_ms'] or 0:.2f} ms late"
    )
    out.print(Text(record.verdict, style=STYLES[record.verdict]), *([":"] if record.reasons else []), sep="")
    for reason in record.reasons:
        out.print(Text(f"  {reason}"), soft_wrap=True)
    out.print(f"the report is {paths['report.html']}", markup=False)


def show_step(rate: float, record: Record) -> None:
    """Print one step of a search."""
    p99 = record.measured.latency.p99_ms
    reason = record.reasons[0] if record.reasons else ""
    err.print(
        Text(f"{rate:>9,.0f}/s  {record.verdict:<8}", style=STYLES[record.verdict])
        + Text(f"p99 {'-' if p99 is None else f'{p99:,.1f} ms'}  {reason}", style="")
    )


def show_capacity(capacity: Capacity, goal: float | None, headroom: float | None, need: Need | None) -> None:
    """Print the result of a search."""
    if capacity.invalid:
        out.print(f"invalid: {capacity.invalid}", style=STYLES["invalid"], markup=False, soft_wrap=True)
        out.print(f"the capacity is at least {capacity.rate:,.0f} requests/s")
    else:
        above = "" if capacity.above is None else f"; at {capacity.above:,.0f} they are missed"
        rate = f"{capacity.rate:,.0f} requests/s meet the goals, within {capacity.precision:.0%}"
        out.print(f"capacity: {rate}{above}", style="bold")
    if headroom is not None:
        out.print(f"headroom over the goal of {goal:,.0f}: {headroom:+.0%}")
    out.print(f"bottleneck: {capacity.bottleneck}", markup=False, soft_wrap=True)
    if need is not None:
        cost = ""
        if need.per_hour is not None:
            cost = f", {need.per_hour:.2f} an hour, {need.per_million:.4f} a million predictions"
        out.print(
            f"a peak of {need.peak:,.0f} requests/s needs {need.replicas} replicas at 70 % of their capacity at most{cost}"
        )


def show_sweep(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the settings as a table, and below it the bottleneck of each."""
    table = Table(box=None)
    table.add_column(head[0], no_wrap=True)
    for name in head[1:-1]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(Text, row[:-1]))
    out.print(table)
    for name, *_, bottleneck in rows:
        out.print(Text(f"{name}: ", style="dim"), Text(bottleneck), sep="", soft_wrap=True)
