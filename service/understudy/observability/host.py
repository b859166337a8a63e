"""What this service runs on, and what it uses of it: read from `/proc` and the cgroup, so that a load test can name it."""

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy import __version__
from understudy.domain import Variant
from understudy.inference.cards import Card
from understudy.inference.onnx import cpu_quota
from understudy.rollout.loadtest import LoadTestMachine, Setup
from understudy.rollout.policy import Policy
from understudy.settings import Settings

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
PROCESSES_MAX = 256
"""Processes of one service that are looked at."""


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
"""Settings that a load test is not bound to: where things lie, how long they are kept, and whom the log is told to."""


def setup_of(settings: Settings, policy: Policy, cards: Mapping[Variant, Card], device: str, threads: int) -> Setup:
    """What a load test of this service is bound to.

    Args:
        device: what runs the models; threads: of ONNX Runtime, in each process.
    """
    candidate = cards.get(Variant.CANDIDATE)
    given = settings.model_dump(mode="json", exclude=_NOT_SPEED)
    given |= {
        "workers": settings.workers or policy.workers,
        "threads": threads,
        "store": settings.resolved_store_url().partition(":")[0],
    }
    return Setup(
        primary=cards[Variant.PRIMARY].digest,
        candidate=candidate.digest if candidate else None,
        device=device,
        code=code_version(),
        machine=machine(),
        settings=given,
    )


def cpu_name() -> str:
    """The CPU's model name, "unknown" where the kernel does not say."""
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
    """The version and a digest of the service's source: what was tested is what runs, whatever the version says."""
    root = Path(__file__).parents[1]
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{found.hexdigest()[:12]}"


def usage(supervisor: int) -> dict[str, Any]:
    """What the service's processes have used since they started, and the whole machine.

    Args:
        supervisor: the process that started them.

    Returns:
        `processes`: per process its name, `cpu_s` and `memory_bytes` (resident); `machine`: `busy_s`, `stolen_s` (taken by
        the hypervisor) and `cores` of the whole machine; `boot`: names this run of its kernel, so that a generator can
        tell whether it is on the same machine.
    """
    found = {}
    for pid, name in _family(supervisor).items():
        try:
            parts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        cpu_s = (int(parts[11]) + int(parts[12])) / _TICKS
        found[str(pid)] = {"name": name, "cpu_s": cpu_s, "memory_bytes": int(parts[21]) * _PAGE}
    return {"processes": found, "machine": whole_machine(), "boot": boot()}


def whole_machine() -> dict[str, float]:
    """Seconds of CPU that everything on this machine has used, those that the hypervisor took, and how many cores there are."""
    try:
        head = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return {"busy_s": 0.0, "stolen_s": 0.0, "cores": float(os.cpu_count() or 1)}
    user, nice, system, _, _, irq, softirq, steal = (int(part) / _TICKS for part in head[1:9])
    busy = user + nice + system + irq + softirq
    return {"busy_s": busy, "stolen_s": steal, "cores": float(os.cpu_count() or 1)}


def boot() -> str:
    """A name for this run of the kernel; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _family(supervisor: int) -> dict[int, str]:
    """A process and all that come from it, with what they are called."""
    parents: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                stat = Path(entry.path, "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(stat[1]), []).append(int(entry.name))
    found, waiting = {supervisor: "supervisor"}, list(parents.get(supervisor, ()))
    while waiting and len(found) < PROCESSES_MAX:
        pid = waiting.pop()
        found[pid] = _name(pid)
        waiting += parents.get(pid, ())
    return found


def _name(pid: int) -> str:
    """A worker by its BentoML service, any other process by its command."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    except (OSError, ValueError):
        return "?"
    if "--service-name" in line:
        return line[line.index("--service-name") + 1].lower()
    return "helper" if "multiprocessing" in " ".join(line) else Path(line[0]).name[:40]
