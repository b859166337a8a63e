"""Real flights as a service sees them, without a service: rows, observations, and the counts of each hour."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import prometheus_client

from models import build, data
from models.data import Flight
from understudy.domain import Observation, Variant
from understudy.drift.alarms import AlarmState, Change, Limits, look
from understudy.drift.bins import Counts
from understudy.drift.sketch import Layout
from understudy.drift.watch import DriftCounter, watched_by
from understudy.inference.cards import Card, read_card
from understudy.inference.decoding import Rows
from understudy.observability.metrics import Metrics
from understudy.settings import Settings
from understudy.store.memory import MemoryStore
from understudy.testing import ManualClock, observation

FOLDER = Path(build.__file__).parent


@cache
def cards() -> dict[Variant, Card]:
    build.build()
    return {
        Variant.PRIMARY: read_card(FOLDER / "flight_poc"),
        Variant.CANDIDATE: read_card(FOLDER / "flight_candidate"),
    }


@cache
def layout() -> Layout:
    return Layout(watched_by(cards(), 200))


@cache
def positions() -> dict[str, int]:
    return {spec.name: i for i, spec in enumerate(cards()[Variant.PRIMARY].inputs)}


def counted(parts: Sequence[Rows], observations: Sequence[Observation], **settings: Any) -> dict[int, Counts]:
    """What one worker counts of a batch, by hour."""
    store, metrics = MemoryStore("r", lambda outcome: {}), Metrics(prometheus_client.CollectorRegistry())
    settings = {"drift_days_max": 40, "drift_batch_max_rows": 10**6} | settings
    gatherer = DriftCounter(layout(), positions(), store, metrics, ManualClock(), "w", Settings(**settings))
    gatherer.add(parts, observations)
    gatherer._count_waiting()
    return dict(gatherer._slots)


@cache
def year() -> data.Frame:
    return data.load()


@cache
def month(number: int) -> list[Flight]:
    return list(data.flights(data.month_of(year(), number)))


def told(flights: Sequence[Flight]) -> tuple[list[Rows], list[Observation]]:
    """The rows of some flights, one a request, and what a service would have recorded; everybody answers 0.2."""
    rows: list[Rows] = [[tuple(flight.row[name] for name in positions())] for flight in flights]
    return rows, [observation(f"p-{i}", primary=0.2, candidate=0.2, at=f.scheduled_at) for i, f in enumerate(flights)]


@dataclass(frozen=True)
class Alarm:
    """One change: how many flights had been seen, and how many hours had passed since the first."""

    flights: int
    hours: float
    change: Change

    @property
    def what(self) -> str:
        return self.change.reading.key


def alarms(flights: Sequence[Flight], limits: Limits | None = None) -> list[Alarm]:
    """The features' alarms as the machine gives them, hour by hour. Predictions are left out: nobody predicts here."""
    limits = limits or Limits()
    slots = counted(*told(flights))
    machine, seen, found = AlarmState(layout().watched, limits), 0, list[Alarm]()
    for slot in sorted(slots):
        seen += layout().rows(slots[slot])
        looked = look(layout(), slots, slot, limits)
        if looked is not None:
            readings = [r for r in looked.judged if "(" not in r.feature]
            found += [Alarm(seen, slot + 1 - min(slots), change) for change in machine.step(slot, readings)]
    return found
