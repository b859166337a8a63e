"""Searches for the highest rate that meets the goals: doubles the rate, then bisects, with a short open-loop test per step.

A step passes if every goal is met at its rate and all requests of that rate were answered. If the generator reaches its limit
before the service does, the result is a lower bound, and says so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from understudy.domain import JsonObject
from understudy.loadtest import gates
from understudy.loadtest.run import LoadTestOutcome
from understudy.rollout.loadtest import LaunchGoals, Record

PRECISION = 0.05
STEPS_MAX = 24
RETRIES = 2
"""How often, in the whole search, a step is repeated because another program used the machine."""
UTILISATION = 0.7
"""The share of its capacity that a replica is planned for. The rest is for bursts, a lost replica and slow neighbours."""
RATE_MIN, RATE_MAX = 1.0, 1e6

RateProbe: TypeAlias = Callable[[float], LoadTestOutcome]
"""Runs a short load test at a rate, judged by the goals with that rate as the throughput."""


@dataclass(frozen=True)
class LoadStep:
    """One load test of the search."""

    rate: float
    record: Record


@dataclass(frozen=True)
class Capacity:
    """The result of a search.

    Attributes:
        rate: the highest rate that passed, in requests per second; 0 if none did.
        above: the lowest rate that did not pass; None if none was reached.
        precision: the distance between the two, as a share of the lower one.
        invalid: why the search ended early; the rate is then a lower bound.
        bottleneck: what was at its limit when the goals were missed, and what to add.
        best: the load test at `rate`.
    """

    rate: float
    above: float | None
    precision: float
    steps: list[LoadStep]
    bottleneck: str
    invalid: str = ""
    best: LoadTestOutcome | None = None

    def as_json(self) -> JsonObject:
        """As JSON, without the details of the records."""
        steps = [
            {
                "rate": s.rate,
                "verdict": s.record.verdict,
                "p99_ms": s.record.measured.latency.p99_ms,
                "reasons": s.record.reasons[:2],
            }
            for s in self.steps
        ]
        return {
            "requests_per_second": self.rate,
            "above": self.above,
            "precision": self.precision,
            "invalid": self.invalid,
            "bottleneck": self.bottleneck,
            "steps": steps,
        }


def find(probe: RateProbe, start: float, *, precision: float = PRECISION) -> Capacity:
    """Search from `start` requests per second until the capacity is known to `precision`, or a test is invalid."""
    low, high, invalid = 0.0, math.inf, ""
    steps: list[LoadStep] = []
    best: LoadTestOutcome | None = None
    limit = ""
    rate, retries = start, RETRIES
    while len(steps) < STEPS_MAX and RATE_MIN <= rate <= RATE_MAX:
        outcome = probe(rate)
        record = outcome.record
        steps.append(LoadStep(rate, record))
        if record.verdict == "pass":
            low, best = rate, outcome
        elif record.verdict == "fail":
            high, limit = rate, next((r for r in record.reasons if "used" in r), "")
        elif _generators(record):
            invalid = record.reasons[-1]
            high = rate
        elif retries:
            retries -= 1
            continue
        else:
            return Capacity(low, _finite(high), _between(low, high), steps, "", "; ".join(record.reasons), best)
        if low and high < math.inf and high / low <= 1 + precision:
            break
        rate = low * 2 if high == math.inf else (math.sqrt(low * high) if low else high / 2)
    # The last rate that did not pass is the bound: the service's, or the generator's.
    bounded_by_generator = any(s.rate == high and s.record.verdict == "invalid" for s in steps)
    return Capacity(
        low,
        _finite(high),
        _between(low, high),
        steps,
        _bottleneck(limit, steps),
        invalid if bounded_by_generator else "",
        best,
    )


def _generators(record: Record) -> bool:
    return (
        len(record.reasons) == 1
        and record.reasons[0].startswith("the generator was the limit")
        and "something else" not in record.reasons[0]
    )


def _finite(rate: float) -> float | None:
    return rate if math.isfinite(rate) else None


def _between(low: float, high: float) -> float:
    return (high - low) / low if low and math.isfinite(high) else 1.0


def _bottleneck(limit: str, steps: list[LoadStep]) -> str:
    """What was at its limit when the goals were missed, and what to add."""
    if not any(step.record.verdict == "fail" for step in steps):
        return "no limit was reached"
    if "interpreter" in limit:
        who = limit.split("`")[1] if "`" in limit else ""
        add = (
            "more workers (`workers` in the rollout file), if there are cores"
            if who.startswith("understudy")
            else "a lighter model"
        )
        return f"{limit}: add {add}, or replicas"
    if limit:
        return f"{limit}: the machine's cores; add cores or replicas"
    return "no CPU was at its limit: requests waited for something else (the store, a lock, the network)"


@dataclass(frozen=True)
class Need:
    """The replicas that a peak needs, and what they cost.

    Attributes:
        peak: requests per second.
        replicas: machines like the tested one, each at most at `UTILISATION` of its capacity.
        per_hour: their cost per hour; per_million: per million predictions at the peak. None without a machine's price.
    """

    peak: float
    replicas: int
    per_hour: float | None
    per_million: float | None


def need(capacity: Capacity, peak: float, goals: LaunchGoals, rows_per_request: float) -> Need | None:
    """Replicas and cost for a peak; None if the capacity is unknown."""
    if not capacity.rate:
        return None
    replicas = math.ceil(peak / (capacity.rate * UTILISATION) - 1e-9)
    price = goals.machine_per_hour
    per_hour = None if price is None else replicas * price
    per_million = None if per_hour is None else per_hour / (peak * rows_per_request * 3600) * 1e6
    return Need(peak, replicas, per_hour, per_million)


def seconds_for(rate: float, goals: LaunchGoals, least: float) -> float:
    """How long a step must run so that the percentiles of the goals can be measured."""
    share = 0.99 if goals.p99_ms is not None else 0.95
    return max(least, math.ceil(1.05 * gates.BEYOND_MIN / (1 - share) / rate))
