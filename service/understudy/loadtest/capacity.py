"""The highest rate that meets the goals: bracketed by doubling, closed in by halving, each step a short open-loop test.

A step passes when every goal but the throughput holds at its rate, and that rate was really answered. Where the generator gives out
before the service does, the search says so: what was found is then a lower bound.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from understudy.loadtest import gates
from understudy.loadtest.run import LoadTestOutcome
from understudy.rollout.loadtest import LaunchGoals, Record

PRECISION = 0.05
STEPS_MAX = 24
RETRIES = 2
"""Times that a step is taken again because something else was busy on the machine, in the whole search."""
UTILISATION = 0.7
"""Of its capacity, what a replica is planned to carry: bursts, a lost replica and a slow neighbour have to fit into the rest."""
RATE_MIN, RATE_MAX = 1.0, 1e6

Try = Callable[[float], LoadTestOutcome]
"""Take a short test at a rate, judged by the goals with that rate as its throughput."""


@dataclass(frozen=True)
class LoadStep:
    """One test of the search."""

    rate: float
    record: Record


@dataclass(frozen=True)
class Capacity:
    """What was found.

    Attributes:
        rate: the highest rate that passed, requests a second; 0 where none did.
        above: the lowest that did not; None where none was reached.
        precision: how far apart they are, as a share of the lower one.
        invalid: why the search could not go on: the rate is a lower bound then.
        bottleneck: what was at its limit when the goals were missed, and what to add.
    """

    rate: float
    above: float | None
    precision: float
    steps: list[LoadStep]
    bottleneck: str
    invalid: str = ""
    best: LoadTestOutcome | None = None

    def as_json(self) -> dict[str, Any]:
        """As JSON, without the records' details."""
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


def find(try_at: Try, start: float, *, precision: float = PRECISION) -> Capacity:
    """Search from `start` requests a second until the highest rate that passes is known to `precision`, or no test can say."""
    low, high, invalid = 0.0, math.inf, ""
    steps: list[LoadStep] = []
    best: LoadTestOutcome | None = None
    limit = ""
    rate, retries = start, RETRIES
    while len(steps) < STEPS_MAX and RATE_MIN <= rate <= RATE_MAX:
        outcome = try_at(rate)
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
    # What bounds it is the last rate that did not pass: by the service, or by the generator.
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
        return "none was reached"
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
    return "nothing was at its limit: what was waited for is no CPU (the store, a lock, the network)"


@dataclass(frozen=True)
class Need:
    """What a peak takes.

    Attributes:
        replicas: machines like the one that was tested, each carrying at most `UTILISATION` of its capacity.
        per_hour: what they cost, and per_million: of predictions at that peak; None without a machine's price.
    """

    peak: float
    replicas: int
    per_hour: float | None
    per_million: float | None


def need(capacity: Capacity, peak: float, goals: LaunchGoals, rows_per_request: float) -> Need | None:
    """Replicas and cost for a peak; None where no capacity is known."""
    if not capacity.rate:
        return None
    replicas = math.ceil(peak / (capacity.rate * UTILISATION) - 1e-9)
    price = goals.machine_per_hour
    per_hour = None if price is None else replicas * price
    per_million = None if per_hour is None else per_hour / (peak * rows_per_request * 3600) * 1e6
    return Need(peak, replicas, per_hour, per_million)


def seconds_for(rate: float, goals: LaunchGoals, least: float) -> float:
    """How long a step takes: long enough for the percentiles that the goals ask for."""
    share = 0.99 if goals.p99_ms is not None else 0.95
    return max(least, math.ceil(1.05 * gates.BEYOND_MIN / (1 - share) / rate))
