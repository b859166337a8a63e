"""What a load test says and when it counts: the record, the goals it is held against, what it was taken of. Pure.

The generator (`loadtests/`) makes records; the service keeps them in its audit log and lets a step with `require: [loadtest]`
start when one of them passed for exactly what it serves: these models, this code, this machine, device and settings, by
these goals. It reads the numbers again itself: a record that only says that it passed does not.
"""

from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from understudy.domain import SHARE_ONE, Phase, Plan
from understudy.rollout.goals import Goals
from understudy.rollout.phases import Order
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep

LoadTestResult = Literal["pass", "fail", "invalid"]
LOADTEST = "loadtest"
"""What a step's `require` calls it, and the kind of its event in the audit log."""
COMMAND = "understudy loadtest"
THROUGHPUT_SLACK = 0.01
"""Answers that are under way when the window ends, and arrivals that fell together, are not a missed throughput."""


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoadTestMachine(_Strict):
    """Where the service runs.

    Attributes:
        cpu: the model's name; cores: CPUs that the process may use, its quota counted; memory_gib: likewise.
    """

    cpu: str
    cores: float
    memory_gib: float


class Setup(_Strict):
    """What was tested: two are the same setup when every field is equal.

    Attributes:
        primary: the model's digest, and `candidate` (None where there is none).
        device: what runs the models; code: the service's version and the digest of its source.
        settings: every setting of the service that can change how fast it is.
    """

    primary: str
    candidate: str | None
    device: str
    code: str
    machine: LoadTestMachine
    settings: dict[str, str | float | int | bool | None]

    def differences(self, other: "Setup") -> list[str]:
        """Where `other` differs, in words; empty when it is the same setup."""
        mine, theirs = _flat(self), _flat(other)
        return [
            f"{name} is {_short(theirs.get(name))}, not {_short(mine.get(name))}"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]


class LaunchGoals(_Strict):
    """The goals that a load test is held against; None is no goal."""

    throughput_rps: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    error_rate: float
    fallback_rate: float
    shadow_loss: float
    records_loss: float = 0.01
    machine_per_hour: float | None
    max_per_million: float | None

    @classmethod
    def of(cls, goals: Goals) -> "LaunchGoals":
        """Those of a rollout file."""
        latency, load, cost = goals.latency, goals.load, goals.cost
        return cls(
            throughput_rps=goals.throughput_rps,
            p50_ms=latency.p50_ms,
            p95_ms=latency.p95_ms,
            p99_ms=latency.p99_ms,
            error_rate=load.error_rate,
            fallback_rate=load.fallback_rate,
            shadow_loss=load.shadow_loss,
            records_loss=load.records_loss,
            machine_per_hour=cost.machine_per_hour if cost else None,
            max_per_million=cost.max_per_million if cost else None,
        )


class Latencies(_Strict):
    """How long callers waited, from the moment a request was due; None where there were too few for that percentile."""

    requests: int
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    max_ms: float | None = None


class Measured(_Strict):
    """What was measured after the warm-up.

    Attributes:
        offered_rps: predict requests that were due, a second; achieved_rps: those answered well and in time.
        error_rate: share of requests that were not; fallback_rate: share of those meant for the candidate that the primary
            answered; shadow_loss: share of rehearsals that were dropped, failed or late; records_loss: share of the rows
            whose records were given up, or not in the store a second after the test.
        cost_per_million: of predictions (rows), at the achieved rate, in the currency of the rollout file.
        latency: of all predict requests; variants: of those that each variant answered.
    """

    seconds: float
    offered_rps: float
    achieved_rps: float
    rows_per_request: float
    error_rate: float
    fallback_rate: float
    shadow_loss: float
    records_loss: float = 0.0
    cost_per_million: float | None
    latency: Latencies
    variants: dict[str, Latencies] = {}


class Finding(_Strict):
    """One goal held against what was measured."""

    goal: str
    measured: float | None
    limit: float
    met: bool
    says: str


class Record(_Strict):
    """One load test: what was tested, how, what came out, and the verdict.

    Attributes:
        at: when it ended, Unix seconds; rollout_file: `sha256:` and the digest of the file that was read.
        reasons: what failed, or why the test says nothing; empty for a pass.
        method: how it was made: shape, rate, seed, seconds, rows a request.
        generator: what made it, and how hard that was: processes, CPU share, how late it sent.
        service: what the service used meanwhile: CPU share of each process, memory.
    """

    schema_version: Literal[1] = 1
    at: float
    model: str
    verdict: LoadTestResult
    reasons: list[str]
    setup: Setup
    rollout_file: str | None
    goals: LaunchGoals
    measured: Measured
    findings: list[Finding]
    method: dict[str, Any] = {}
    generator: dict[str, Any] = {}
    service: dict[str, Any] = {}

    def summary(self) -> str:
        """One line for the audit log."""
        m = self.measured
        p99 = "-" if m.latency.p99_ms is None else f"{m.latency.p99_ms:.1f} ms"
        text = f"{self.verdict}: {m.achieved_rps:,.0f} of {m.offered_rps:,.0f} requests/s, p99 {p99}"
        return f"{text}; {'; '.join(self.reasons)}" if self.reasons else text


def held(goals: LaunchGoals, measured: Measured) -> list[Finding]:
    """Every goal held against what was measured, the whole and each variant's latency by itself."""
    found = []
    if goals.throughput_rps is not None:
        enough = goals.throughput_rps * (1 - THROUGHPUT_SLACK)
        says = f"{measured.achieved_rps:,.1f} requests/s were answered in time, the goal is {goals.throughput_rps:,.1f}"
        if measured.offered_rps < enough:
            says = f"only {measured.offered_rps:,.1f} requests/s were offered, the goal is {goals.throughput_rps:,.1f}"
        met = measured.achieved_rps >= enough
        found.append(
            Finding(
                goal="throughput_rps", measured=measured.achieved_rps, limit=goals.throughput_rps, met=met, says=says
            )
        )
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        limit = getattr(goals, name)
        if limit is not None:
            found.append(_latency(name, "", measured.latency, limit))
            found += [
                _latency(name, who, own, limit)
                for who, own in sorted(measured.variants.items())
                if getattr(own, name) is not None
            ]
    for name, what in _SHARES.items():
        value, limit = getattr(measured, name), getattr(goals, name)
        says = f"{value:.3%} {what}, {limit:.3%} are allowed"
        found.append(Finding(goal=name, measured=value, limit=limit, met=value <= limit, says=says))
    if goals.max_per_million is not None:
        cost = measured.cost_per_million
        says = f"a million predictions cost {'?' if cost is None else f'{cost:.4f}'}, {goals.max_per_million:g} is the most"
        met = cost is not None and cost <= goals.max_per_million
        found.append(Finding(goal="cost", measured=cost, limit=goals.max_per_million, met=met, says=says))
    return found


_SHARES = {
    "error_rate": "of the requests failed or were not answered in time",
    "fallback_rate": "of the candidate's requests fell back to the primary",
    "shadow_loss": "of the rehearsals were lost",
    "records_loss": "of the records were given up, or not stored a second after the test",
}


def _latency(name: str, who: str, own: Latencies, limit: float) -> Finding:
    value = getattr(own, name)
    percentile = name.removesuffix("_ms")
    whose = f"the {who}'s {percentile}" if who else f"{percentile}"
    says = f"{whose} is {'unknown' if value is None else f'{value:,.1f} ms'}, the goal is {limit:g} ms"
    goal = f"{who}.{name}" if who else name
    return Finding(goal=goal, measured=value, limit=limit, met=value is not None and value <= limit, says=says)


def shortcoming(record: Record, setup: Setup, goals: LaunchGoals) -> str | None:
    """Why a record does not open the gate for a setup and its goals, in words; None when it does."""
    if different := setup.differences(record.setup):
        return f"it was taken of something else: {'; '.join(different[:3])}{' and more' if len(different) > 3 else ''}"
    if record.goals != goals:
        names = [n for n, v in record.goals.model_dump().items() if v != getattr(goals, n)]
        return f"it was judged by other goals: {', '.join(names)}"
    if record.verdict != "pass":
        return f"it did not pass ({record.summary()})"
    if missed := [f.says for f in held(goals, record.measured) if not f.met]:
        return f"it says that it passed, but its numbers do not: {missed[0]}"
    return None


def steps_entered(policy: Policy, plan: Plan, order: Order, share: int | None) -> list[ShadowStep | CanaryStep]:
    """The steps that an order would start, or that a weight set by hand would do the work of."""
    canaries = [s for s in policy.steps if isinstance(s, CanaryStep)]
    if order in {Order.WEIGHT, Order.SHADOW}:
        reached = next((s.canary for s in canaries if s.canary >= (share or 0)), SHARE_ONE)
        return [s for s in canaries if plan.weight < s.canary <= reached and (share or 0) > plan.weight]
    if order not in {Order.PROMOTE, Order.PROMOTE_FULL} or plan.phase is Phase.SERVING:
        return []
    if plan.step >= 0:
        left = list(policy.steps[plan.step + 1 :])
    else:
        left = [s for s in policy.steps if not isinstance(s, CanaryStep) or s.canary > plan.weight]
        left = left[next((i for i, s in enumerate(left) if isinstance(s, CanaryStep)), len(left)) :]
    return [s for s in (left if order is Order.PROMOTE_FULL else left[:1]) if isinstance(s, ShadowStep | CanaryStep)]


def _flat(setup: Setup) -> Mapping[str, Any]:
    given = setup.model_dump()
    return {**given.pop("settings"), **given.pop("machine"), **given}


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 26 else text[:23] + "…"
