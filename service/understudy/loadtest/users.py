"""The locustfile of the load test: each locust user is one open-loop arrival process.

    locust -f service/understudy/loadtest/users.py --host http://127.0.0.1:3000 --headless -u 1 --rate 500 --seconds 30
    --only-summary

`understudy loadtest` starts it like this and reads what it writes to `--result`. With locust's own `--master`, `--worker` and
`-u N --generators N`, N workers share the rate. Each sends all its counts to the master, which adds them up without loss.
"""

import argparse
import contextlib
import json
import os
import time
from pathlib import Path

import gevent
import msgspec
from locust import User, events, task
from locust.env import Environment
from locust.rpc import Message
from locust.runners import MasterRunner, WorkerRunner

from understudy.domain import JsonObject
from understudy.errors import ConfigurationError
from understudy.loadtest.generator import PROGRESS_PREFIX, SOURCE, Progress
from understudy.loadtest.openloop import Load, OpenLoop
from understudy.loadtest.tally import Tally, merged
from understudy.loadtest.traffic import MIX, PROTOCOLS, Traffic, history, mix_of, rows_in, tensors_of
from understudy.offline import sources

DONE, PROGRESS = "understudy_done", "understudy_progress"
PROGRESS_S = 1.0
LOST_S = 60.0
"""How long the master waits for results after the test should have ended; a worker that has not sent any by then is lost."""

# Importing a data source may take seconds, which a worker has only before it connects to its master.
with contextlib.suppress(ConfigurationError):
    sources.find(os.environ.get(SOURCE, sources.FLIGHTS))


@events.init_command_line_parser.add_listener
def options(parser: argparse.ArgumentParser) -> None:
    """Add the load test's options to locust's own. Workers get their values from the master."""
    group = parser.add_argument_group("load test")
    group.add_argument("--rate", type=float, default=100.0, help="predict requests per second at the shape's peak")
    group.add_argument("--shape", default="steady", help="steady, soak, step, ramp, spike or diurnal")
    group.add_argument("--seconds", type=float, default=30.0, help="how long to measure")
    group.add_argument("--warm-up", type=float, default=5.0, help="seconds before that, which are not measured")
    group.add_argument("--mix", default=MIX, help="rows per request, with weights")
    group.add_argument("--protocol", default="rest", choices=PROTOCOLS, help="protocol of the predict requests")
    group.add_argument("--feedback", type=float, default=0.1, help="feedback requests per predict request")
    group.add_argument("--deadline-ms", type=float, default=250.0, help="a later response is an error")
    group.add_argument("--month", type=int, default=7, help="month of the data source to draw rows from")
    group.add_argument("--source", default=sources.FLIGHTS, help="data source to draw rows from")
    group.add_argument("--rows-file", default="", help="draw rows from this file instead, one JSON object per line")
    group.add_argument("--seed", type=int, default=2013)
    group.add_argument("--generators", type=int, default=1, help="users that share the rate: the same as -u")
    group.add_argument("--parts", default="", help="folder for the counts of each generator")
    group.add_argument("--result", default="", help="file for the summed counts, as JSON")


@events.init.add_listener
def listen(environment: Environment, **_: object) -> None:
    """In the master, receive the workers' messages."""
    environment.understudy = _Results(environment)
    if isinstance(environment.runner, MasterRunner):
        environment.runner.register_message(DONE, environment.understudy.on_done)
        environment.runner.register_message(PROGRESS, environment.understudy.on_progress)


@events.test_start.add_listener
def begin(environment: Environment, **_: object) -> None:
    """In the process that writes the result, wait for the end."""
    if not isinstance(environment.runner, WorkerRunner):
        gevent.spawn(environment.understudy.wait)


class _Results:
    """The results and the progress of all arrival processes."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.tallies: list[JsonObject] = []
        self.progress: dict[str, Progress] = {}

    def on_done(self, msg: Message, **_: object) -> None:
        self.tallies.append(json.loads(msg.data))

    def on_progress(self, msg: Message, **_: object) -> None:
        self.progress[msg.node_id] = msgspec.convert(msg.data, Progress)

    def wait(self) -> None:
        """Print the progress every second; write the sum when all results are here, or when the time is up."""
        options = self.environment.parsed_options
        until = time.monotonic() + options.warm_up + options.seconds + LOST_S + options.generators
        while len(self.tallies) < options.generators and time.monotonic() < until:
            gevent.sleep(PROGRESS_S / 2)
            if self.progress:
                print(PROGRESS_PREFIX + msgspec.json.encode(_total(self.progress)).decode(), flush=True)
        lost = options.generators - len(self.tallies)
        result = {"tally": merged(map(Tally.of, self.tallies)).as_json(), "lost": lost}
        if options.result:
            Path(options.result).write_text(json.dumps(result), encoding="utf-8")
        self.environment.runner.quit()


def _total(progress: dict[str, Progress]) -> Progress:
    every = progress.values()
    return Progress(
        min(each.at for each in every),
        sum(each.due for each in every),
        sum(each.ok for each in every),
        sum(each.failed for each in every),
    )


class Arrivals(User):
    """One arrival process: its share of the rate, seeded by its number."""

    _started = 0

    @task
    def arrive(self) -> None:
        """Send all requests, report the counts, and wait to be stopped."""
        options = self.environment.parsed_options
        number = max(0, getattr(self.environment.runner, "worker_index", 0)) + Arrivals._started
        Arrivals._started += 1
        load = Load(
            options.rate / options.generators,
            options.shape,
            options.seconds,
            options.warm_up,
            options.feedback,
            options.deadline_ms / 1000,
            options.seed + 1000 * number,
        )
        # In a thread: a worker that reads for three seconds misses its heartbeats, and its master drops it.
        pool = gevent.get_hub().threadpool
        moments = (
            pool.apply(rows_in, (Path(options.rows_file),))
            if options.rows_file
            else pool.apply(history, (options.source, options.month, options.seed))
        )
        token = os.environ.get("UNDERSTUDY_TOKEN")
        traffic = Traffic(
            moments,
            mix_of(options.mix),
            self.host,
            seed=load.seed,
            token=token,
            protocol=options.protocol,
            tensors=tensors_of(self.host, token) if options.protocol != "rest" else {},
        )
        loop = OpenLoop(load, traffic, self.host, self._log)
        reporting = gevent.spawn(self._report_progress, loop)
        tally = loop.run()
        reporting.kill()
        if options.parts:
            Path(options.parts, f"{number}.json").write_text(json.dumps(tally.as_json()), encoding="utf-8")
        runner = self.environment.runner
        if isinstance(runner, WorkerRunner):
            runner.send_message(DONE, json.dumps(tally.as_json()))
        else:
            self.environment.understudy.tallies.append(tally.as_json())
        gevent.sleep(3600)

    def _log(self, name: str, seconds: float, size: int, wrong: str) -> None:
        """Feed locust's own table, web page and files. The verdict does not depend on them."""
        stats = self.environment.stats
        stats.log_request("POST", name, seconds * 1000, size)
        if wrong:
            stats.log_error("POST", name, wrong)

    def _report_progress(self, loop: OpenLoop) -> None:
        runner = self.environment.runner
        while True:
            gevent.sleep(PROGRESS_S)
            tally = loop.tally
            failed = sum(tally.errors.values()) + tally.late
            progress = Progress(time.monotonic() - loop.measured_from, tally.due, tally.ok, failed)
            if isinstance(runner, WorkerRunner):
                runner.send_message(PROGRESS, msgspec.to_builtins(progress))
            else:
                self.environment.understudy.progress["here"] = progress
