"""Watches the service during a load test: its processes, its counters, whether it changed, and its records."""

import contextlib
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from understudy.domain import JsonObject
from understudy.loadtest import gates
from understudy.loadtest.tally import Tally
from understudy.observability.host import Usage, boot
from understudy.offline.client import CallFailed, Client
from understudy.rollout.loadtest import Setup

WATCH_S = 1.0
SETTLE_S = 10.0
"""How long to wait after the load for records and rehearsals that are still being written."""
SOON_S = 1.0
"""How long after the load a record may be stored; the service did not keep up with records that come later."""
_ON_TRIAL = {"shadow", "canary", "waiting", "paused"}


class ServiceState(msgspec.Struct, frozen=True):
    """The response to `GET /rollout/loadtest`.

    Attributes:
        setup: see `understudy.rollout.loadtest.Setup`; goals: see `LaunchGoals`; plan: the plan in force.
    """

    model: str
    setup: JsonObject
    goals: JsonObject
    plan: JsonObject
    deadline_ms: float
    usage: Usage

    @classmethod
    def read(cls, client: Client) -> "ServiceState":
        """Ask the service."""
        return msgspec.convert(client.get("/rollout/loadtest"), cls)

    @property
    def phase(self) -> str:
        """The phase of the plan in force."""
        return str(self.plan["phase"])


@dataclass(frozen=True)
class Counts:
    """The service's counters at one moment.

    Attributes:
        counters: by name; see `GET /rollout/evidence`.
        dropped: rows whose records were dropped.
    """

    counters: Mapping[str, float]
    dropped: float

    @classmethod
    def read(cls, client: Client) -> "Counts":
        """Ask the service."""
        counters = client.get("/rollout/evidence")["counters"]
        dropped = re.search(r"^understudy_store_dropped_total (\S+)$", client.text("/metrics"), re.MULTILINE)
        return cls(dict(counters), float(dropped[1]) if dropped else 0.0)

    @property
    def rows(self) -> float:
        """Rows in the store, of all modes."""
        return sum(count for name, count in self.counters.items() if name.startswith("rows/"))

    def since(self, name: str, before: "Counts") -> float:
        """By how much a counter has grown."""
        return self.counters.get(name, 0.0) - before.counters.get(name, 0.0)


@dataclass(frozen=True)
class RecordsWatch:
    """Counts before a load, `SOON_S` after its end, and when no more records came."""

    before: Counts
    soon: Counts
    last: Counts

    @property
    def loss(self) -> float:
        """The share of the rows that were dropped, or not stored `SOON_S` after the load ended."""
        dropped = self.last.dropped - self.before.dropped
        rows = self.last.rows - self.before.rows + dropped
        return (dropped + self.last.rows - self.soon.rows) / rows if rows else 0.0

    @classmethod
    def after(cls, client: Client, before: Counts, ended_at: float) -> "RecordsWatch":
        """Wait until no more records come. `ended_at` is when the load ended, on the monotonic clock."""
        time.sleep(max(0.0, ended_at + SOON_S - time.monotonic()))
        soon = last = Counts.read(client)
        while time.monotonic() < ended_at + SETTLE_S:
            time.sleep(0.3)
            counts = Counts.read(client)
            if counts == last:
                break
            last = counts
        return cls(before, soon, last)


@dataclass(frozen=True)
class UsageSample:
    """What the service's processes used between two looks at them.

    Attributes:
        at: seconds after the warm-up.
        cores: cores by process name; memory_mib: resident memory by process name.
    """

    at: float
    cores: Mapping[str, float]
    memory_mib: Mapping[str, float]


@dataclass(frozen=True)
class _Look:
    """The service's usage at one moment: `clock` is monotonic, `at` is seconds after the warm-up."""

    clock: float
    at: float
    usage: Usage


class ServiceWatch:
    """Reads the service's usage once a second, in a thread.

    Attributes:
        at: seconds after the warm-up, as the generator last reported.
        counts: the service's counters when the warm-up ended.
    """

    def __init__(self, client: Client, before: ServiceState) -> None:
        self._client, self._before = client, before
        self._looks: list[_Look] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.at = float("-inf")
        self._began = time.monotonic()  # when measuring began, as far as it is known
        self.counts: Counts | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def progressed(self, at: float) -> None:
        """Note how far the generator is."""
        self.at, self._began = at, time.monotonic() - at

    def ends_at(self, seconds: float) -> float:
        """When a load of this many seconds ends, on the monotonic clock."""
        return self._began + seconds

    def stop(self) -> None:
        """Stop the thread."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(WATCH_S):
            if self.at < 0:
                continue
            with contextlib.suppress(CallFailed):  # an overloaded service may time out; the next look may succeed
                usage = ServiceState.read(self._client).usage
                self._looks.append(_Look(time.monotonic(), self.at, usage))
                if self.counts is None:
                    self.counts = Counts.read(self._client)

    def use(self, after: ServiceState, tally: Tally) -> gates.ServiceUse:
        """What was used between the first look and the last."""
        changed = self._changed(after)
        if len(self._looks) < 2:
            return gates.ServiceUse(changed=changed)
        first, last = self._looks[0], self._looks[-1]
        wall = last.clock - first.clock
        cores = _cores(first, last)
        memory = {
            f"{process.name}-{pid}": max(look.usage.processes.get(pid, process).memory_bytes for look in self._looks)
            / 2**20
            for pid, process in last.usage.processes.items()
        }
        machine, machine_before = last.usage.machine, first.usage.machine
        here = bool(last.usage.boot) and last.usage.boot == boot()
        generators = sum(each.cpu_share for each in tally.generators) if here else 0.0
        busy = (machine.busy_s - machine_before.busy_s) / wall
        return gates.ServiceUse(
            processes=_short_names(cores),
            memory_mib=_short_names(memory),
            cores=machine.cores,
            busy=busy,
            stolen=(machine.stolen_s - machine_before.stolen_s) / wall,
            others=max(0.0, busy - sum(cores.values()) - generators),
            here=here,
            changed=changed,
        )

    def _changed(self, after: ServiceState) -> str:
        """What differs from the state before the test, in words; empty if nothing."""
        before = self._before
        if differences := Setup.model_validate(before.setup).differences(Setup.model_validate(after.setup)):
            return "; ".join(differences[:3])
        if _services(before.usage) - _services(after.usage):
            return "one of its processes ended and was restarted"
        if (before.phase in _ON_TRIAL) != (after.phase in _ON_TRIAL):
            return f"the rollout went from {before.phase} to {after.phase}"
        return ""

    def samples(self, seconds: float) -> Sequence[UsageSample]:
        """CPU and memory over time, by process."""
        samples = []
        for earlier, later in zip(self._looks, self._looks[1:], strict=False):
            if later.at > seconds + 1:
                break
            memory = {
                f"{process.name}-{pid}": process.memory_bytes / 2**20
                for pid, process in later.usage.processes.items()
                if pid in earlier.usage.processes
            }
            samples.append(UsageSample(later.at, _short_names(_cores(earlier, later)), _short_names(memory)))
        return samples


def _cores(first: _Look, last: _Look) -> dict[str, float]:
    """Cores that each process used between two looks, by name and process id."""
    before = first.usage.processes
    return {
        f"{process.name}-{pid}": (process.cpu_s - before[pid].cpu_s) / (last.clock - first.clock)
        for pid, process in last.usage.processes.items()
        if pid in before
    }


def _services(usage: Usage) -> set[str]:
    return {pid for pid, process in usage.processes.items() if process.name != "helper"}


def _short_names(by_process: Mapping[str, float]) -> dict[str, float]:
    """Replace process ids by nothing if a name is unique, and otherwise by numbers from 1."""
    short: dict[str, float] = {}
    names = [name.rpartition("-")[0] for name in by_process]
    for (key, value), name in zip(by_process.items(), names, strict=True):
        if names.count(name) == 1:
            short[name] = round(value, 4)
        else:
            same = [other for other in by_process if other.rpartition("-")[0] == name]
            short[f"{name} {same.index(key) + 1}"] = round(value, 4)
    return short
