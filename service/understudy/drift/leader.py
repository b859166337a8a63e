"""Judges the counts of all processes in the leading process: windows, alarms, events and metrics."""

from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

import structlog

from understudy.clock import Clock
from understudy.documents import DriftAlarm, DriftEstimate, DriftFeature
from understudy.domain import DRIFT_STATE, Event, JsonObject, Variant
from understudy.drift import SLOT_S, WINDOW_S, WINDOW_SLOTS
from understudy.drift.alarms import (
    AlarmDocument,
    AlarmMarks,
    AlarmState,
    Change,
    DriftReading,
    Limits,
    look,
)
from understudy.drift.bins import Counts
from understudy.drift.sketch import CountsDocument, Layout
from understudy.errors import NotAllowedNow, StoreError
from understudy.observability.metrics import Metrics
from understudy.settings import Settings
from understudy.store import Store

log = structlog.get_logger(__name__)

STATE = DRIFT_STATE
WRITE_LAG_S = 10.0
"""Counts are read again this far back in time of writing, since the clocks of several machines may differ."""


class DriftState(TypedDict):
    """What the leader stores. `looked` is hour → number of rows when it was judged."""

    machine: AlarmMarks
    looked: dict[int, int]
    window: JsonObject
    readings: list[DriftFeature]
    estimates: dict[str, DriftEstimate]
    alarms: list[DriftAlarm]


class DriftLeader:
    """Judges the counts of all processes while this process leads.

    Args:
        holder: name of this process in the rollout's lease, the same as the controller's.
    """

    def __init__(
        self, layout: Layout, store: Store, metrics: Metrics, clock: Clock, holder: str, settings: Settings
    ) -> None:
        self._layout, self._store, self._metrics, self._clock = layout, store, metrics, clock
        self._holder = holder
        self._lease_s, self._slots_max, self._limits = (
            settings.lease_s,
            settings.drift_days_max * WINDOW_SLOTS,
            limits_of(settings),
        )
        self._forget()

    def _forget(self) -> None:
        self._alarms: AlarmState | None = None
        self._written: dict[int, dict[str, tuple[float, Counts]]] = {}
        self._slots: dict[int, Counts] = {}
        self._stood: dict[int, int] = {}  # hour → rows at the last look
        self._looked: dict[int, int] = {}  # hour → rows when it was judged
        self._read_at = 0.0

    def look(self, revision: int = 0) -> list[Change]:
        """Add up the counts, judge the hours that are over, and store the result. Returns the alarms that were raised or cleared.

        Raises:
            StoreError: nothing was stored; the next look tries again.
            NotAllowedNow: another process leads now, and will judge these hours.
        """
        if not self._layout.watched or not self._store.lead(self._holder, ttl_s=self._lease_s, now=self._clock.now()):
            self._forget()
            return []
        if self._alarms is None:
            kept = cast("DriftState | None", self._store.load_state(STATE))
            self._alarms = AlarmState(self._layout.watched, self._limits, kept["machine"] if kept else None)
            self._looked = {int(slot): rows for slot, rows in kept["looked"].items()} if kept else {}
        changed, ready = self._read(), self._at_rest()
        if not changed and not ready:
            return []
        changes = self._judge(self._alarms, ready)
        events = [self._event(change, revision) for change in changes]
        try:
            self._store.save_state(STATE, dict(self._state(self._alarms)), holder=self._holder, events=events)
        except (NotAllowedNow, StoreError):
            self._forget()  # the next leader continues from what was stored before
            raise
        for change in changes:
            log.warning("drift alarm raised" if change.on else "drift alarm cleared", reason=change.reason)
            self._metrics.events.labels(event="drift").inc()
        return changes

    def _read(self) -> bool:
        """Read the counts that were written since the last look. Returns whether there were any."""
        changed = set()
        since = self._read_at - WRITE_LAG_S
        for slot, writer, at, document in self._store.sketches(since=since):
            mine = self._written.setdefault(slot, {})
            if writer not in mine or mine[writer][0] != at:
                counts = self._layout.counts(cast("CountsDocument", document))
                if counts is not None:
                    mine[writer] = (at, counts)
                    changed.add(slot)
            self._read_at = max(self._read_at, at)
        for slot in changed:
            self._slots[slot] = sum(counts for _, counts in self._written[slot].values())  # type: ignore[assignment]
        last = {slot: max(at for at, _ in mine.values()) for slot, mine in self._written.items() if mine}
        for slot in sorted(last, key=lambda slot: (last[slot], slot))[: -self._slots_max]:
            for kept in (self._written, self._slots, self._stood, self._looked):
                kept.pop(slot, None)
        return bool(changed)

    def _at_rest(self) -> list[int]:
        """The hours to judge: a later hour has begun, and no rows came since the last look."""
        rows = {slot: self._layout.rows(counts) for slot, counts in self._slots.items()}
        stood, self._stood = self._stood, rows
        return [
            slot
            for slot in sorted(rows)
            if stood.get(slot) == rows[slot] != self._looked.get(slot)
            and any(later in rows for later in range(slot + 1, slot + 1 + WINDOW_SLOTS))
        ]

    def _judge(self, alarms: AlarmState, ready: Sequence[int]) -> list[Change]:
        changes: list[Change] = []
        for slot in ready:
            self._looked[slot] = self._stood[slot]
            hour = look(self._layout, self._slots, slot, self._limits)
            if hour is not None and hour.judged:
                changes += alarms.step(slot, hour.judged)
        return changes

    def _state(self, state: AlarmState) -> DriftState:
        """The document to store: the state of the alarms, and the newest window for display."""
        newest = max(self._slots, key=lambda slot: (max(at for at, _ in self._written[slot].values()), slot))
        hour = look(self._layout, self._slots, newest, self._limits)
        assert hour is not None
        estimates = {v.value: self._layout.expected(hour.counts, v) for v in Variant}
        alarms = state.alarms()
        self._show(hour.readings, alarms, hour.counts)
        return {
            "machine": state.state,
            "looked": self._looked,
            "window": {
                "seconds": WINDOW_S,
                "from": (newest - WINDOW_SLOTS + 1) * SLOT_S,
                "to": (newest + 1) * SLOT_S,
                "rows": self._layout.rows(hour.counts),
                "not_whole": hour.why_not,
            },
            "readings": [_feature(one, alarms.get(one.key)) for one in hour.readings],
            "estimates": {
                name: {"rows": e.rows, "accuracy": e.accuracy, "brier": e.brier} for name, e in estimates.items() if e
            },
            "alarms": [
                {"variant": key.partition("/")[0], "feature": key.partition("/")[2], **alarm}
                for key, alarm in alarms.items()
            ],
        }

    def _show(self, readings: Sequence[DriftReading], alarms: Mapping[str, AlarmDocument], counts: Counts) -> None:
        metrics = self._metrics
        for one in readings:
            labels = {"variant": one.variant.value, "feature": one.feature}
            metrics.feature_psi.labels(**labels).set(one.psi)
            metrics.feature_psi_line.labels(**labels).set(one.line)
            metrics.feature_missing.labels(**labels).set(one.missing)
            metrics.feature_outside.labels(**labels).set(one.outside)
            metrics.drift_alarm.labels(**labels).set(float(one.key in alarms))
        for variant in Variant:
            if (estimate := self._layout.expected(counts, variant)) is not None:
                for name in ("accuracy", "brier"):
                    metrics.expected.labels(variant=variant.value, figure=name).set(getattr(estimate, name))

    def _event(self, change: Change, revision: int) -> Event:
        reading = change.reading
        details = {
            "alarm": "on" if change.on else "off",
            "variant": reading.variant.value,
            "feature": reading.feature,
            "psi": round(reading.psi, 4),
            "line": round(reading.line, 4),
            "missing": round(reading.missing, 4),
            "outside": round(reading.outside, 4),
            "rows": reading.rows,
            "crossed": list(reading.crossed),
            "window_to": change.at,
        }
        return Event(self._clock.now(), "drift", "drift", change.reason, revision, details)


def _feature(reading: DriftReading, alarm: AlarmDocument | None) -> DriftFeature:
    since, reason = (alarm["since"], alarm["reason"]) if alarm else (None, "")
    return {**reading.as_dict(), "since": since, "reason": reason}


def limits_of(settings: Settings) -> Limits:
    """When alarms are raised and cleared, from the settings."""
    return Limits(settings.drift_min_rows, settings.drift_line_factor, settings.drift_looks)
