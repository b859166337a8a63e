"""The machine that the service runs on and what its processes use, from `/proc` and the cgroup, for load tests."""

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from understudy import __version__
from understudy.domain import Variant
from understudy.inference.cards import Card
from understudy.inference.devices import cpu_quota
from understudy.rollout.loadtest import LoadTestMachine, Setup
from understudy.rollout.policy import Policy
from understudy.settings import Settings

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
PROCESSES_MAX = 256
"""The largest number of processes of one service that are listed."""


def machine() -> LoadTestMachine:
    """The CPU's name, and the CPUs and memory that this process may use."""
    return LoadTestMachine(cpu=cpu_name(), cores=round(cpu_quota(), 2), memory_gib=round(_memory_bytes() / 2**30, 1))


_NOT_SPEED = {
    "rollout_file",
    "state_dir",
    "store_url",
    "tokens_file",
    "retention_days",
    "retention_max_mib",
    "loadtest_max_bytes",
    "check_max_rows",
    "webhook_urls",
    "webhook_secret_file",
    "webhook_poll_ms",
    "webhook_timeout_s",
    "webhook_retry_max_s",
    "webhook_give_up_days",
    "traffic_interval_s",
    "traffic_points_max",
    "model_cache_dir",
    "model_cache_max_mib",
    "model_fetch_timeout_s",
    "files_interval_s",
}
"""Settings that do not change how fast the service is: paths, retention, webhooks and model downloads."""


def setup_of(settings: Settings, policy: Policy, cards: Mapping[Variant, Card], device: str, threads: int) -> Setup:
    """What a load test is valid for: the models, code, machine and settings of this service.

    Args:
        device: the device that runs the models.
        threads: ONNX Runtime's threads in each process.
    """
    candidate = cards.get(Variant.CANDIDATE)
    tested = settings.model_dump(mode="json", exclude=_NOT_SPEED)
    tested |= {
        "workers": settings.workers or policy.workers,
        "threads": threads,
        "store": settings.resolved_store_url().partition(":")[0],
    }
    options = policy.device_options.model_dump(mode="json", exclude_defaults=True)
    tested |= {f"device_options.{name}": value for name, value in options.items()}
    return Setup(
        primary=cards[Variant.PRIMARY].digest,
        candidate=candidate.digest if candidate else None,
        device=device,
        code=code_version(),
        machine=machine(),
        settings=tested,
    )


def cpu_name() -> str:
    """The CPU's model name; "unknown" if the kernel does not report it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _memory_bytes() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * _PAGE
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


@functools.cache
def code_version() -> str:
    """The version and a digest of the source, so that changed code of the same version is another one."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


class ProcessUsage(msgspec.Struct, frozen=True):
    """What one process has used since it started; `memory_bytes` is resident memory."""

    name: str
    cpu_s: float
    memory_bytes: int


class MachineUsage(msgspec.Struct, frozen=True):
    """What the whole machine has used since it started.

    Attributes:
        busy_s: CPU seconds of all programs; stolen_s: CPU seconds that the hypervisor took.
        cores: how many cores there are.
    """

    busy_s: float
    stolen_s: float
    cores: float


class Usage(msgspec.Struct, frozen=True):
    """What a service and its machine have used.

    Attributes:
        processes: by process id.
        boot: identifies this run of the kernel, so a generator can tell whether it runs on the same machine.
    """

    processes: dict[str, ProcessUsage]
    machine: MachineUsage
    boot: str


def usage(supervisor: int) -> Usage:
    """What the service's processes have used since they started, and the whole machine.

    Args:
        supervisor: the id of the process that started them.
    """
    processes = {}
    for pid, name in _family(supervisor).items():
        try:
            parts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue  # the process has ended meanwhile
        cpu_s = (int(parts[11]) + int(parts[12])) / _TICKS
        processes[str(pid)] = ProcessUsage(name, cpu_s, int(parts[21]) * _PAGE)
    return Usage(processes, whole_machine(), boot())


def whole_machine() -> MachineUsage:
    """What the whole machine has used since it started; zeros if the kernel does not report it."""
    try:
        head = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return MachineUsage(0.0, 0.0, float(os.cpu_count() or 1))
    user, nice, system, _, _, irq, softirq, steal = (int(part) / _TICKS for part in head[1:9])
    busy = user + nice + system + irq + softirq
    return MachineUsage(busy, steal, float(os.cpu_count() or 1))


def boot() -> str:
    """Identifies this run of the kernel; empty if the kernel does not report it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _family(supervisor: int) -> dict[int, str]:
    """The names of a process and all its descendants, by process id."""
    parents: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stat = Path(entry.path, "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(stat[1]), []).append(int(entry.name))
    names, waiting = {supervisor: "supervisor"}, list(parents.get(supervisor, ()))
    while waiting and len(names) < PROCESSES_MAX:
        pid = waiting.pop()
        names[pid] = _name(pid)
        waiting += parents.get(pid, ())
    return names


def _name(pid: int) -> str:
    """The BentoML service of a worker; the command of any other process."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    except (OSError, ValueError):
        return "?"
    if "--service-name" in line:
        return line[line.index("--service-name") + 1].lower()
    return "helper" if "multiprocessing" in " ".join(line) else Path(line[0]).name[:40]
