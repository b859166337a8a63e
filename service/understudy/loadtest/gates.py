"""From counts to a verdict: pass, fail, or invalid when the test says nothing about the service. Pure.

Invalid goes before pass and before fail: a number that the generator, another program or a clock has made is no number of the
service's. One exception: a generator on the service's own machine that is pushed aside by a service at its limit. Then the
service did miss its goals, and that is what is said.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from understudy.loadtest.histogram import Histogram
from understudy.loadtest.tally import Tally
from understudy.rollout.loadtest import Finding, Latencies, LaunchGoals, LoadTestResult, Measured, held

BEYOND_MIN = 20
"""A percentile is read when at least so many requests lie beyond it: p99 takes 2,000, p95 400."""
VARIANT_BEYOND_MIN = 10
LAG_SHARE = 0.1
"""One request in a hundred may leave this share of the p99 goal late, or `LAG_MIN_MS`."""
LAG_MIN_MS = 2.0
GENERATOR_CPU_MAX = 0.9
"""Of a core: beyond, how late a request leaves depends on the generator."""
GENERATOR_BUSY_MAX = 0.97
"""Of the time, used or waited for a core: beyond, answers lie about until the generator reads them, and it is its own delay that
it measures."""
WAITED_LITTLE, SHARED = 0.05, 0.6
"""Less waiting than this is every machine's; a service that uses this share of what the generator leaves is what it waited for."""
OTHERS_MAX = 0.15
"""Of the machine's cores: what programs other than the service and the generator may use."""
STOLEN_MAX = 0.05
CLOCK_DRIFT_MAX_S = 0.05
SATURATED = 0.9
"""A process that uses this share of a core, or a service this share of what the generator leaves, is at its limit."""
CROWDED, WAITED = 0.8, 0.2
"""Or this share of what it leaves, while the generator stood waiting for a core for this share of the time: both are means over the
whole test, and a machine that is full in every burst is never full on average."""


@dataclass(frozen=True)
class ServiceUse:
    """What the service and its machine used while it was measured.

    Attributes:
        processes: name → CPU, in cores; memory_mib: name → most resident memory; both of each process alone.
        busy: cores of the machine that were in use, by anyone; stolen: that the hypervisor took; cores: how many there are.
        here: whether the generator ran on that machine; others: cores that neither used.
        changed: what is not as it was when the test began.
    """

    processes: Mapping[str, float] = field(default_factory=dict)
    memory_mib: Mapping[str, float] = field(default_factory=dict)
    cores: float = 1.0
    busy: float = 0.0
    stolen: float = 0.0
    others: float = 0.0
    here: bool = False
    changed: str = ""

    @property
    def total(self) -> float:
        """Cores that the service used."""
        return sum(self.processes.values())


def latencies(seen: Histogram, beyond_min: int = BEYOND_MIN) -> Latencies:
    """Percentiles in milliseconds, those left out that too few requests lie beyond."""
    found: dict[str, float] = {}
    for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99), ("p999_ms", 0.999)):
        if seen.n * (1 - share) >= beyond_min - 1e-9:
            found[name] = round(seen.quantile(share) * 1000, 4)
    if seen.n:
        found["max_ms"] = round(seen.highest * 1000, 4)
    return Latencies(requests=seen.n, **found)


def measure(
    tally: Tally, seconds: float, *, shadow_loss: float, records_loss: float, machine_per_hour: float | None
) -> Measured:
    """The figures of a test that took `seconds`."""
    asked = max(tally.due, 1)
    candidate = tally.variants.get("candidate", Histogram()).n
    rows_per_s = tally.rows / seconds
    cost = machine_per_hour / 3600 / rows_per_s * 1e6 if machine_per_hour is not None and rows_per_s else None
    return Measured(
        seconds=seconds,
        offered_rps=tally.due / seconds,
        achieved_rps=tally.ok / seconds,
        rows_per_request=tally.rows / max(tally.ok, 1),
        error_rate=1 - tally.ok / asked,
        fallback_rate=tally.fallbacks / max(candidate + tally.fallbacks, 1),
        shadow_loss=shadow_loss,
        records_loss=records_loss,
        cost_per_million=cost,
        latency=latencies(tally.latency),
        variants={
            n: latencies(h, VARIANT_BEYOND_MIN) for n, h in tally.variants.items() if n in {"primary", "candidate"}
        },
    )


def lag_allowed_ms(goals: LaunchGoals) -> float:
    """How late one request in a hundred may leave the generator."""
    return max(LAG_MIN_MS, LAG_SHARE * (goals.p99_ms or 0.0))


def generator_doubt(tally: Tally, goals: LaunchGoals, use: ServiceUse) -> str | None:
    """Why the generator cannot be trusted at this rate, and what to add."""
    cpu = max((one["cpu_share"] for one in tally.generators), default=0.0)
    waited = max((one["waited_share"] for one in tally.generators), default=0.0)
    late_ms, allowed = tally.lag.quantile(0.99) * 1000, lag_allowed_ms(goals)
    if any(one.get("gave_up") for one in tally.generators):
        late_ms = max(late_ms, tally.lag.highest * 1000)
    elif cpu <= GENERATOR_CPU_MAX and cpu + waited <= GENERATOR_BUSY_MAX and not late_ms > allowed:
        return None
    shared = use.here and use.total >= SHARED * (use.cores - cpu - use.others)
    if waited > WAITED_LITTLE and (use.others > waited / 2 or not shared):
        add = "something else used its CPU: stop that, or run the generator on another machine"
    elif waited > WAITED_LITTLE:
        add = "it shares the machine with the service: add cores, or run the generator on another machine (--workers-elsewhere)"
    else:
        more = len(tally.generators) + 1
        add = f"add generators (--processes {more}) on cores that the service does not use, or another machine"
    return (
        f"the generator was the limit: one request in a hundred left {late_ms:,.1f} ms late ({allowed:g} ms are allowed), while it "
        f"used {cpu:.0%} of a core and waited for one {waited:.0%} of the time; {add}"
    )


def doubts(tally: Tally, goals: LaunchGoals, use: ServiceUse, *, lost: int, candidate: str | None) -> list[str]:
    """Everything else that keeps a test from saying anything.

    Args:
        lost: generators that never told what they had counted.
        candidate: why the candidate took no part, where it should have.
    """
    found = []
    if lost:
        found.append(f"{lost} of {lost + len(tally.generators)} generators were lost: what they sent is not counted")
    if use.changed:
        found.append(f"the service is not what it was when the test began: {use.changed}")
    if candidate:
        found.append(candidate)
    drift = max((abs(one["clock_drift_s"]) for one in tally.generators), default=0.0)
    if drift > CLOCK_DRIFT_MAX_S:
        found.append(f"the clock was set or drifted by {drift * 1000:,.0f} ms during the test: run it again")
    if use.others > OTHERS_MAX * use.cores:
        found.append(
            f"the machine was busy: other programs used {use.others:.2f} of its {use.cores:g} cores "
            f"({OTHERS_MAX * use.cores:.2f} are allowed); stop them, or use another machine"
        )
    if use.stolen > STOLEN_MAX * use.cores:
        found.append(f"the machine was busy: its hypervisor took {use.stolen:.2f} of its {use.cores:g} cores")
    for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
        needed = math.ceil(BEYOND_MIN / (1 - share) - 1e-6)
        if getattr(goals, name) is not None and tally.latency.n < needed and tally.due < needed:
            found.append(
                f"too short for {name.removesuffix('_ms')}: {tally.due:,} requests, it takes {needed:,}; run it longer or faster"
            )
    return found


def saturated(use: ServiceUse, tally: Tally) -> str | None:
    """What of the service was at its limit, in words; None where nothing was seen to be."""
    if not use.processes:
        return None
    name, most = max(use.processes.items(), key=lambda item: item[1])
    if most >= SATURATED:
        return f"`{name}` used {most:.2f} cores, which is all that one process's interpreter can"
    generators = sum(one["cpu_share"] for one in tally.generators) if use.here else 0.0
    left = use.cores - generators - use.others
    if use.total >= SATURATED * left and use.total >= generators:
        return f"the service used {use.total:.2f} of the {left:.2f} cores that the generator left it"
    waited = max((one["waited_share"] for one in tally.generators), default=0.0) if use.here else 0.0
    if waited >= WAITED and use.total >= CROWDED * left and use.total >= generators:
        return (
            f"the service used {use.total:.2f} of the {left:.2f} cores that the generator left it, which waited for one "
            f"{waited:.0%} of the time"
        )
    return None


def verdict(
    goals: LaunchGoals,
    measured: Measured,
    tally: Tally,
    use: ServiceUse,
    *,
    lost: int = 0,
    candidate: str | None = None,
) -> tuple[LoadTestResult, list[str], list[Finding]]:
    """The answer, its reasons, and every goal held against what was measured."""
    findings = held(goals, measured)
    missed = [finding.says for finding in findings if not finding.met]
    others = doubts(tally, goals, use, lost=lost, candidate=candidate)
    late = generator_doubt(tally, goals, use)
    limit = saturated(use, tally)
    if others or (late and not (missed and limit)):
        return "invalid", [*others, *([late] if late else [])], findings
    if not missed:
        return "pass", [], findings
    reasons = [*missed, *([limit] if limit else [])]
    if late:
        reasons.append(f"(the service pushed the generator aside: {late.partition(';')[0]})")
    if tally.errors:
        what, times = max(tally.errors.items(), key=lambda item: item[1])
        reasons.append(f"most errors: {times:,} × {what}")
    return "fail", reasons, findings
