"""The record of a load test: its setup, goals and results, and when it fulfils a requirement. Pure.

`understudy loadtest` makes records. The service keeps them in its audit log, and a step with `require: [loadtest]` may start when
one of them passed for exactly what is served: the same models, code, machine, device, settings and goals. The service checks the
numbers itself; a record that merely claims to have passed does not count.
"""

from collections.abc import Mapping
from typing import Literal

import pydantic

from understudy.domain import SHARE_ONE, JsonObject, Phase, Plan
from understudy.rollout.goals import Goals
from understudy.rollout.phases import Order
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep

LoadTestResult = Literal["pass", "fail", "invalid"]
LOADTEST = "loadtest"
"""Its name in a step's `require`, and the kind of its event in the audit log."""
COMMAND = "understudy loadtest"
THROUGHPUT_SLACK = 0.01
"""The throughput may be this much lower, since answers may be under way at the end, and arrivals are random."""


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoadTestMachine(_Strict):
    """Where the service runs.

    Attributes:
        cpu: name of the CPU model.
        cores: CPUs that the process may use, limited by its quota.
        memory_gib: memory that it may use.
    """

    cpu: str
    cores: float
    memory_gib: float


class Setup(_Strict):
    """What was tested. Two setups are the same if all fields are equal.

    Attributes:
        primary: digest of the primary.
        candidate: digest of the candidate, or None.
        device: the device that runs the models.
        code: the service's version and the digest of its source.
        machine: where the service runs.
        settings: every setting of the service that affects its speed.
    """

    primary: str
    candidate: str | None
    device: str
    code: str
    machine: LoadTestMachine
    settings: dict[str, str | float | int | bool | None]

    def differences(self, other: "Setup") -> list[str]:
        """Sentences on how `other` differs; empty if it is the same setup."""
        mine, theirs = _flat(self), _flat(other)
        return [
            f"{name} is {_short(theirs.get(name))}, not {_short(mine.get(name))}"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]


class LaunchGoals(_Strict):
    """The goals of a load test. None means no goal."""

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
        """The goals of a rollout file."""
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
    """Latency from the moment at which a request was due; None if there were too few requests for a percentile."""

    requests: int
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    max_ms: float | None = None


class Measured(_Strict):
    """The measurements after the warm-up.

    Attributes:
        seconds: duration.
        offered_rps: predict requests per second that were due.
        achieved_rps: those answered successfully and in time.
        rows_per_request: mean number of rows in a request.
        error_rate: share of requests that failed or were late.
        fallback_rate: share of the candidate's requests that the primary answered.
        shadow_loss: share of rehearsals that were dropped, failed or late.
        records_loss: share of the rows whose records were lost, or not in the store a second after the test.
        cost_per_million: cost of a million predictions (rows) at the achieved rate, in the currency of the rollout file.
        latency: latency of all predict requests.
        variants: latency of the requests that each variant answered.
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
    """One goal compared with the measurement. `says` is the result in a sentence."""

    goal: str
    measured: float | None
    limit: float
    met: bool
    says: str


class Record(_Strict):
    """One load test: setup, method, measurements and verdict.

    Attributes:
        at: when it ended, Unix seconds.
        model: name of the service.
        verdict: "invalid" if the test cannot be trusted.
        reasons: what failed, or why the test is invalid; empty for a pass.
        setup: what was tested.
        rollout_file: `sha256:` and the digest of the rollout file.
        goals: the goals that it was judged by.
        measured: the measurements.
        findings: each goal compared with its measurement.
        method: shape, rate, seed, duration and rows per request.
        generator: processes and CPU share of the load generator, and how late it sent.
        service: CPU share and memory of the service's processes meanwhile.
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
    method: JsonObject = {}
    generator: JsonObject = {}
    service: JsonObject = {}

    def summary(self) -> str:
        """One line for the audit log."""
        m = self.measured
        p99 = "-" if m.latency.p99_ms is None else f"{m.latency.p99_ms:.1f} ms"
        text = f"{self.verdict}: {m.achieved_rps:,.0f} of {m.offered_rps:,.0f} requests/s, p99 {p99}"
        return f"{text}; {'; '.join(self.reasons)}" if self.reasons else text


def held(goals: LaunchGoals, measured: Measured) -> list[Finding]:
    """Compares every goal with the measurements; the latency of all requests and of each variant by itself."""
    findings = []
    if goals.throughput_rps is not None:
        enough = goals.throughput_rps * (1 - THROUGHPUT_SLACK)
        says = f"{measured.achieved_rps:,.1f} requests/s were answered in time, the goal is {goals.throughput_rps:,.1f}"
        if measured.offered_rps < enough:
            says = f"only {measured.offered_rps:,.1f} requests/s were offered, the goal is {goals.throughput_rps:,.1f}"
        met = measured.achieved_rps >= enough
        findings.append(
            Finding(
                goal="throughput_rps", measured=measured.achieved_rps, limit=goals.throughput_rps, met=met, says=says
            )
        )
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        limit = getattr(goals, name)
        if limit is not None:
            findings.append(_latency(name, "", measured.latency, limit))
            findings += [
                _latency(name, who, own, limit)
                for who, own in sorted(measured.variants.items())
                if getattr(own, name) is not None
            ]
    for name, what in _SHARES.items():
        value, limit = getattr(measured, name), getattr(goals, name)
        says = f"{value:.3%} {what}, {limit:.3%} are allowed"
        findings.append(Finding(goal=name, measured=value, limit=limit, met=value <= limit, says=says))
    if goals.max_per_million is not None:
        cost = measured.cost_per_million
        says = f"a million predictions cost {'?' if cost is None else f'{cost:.4f}'}, {goals.max_per_million:g} is the most"
        met = cost is not None and cost <= goals.max_per_million
        findings.append(Finding(goal="cost", measured=cost, limit=goals.max_per_million, met=met, says=says))
    return findings


_SHARES = {
    "error_rate": "of the requests failed or were not answered in time",
    "fallback_rate": "of the candidate's requests fell back to the primary",
    "shadow_loss": "of the rehearsals were lost",
    "records_loss": "of the records were lost, or not stored a second after the test",
}


def _latency(name: str, who: str, own: Latencies, limit: float) -> Finding:
    value = getattr(own, name)
    percentile = name.removesuffix("_ms")
    whose = f"the {who}'s {percentile}" if who else f"{percentile}"
    says = f"{whose} is {'unknown' if value is None else f'{value:,.1f} ms'}, the goal is {limit:g} ms"
    goal = f"{who}.{name}" if who else name
    return Finding(goal=goal, measured=value, limit=limit, met=value is not None and value <= limit, says=says)


def shortcoming(record: Record, setup: Setup, goals: LaunchGoals) -> str | None:
    """Why a record does not fulfil the requirement for a setup and its goals, in words; None if it does."""
    if different := setup.differences(record.setup):
        return f"it tested something else: {'; '.join(different[:3])}{' and more' if len(different) > 3 else ''}"
    if record.goals != goals:
        names = [n for n, v in record.goals.model_dump().items() if v != getattr(goals, n)]
        return f"it was judged by other goals: {', '.join(names)}"
    if record.verdict != "pass":
        return f"it did not pass ({record.summary()})"
    if missed := [f.says for f in held(goals, record.measured) if not f.met]:
        return f"it claims to have passed, but its numbers do not meet the goals: {missed[0]}"
    return None


def steps_entered(policy: Policy, plan: Plan, order: Order, share: int | None) -> list[ShadowStep | CanaryStep]:
    """The steps that an order would start, or that a weight set by hand would replace."""
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


def _flat(setup: Setup) -> Mapping[str, object]:
    fields = setup.model_dump()
    return {**fields.pop("settings"), **fields.pop("machine"), **fields}


def _short(value: object) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 26 else text[:23] + "…"
