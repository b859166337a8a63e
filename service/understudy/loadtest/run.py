"""One load test from end to end: locust in processes of its own, the service watched meanwhile, and the record of it all."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.errors import ConfigurationError
from understudy.loadtest import gates
from understudy.loadtest.shapes import SHAPES, mean_share
from understudy.loadtest.tally import Tally
from understudy.loadtest.traffic import MIX, PROTOCOLS, mix_of
from understudy.loadtest.watching import Counts, RecordsWatch, ServiceWatch
from understudy.offline import sources
from understudy.offline.client import Client
from understudy.rollout.loadtest import LaunchGoals, Record, Setup
from understudy.runtime.ports import free_port

LOCUSTFILE = Path(__file__).parent / "users.py"
SAID = "understudy:"
SOURCE = "UNDERSTUDY_LOADTEST_SOURCE"
"""Tells the locustfile which data source to import."""
MASTER_PORT = 5557
"""Where a master listens for workers on other machines: locust's own port."""
REASONS_MAX = 12


@dataclass(frozen=True)
class LoadTest:
    """What is asked for: see `understudy loadtest --help`."""

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
            raise ConfigurationError(f"there is no shape {self.shape!r}; there are {', '.join(SHAPES)}")
        if self.protocol not in PROTOCOLS:
            raise ConfigurationError(f"there is no protocol {self.protocol!r}; there are {', '.join(PROTOCOLS)}")
        mix_of(self.mix)
        if importlib.util.find_spec("locust") is None:
            raise ConfigurationError("a load test needs locust: pip install 'understudy[loadtest]'")
        if not self.rows_file:
            sources.find(self.source)


@dataclass(frozen=True)
class LoadTestOutcome:
    """A record, and what its report draws: the counts, and what the service used over time.

    Attributes:
        samples: seconds after the warm-up, cores and MiB by process name, of each look at the service.
    """

    record: Record
    tally: Tally
    samples: list[dict[str, Any]]


Say = Callable[[Mapping[str, Any]], None]


def run(
    test: LoadTest, *, goals: LaunchGoals | None = None, rollout_file: Path | None = None, say: Say = lambda _: None
) -> LoadTestOutcome:
    """Take a load test of the service at `test.url`.

    Args:
        goals: in place of the service's own.
        say: called about once a second with how far it is: `at` (seconds after the warm-up), `due`, `ok`, `failed`.

    Raises:
        CallFailed: the service does not answer.
        ConfigurationError: the generator did not run; its own words are in the message.
    """
    with Client(test.url, test.token, timeout_s=5.0) as client:
        before = client.get("/rollout/loadtest")
        at_first = Counts.read(client)
        held_to = goals or LaunchGoals.model_validate(before["goals"])
        watch = ServiceWatch(client, before)
        with _locust(test, before["deadline_ms"]) as (process, result, errors):
            watch.start()
            for line in process.stdout or ():
                if line.startswith(SAID):
                    told = json.loads(line.removeprefix(SAID))
                    watch.heard(told["at"])
                    say(told)
            code = process.wait()
            watch.stop()
            if not result.exists():
                raise ConfigurationError(
                    f"the generator ended with {code}: {errors.read_text(encoding='utf-8')[-1500:]}"
                )
            found = json.loads(result.read_text(encoding="utf-8"))
        after = client.get("/rollout/loadtest")
        records = RecordsWatch.after(client, watch.counts or at_first, watch.ends_at(test.seconds))
    tally = Tally.of(found["tally"])
    use = watch.use(after, tally)
    shadow_loss, candidate = _candidate(before, records, tally)
    measured = gates.measure(
        tally,
        test.seconds,
        shadow_loss=shadow_loss,
        records_loss=records.loss,
        machine_per_hour=held_to.machine_per_hour,
    )
    answer, reasons, findings = gates.verdict(held_to, measured, tally, use, lost=found["lost"], candidate=candidate)
    record = Record(
        at=time.time(), model=before["model"], verdict=answer, reasons=reasons[:REASONS_MAX],
        setup=Setup.model_validate(before["setup"]), rollout_file=_digest(rollout_file), goals=held_to, measured=measured,
        findings=findings, method=_method(test, before), generator=_generator(tally), service=_service(use),
    )  # fmt: skip
    return LoadTestOutcome(record, tally, watch.series(test.seconds))


@contextlib.contextmanager
def _locust(test: LoadTest, deadline_ms: float) -> Iterator[tuple["subprocess.Popen[str]", Path, Path]]:
    """Locust, headless: one process, or a master with `processes` workers; all of them end with this block."""
    with tempfile.TemporaryDirectory(prefix="understudy-load-") as name:
        folder = Path(name)
        result, errors = folder / "result.json", folder / "locust.log"
        rows_file = str(Path(test.rows_file).absolute()) if test.rows_file else ""
        own = [
            "--rate", str(test.rate), "--shape", test.shape, "--seconds", str(test.seconds), "--warm-up", str(test.warm_up_s),
            "--mix", test.mix, "--feedback", str(test.feedback), "--deadline-ms", str(deadline_ms), "--seed", str(test.seed),
            "--source", test.source, "--month", str(test.month), "--protocol", test.protocol, "--rows-file", rows_file,
            "--generators", str(test.generators), "--result", str(result),
        ]  # fmt: skip
        base = [
            sys.executable,
            "-P",
            "-m",
            "locust",
            "-f",
            str(LOCUSTFILE),
            "--host",
            test.url,
            "--headless",
            "--only-summary",
        ]
        users = ["-u", str(test.generators), "-r", str(test.generators)]
        env = os.environ | ({"UNDERSTUDY_TOKEN": test.token} if test.token else {})
        env[SOURCE] = "" if test.rows_file else test.source
        with errors.open("w", encoding="utf-8") as log:
            commands = [[*base, *users, *own]]
            if test.generators > 1 or test.workers_elsewhere:
                host, port = ("0.0.0.0", MASTER_PORT) if test.workers_elsewhere else ("127.0.0.1", free_port())  # noqa: S104
                commands[0] += ["--master", "--master-bind-host", host, "--master-bind-port", str(port),
                                "--expect-workers", str(test.generators)]  # fmt: skip
                worker = [*base, "--worker", "--master-host", "127.0.0.1", "--master-port", str(port)]
                commands += [worker] * (0 if test.workers_elsewhere else test.processes)
            started: list[subprocess.Popen[str]] = []
            try:
                for number, command in enumerate(commands):
                    pipe = subprocess.PIPE if number == 0 else subprocess.DEVNULL
                    started.append(
                        subprocess.Popen(
                            command, stdout=pipe, stderr=log, stdin=subprocess.DEVNULL, text=True, env=env,
                            start_new_session=True,
                        )
                    )  # fmt: skip
                yield started[0], result, errors
            finally:
                for process in started:
                    if process.poll() is None:
                        process.terminate()
                for process in started:
                    try:
                        process.wait(10)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()


def _candidate(before: Mapping[str, Any], records: RecordsWatch, tally: Tally) -> tuple[float, str | None]:
    """The share of rehearsals that were lost, and why the candidate took no part, where it should have."""
    added = {name: records.last.since(f"shadow/{name}", records.before) for name in _SHADOW}
    sent = added["sent"]
    loss = (added["dropped"] + added["failed"] + added["late"]) / sent if sent else 0.0
    answered = tally.variants["candidate"].n if "candidate" in tally.variants else 0
    if before["setup"]["candidate"] is None or sent or answered:
        return loss, None
    return loss, f"the candidate took no part: the rollout is {before['plan']['phase']}; test it in shadow or canary"


_SHADOW = ("sent", "dropped", "failed", "late")


def _method(test: LoadTest, before: Mapping[str, Any]) -> dict[str, Any]:
    said = dataclasses.asdict(test)
    del said["token"]
    return said | {
        "mean_rate": test.rate * mean_share(test.shape),
        "plan": before["plan"],
        "locust": _version("locust"),
    }


def _version(name: str) -> str:
    return importlib.metadata.version(name)


def _generator(tally: Tally) -> dict[str, Any]:
    def ms(seconds: float) -> float | None:
        return None if seconds != seconds else round(seconds * 1000, 3)  # noqa: PLR0124 - NaN is not itself

    return {
        "processes": len(tally.generators), "cpu_share": [round(one["cpu_share"], 3) for one in tally.generators],
        "waited_share": [round(one["waited_share"], 3) for one in tally.generators],
        "lag_p50_ms": ms(tally.lag.quantile(0.5)), "lag_p99_ms": ms(tally.lag.quantile(0.99)), "lag_max_ms": ms(tally.lag.highest),
        "loop_lag_p99_ms": ms(tally.loop.quantile(0.99)), "waited_for_a_connection": tally.starved,
        "late_answers": tally.late, "errors": dict(sorted(tally.errors.items(), key=lambda item: -item[1])[:10]),
        "feedback": {"posts": tally.feedback.n, "errors": tally.feedback_errors, "p99_ms": ms(tally.feedback.quantile(0.99))},
        "closed_loop_p99_ms": ms(tally.from_send.quantile(0.99)),
    }  # fmt: skip


def _service(use: gates.ServiceUse) -> dict[str, Any]:
    return {
        "cores": dict(use.processes), "memory_mib": dict(use.memory_mib), "machine_busy": round(use.busy, 3),
        "machine_cores": use.cores, "others": round(use.others, 3), "stolen": round(use.stolen, 3), "same_machine": use.here,
    }  # fmt: skip


def _digest(path: Path | None) -> str | None:
    return None if path is None or not path.is_file() else "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
