"""What the suites of the Store port share: builders, and the command line of the processes that they start."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.domain import (
    Attempt,
    Event,
    Fate,
    Label,
    LabelReport,
    Mode,
    Observation,
    Outcome,
    Phase,
    Plan,
    Status,
    Variant,
)
from understudy.store import Store

ROOT = Path(__file__).parents[2]
CHILD = (sys.executable, "-W", "error", "-m", "tests.contract.store_child")


def observation(name: str = "a", **changes: Any) -> Observation:
    fields: dict[str, Any] = {
        "prediction_id": name,
        "request_id": name,
        "at": 100.0,
        "revision": 1,
        "variant": Variant.PRIMARY,
        "mode": Mode.LIVE,
        "share": 500,
        "primary": Attempt(Status.OK, 1, 0.75, None, 0.001),
        "candidate": Attempt(Status.OK, 0, 0.25, None, 0.002),
    }
    return Observation(**fields | changes)


def report(name: str = "a", label: Label = 1, at: float = 160.0) -> LabelReport:
    return LabelReport(name, label, at)


def plan(weight: int = 0, **changes: Any) -> Plan:
    return Plan(**{"phase": Phase.SHADOW, "weight": weight, "shadow": 10_000, "salt": 7} | changes)


def event(kind: str = "started", **changes: Any) -> Event:
    return Event(**{"at": 50.0, "kind": kind, "actor": "ann", "reason": "because", "revision": 0} | changes)


def tally(outcome: Outcome) -> Mapping[str, float]:
    """One outcome counts once, and its delay and label are added up."""
    return {"joined": 1, "delay": outcome.delay, f"label/{outcome.label!r}": 1}


def names(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.observation.prediction_id for outcome in outcomes]


def stored(store: Store, *, limit: int = 1_000) -> list[str]:
    return [each.prediction_id for _, each, _ in store.outcomes(limit=limit)]


def receipt(store: Store, *reports: LabelReport, received_at: float = 200.0) -> tuple[int, int, int, int]:
    got = store.add_labels(reports, received_at=received_at)
    matched, duplicate, conflict, pending = (
        got.counts[each] for each in (Fate.MATCHED, Fate.DUPLICATE, Fate.CONFLICT, Fate.PENDING)
    )
    assert len(got.outcomes) == matched
    assert matched + duplicate + conflict + pending == len(reports)
    return matched, duplicate, conflict, pending


def tallied(store: Store) -> dict[str, float]:
    """The counters without those of what became of labels, which every store adds."""
    return {name: value for name, value in store.counters().items() if not name.startswith("label_fates/")}
