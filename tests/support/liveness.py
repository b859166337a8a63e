"""Watches `/livez` of a service while something else is sent to it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

BASELINE_S = 1.0


@dataclass
class Latencies:
    """Seconds that `/livez` took, before and while.

    Attributes:
        before: with nothing else to do.
        during: while the service was busy.
    """

    before: list[float] = field(default_factory=list)
    during: list[float] = field(default_factory=list)

    def undisturbed(self, busy_s: float) -> bool:
        """Whether no answer took more than a fifth of the time that the service was busy, beyond what this machine does to any.

        A machine that is full of other tests makes both slow; a blocked event loop answers once, at the end.
        """
        allowed = max(busy_s / 5, 3 * max(self.before))
        return len(self.during) >= 3 and max(self.during) < allowed


@contextmanager
def watched(url: str) -> Iterator[Latencies]:
    """Ask for `/livez` again and again; first alone, then beside what the block does."""
    latencies, ended = Latencies(), threading.Event()
    client = httpx.Client(base_url=url, timeout=60)

    def ask() -> float:
        began = time.perf_counter()
        assert client.get("/livez").status_code == 200
        return time.perf_counter() - began

    until = time.monotonic() + BASELINE_S
    while time.monotonic() < until:
        latencies.before.append(ask())
        time.sleep(0.01)

    def watch() -> None:
        while not ended.is_set():
            latencies.during.append(ask())
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield latencies
    finally:
        ended.set()
        thread.join()
        client.close()
