"""Counts the rows that one process records, and writes the counts to the store."""

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import structlog

from understudy.clock import Clock
from understudy.domain import Mode, Observation, Variant
from understudy.drift import SLOT_S, WINDOW_SLOTS
from understudy.drift.bins import Column, Counts
from understudy.drift.sketch import PREDICTION, CountsDocument, Layout, Watched, watch
from understudy.errors import StoreError
from understudy.inference.cards import Card
from understudy.inference.columns import joined
from understudy.inference.decoding import Columns, Field, Rows
from understudy.inference.profile import NumericProfile
from understudy.observability.metrics import Metrics
from understudy.settings import Settings
from understudy.store import SketchStore

log = structlog.get_logger(__name__)

REFERENCE_ROWS = 10_000
"""Number of rows assumed for a profile whose card does not say."""
WAITING_ROWS = 1_024
"""Number of rows that are counted together. A flush counts the rows that wait."""
HELD_SLOTS = 48
"""Number of hours that a process keeps adding to. If there are more, it starts new counts under another writer's name."""


def watched_by(cards: Mapping[Variant, Card], features_max: int) -> list[Watched]:
    """The inputs and predictions of each variant that have a profile on its card."""
    watched = []
    for variant, card in cards.items():
        rows = card.profiled_rows or REFERENCE_ROWS
        plain = [spec for spec in card.inputs if all(size == 1 for size in spec.row_shape)]
        profiles = [(spec.name, spec.profile) for spec in plain if spec.profile is not None][:features_max]
        if card.predictions is not None:
            profiles.append((PREDICTION, card.predictions))
        watched += [watch(variant, name, profile, rows) for name, profile in profiles]
    return watched


class DriftCounter:
    """Counts the rows that one process records."""

    def __init__(
        self,
        layout: Layout,
        positions: Mapping[str, int],
        store: SketchStore,
        metrics: Metrics,
        clock: Clock,
        writer: str,
        settings: Settings,
    ) -> None:
        self._layout, self._store, self._metrics, self._clock = layout, store, metrics, clock
        self._writer, self._slots_max = writer, settings.drift_days_max * WINDOW_SLOTS
        self._batch_max = settings.drift_batch_max_rows
        self._columns = columns_of(layout.watched, positions)
        self._lock = threading.Lock()
        self._waiting: list[tuple[Sequence[Rows], Sequence[Observation]]] = []
        self._waiting_rows = 0
        self._slots: dict[int, Counts] = {}
        self._changed: set[int] = set()
        self._generation = 0

    def add(self, parts: Sequence[Rows], observations: Sequence[Observation]) -> None:
        """Count a batch of recorded rows. Runs in the recorder's thread; an error here does not stop the recording.

        Args:
            parts: the rows of each request.
            observations: their observations, in the same order.
        """
        if not self._layout.watched:
            return
        with self._lock:
            self._waiting.append((parts, observations))
            self._waiting_rows += len(observations)
            enough = self._waiting_rows >= WAITING_ROWS
        if enough:  # counting many rows together costs little more than counting few
            self._count_waiting()

    def _count_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        if not waiting:
            return
        parts = [part for some, _ in waiting for part in some]
        observations = [one for _, some in waiting for one in some]
        try:
            counted = self._count(parts, observations)
        except Exception:
            log.exception(
                "rows could not be counted for drift because of a bug: please report it", rows=len(observations)
            )
            self._metrics.drift_uncounted.inc(len(observations))
            return
        with self._lock:
            for slot, counts in counted:
                if slot not in self._slots and len(self._slots) >= self._slots_max:
                    self._metrics.drift_uncounted.inc(self._layout.rows(counts))
                    continue
                held = self._slots.get(slot)
                self._slots[slot] = counts if held is None else held + counts
                self._changed.add(slot)

    def _count(self, parts: Sequence[Rows], observations: Sequence[Observation]) -> list[tuple[int, Counts]]:
        """The counts by hour. Of many rows an even sample is counted, with weights. Pinned requests and load tests are left out."""
        hours: dict[int, list[int]] = {}
        for i, one in enumerate(observations):
            if one.mode not in {Mode.PINNED, Mode.LOAD}:
                hours.setdefault(int(one.at // SLOT_S), []).append(i)
        chosen = {hour: every[:: -(-len(every) // self._batch_max)] for hour, every in hours.items()}
        columns = self._built(parts, np.array([i for some in chosen.values() for i in some], dtype=np.intp))
        counted, start = [], 0
        for hour, some in chosen.items():
            end = start + len(some)
            mine = {name: values[start:end] for name, values in columns.items()}
            weight = len(hours[hour]) / len(some)
            counted.append((hour, self._layout.count(mine, [observations[i] for i in some], weight)))
            start = end
        return counted

    def _built(self, parts: Sequence[Rows], wanted: npt.NDArray[np.intp]) -> Mapping[str, Column]:
        """The columns of the rows at the indices `wanted`, in that order."""
        if not wanted.size:
            return {}
        if all(isinstance(part, list) for part in parts):
            rows = [row for part in parts for row in part]  # type: ignore[union-attr]
            return self._columns.build([rows[i] for i in wanted])
        return {name: values[wanted] for name, values in self._columns.build(joined(parts)).items()}

    def flush(self) -> None:
        """Write what has changed to the store.

        Raises:
            StoreError: nothing is lost; the next flush writes it.
        """
        self._count_waiting()
        with self._lock:
            changed, self._changed = self._changed, set()
            documents = {slot: self._layout.document(self._slots[slot]) for slot in changed}
            writer = f"{self._writer}.{self._generation}"
        if not documents:
            return
        try:
            self._store.save_sketches(documents, writer=writer, now=self._clock.now(), slots_max=self._slots_max)
        except StoreError:
            with self._lock:
                self._changed |= changed
            raise
        with self._lock:
            if len(self._slots) > HELD_SLOTS:
                # Counts of all writers are added up, so counts that are not written yet may continue under another name.
                self._slots = {slot: self._slots[slot] - self._layout_counts(documents, slot) for slot in self._changed}
                self._generation += 1

    def _layout_counts(self, documents: Mapping[int, CountsDocument], slot: int) -> Counts | float:
        written = self._layout.counts(documents[slot]) if slot in documents else None
        return 0.0 if written is None else written


def columns_of(watched: Sequence[Watched], positions: Mapping[str, int]) -> Columns:
    """Reads the watched features from rows, numbers as float32. Any value may be missing."""
    kinds = {w.feature: isinstance(w.profile, NumericProfile) for w in watched if w.feature != PREDICTION}
    fields = [
        Field(name, "float32" if number else "string", nullable=True, required=False) for name, number in kinds.items()
    ]
    return Columns(fields, positions)
