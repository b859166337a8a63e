"""The example as a service in processes of its own: to start it, to send it flights, and to read its figures."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import yaml

from models.data import Flight
from understudy.observability.metrics import parse
from understudy.runtime.ports import free_port

ROOT = Path(__file__).parents[2]


START_S = 180.0


WAIT_S = 60.0
"""For what takes a second on a machine that does nothing else: it is only as long where something is wrong, or very slow."""


class Running:
    """A service that was started for a test.

    Attributes:
        url: where it listens; state_dir: where its store is; log: what it printed.
    """

    def __init__(self, process: subprocess.Popen[bytes], url: str, state_dir: Path, log: Path) -> None:
        self.process, self.url, self.state_dir, self.log = process, url, state_dir, log
        self.http = httpx.Client(base_url=url, timeout=20)

    def children(self, service: str) -> list[psutil.Process]:
        """The live worker processes of one BentoML service."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                line = child.cmdline()
                if "--service-name" in line and line[line.index("--service-name") + 1] == service:
                    found.append(child)
        return found

    def predict(self, row: dict[str, Any], **headers: str) -> httpx.Response:
        return self.http.post(
            "/predict", json={"rows": [row]}, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    def rollout(self) -> dict[str, Any]:
        return dict(self.http.get("/rollout").json())

    def wait_for(self, what: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
        """What `what` returns, once it is true."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            with contextlib.suppress(httpx.HTTPError):
                if found := what():
                    return found
            time.sleep(0.05)
        raise AssertionError(f"not within {timeout_s} s; the log ends:\n{self.log.read_text()[-3000:]}")

    def stop(self, sig: int = signal.SIGTERM) -> int:
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """`kill -9` of everything at once, as a power cut for processes."""
        self.http.close()
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        self.process.wait(10)


def example() -> dict[str, Any]:
    """The example's rollout file, with limits for latency that a machine full of other tests keeps.

    With the example's own, 50 ms, the judge rightly takes a candidate off that has to share two cores with three other services.
    """
    data: dict[str, Any] = yaml.safe_load((ROOT / "rollout.yaml").read_text())
    data["goals"]["latency"] = {"p99_ms": 10_000, "deadline_ms": 20_000}
    return data


def start(state_dir: Path, *, rollout: Path | None = None, workers: int = 1, wait: bool = True, **env: str) -> Running:
    """Start a service, of the example where no rollout file is given, and wait until it is ready."""
    port = free_port()
    state_dir.mkdir(parents=True, exist_ok=True)
    if rollout is None:
        rollout = state_dir / "example.yaml"
        rollout.write_text(yaml.safe_dump(example()))
    log = state_dir / "service.log"
    settings = {"UNDERSTUDY_STATE_DIR": str(state_dir), "UNDERSTUDY_WORKERS": str(workers)} | {
        f"UNDERSTUDY_{k.upper()}": v for k, v in env.items()
    }
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "understudy.cli", "serve", str(rollout), "--port", str(port)],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
    running = Running(process, f"http://127.0.0.1:{port}", state_dir, log)
    if wait:
        try:
            running.wait_for(
                lambda: running.process.poll() is None and running.http.get("/readyz").status_code == 200, START_S
            )
        except AssertionError:
            running.kill()
            raise
    return running


def ready(http: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a service that was started in another way is ready; whether it is."""
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(httpx.HTTPError):
            if http.get("/readyz").status_code == 200:
                return True
        time.sleep(0.1)
    return False


def up(service: Running) -> bool:
    return bool(service.rollout()["candidate"]["up"])


def counters(service: Running) -> dict[str, float]:
    return dict(service.http.get("/rollout/evidence").json()["counters"])


def events(service: Running) -> list[dict[str, Any]]:
    """What happened to the rollout; the inputs of July are unlike January's, and what drift says of that is another test's."""
    found = service.http.get("/rollout/events?limit=1000").json()["events"]
    return [event for event in found if event["kind"] != "drift"]


def metric(service: Running, name: str, **labels: str) -> float:
    text = service.http.get("/metrics").text
    return sum(v for n, have, v in parse(text) if n == name and labels.items() <= have.items())


def replay(service: Running, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "understudy.cli", "replay", "--url", service.url, "--json", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def rollout_file(folder: Path, candidate: str = "models/flight_candidate") -> Path:
    """The example without the load test that a launch would require.

    Each step asks for requests of its own: at the example's margin for errors some 3,100, at this one some 300.
    """
    data = example()
    data["candidate"] = candidate
    data["goals"]["errors"]["margin"] = 0.02
    data["bake"] = "60d"  # a release is another test's
    for step in data["steps"]:
        if isinstance(step, dict):
            step.pop("require", None)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "rollout.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


class Load:
    """Callers that ask one flight after the other and remember who answered, when, and with which status.

    Attributes:
        at: when their requests happen, where that is not now; may be moved.
    """

    def __init__(self, service: Running, flights: list[Flight], callers: int = 4, at: float | None = None) -> None:
        self.at = at
        self.seen: list[tuple[float, int, str]] = []
        self._stop = threading.Event()
        self._address = service.url.removeprefix("http://")
        self._flights = flights
        self._threads = [threading.Thread(target=self._call, args=(i,)) for i in range(callers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def answered_by(self, variant: str, since: float = 0.0) -> int:
        return sum(1 for at, _, who in list(self.seen) if who == variant and at > since)

    def _call(self, first: int) -> None:
        number = first * 1000
        while not self._stop.is_set():
            connection = http.client.HTTPConnection(self._address, timeout=10)
            for _ in range(20):  # a connection serves one worker: change now and then
                body = json.dumps({"rows": [self._flights[number % len(self._flights)].row]})
                began = time.monotonic()
                said = {} if self.at is None else {"X-Rollout-At": str(self.at)}
                connection.request("POST", "/predict", body, {"Content-Type": "application/json", **said})
                response = connection.getresponse()
                response.read()
                self.seen.append((began, response.status, response.headers.get("x-rollout-variant", "")))
                number += 1
            connection.close()
