"""The locustfile of the load test: one locust user is one arrival process of an open loop.

    locust -f service/understudy/loadtest/users.py --host http://127.0.0.1:3000 --headless -u 1 --rate 500 --seconds 30
    --only-summary

`understudy loadtest` starts it like this and makes a verdict of what it wrote to `--result`. With locust's own `--master` and
`--worker` and `-u N --generators N`, N workers share the rate; each sends the master all that it counted, and the master adds
it up exactly.
"""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import gevent
from locust import User, events, task
from locust.runners import MasterRunner, WorkerRunner

from understudy.errors import ConfigurationError
from understudy.loadtest.openloop import Load, OpenLoop
from understudy.loadtest.tally import Tally, merged
from understudy.loadtest.traffic import MIX, PROTOCOLS, Traffic, history, mix_of, rows_in, tensors_of
from understudy.offline import sources

DONE, PROGRESS = "understudy_done", "understudy_progress"
PROGRESS_S = 1.0
LOST_S = 60.0
"""How long the master waits for results after the test should have ended: a worker that has not told by then is lost."""
SAID = "understudy:"
SOURCE = "UNDERSTUDY_LOADTEST_SOURCE"
"""The environment variable that names the data source to import beforehand."""

# Importing one may take seconds, which a worker has only before it has met its master.
with contextlib.suppress(ConfigurationError):
    sources.find(os.environ.get(SOURCE, sources.FLIGHTS))


@events.init_command_line_parser.add_listener
def options(parser: Any) -> None:
    """The options of the load test, beside locust's own; workers get them from the master."""
    group = parser.add_argument_group("load test")
    group.add_argument("--rate", type=float, default=100.0, help="predict requests a second, at the shape's peak")
    group.add_argument("--shape", default="steady", help="steady, soak, step, ramp, spike or diurnal")
    group.add_argument("--seconds", type=float, default=30.0, help="how long it is measured")
    group.add_argument("--warm-up", type=float, default=5.0, help="seconds before that, which are not counted")
    group.add_argument("--mix", default=MIX, help="rows a request, with weights")
    group.add_argument("--protocol", default="rest", choices=PROTOCOLS, help="how predictions are asked for")
    group.add_argument("--feedback", type=float, default=0.1, help="reports of labels per predict request")
    group.add_argument("--deadline-ms", type=float, default=250.0, help="an answer that comes later is an error")
    group.add_argument("--month", type=int, default=7, help="the month that rows are drawn from")
    group.add_argument("--source", default=sources.FLIGHTS, help="the data source that rows are drawn from")
    group.add_argument("--rows-file", default="", help="rows of your own, one JSON object a line, in their place")
    group.add_argument("--seed", type=int, default=2013)
    group.add_argument("--generators", type=int, default=1, help="how many users share the rate: the same as -u")
    group.add_argument("--parts", default="", help="a folder where each generator keeps its own counts besides")
    group.add_argument("--result", default="", help="where the counts are written, as JSON")


@events.init.add_listener
def listen(environment: Any, **_: Any) -> None:
    """The master gathers what its workers have counted, or this process what it has counted itself."""
    environment.understudy = _Gathering(environment)
    if isinstance(environment.runner, MasterRunner):
        environment.runner.register_message(DONE, environment.understudy.told)
        environment.runner.register_message(PROGRESS, environment.understudy.progressed)


@events.test_start.add_listener
def begin(environment: Any, **_: Any) -> None:
    """Wait for the end in the process that says what came out."""
    if not isinstance(environment.runner, WorkerRunner):
        gevent.spawn(environment.understudy.wait)


class _Gathering:
    """The results of all arrival processes, and how far they are."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.results: list[dict[str, Any]] = []
        self.seen: dict[str, dict[str, Any]] = {}

    def told(self, msg: Any, **_: Any) -> None:
        self.results.append(json.loads(msg.data))

    def progressed(self, msg: Any, **_: Any) -> None:
        self.seen[msg.node_id] = msg.data

    def wait(self) -> None:
        """Say how far it is, every second; write the sum when all have told, or what is there when one is lost."""
        options = self.environment.parsed_options
        until = time.monotonic() + options.warm_up + options.seconds + LOST_S + options.generators
        while len(self.results) < options.generators and time.monotonic() < until:
            gevent.sleep(PROGRESS_S / 2)
            if self.seen:
                total = {key: sum(one[key] for one in self.seen.values()) for key in ("due", "ok", "failed")}
                at = min(one["at"] for one in self.seen.values())
                print(SAID + json.dumps({"at": at, **total}), flush=True)
        lost = options.generators - len(self.results)
        found = {"tally": merged(map(Tally.of, self.results)).as_json(), "lost": lost}
        if options.result:
            Path(options.result).write_text(json.dumps(found), encoding="utf-8")
        self.environment.runner.quit()


class Arrivals(User):
    """One arrival process: its share of the rate, seeded by which one it is."""

    _made = 0

    @task
    def arrive(self) -> None:
        """Send everything once, tell what came out, and wait to be stopped."""
        given = self.environment.parsed_options
        number = max(0, getattr(self.environment.runner, "worker_index", 0)) + Arrivals._made
        Arrivals._made += 1
        load = Load(
            given.rate / given.generators,
            given.shape,
            given.seconds,
            given.warm_up,
            given.feedback,
            given.deadline_ms / 1000,
            given.seed + 1000 * number,
        )
        # In a thread: a worker that is busy reading for three seconds misses its heartbeats, and its master gives it up.
        pool = gevent.get_hub().threadpool
        moments = (
            pool.apply(rows_in, (Path(given.rows_file),))
            if given.rows_file
            else pool.apply(history, (given.source, given.month, given.seed))
        )
        token = os.environ.get("UNDERSTUDY_TOKEN")
        traffic = Traffic(
            moments,
            mix_of(given.mix),
            self.host,
            seed=load.seed,
            token=token,
            protocol=given.protocol,
            tensors=tensors_of(self.host, token) if given.protocol != "rest" else {},
        )
        loop = OpenLoop(load, traffic, self.host, self._log)
        telling = gevent.spawn(self._tell_progress, loop)
        tally = loop.run()
        telling.kill()
        if given.parts:
            Path(given.parts, f"{number}.json").write_text(json.dumps(tally.as_json()), encoding="utf-8")
        runner = self.environment.runner
        if isinstance(runner, WorkerRunner):
            runner.send_message(DONE, json.dumps(tally.as_json()))
        else:
            self.environment.understudy.results.append(tally.as_json())
        gevent.sleep(3600)

    def _log(self, name: str, seconds: float, size: int, wrong: str) -> None:
        """For locust's own table, web page and files; the verdict does not read these."""
        stats = self.environment.stats
        stats.log_request("POST", name, seconds * 1000, size)
        if wrong:
            stats.log_error("POST", name, wrong)

    def _tell_progress(self, loop: OpenLoop) -> None:
        runner = self.environment.runner
        while True:
            gevent.sleep(PROGRESS_S)
            tally = loop.tally
            told = {
                "at": time.monotonic() - loop.measured_from,
                "due": tally.due,
                "ok": tally.ok,
                "failed": sum(tally.errors.values()) + tally.late,
            }
            if isinstance(runner, WorkerRunner):
                runner.send_message(PROGRESS, told)
            else:
                self.environment.understudy.seen["here"] = told
