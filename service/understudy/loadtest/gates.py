"""From counts to a verdict: pass, fail, or invalid if the test says nothing about the service. Pure.

Invalid takes precedence, because results that the generator, another program or a clock has distorted do not describe the
service. The exception is a service at its limit that starves a generator on the same machine: it did miss its goals, so the
verdict is fail.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from understudy.loadtest.histogram import Histogram
from understudy.loadtest.tally import Tally
from understudy.rollout.loadtest import Finding, Latencies, LaunchGoals, LoadTestResult, Measured, held

BEYOND_MIN = 20
"""A percentile is used if at least this many requests lie beyond it: p99 needs 2,000 requests, p95 400."""
VARIANT_BEYOND_MIN = 10
LAG_SHARE = 0.1
"""One request in a hundred may be sent late by this share of the p99 goal, or by `LAG_MIN_MS`."""
LAG_MIN_MS = 2.0
GENERATOR_CPU_MAX = 0.9
"""A share of a core. Above it, the generator itself delays requests."""
GENERATOR_BUSY_MAX = 0.97
"""A share of the time that the generator used a core or waited for one. Above it, responses wait until the generator reads them,
and latency includes the generator's own delay."""
WAITED_LITTLE, SHARED = 0.05, 0.6
"""A generator that waits less than the first share of the time is not disturbed. A service that uses the second share of the
cores that the generator leaves is taken as the cause of its waiting."""
OTHERS_MAX = 0.15
"""The share of the machine's cores that other programs may use."""
STOLEN_MAX = 0.05
CLOCK_DRIFT_MAX_S = 0.05
SATURATED = 0.9
"""A process that uses this share of a core, or a service that uses this share of what the generator leaves, is at its limit."""
CROWDED, WAITED = 0.8, 0.2
"""A service is also at its limit if it uses the first share of what the generator leaves while the generator waits for a core for
the second share of the time. Both are means over the whole test, and bursts that fill a machine do not fill it on average."""


@dataclass(frozen=True)
class ServiceUse:
    """What the service and its machine used during the measurement.

    Attributes:
        processes: cores used by process name; memory_mib: largest resident memory by process name.
        cores: cores of the machine; busy: cores in use by all programs; stolen: cores that the hypervisor took.
        others: cores that programs other than the service and the generator used.
        here: whether the generator ran on the service's machine.
        changed: what changed about the service during the test; empty if nothing.
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
    """Percentiles in milliseconds, without those that too few requests lie beyond."""
    percentiles: dict[str, float] = {}
    for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99), ("p999_ms", 0.999)):
        if seen.n * (1 - share) >= beyond_min - 1e-9:
            percentiles[name] = round(seen.quantile(share) * 1000, 4)
    if seen.n:
        percentiles["max_ms"] = round(seen.highest * 1000, 4)
    return Latencies(requests=seen.n, **percentiles)


def measure(
    tally: Tally, seconds: float, *, shadow_loss: float, records_loss: float, machine_per_hour: float | None
) -> Measured:
    """The results of a test that measured for `seconds`."""
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
    """How late one request in a hundred may be sent."""
    return max(LAG_MIN_MS, LAG_SHARE * (goals.p99_ms or 0.0))


def generator_doubt(tally: Tally, goals: LaunchGoals, use: ServiceUse) -> str | None:
    """Why the generator cannot be trusted at this rate and what to add; None if it can."""
    cpu = max((one.cpu_share for one in tally.generators), default=0.0)
    waited = max((one.waited_share for one in tally.generators), default=0.0)
    late_ms, allowed = tally.lag.quantile(0.99) * 1000, lag_allowed_ms(goals)
    if any(one.gave_up for one in tally.generators):
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
        f"the generator was the limit: one request in a hundred was sent {late_ms:,.1f} ms late ({allowed:g} ms are allowed), "
        f"while it used {cpu:.0%} of a core and waited for one {waited:.0%} of the time; {add}"
    )


def doubts(tally: Tally, goals: LaunchGoals, use: ServiceUse, *, lost: int, candidate: str | None) -> list[str]:
    """All other reasons why a test is invalid.

    Args:
        lost: how many generators never sent their counts.
        candidate: why the candidate took no part, if it should have.
    """
    reasons = []
    if lost:
        reasons.append(f"{lost} of {lost + len(tally.generators)} generators were lost: their requests are not counted")
    if use.changed:
        reasons.append(f"the service changed during the test: {use.changed}")
    if candidate:
        reasons.append(candidate)
    drift = max((abs(one.clock_drift_s) for one in tally.generators), default=0.0)
    if drift > CLOCK_DRIFT_MAX_S:
        reasons.append(f"the clock was set or drifted by {drift * 1000:,.0f} ms during the test: run it again")
    if use.others > OTHERS_MAX * use.cores:
        reasons.append(
            f"the machine was busy: other programs used {use.others:.2f} of its {use.cores:g} cores "
            f"({OTHERS_MAX * use.cores:.2f} are allowed); stop them, or use another machine"
        )
    if use.stolen > STOLEN_MAX * use.cores:
        reasons.append(f"the machine was busy: its hypervisor took {use.stolen:.2f} of its {use.cores:g} cores")
    for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
        needed = math.ceil(BEYOND_MIN / (1 - share) - 1e-6)
        if getattr(goals, name) is not None and tally.latency.n < needed and tally.due < needed:
            reasons.append(
                f"too short for {name.removesuffix('_ms')}: {tally.due:,} requests, but {needed:,} are needed; "
                "run it longer or at a higher rate"
            )
    return reasons


def saturated(use: ServiceUse, tally: Tally) -> str | None:
    """Which part of the service was at its limit, in words; None if none was."""
    if not use.processes:
        return None
    name, most = max(use.processes.items(), key=lambda item: item[1])
    if most >= SATURATED:
        return f"`{name}` used {most:.2f} cores, which is the limit of one process's interpreter"
    generators = sum(one.cpu_share for one in tally.generators) if use.here else 0.0
    left = use.cores - generators - use.others
    if use.total >= SATURATED * left and use.total >= generators:
        return f"the service used {use.total:.2f} of the {left:.2f} cores that the generator left it"
    waited = max((one.waited_share for one in tally.generators), default=0.0) if use.here else 0.0
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
    """The verdict, its reasons, and a finding for each goal."""
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
