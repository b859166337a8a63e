"""What the service does while it is loaded: its processes, its counters, whether it changed, and what became of its records."""

import contextlib
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from understudy.loadtest import gates
from understudy.loadtest.tally import Tally
from understudy.observability.host import boot
from understudy.offline.client import CallFailed, Client
from understudy.rollout.loadtest import Setup

WATCH_S = 1.0
SETTLE_S = 10.0
"""How long records and rehearsals are waited for that are under way when the load ends."""
SOON_S = 1.0
"""How long after the end of the load a record may come to the store; what comes later, the service did not keep up with."""


@dataclass(frozen=True)
class Counts:
    """What the service has counted: the store's counters, and the rows whose records it gave up.

    Attributes:
        counters: by name; see `GET /rollout/evidence`.
    """

    counters: Mapping[str, float]
    dropped: float

    @classmethod
    def read(cls, client: Client) -> "Counts":
        """Ask the service."""
        counters = client.get("/rollout/evidence")["counters"]
        found = re.search(r"^understudy_store_dropped_total (\S+)$", client.text("/metrics"), re.MULTILINE)
        return cls(dict(counters), float(found[1]) if found else 0.0)

    @property
    def rows(self) -> float:
        """Rows in the store, for whatever reason a model was run."""
        return sum(count for name, count in self.counters.items() if name.startswith("rows/"))

    def since(self, name: str, before: "Counts") -> float:
        """What a counter has grown by."""
        return self.counters.get(name, 0.0) - before.counters.get(name, 0.0)


@dataclass(frozen=True)
class RecordsWatch:
    """What became of the records of a load: counts before it, soon after it ended, and when no more came."""

    before: Counts
    soon: Counts
    last: Counts

    @property
    def loss(self) -> float:
        """The share of the rows that were given up, or not in the store `SOON_S` after the load had ended."""
        dropped = self.last.dropped - self.before.dropped
        rows = self.last.rows - self.before.rows + dropped
        return (dropped + self.last.rows - self.soon.rows) / rows if rows else 0.0

    @classmethod
    def after(cls, client: Client, before: Counts, ended_at: float) -> "RecordsWatch":
        """Wait for what is under way; the load ended at `ended_at`, on the monotonic clock."""
        time.sleep(max(0.0, ended_at + SOON_S - time.monotonic()))
        soon = last = Counts.read(client)
        while time.monotonic() < ended_at + SETTLE_S:
            time.sleep(0.3)
            found = Counts.read(client)
            if found == last:
                break
            last = found
        return cls(before, soon, last)


class ServiceWatch:
    """Looks at the service once a second, from a thread.

    Attributes:
        at: seconds after the warm-up, as the generator last said; counts: the service's, when the warm-up ended.
    """

    def __init__(self, client: Client, before: Mapping[str, Any]) -> None:
        self._client, self._before = client, before
        self._samples: list[tuple[float, float, Any]] = []  # when, seconds after the warm-up, usage
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self.at = float("-inf")
        self._began = time.monotonic()  # the measurement, as far as it is known
        self.counts: Counts | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def heard(self, at: float) -> None:
        """The generator has said how far it is."""
        self.at, self._began = at, time.monotonic() - at

    def ends_at(self, seconds: float) -> float:
        """When a load of so many seconds ends or has ended, on the monotonic clock."""
        return self._began + seconds

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
                if self.counts is None:
                    self.counts = Counts.read(self._client)

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
        here = bool(last["boot"]) and last["boot"] == boot()
        generators = sum(one["cpu_share"] for one in tally.generators) if here else 0.0
        busy = whole["busy_s"] / wall
        own = sum(processes.values())
        return gates.ServiceUse(
            processes=_plain(processes),
            memory_mib=_plain(most),
            cores=last["machine"]["cores"],
            busy=busy,
            stolen=whole["stolen_s"] / wall,
            others=max(0.0, busy - own - generators),
            here=here,
            changed=changed,
        )

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
