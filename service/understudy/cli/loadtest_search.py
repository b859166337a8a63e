"""`understudy loadtest --find` and `--sweep`: the capacity, and the setting to choose."""

import contextlib
import dataclasses
import json
import tempfile
from pathlib import Path

from understudy.cli.common import err, out
from understudy.cli.loadtest_output import (
    EXIT_CODES,
    goals_of,
    measure,
    show_capacity,
    show_step,
    show_sweep,
    weight_of,
)
from understudy.loadtest import capacity, own, report
from understudy.loadtest import sweep as sweeping
from understudy.loadtest.capacity import Capacity
from understudy.loadtest.generator import LoadTest
from understudy.loadtest.run import LoadTestOutcome
from understudy.rollout.loadtest import LaunchGoals
from understudy.rollout.policy import parse

START_RPS = 100.0
SWEEP_PRECISION = 0.1


def find(test: LoadTest, file: Path, folder: Path, peak: float | None, *, quiet: bool) -> int:
    """Find the capacity of a running service, print it, and return the exit code."""
    goals = goals_of(test)
    result = _capacity(test, file, goals, capacity.PRECISION, quiet=quiet)
    goal = goals.throughput_rps
    headroom = result.rate / goal - 1 if goal else None
    rows = result.best.record.measured.rows_per_request if result.best else 1.0
    need = capacity.need(result, peak, goals, rows) if peak else None
    paths = report.write(result.best, folder) if result.best else {}
    if quiet:
        document = result.as_json() | {
            "headroom": headroom,
            "need": None if need is None else dataclasses.asdict(need),
            "files": {name: str(path) for name, path in paths.items()},
        }
        print(json.dumps(document, indent=1))
    else:
        show_capacity(result, goal, headroom, need)
    if result.invalid or not result.steps:
        return EXIT_CODES["invalid"]
    return EXIT_CODES["pass"] if result.rate and (headroom is None or headroom >= 0) else EXIT_CODES["fail"]


def _capacity(test: LoadTest, file: Path, goals: LaunchGoals, precision: float, *, quiet: bool) -> Capacity:
    def probe(rate: float) -> LoadTestOutcome:
        seconds = capacity.seconds_for(rate, goals, test.seconds)
        step = dataclasses.replace(test, rate=rate, seconds=seconds)
        outcome = measure(step, file, goals.model_copy(update={"throughput_rps": rate}), quiet=quiet)
        if not quiet:
            show_step(rate, outcome.record)
        return outcome

    return capacity.find(probe, test.rate or goals.throughput_rps or START_RPS, precision=precision)


def sweep(test: LoadTest, file: Path, folder: Path, axes: list[str], *, quiet: bool) -> int:
    """Find the capacity with each combination of settings, print them, and return the exit code."""

    def measure_setting(setting: dict[str, str]) -> Capacity:
        err.print(" ".join(f"{name}={value}" for name, value in setting.items()), style="bold")
        with contextlib.ExitStack() as stack:
            changed = stack.enter_context(sweeping.rollout_with(file, setting))
            state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="understudy-own-")))
            service = own.service(changed, state, sweeping.environment(setting), weight=weight_of(file))
            target = dataclasses.replace(test, url=stack.enter_context(service), token=None)
            return _capacity(target, file, goals_of(target), SWEEP_PRECISION, quiet=quiet)

    points = sweeping.sweep(sweeping.settings(axes), measure_setting)
    goal = parse(file.read_text(encoding="utf-8"), str(file)).goals.throughput_rps
    chosen = sweeping.best(points, goal)
    document = json.dumps(sweeping.as_json(points, chosen), indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.html").write_text(sweeping.page(points, chosen, report.STYLE), encoding="utf-8")
    (folder / "sweep.json").write_text(document, encoding="utf-8")
    if quiet:
        print(document)
    else:
        show_sweep(sweeping.HEAD, sweeping.rows(points))
        result = f"best setting: {chosen.name}" if chosen else "no setting meets the goals"
        out.print(result, style="bold", markup=False)
        out.print(f"the chart is in {folder / 'sweep.html'}", markup=False)
    return EXIT_CODES["pass"] if chosen else EXIT_CODES["fail"]
