"""Starts the load generator: locust, headless, in processes of its own."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from understudy.errors import ConfigurationError
from understudy.loadtest.shapes import SHAPES
from understudy.loadtest.traffic import MIX, PROTOCOLS, mix_of
from understudy.offline import sources
from understudy.runtime.ports import free_port

LOCUSTFILE = Path(__file__).parent / "users.py"
PROGRESS_PREFIX = "understudy:"
"""How a line of the generator's output begins that reports its progress as JSON."""
SOURCE = "UNDERSTUDY_LOADTEST_SOURCE"
"""Environment variable that names the data source for the locustfile to import."""
MASTER_PORT = 5557
"""Where a master listens for workers on other machines: locust's own port."""
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 - workers on other machines connect to the master
STOP_S = 10.0
"""How long a generator process has to end before it is killed."""


@dataclass(frozen=True)
class LoadTest:
    """The options of one load test: see `understudy loadtest --help`."""

    url: str
    rate: float
    seconds: float = 30.0
    warm_up_s: float = 5.0
    shape: str = "steady"
    mix: str = MIX
    feedback: float = 0.1
    processes: int = 1
    source: str = sources.FLIGHTS
    month: int = 7
    rows_file: str = ""
    seed: int = 2013
    token: str | None = None
    protocol: str = "rest"
    workers_elsewhere: int = 0

    @property
    def generators(self) -> int:
        """Arrival processes that share the rate."""
        return self.workers_elsewhere or self.processes

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ConfigurationError(f"unknown shape {self.shape!r}; use one of {', '.join(SHAPES)}")
        if self.protocol not in PROTOCOLS:
            raise ConfigurationError(f"unknown protocol {self.protocol!r}; use one of {', '.join(PROTOCOLS)}")
        mix_of(self.mix)
        if importlib.util.find_spec("locust") is None:
            raise ConfigurationError("a load test needs locust: pip install 'understudy[loadtest]'")
        if not self.rows_file:
            sources.find(self.source)


class Progress(msgspec.Struct, frozen=True):
    """How far a load test is.

    Attributes:
        at: seconds after the warm-up; negative during it.
        due: requests that were due; ok: of those, answered well and in time; failed: not.
    """

    at: float
    due: int
    ok: int
    failed: int


@dataclass(frozen=True)
class Generator:
    """A running load generator.

    Attributes:
        process: locust, or the master of its workers.
        result: the file that it writes its counts to, at the end.
        log: the file with the output of all its processes.
    """

    process: "subprocess.Popen[str]"
    result: Path
    log: Path


@contextlib.contextmanager
def running(test: LoadTest, deadline_ms: float) -> Iterator[Generator]:
    """Run locust: one process, or a master with `processes` workers. All of them end with this block."""
    with tempfile.TemporaryDirectory(prefix="understudy-load-") as name:
        result, log = Path(name, "result.json"), Path(name, "locust.log")
        env = os.environ | ({"UNDERSTUDY_TOKEN": test.token} if test.token else {})
        env[SOURCE] = "" if test.rows_file else test.source
        started: list[subprocess.Popen[str]] = []
        with log.open("w", encoding="utf-8") as stream:
            try:
                for number, command in enumerate(_commands(test, deadline_ms, result)):
                    started.append(
                        subprocess.Popen(
                            command,
                            stdout=subprocess.DEVNULL if number else subprocess.PIPE,
                            stderr=stream,
                            stdin=subprocess.DEVNULL,
                            text=True,
                            env=env,
                            start_new_session=True,
                        )
                    )
                yield Generator(started[0], result, log)
            finally:
                _stop(started)


def _commands(test: LoadTest, deadline_ms: float, result: Path) -> list[list[str]]:
    """The command lines of all processes; the first is the one that writes the result."""
    base = [sys.executable, "-P", "-m", "locust", "-f", str(LOCUSTFILE), "--host", test.url]
    base += ["--headless", "--only-summary"]
    users = ["-u", str(test.generators), "-r", str(test.generators)]
    first = [*base, *users, *_options(test, deadline_ms, result)]
    if test.generators == 1 and not test.workers_elsewhere:
        return [first]
    host, port = (ALL_ADDRESSES, MASTER_PORT) if test.workers_elsewhere else ("127.0.0.1", free_port())
    first += ["--master", "--master-bind-host", host, "--master-bind-port", str(port)]
    first += ["--expect-workers", str(test.generators)]
    worker = [*base, "--worker", "--master-host", "127.0.0.1", "--master-port", str(port)]
    return [first, *([worker] * (0 if test.workers_elsewhere else test.processes))]


def _options(test: LoadTest, deadline_ms: float, result: Path) -> list[str]:
    """The options that the locustfile adds to locust's own."""
    options = {
        "rate": test.rate,
        "shape": test.shape,
        "seconds": test.seconds,
        "warm-up": test.warm_up_s,
        "mix": test.mix,
        "feedback": test.feedback,
        "deadline-ms": deadline_ms,
        "seed": test.seed,
        "source": test.source,
        "month": test.month,
        "protocol": test.protocol,
        "rows-file": Path(test.rows_file).absolute() if test.rows_file else "",
        "generators": test.generators,
        "result": result,
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def _stop(processes: Sequence["subprocess.Popen[str]"]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
