"""How the benchmarks measure: a server on one core, wrk on another, what wrk saw and what the server's processes spent.

Absolute figures belong to one machine and one hour; what can be quoted are the ratios of one run.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from understudy.errors import ConfigurationError

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
SERVER_CPU, LOAD_CPU = "0", "1"
START_S = 120.0
WARM_UP_S = 1
SETTLE_S = 0.5
"""After a round, what was answered is still being recorded: it belongs to this round, and not into the next server's."""
_DONE = """
done = function(summary, latency, requests)
  io.write(string.format("percentiles %f %f %f\\n", latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""


@dataclass
class Sample:
    """One round of one server.

    Attributes:
        cpu_us: CPU time per request in microseconds, by process: of BentoML's services their names, else "server".
        memory_mib: unique memory of all the server's processes.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_us: dict[str, float]
    memory_mib: float


@dataclass
class Server:
    """Something that is measured.

    Attributes:
        command: starts it on `{port}`; `env` is added to the environment.
        path: what is posted to; ready: what answers 200 once it is ready.
        candidate: whether it is ready only when its candidate is up, too.
        folder: the checkout that it runs in.
    """

    name: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    path: str = "/predict"
    ready: str = "/readyz"
    candidate: bool = False
    folder: Path = ROOT
    samples: list[Sample] = field(default_factory=list)

    def median(self, what: str) -> float:
        """The median over the rounds of one of a sample's numbers."""
        return float(statistics.median(getattr(sample, what) for sample in self.samples))

    def cpu(self, process: str | None = None) -> float:
        """The median CPU per request of one kind of process, or of all."""
        return statistics.median(
            sum(us for name, us in sample.cpu_us.items() if process in {None, name}) for sample in self.samples
        )


def need_tools() -> None:
    """Stop with the way out when a tool is missing."""
    for tool in ("wrk", "taskset"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is missing: apt-get install {'wrk' if tool == 'wrk' else 'util-linux'}")


def script(folder: Path, name: str, body: bytes, headers: dict[str, str]) -> Path:
    """A wrk script that posts `body` and prints the percentiles."""
    data, path = folder / f"{name}.body", folder / f"{name}.lua"
    data.write_bytes(body)
    lines = ['wrk.method = "POST"', *(f'wrk.headers["{key}"] = "{value}"' for key, value in headers.items())]
    lines += [f'local file = io.open("{data}", "rb")', 'wrk.body = file:read("*a")', "file:close()", _DONE]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@contextlib.contextmanager
def running(server: Server, cores: str = SERVER_CPU) -> Iterator[tuple[str, int]]:
    """The server on its cores, ready: its URL and process id."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = ["taskset", "-c", cores, *(word.replace("{port}", str(port)) for word in server.command)]
    env = os.environ | {"BENTOML_DO_NOT_TRACK": "True", "OMP_NUM_THREADS": "1", "PORT": str(port)} | server.env
    process = subprocess.Popen(
        command,
        cwd=server.folder,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, lambda: httpx.get(url + server.ready).status_code == 200)
        if server.candidate:
            _wait(process, lambda: bool(httpx.get(url + "/rollout").json()["candidate"]["up"]))
        yield url, process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if ready():
                return
        time.sleep(0.1)
    raise ConfigurationError(f"{process.args!r} did not become ready")


def measure(server: Server, lua: Path, seconds: int, connections: int) -> None:
    """One round: a short warm-up, then wrk for `seconds`. The sample is added to the server's.

    Raises:
        ConfigurationError: the server did not start, or answered errors.
    """
    with running(server) as (url, pid):
        wrk(url + server.path, lua, WARM_UP_S, connections)
        sample(server, url, pid, lua, seconds, connections)


def sample(server: Server, url: str, pid: int, lua: Path, seconds: int, connections: int) -> None:
    """One round of a server that runs: wrk for `seconds`, then a moment in which records are written. The sample is added.

    Raises:
        ConfigurationError: it answered errors.
    """
    before = _spent(pid)
    shown = wrk(url + server.path, lua, seconds, connections)
    time.sleep(SETTLE_S)
    after = _spent(pid)
    memory = sum(each[1] for each in _family(pid)) / 2**20
    cpu = {name: (spent - before.get(name, 0.0)) / shown.count * 1e6 for name, spent in after.items()}
    server.samples.append(Sample(shown.rate, shown.p50_ms, shown.p99_ms, shown.p999_ms, cpu, memory))


def _found(pattern: str, shown: str) -> re.Match[str]:
    match = re.search(pattern, shown)
    assert match is not None, shown
    return match


@dataclass(frozen=True)
class Shown:
    """What wrk saw."""

    rate: float
    count: int
    p50_ms: float
    p99_ms: float
    p999_ms: float


def wrk(url: str, lua: Path, seconds: int, connections: int, cores: str = LOAD_CPU) -> Shown:
    """Load a server for some seconds.

    Raises:
        ConfigurationError: it answered errors, or hung up.
    """
    command = ["taskset", "-c", cores, "wrk", "-t1", f"-c{connections}", f"-d{seconds}", "-s", str(lua), url]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in shown or "Socket errors" in shown:
        raise ConfigurationError(f"{url} answered errors:\n{shown}")
    p50, p99, p999 = (float(us) / 1000 for us in _found(r"percentiles ([\d.]+) ([\d.]+) ([\d.]+)", shown).groups())
    rate, count = _found(r"Requests/sec:\s+([\d.]+)", shown)[1], _found(r"(\d+) requests in", shown)[1]
    return Shown(float(rate), int(count), p50, p99, p999)


def _family(pid: int) -> list[tuple[str, int, float]]:
    """The server's processes: kind, unique bytes of memory, CPU seconds."""
    found = []
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            line, times = process.cmdline(), process.cpu_times()
            name = line[line.index("--service-name") + 1] if "--service-name" in line else "server"
            found.append((name, process.memory_full_info().uss, times.user + times.system))
    return found


def _spent(pid: int) -> dict[str, float]:
    """CPU seconds by kind of process."""
    spent: dict[str, float] = {}
    for name, _, seconds in _family(pid):
        spent[name] = spent.get(name, 0.0) + seconds
    return spent


def machine(packages: tuple[str, ...]) -> str:
    """One line that says what this was measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return (
        f"Machine: {cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}; Python "
        f"{platform.python_version()}, {versions}."
    )
