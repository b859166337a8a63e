"""`understudy loadtest`: tests the launch, opens its gate, finds the capacity, and compares settings.

The generator (`understudy.loadtest`, on locust) runs in processes of its own.
"""

import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from understudy.cli.common import File, Json, SourceName, Token, Url, app, err, out
from understudy.errors import ConfigurationError, UnderstudyError
from understudy.offline import sources
from understudy.offline.client import DEFAULT_URL, Client

if TYPE_CHECKING:  # loaded by the commands that need them
    from understudy.loadtest.generator import LoadTest
    from understudy.rollout.loadtest import Record

SECONDS, SOAK_SECONDS, SEARCH_SECONDS = 30.0, 3_600.0, 6.0

Own: TypeAlias = Annotated[
    bool, typer.Option("--own", help="start a service for the test, even if one is running at --url")
]
Rate: TypeAlias = Annotated[
    float | None,
    typer.Option(help="requests per second at the shape's peak; default: `goals.throughput_rps`", min=0.1),
]
Duration: TypeAlias = Annotated[
    float | None, typer.Option(help="seconds to measure; default: 30, and 3,600 for a soak", min=1)
]
WarmUp: TypeAlias = Annotated[float, typer.Option(help="seconds before that, which are not measured", min=0)]
Shape: TypeAlias = Annotated[str, typer.Option(help="steady, soak, step, ramp, spike or diurnal")]
Rows: TypeAlias = Annotated[str, typer.Option(help="rows per request: `100`, or a mix with weights")]
Feedback: TypeAlias = Annotated[float, typer.Option(help="feedback requests per predict request", min=0, max=10)]
Protocol: TypeAlias = Annotated[str, typer.Option(help="rest, v2 (Open Inference Protocol) or both")]
RowsFile: TypeAlias = Annotated[
    str, typer.Option(help="file with your own rows, one JSON object per line, instead of a data source")
]
Processes: TypeAlias = Annotated[int, typer.Option(help="generator processes that share the rate", min=1, max=64)]
WorkersElsewhere: TypeAlias = Annotated[
    int,
    typer.Option(
        help="instead of --processes: wait on port 5557 for this many workers on other machines",
        min=0,
        max=256,
        metavar="N",
    ),
]
Seed: TypeAlias = Annotated[int, typer.Option(help="the same seed sends the same requests at the same times")]
Find: TypeAlias = Annotated[bool, typer.Option("--find", help="search for the highest rate that meets the goals")]
Peak: TypeAlias = Annotated[
    float | None,
    typer.Option(help="with --find: show replicas and cost for this many requests per second", min=0.1),
]
Sweep: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help="find the capacity with each setting, such as `workers=1,2`; may be given several times"),
]
Output: TypeAlias = Annotated[
    Path, typer.Option("--output", "-o", help="folder for the records and reports; each test gets its own subfolder")
]
Post: TypeAlias = Annotated[
    Path | None, typer.Option(help="run no test; file this earlier record with the service at --url")
]


@app.command()
def loadtest(
    file: File = Path("rollout.yaml"),
    url: Url = DEFAULT_URL,
    token: Token = None,
    own: Own = False,
    rate: Rate = None,
    duration: Duration = None,
    warm_up: WarmUp = 5.0,
    shape: Shape = "steady",
    rows: Rows = "1:8,10:1,100:1",
    feedback: Feedback = 0.1,
    protocol: Protocol = "rest",
    rows_file: RowsFile = "",
    source: SourceName = sources.FLIGHTS,
    processes: Processes = 1,
    workers_elsewhere: WorkersElsewhere = 0,
    seed: Seed = 2013,
    find: Find = False,
    peak: Peak = None,
    sweep: Sweep = None,
    output: Output = Path(".understudy/loadtests"),
    post: Post = None,
    as_json: Json = False,
) -> None:
    """Load-test the service at a fixed rate (open loop) and judge it by the goals.

    Exit code 0: pass. 1: fail. 2: the test is invalid, so it says nothing about the service.
    """
    with _errors_exit_with_2():
        if post is not None:
            raise typer.Exit(_post(url, token, post, quiet=as_json))
        from understudy.cli import loadtest_search as search
        from understudy.loadtest.generator import LoadTest

        default_s = SOAK_SECONDS if shape == "soak" else SEARCH_SECONDS if find or sweep else SECONDS
        test = LoadTest(
            url=url,
            rate=rate or 0.0,
            seconds=duration or default_s,
            warm_up_s=warm_up,
            shape=shape,
            mix=rows,
            feedback=feedback,
            processes=processes,
            rows_file=rows_file,
            source=source,
            seed=seed,
            token=token,
            protocol=protocol,
            workers_elsewhere=workers_elsewhere,
        )
        folder = output / time.strftime("%Y%m%d-%H%M%S")
        if sweep:
            raise typer.Exit(search.sweep(test, file, folder, sweep, quiet=as_json))
        with _target(test, file, own=own) as (target, running):
            if find:
                raise typer.Exit(search.find(target, file, folder, peak, quiet=as_json))
            code = _one(target, file, folder, gate=(url, token) if running else None, quiet=as_json)
        raise typer.Exit(code)


@contextlib.contextmanager
def _errors_exit_with_2() -> Iterator[None]:
    """Print an expected error as one line; exit code 2, because no test was made."""
    try:
        yield
    except (UnderstudyError, OSError, ValueError) as error:
        err.print(f"understudy: {getattr(error, 'detail', error)}", style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        err.print("interrupted: the test was stopped, and nothing was recorded")
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _target(test: "LoadTest", file: Path, *, own: bool) -> Iterator[tuple["LoadTest", bool]]:
    """The test aimed at the service at its URL, or else at one started for it; and whether one runs at the URL."""
    from understudy.cli.loadtest_output import weight_of
    from understudy.loadtest import own as own_service

    running = own_service.answers(test.url, test.token)
    if running and not own:
        yield test, True
        return
    with tempfile.TemporaryDirectory(prefix="understudy-own-") as state:
        err.print(f"starting a service for the test from {file}" + ("" if running else f": none runs at {test.url}"))
        with own_service.service(file, Path(state), weight=weight_of(file)) as url:
            yield dataclasses.replace(test, url=url, token=None), running


def _one(test: "LoadTest", file: Path, folder: Path, *, gate: tuple[str, str | None] | None, quiet: bool) -> int:
    from understudy.cli import loadtest_output as output
    from understudy.loadtest import report

    rate = test.rate or output.goals_of(test).throughput_rps
    if not rate:
        raise ConfigurationError(f"{file} has no `goals.throughput_rps`: give a --rate, or search for one with --find")
    outcome = output.measure(dataclasses.replace(test, rate=rate), file, None, quiet=quiet)
    paths = report.write(outcome, folder)
    record = outcome.record
    filed = _file_with(*gate, record, quiet=quiet) if gate else None
    if quiet:
        files = {name: str(path) for name, path in paths.items()}
        print(json.dumps({"record": json.loads(record.model_dump_json()), "filed": filed, "files": files}, indent=1))
    else:
        output.show(record, paths)
        if gate is None:
            command = f"understudy loadtest --url … --post {paths['record.json']}"
            out.print(f"to open the gate of a service with this record: {command}", markup=False)
    return output.EXIT_CODES[record.verdict]


def _post(url: str, token: str | None, path: Path, *, quiet: bool) -> int:
    from understudy.cli.loadtest_output import EXIT_CODES
    from understudy.rollout.loadtest import Record

    record = Record.model_validate_json(path.read_bytes())
    _file_with(url, token, record, quiet=quiet)
    return EXIT_CODES[record.verdict]


def _file_with(url: str, token: str | None, record: "Record", *, quiet: bool) -> object:
    """File a record with a service and print whether its gate is open; returns the service's response."""
    with Client(url, token) as client:
        filed = client.post("/rollout/loadtest", json.loads(record.model_dump_json()))
    if not quiet:
        gate = "open" if filed["met"] else f"closed: {filed['reason']}"
        out.print(f"filed as event {filed['event']}; the gate is {gate}", markup=False, soft_wrap=True)
    return filed
