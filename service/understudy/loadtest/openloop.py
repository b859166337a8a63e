"""An open loop on gevent: each request is sent when it is due, whether or not earlier ones have been answered.

A closed loop waits for each response, so a stalled server receives fewer requests, and those that real callers would have sent
meanwhile are not measured (coordinated omission: Tene, "How NOT to measure latency", 2013). Here latency is measured from when
a request was due, so a slow server cannot slow down its own test.

The generator also measures itself: how late it sends requests, how late its event loop's timers fire, and how much CPU it uses
and waits for. `understudy.loadtest.gates` judges these.
"""

import collections
import ctypes
import gc
import heapq
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gevent
from gevent import get_hub

from understudy.loadtest.client import Connection
from understudy.loadtest.shapes import arrivals
from understudy.loadtest.tally import GeneratorUse, Tally, interval_s
from understudy.loadtest.traffic import Call, Traffic

CONNECTIONS_MAX = 1_000
"""The largest number of concurrent requests per process; more wait, and the wait is part of their latency."""
WAITING_MAX = 20_000
"""The largest number of requests that wait for a connection; more are errors."""
GRACE_S = 1.0
"""How long to wait for a response after the deadline. It is an error by then, but its latency is measured."""
YIELD_EVERY = 16
"""How many requests a late generator sends before it reads responses."""
GIVE_UP_S = 5.0
"""A generator that is this late stops. The test is then invalid."""
LOOP_TICK_S = 0.05
START_S = 0.5

now = time.monotonic


@dataclass(frozen=True)
class Load:
    """The load of one arrival process: see `understudy loadtest --help`.

    Attributes:
        rate: predict requests per second at the shape's peak.
        feedback: feedback requests per predict request.
        deadline_s: a later response is an error.
    """

    rate: float
    shape: str
    seconds: float
    warm_up_s: float
    feedback: float
    deadline_s: float
    seed: int
    connections: int = CONNECTIONS_MAX


class Timer:
    """Sleeps to within about 20 µs, with a Linux timerfd: gevent's own timers have a resolution of a millisecond."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._fd = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._value = (ctypes.c_long * 4)()
        self._watcher = get_hub().loop.io(self._fd, 1)

    def sleep_until(self, moment: float) -> None:
        """Return at `moment` (monotonic seconds), or at once if it has passed."""
        if moment - now() < 2e-5:
            return
        self._value[2], self._value[3] = int(moment), int(moment % 1 * 1e9)
        self._settime(self._fd, 1, ctypes.byref(self._value), None)
        get_hub().wait(self._watcher)
        os.read(self._fd, 8)

    def close(self) -> None:
        """Close the timer."""
        os.close(self._fd)


class OpenLoop:
    """One arrival process against one service.

    Args:
        log: called for each request with its path, its latency in seconds, the size of the response in bytes and an error
            message or "": for locust's own statistics.
    """

    def __init__(self, load: Load, traffic: Traffic, url: str, log: Callable[[str, float, int, str], None]) -> None:
        self._load, self._traffic, self._url, self._log = load, traffic, url, log
        self._idle: list[Connection] = []
        self._opened = 0
        self._under_way = 0
        self._waiting: collections.deque[tuple[float, Call]] = collections.deque()
        self.tally = Tally(interval_s(load.seconds))
        self.begins = 0.0
        self.measured_from = 0.0

    def run(self) -> Tally:
        """Send all requests, wait for the last responses, and return the counts."""
        load = self._load
        timer, ticking = Timer(), gevent.spawn(self._watch_loop)
        gc.collect()
        gc.freeze()
        self.begins = now() + START_S
        self.measured_from = self.begins + load.warm_up_s
        gauge, walls = _Gauge(), (time.time() - now(),)
        measuring = gave_up = False
        sent = 0
        try:
            for due, kind in self._schedule():
                at = self.begins + due
                call = self._traffic.predict() if kind == "predict" else self._traffic.feedback()
                timer.sleep_until(at)
                if not measuring and at >= self.measured_from:
                    measuring, gauge = True, _Gauge()
                if call is not None:
                    self._send(at, call)
                sent += 1
                if now() - at > GIVE_UP_S:
                    gave_up = True
                    break
                if sent % YIELD_EVERY == 0 and now() - at > 1e-4:
                    gevent.sleep(0)
            timer.sleep_until(self.measured_from + load.seconds)
            drift = time.time() - now() - walls[0]
            self.tally.generators.append(gauge.read(drift, gave_up=gave_up))
            self._drain()
        finally:
            ticking.kill()
            timer.close()
            for connection in self._idle:
                connection.close()
        return self.tally

    def _schedule(self) -> Iterator[tuple[float, str]]:
        """When each request is due, in seconds from the start, and its kind."""
        load = self._load
        kinds = [("predict", load.rate, 2 * load.seed)]
        if load.feedback > 0:
            kinds.append(("feedback", load.rate * load.feedback, 2 * load.seed + 1))
        return heapq.merge(*(self._of_kind(*kind) for kind in kinds))

    def _of_kind(self, kind: str, rate: float, seed: int) -> Iterator[tuple[float, str]]:
        load = self._load
        if load.warm_up_s:
            for at in arrivals("ramp", rate, load.warm_up_s, seed + 1_000_003):
                yield at, kind
        for at in arrivals(load.shape, rate, load.seconds, seed):
            yield load.warm_up_s + at, kind

    def _send(self, at: float, call: Call) -> None:
        measured = at >= self.measured_from
        if measured:
            self.tally.lag.add(max(0.0, now() - at))
            if call.rows:
                self.tally.due += 1
                self.tally.at(at - self.measured_from).due += 1
        if self._idle:
            connection = self._idle.pop()
        elif self._opened < self._load.connections:
            connection = Connection(self._url)
            self._opened += 1
        else:
            self.tally.starved += measured
            if len(self._waiting) < WAITING_MAX:
                self._waiting.append((at, call))
            elif measured:
                self.tally.failed(f"not sent: {WAITING_MAX:,} requests were waiting for a connection")
            return
        self._under_way += 1
        gevent.spawn(self._serve, connection, at, call)

    def _serve(self, connection: Connection, at: float, call: Call) -> None:
        """Send a request, then those that wait for a connection."""
        try:
            while True:
                self._ask(connection, at, call)
                if not self._waiting:
                    break
                at, call = self._waiting.popleft()
        finally:
            self._under_way -= 1
            self._idle.append(connection)

    def _ask(self, connection: Connection, at: float, call: Call) -> None:
        load, sent = self._load, now()
        wrong, variant, timed_out = "", "", False
        size = 0
        try:
            status = connection.ask(call.data, load.deadline_s + GRACE_S)
            done = now()
            reply = self._traffic.read(call, status, connection.body)
            wrong, variant, size = reply.wrong, reply.variant, len(connection.body)
        except TimeoutError as error:
            done, wrong, timed_out, reply = now(), str(error), True, None
        except OSError as error:
            done, wrong, reply = now(), f"{type(error).__name__}: {error}", None
        latency = done - at
        self._log("/predict" if call.rows else "/feedback", latency, size, wrong)
        if at < self.measured_from:
            return
        tally = self.tally
        if not call.rows:
            tally.feedback.add(latency)
            tally.feedback_errors += bool(wrong)
            return
        if wrong and not timed_out:
            tally.failed(wrong)
            return
        moment = at - self.measured_from
        tally.answered(moment, variant or "nobody", latency)
        tally.from_send.add(done - sent)
        if timed_out:
            tally.failed(wrong)
        elif latency > load.deadline_s:
            tally.late += 1
        else:
            tally.ok += 1
            tally.rows += call.rows
            tally.at(moment).ok += 1
            tally.fallbacks += reply is not None and reply.fallback

    def _watch_loop(self) -> None:
        while True:
            expected = now() + LOOP_TICK_S
            gevent.sleep(LOOP_TICK_S)
            if expected >= self.measured_from > 0:
                self.tally.loop.add(max(0.0, now() - expected))

    def _drain(self) -> None:
        """Wait for the last responses. Requests that are still waiting for a connection after the time limit are errors."""
        until = now() + self._load.deadline_s + GRACE_S + 0.5
        while (self._under_way or self._waiting) and now() < until:
            gevent.sleep(0.01)
        left = len([1 for at, call in self._waiting if call.rows and at >= self.measured_from])
        self._waiting.clear()
        if left:
            self.tally.failed("not sent: no connection was free before the test ended", left)


class _Gauge:
    """Measures the CPU that this process uses, from when it is created."""

    def __init__(self) -> None:
        self._at, self._cpu, self._waited = now(), time.process_time(), _waited_s()

    def read(self, clock_drift_s: float, *, gave_up: bool) -> GeneratorUse:
        """What was used since then."""
        wall, cpu_s = max(now() - self._at, 1e-9), time.process_time() - self._cpu
        return GeneratorUse(
            cpu_share=cpu_s / wall,
            waited_share=(_waited_s() - self._waited) / wall,
            clock_drift_s=clock_drift_s,
            pid=os.getpid(),
            seconds=wall,
            cpu_s=cpu_s,
            gave_up=gave_up,
        )


def _waited_s() -> float:
    """How long this thread was ready to run without a core; 0 where the kernel does not report it."""
    try:
        return int(Path(f"/proc/self/task/{os.getpid()}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
