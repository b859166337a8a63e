"""Several replicas behind a balancer, on one PostgreSQL and one candidate, all on loopback, and parts that can be taken away.

`tests/acceptance/test_replicas.py` and `loadtests.replicas` are made of them.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import aiohttp
import httpx
import psutil
import yaml

from loadtests.network import HAPROXY, Balancer, Link, Looping
from loadtests.postgres import Postgres
from models.data import replay_rows
from understudy.domain import JsonObject
from understudy.runtime.ports import free_port

ROOT = Path(__file__).parents[1]
START_S = 90.0
RAMP = (5, 20, 40)
SETTINGS = {
    "WORKERS": "1",
    "LEASE_S": "2",
    "TICK_MS": "200",
    "PLAN_STALE_S": "2",
    "DRAIN_S": "1.5",
    "STORE_TIMEOUT_S": "2",
    "SWEEP_INTERVAL_S": "1",
}


class Process:
    """A server that was started from the command line.

    Attributes:
        url: where it listens; log: what it prints.
    """

    def __init__(self, command: list[str], folder: Path, **settings: str) -> None:
        port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log, self.url = folder, folder / "log", f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, timeout=20)
        env = {
            f"UNDERSTUDY_{name}": value for name, value in {**SETTINGS, "STATE_DIR": str(folder), **settings}.items()
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "understudy.cli", *command, "--port", str(port)],
                cwd=ROOT,
                env=os.environ | env,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def wait_until_ready(self) -> None:
        """Return when `/readyz` says so.

        Raises:
            RuntimeError: with the end of its log, when it takes too long or ends.
        """
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if self.http.get("/readyz", timeout=5).status_code == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"it does not get ready:\n{self.log.read_text()[-3000:]}")

    def workers(self, service: str) -> list[psutil.Process]:
        """The live processes of one BentoML service."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                line = child.cmdline()
                if "--service-name" in line and line[line.index("--service-name") + 1] == service:
                    found.append(child)
        return found

    def end(self) -> None:
        """SIGTERM: it begins to drain."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def ended(self) -> None:
        """Wait until it has drained."""
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """`kill -9` of the whole family."""
        self.http.close()
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        self.process.wait(10)


class Cluster:
    """PostgreSQL, a candidate, replicas with a link to the database each, and a balancer; `with Cluster(...) as it:`."""

    def __init__(self, folder: Path, replicas: int = 3, *, durable: bool = False, **settings: str) -> None:
        self.folder, self._settings = folder, settings
        self._numbers = itertools.count(1)
        self.rollout = folder / "rollout.yaml"
        data = yaml.safe_load((ROOT / "rollout.yaml").read_text(encoding="utf-8"))
        # Goals that a busy machine meets, a budget that makes a step of some 250 requests, and a ramp that the judge goes up by
        # itself where nobody sets the weight by hand.
        data["goals"] = {
            "error_budget": 0.45,
            "errors": {"margin": 0.3},
            "latency": {"p99_ms": 3900, "deadline_ms": 4000},
        }
        ramp: list[JsonObject] = [{"shadow": 100}, *({"canary": weight} for weight in RAMP)]
        data["steps"] = [*ramp[:-1], ramp[-1] | {"until": {"requests": 10**9}}]
        data["unit"] = None
        self.rollout.write_text(yaml.safe_dump(data), encoding="utf-8")
        self.postgres = Postgres(durable=durable)
        self.candidate = Process(["serve-candidate", str(self.rollout)], folder / "candidate", **settings)
        self.balancer = Balancer(folder) if HAPROXY else None
        self.links: list[Link] = []
        self.replicas: list[Process] = []
        try:
            self.candidate.wait_until_ready()
            self.replicas = [self.start() for _ in range(replicas)]
            for replica in self.replicas:
                replica.wait_until_ready()
            if self.balancer is not None:
                self.until(lambda: self.balancer is None or len(self.balancer.ready()) == replicas)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything."""
        for process in [*self.replicas, self.candidate]:
            process.kill()
        if self.balancer is not None:
            self.balancer.close()
        for link in self.links:
            link.close()
        self.postgres.__exit__()

    def start(self) -> Process:
        """One more replica; the balancer knows it at once, and waits until it is ready."""
        self.links.append(Link(self.postgres.port))
        url = self.postgres.url(port=self.links[-1].port)
        folder = self.folder / f"replica-{next(self._numbers)}"
        replica = Process(
            ["serve", str(self.rollout)], folder, STORE_URL=url, CANDIDATE_URL=self.candidate.url, **self._settings
        )
        if self.balancer is not None:
            self.balancer.add(replica.url)
        return replica

    def order(self, path: str, replica: int = 0, **body: object) -> JsonObject:
        """An operator's order, to one replica."""
        answer = self.replicas[replica].http.post(f"/rollout/{path}", json=body)
        answer.raise_for_status()
        return dict(answer.json())

    def revision(self, replica: Process) -> int:
        """The revision of the plan that a replica obeys."""
        return int(replica.http.get("/rollout").json()["revision"])

    def leader(self) -> tuple[int, str]:
        """The process that leads, and what it calls itself."""
        holder = self.postgres.sql("SELECT holder FROM leases")
        return int(holder.rpartition(":")[2]), holder

    def until(self, what: Callable[[], object], timeout_s: float = 30.0) -> float:
        """Wait until `what` is true; how many seconds that took.

        Raises:
            RuntimeError: it takes too long.
        """
        start = time.monotonic()
        while time.monotonic() - start < timeout_s:
            if what():
                return time.monotonic() - start
            time.sleep(0.01)
        logs = "\n".join(f"{r.url}:\n{r.log.read_text()[-2000:]}" for r in self.replicas)
        raise RuntimeError(f"not within {timeout_s} s\n{logs}")

    @contextlib.contextmanager
    def load(self, rate: float) -> Iterator["Load"]:
        """Requests at a steady rate while the block runs, through the balancer where there is one, else to each replica in turn."""
        urls = [self.balancer.url] if self.balancer else [replica.url for replica in self.replicas]
        load = Load(urls, rate)
        try:
            yield load
        finally:
            load.close()


class Load(Looping):
    """An open loop of one-row flights: sent on schedule, whether or not the ones before were answered.

    Attributes:
        statuses: how many answers had which status; seen: of each answered prediction, when, its id and its variant.
    """

    def __init__(self, urls: Sequence[str], rate: float) -> None:
        super().__init__()
        self.statuses: Counter[int] = Counter()
        self.seen: list[tuple[float, str, str]] = []
        self.wrong: list[str] = []
        self._rows = [flight.row for flight in replay_rows(7)[:5_000]]
        self._stopping = False
        self._run_task = asyncio.run_coroutine_threadsafe(self._run(urls, rate), self._loop)

    def close(self) -> None:
        """Stop sending, and wait for what is under way."""
        self._stopping = True
        self._run_task.result(60)
        self.end()

    async def _run(self, urls: Sequence[str], rate: float) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session:
            under_way = set()
            begun = self._loop.time()
            for i in itertools.count():
                if self._stopping:
                    break
                await asyncio.sleep(max(0.0, begun + i / rate - self._loop.time()))
                task = asyncio.create_task(self._send(session, urls[i % len(urls)], i))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.gather(*under_way)

    async def _send(self, session: aiohttp.ClientSession, url: str, i: int) -> None:
        try:
            async with session.post(url + "/predict", json={"rows": [self._rows[i % len(self._rows)]]}) as answer:
                self.statuses[answer.status] += 1
                if answer.status == 200:
                    said = await answer.json(content_type=None)
                    self.seen.append((time.monotonic(), said["predictions"][0]["prediction_id"], said["variant"]))
                else:
                    self.wrong.append((await answer.text())[:300])
        except (aiohttp.ClientError, TimeoutError) as error:
            self.statuses[0] += 1
            self.wrong.append(repr(error))


def missing(cluster: Cluster, load: Load) -> int:
    """How many of the answered predictions are not stored."""
    stored = set(cluster.postgres.sql("SELECT prediction_id FROM observation_keys").split())
    return len({own for _, own, _ in load.seen} - stored)
