"""One load test from end to end: locust in processes of its own, the service watched meanwhile, and the record of it all."""

import contextlib
import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests import gates
from loadtests.shapes import SHAPES, mean_share
from loadtests.tally import Tally
from loadtests.traffic import MIX, PROTOCOLS, mix_of
from service.client import CallFailed, Client
from service.errors import ConfigurationError
from service.rollout.loadtest import LaunchGoals, Record, Setup

LOCUSTFILE = Path(__file__).parent / "users.py"
SAID = "understudy:"
WATCH_S = 1.0
MASTER_PORT = 5557
"""Where a master listens for workers on other machines: locust's own port."""
SETTLE_S = 10.0
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


@dataclass(frozen=True)
class Outcome:
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
) -> Outcome:
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
        at_first = dict(client.get("/rollout/evidence")["counters"])
        held_to = goals or LaunchGoals.model_validate(before["goals"])
        watch = _Watch(client, before)
        with _locust(test, before["deadline_ms"]) as (process, result, errors):
            watch.start()
            for line in process.stdout or ():
                if line.startswith(SAID):
                    told = json.loads(line.removeprefix(SAID))
                    watch.at = told["at"]
                    say(told)
            code = process.wait()
            watch.stop()
            if not result.exists():
                raise ConfigurationError(
                    f"the generator ended with {code}: {errors.read_text(encoding='utf-8')[-1500:]}"
                )
            found = json.loads(result.read_text(encoding="utf-8"))
        after = client.get("/rollout/loadtest")
        counters = watch.settled_counters()
    tally = Tally.of(found["tally"])
    use = watch.use(after, tally)
    shadow_loss, candidate = _candidate(before, watch.counters or at_first, counters, tally)
    measured = gates.measure(tally, test.seconds, shadow_loss, held_to.machine_per_hour)
    answer, reasons, findings = gates.verdict(held_to, measured, tally, use, lost=found["lost"], candidate=candidate)
    record = Record(
        at=time.time(), model=before["model"], verdict=answer, reasons=reasons[:REASONS_MAX],
        setup=Setup.model_validate(before["setup"]), rollout_file=_digest(rollout_file), goals=held_to, measured=measured,
        findings=findings, method=_method(test, before), generator=_generator(tally), service=_service(use),
    )  # fmt: skip
    return Outcome(record, tally, watch.series(test.seconds))


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
            "--month", str(test.month), "--protocol", test.protocol, "--rows-file", rows_file,
            "--generators", str(test.generators), "--result", str(result),
        ]  # fmt: skip
        base = [
            sys.executable,
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
        env["PYTHONPATH"] = os.pathsep.join([str(LOCUSTFILE.parents[1]), env.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        with errors.open("w", encoding="utf-8") as log:
            commands = [[*base, *users, *own]]
            if test.generators > 1 or test.workers_elsewhere:
                host, port = ("0.0.0.0", MASTER_PORT) if test.workers_elsewhere else ("127.0.0.1", _free_port())  # noqa: S104
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


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class _Watch:
    """Looks at the service once a second, from a thread.

    Attributes:
        at: seconds after the warm-up, as the generator last said; counters: the service's, when the warm-up ended.
    """

    def __init__(self, client: Client, before: Mapping[str, Any]) -> None:
        self._client, self._before = client, before
        self._samples: list[tuple[float, float, Any]] = []  # when, seconds after the warm-up, usage
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self.at = float("-inf")
        self.counters: dict[str, float] = {}

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._done.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._done.wait(WATCH_S):
            if self.at < 0:
                continue
            with contextlib.suppress(
                CallFailed
            ):  # a service that is overloaded may not answer in time; the next look may
                usage = self._client.get("/rollout/loadtest")["usage"]
                self._samples.append((time.monotonic(), self.at, usage))
                if not self.counters:
                    self.counters = dict(self._client.get("/rollout/evidence")["counters"])

    def settled_counters(self) -> dict[str, float]:
        """The counters when every rehearsal has ended, or nobody would wait any longer."""
        until = time.monotonic() + SETTLE_S
        last: dict[str, float] = {}
        while time.monotonic() < until:
            found = dict(self._client.get("/rollout/evidence")["counters"])
            if found == last:
                break
            last = found
            time.sleep(0.3)
        return last

    def use(self, after: Mapping[str, Any], tally: Tally) -> gates.ServiceUse:
        """What was used between the first look and the last."""
        changed = self._changed(after)
        if len(self._samples) < 2:
            return gates.ServiceUse(changed=changed)
        (began, _, first), (ended, _, last) = self._samples[0], self._samples[-1]
        wall = ended - began
        processes = {
            f"{one['name']}-{pid}": (one["cpu_s"] - first["processes"][pid]["cpu_s"]) / wall
            for pid, one in last["processes"].items()
            if pid in first["processes"]
        }
        most = {
            f"{one['name']}-{pid}": max(s["processes"].get(pid, one)["memory_bytes"] for _, _, s in self._samples)
            / 2**20
            for pid, one in last["processes"].items()
        }
        whole = {key: last["machine"][key] - first["machine"][key] for key in ("busy_s", "stolen_s")}
        here = bool(last["boot"]) and last["boot"] == _boot()
        generators = sum(one["cpu_share"] for one in tally.generators) if here else 0.0
        busy = whole["busy_s"] / wall
        own = sum(processes.values())
        return gates.ServiceUse(
            processes=_plain(processes), memory_mib=_plain(most), cores=last["machine"]["cores"], busy=busy,
            stolen=whole["stolen_s"] / wall, others=max(0.0, busy - own - generators), here=here, changed=changed,
        )  # fmt: skip

    def _changed(self, after: Mapping[str, Any]) -> str:
        setup, now = (Setup.model_validate(said["setup"]) for said in (self._before, after))
        if different := setup.differences(now):
            return "; ".join(different[:3])
        pids = [
            {p for p, one in said["usage"]["processes"].items() if one["name"] != "helper"}
            for said in (self._before, after)
        ]
        if pids[0] - pids[1]:
            return "a process of it ended and was started again"
        took = [said["plan"]["phase"] in {"shadow", "canary", "waiting", "paused"} for said in (self._before, after)]
        return (
            ""
            if took[0] == took[1]
            else f"the rollout went from {self._before['plan']['phase']} to {after['plan']['phase']}"
        )

    def series(self, seconds: float) -> list[dict[str, Any]]:
        """CPU and memory over time, by process."""
        found = []
        for (t0, _, one), (t1, at, two) in zip(self._samples, self._samples[1:], strict=False):
            if at > seconds + 1:
                break
            both = [pid for pid in two["processes"] if pid in one["processes"]]
            cpu = {
                f"{two['processes'][p]['name']}-{p}": (two["processes"][p]["cpu_s"] - one["processes"][p]["cpu_s"])
                / (t1 - t0)
                for p in both
            }
            memory = {f"{two['processes'][p]['name']}-{p}": two["processes"][p]["memory_bytes"] / 2**20 for p in both}
            found.append({"at": at, "cores": _plain(cpu), "memory_mib": _plain(memory)})
        return found


def _plain(by_process: Mapping[str, float]) -> dict[str, float]:
    """Names without process numbers, where one name is one process; numbered from 1 where it is several."""
    found: dict[str, float] = {}
    names = [name.rpartition("-")[0] for name in by_process]
    for (key, value), name in zip(by_process.items(), names, strict=True):
        if names.count(name) == 1:
            found[name] = round(value, 4)
        else:
            same = [other for other in by_process if other.rpartition("-")[0] == name]
            found[f"{name} {same.index(key) + 1}"] = round(value, 4)
    return found


def _boot() -> str:
    from service.machine import boot  # noqa: PLC0415

    return boot()


def _candidate(
    before: Mapping[str, Any], first: Mapping[str, float], last: Mapping[str, float], tally: Tally
) -> tuple[float, str | None]:
    """The share of rehearsals that were lost, and why the candidate took no part, where it should have."""
    added = {name: last.get(f"shadow/{name}", 0.0) - first.get(f"shadow/{name}", 0.0) for name in _SHADOW}
    sent = added["sent"]
    loss = (added["dropped"] + added["failed"] + added["late"]) / sent if sent else 0.0
    answered = tally.variants["candidate"].n if "candidate" in tally.variants else 0
    if before["setup"]["candidate"] is None or sent or answered:
        return loss, None
    return loss, f"the candidate took no part: the rollout is {before['plan']['phase']}; test it in shadow or canary"


_SHADOW = ("sent", "compared", "dropped", "failed", "late")


def _method(test: LoadTest, before: Mapping[str, Any]) -> dict[str, Any]:
    said = dataclasses.asdict(test)
    del said["token"]
    return said | {
        "mean_rate": test.rate * mean_share(test.shape),
        "plan": before["plan"],
        "locust": _version("locust"),
    }


def _version(name: str) -> str:
    import importlib.metadata  # noqa: PLC0415

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
