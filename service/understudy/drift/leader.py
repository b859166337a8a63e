"""What the worker that leads makes of everybody's counts: windows, alarms, events, metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from understudy.clock import Clock
from understudy.domain import DRIFT_STATE, Event, Variant
from understudy.drift import SLOT_S, WINDOW_S, WINDOW_SLOTS
from understudy.drift.alarms import AlarmState, Change, DriftReading, Limits, look
from understudy.drift.bins import Counts
from understudy.drift.sketch import Layout
from understudy.errors import NotAllowedNow, StoreError
from understudy.observability.metrics import Metrics
from understudy.settings import Settings
from understudy.store import Store

log = structlog.get_logger(__name__)

STATE = DRIFT_STATE
WRITE_LAG_S = 10.0
"""How far back in time of writing each reading of the counts goes: clocks of several machines may differ by this."""


class Lookout:
    """Looks at everybody's counts while this worker leads.

    Args:
        holder: names this process in the rollout's lease, as the controller's does.
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
        self._machine: AlarmState | None = None
        self._written: dict[int, dict[str, tuple[float, Counts]]] = {}
        self._slots: dict[int, Counts] = {}
        self._stood: dict[int, int] = {}  # rows by hour at the look before
        self._looked: dict[int, int] = {}  # rows by hour when it was looked at
        self._read_at = 0.0

    def look(self, revision: int = 0) -> list[Change]:
        """Add up, look at the hours that are over, keep and tell. Returns the alarms that went on or off.

        Raises:
            StoreError: nothing is told; the next look does it again.
            NotAllowedNow: another worker has taken the lead meanwhile, and tells.
        """
        if not self._layout.watched or not self._store.lead(self._holder, ttl_s=self._lease_s, now=self._clock.now()):
            self._forget()
            return []
        if self._machine is None:
            kept = self._store.load_state(STATE) or {}
            self._machine = AlarmState(self._layout.watched, self._limits, kept.get("machine"))
            self._looked = {int(slot): rows for slot, rows in kept.get("looked", {}).items()}
        changed, ready = self._read(), self._at_rest()
        if not changed and not ready:
            return []
        changes = self._step(self._machine, ready)
        events = [self._event(change, revision) for change in changes]
        try:
            self._store.save_state(STATE, self._state(self._machine), holder=self._holder, events=events)
        except (NotAllowedNow, StoreError):
            self._forget()  # whoever leads now goes on from what was kept before
            raise
        for change in changes:
            log.warning("drift" if change.on else "drift is over", reason=change.reason)
            self._metrics.events.labels(event="drift").inc()
        return changes

    def _read(self) -> bool:
        """Take in what was written since the last look; whether that was anything."""
        changed = set()
        since = self._read_at - WRITE_LAG_S
        for slot, writer, at, document in self._store.sketches(since=since):
            mine = self._written.setdefault(slot, {})
            if writer not in mine or mine[writer][0] != at:
                counts = self._layout.counts(document)
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
        """The hours to look at: a later one has begun, and nothing came since the look before."""
        rows = {slot: self._layout.rows(counts) for slot, counts in self._slots.items()}
        stood, self._stood = self._stood, rows
        return [
            slot
            for slot in sorted(rows)
            if stood.get(slot) == rows[slot] != self._looked.get(slot)
            and any(later in rows for later in range(slot + 1, slot + 1 + WINDOW_SLOTS))
        ]

    def _step(self, machine: AlarmState, ready: Sequence[int]) -> list[Change]:
        changes: list[Change] = []
        for slot in ready:
            self._looked[slot] = self._stood[slot]
            found = look(self._layout, self._slots, slot, self._limits)
            if found is not None and found.judged:
                changes += machine.step(slot, found.judged)
        return changes

    def _state(self, machine: AlarmState) -> dict[str, Any]:
        """What is kept: where the machine stands, and the newest window as it is shown."""
        newest = max(self._slots, key=lambda slot: (max(at for at, _ in self._written[slot].values()), slot))
        found = look(self._layout, self._slots, newest, self._limits)
        assert found is not None
        estimates = {v.value: self._layout.expected(found.counts, v) for v in Variant}
        alarms = machine.alarms()
        self._show(found.readings, alarms, found.counts)
        return {
            "machine": machine.state,
            "looked": self._looked,
            "window": {
                "seconds": WINDOW_S,
                "from": (newest - WINDOW_SLOTS + 1) * SLOT_S,
                "to": (newest + 1) * SLOT_S,
                "rows": self._layout.rows(found.counts),
                "not_whole": found.why_not,
            },
            "readings": [one.as_dict() | alarms.get(one.key, {"since": None, "reason": ""}) for one in found.readings],
            "estimates": {
                name: {"rows": e.rows, "accuracy": e.accuracy, "brier": e.brier} for name, e in estimates.items() if e
            },
            "alarms": [
                dict(zip(("variant", "feature"), key.split("/", 1), strict=True)) | told for key, told in alarms.items()
            ],
        }

    def _show(self, readings: Sequence[DriftReading], alarms: Mapping[str, Any], counts: Counts) -> None:
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


def limits_of(settings: Settings) -> Limits:
    """When alarms go on and off, as the settings say."""
    return Limits(settings.drift_min_rows, settings.drift_line_factor, settings.drift_looks)
