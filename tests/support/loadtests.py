"""Records of load tests."""

from typing import Any

from tests.unit.rollout.world import policy
from understudy.domain import Event
from understudy.rollout.loadtest import (
    LOADTEST,
    LaunchGoals,
    LoadTestMachine,
    Record,
    Setup,
)
from understudy.rollout.policy import Policy

GATED = [{"shadow": 100}, {"canary": 5}, {"canary": 50, "require": ["loadtest"]}, "promote"]


SETUP = Setup(
    primary="sha256:p",
    candidate="sha256:c",
    device="cpu",
    code="1+ab",
    settings={"workers": 1, "threads": 1},
    machine=LoadTestMachine(cpu="x", cores=2, memory_gib=24),
)


def gated(**changes: Any) -> Policy:
    return policy(GATED, throughput_rps=100, cost={"machine_per_hour": 1, "max_per_million": 10}, **changes)


GOALS = LaunchGoals.of(gated().goals)


GOOD: dict[str, Any] = {
    "seconds": 30,
    "offered_rps": 100,
    "achieved_rps": 99.5,
    "rows_per_request": 2,
    "error_rate": 0,
    "fallback_rate": 0,
    "shadow_loss": 0,
    "cost_per_million": 1.4,
    "latency": {"requests": 3000, "p50_ms": 2, "p95_ms": 5, "p99_ms": 9},
    "variants": {"candidate": {"requests": 1500, "p50_ms": 2, "p95_ms": 6, "p99_ms": 12}},
}


def record(verdict: str = "pass", *, setup: Setup = SETUP, goals: LaunchGoals = GOALS, **measured: Any) -> Record:
    return Record.model_validate(
        {
            "at": 1.0,
            "model": "m",
            "verdict": verdict,
            "reasons": [] if verdict == "pass" else ["because"],
            "setup": setup.model_dump(),
            "rollout_file": None,
            "goals": goals.model_dump(),
            "measured": GOOD | measured,
            "findings": [],
        }
    )


def filed(store: Any, test: Record) -> int:
    return int(store.append_event(Event(1.0, LOADTEST, "olga", test.summary(), 1, test.model_dump(mode="json"))).id)


def other(**changes: Any) -> Setup:
    return SETUP.model_copy(update=changes)
