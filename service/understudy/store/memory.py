"""A store in dictionaries, for tests and experiments. Nothing survives its process."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

from typing_extensions import override

from understudy.domain import Event, Fate, JsonObject, LabelReceipt, LabelReport, Observation, Outcome, Plan
from understudy.errors import NotAllowedNow, StoreError
from understudy.store import codec, label_rules
from understudy.store.port import LEASE_AHEAD_MAX_S, Pruned, Retention, RolloutRecord, Store, Tally, WaitingLabels


@dataclass(slots=True)
class _Kept:
    """A stored label: the columns of `labels`."""

    report: LabelReport
    received_at: float
    receipt: int
    at_before: float = 0.0
    corrected: int | None = None

    def standing(self) -> label_rules.Standing:
        return label_rules.Standing(self.report, self.corrected is not None)

    def with_time(self, at: float) -> LabelReport:
        """The label with another time. As in the database, a time other than that of receipt counts as reported."""
        return replace(self.report, at=at, timed=at != self.received_at)


class MemoryStore(Store):
    """A store in memory.

    Attributes:
        rollout: the id of the rollout.
    """

    def __init__(self, rollout: str, tally: Tally) -> None:
        self.rollout = rollout
        self._tally = tally
        self._lock = threading.Lock()
        self._plan_saved = threading.Condition(self._lock)
        self._closed = False
        self._plan: Plan | None = None
        self._events: list[Event] = []
        self._stored = 0
        self._observations: dict[int, Observation] = {}  # by sequence number, in its order
        self._seqs: dict[str, int] = {}
        self._labels: dict[str, _Kept] = {}
        self._receipts = 0
        self._conflicts: list[tuple[LabelReport, float]] = []
        self._batches: dict[str, Sequence[Fate]] = {}  # of labels, by batch_id
        self._counters: dict[str, float] = {}
        self._lease = ("", 0.0)
        self._states: dict[str, str] = {}
        self._identity: str | None = None
        self._pruned: Pruned | None = None
        self._sketches: dict[tuple[int, str], tuple[float, str]] = {}

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise StoreError("memory: the store is closed")
            yield

    @override
    def load_plan(self) -> Plan | None:
        with self._exclusive():
            return self._plan

    @override
    def save_plan(self, plan: Plan, event: Event, *, expected_revision: int | None = None) -> Plan:
        with self._exclusive():
            revision = 0 if self._plan is None else self._plan.revision
            if expected_revision is not None and expected_revision != revision:
                raise NotAllowedNow(codec.moved_on(expected_revision, revision))
            kept = replace(plan, revision=revision + 1)
            self._append(replace(event, revision=revision + 1))
            self._plan = kept
            self._plan_saved.notify_all()
            return kept

    @override
    def await_plan(self, timeout_s: float) -> bool:
        with self._exclusive():
            return self._plan_saved.wait(timeout_s)

    @override
    def append_event(self, event: Event) -> Event:
        with self._exclusive():
            return self._append(event)

    def _append(self, event: Event) -> Event:
        # Through JSON, so that the details cannot be changed afterwards and come back as from a database.
        details = codec.from_json(codec.to_json(dict(event.details)))
        self._events.append(replace(event, id=len(self._events) + 1, details=details))
        return self._events[-1]

    @override
    def events(self, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        with self._exclusive():
            return self._events[max(after, 0) :][: max(limit, 0)]

    @override
    def add_observations(
        self, observations: Sequence[Observation], counts: Mapping[str, float] | None = None
    ) -> Sequence[Outcome]:
        with self._exclusive():
            fresh: dict[str, Observation] = {}
            for each in observations:
                if each.prediction_id not in self._seqs:
                    fresh.setdefault(each.prediction_id, codec.kept(each))
            if observations and not fresh:
                return []  # the batch was stored before
            waited = [self._outcome(each) for own, each in fresh.items() if own in self._labels]
            sums = label_rules.total(self._tally, waited, [*(counts or {}).items(), *label_rules.joined(waited)])
            for own, each in fresh.items():
                self._stored += 1
                self._observations[self._stored] = each
                self._seqs[own] = self._stored
            self._add(sums)
            return waited

    @override
    def add_labels(
        self, reports: Iterable[LabelReport], *, received_at: float, batch_id: str | None = None, again: bool = False
    ) -> LabelReceipt:
        """These labels are lost with the process."""
        with self._exclusive():
            if batch_id in self._batches:
                if again:
                    return LabelReceipt(self._batches[batch_id], repeated=True)
                raise StoreError(label_rules.stored_before(batch_id))
            reports = label_rules.received(reports, received_at)
            asked = {report.prediction_id for report in reports} & self._labels.keys()
            batch = label_rules.sort_reports(reports, {own: self._labels[own].standing() for own in asked})
            matched = [
                label_rules.outcome(self._observations[self._seqs[own]], report)
                for own, report in batch.fresh.items()
                if own in self._seqs
            ]
            receipt = batch.receipt(matched)
            self._add(label_rules.total(self._tally, matched, label_rules.fates(receipt)))
            self._receipts += bool(reports)
            self._labels.update(
                (own, _Kept(report, received_at, self._receipts)) for own, report in batch.fresh.items()
            )
            for report in batch.corrected:
                kept = self._labels[report.prediction_id]
                kept.at_before, kept.corrected = kept.report.at, self._receipts
                kept.report = kept.with_time(report.at)
            self._conflicts.extend((report, received_at) for report in batch.conflicts)
            if batch_id is not None:
                self._batches[batch_id] = receipt.fates
                for old in list(self._batches)[: -label_rules.BATCHES_KEPT]:
                    del self._batches[old]
            return receipt

    @override
    def join_pending(self) -> Sequence[Outcome]:
        """There are none: with one lock, a label and its observation cannot miss each other."""
        with self._exclusive():
            return []

    @override
    def waiting_labels(self, *, received_before: float) -> WaitingLabels:
        with self._exclusive():
            received = [kept.received_at for own, kept in self._labels.items() if own not in self._seqs]
            return WaitingLabels(
                len(received), sum(at < received_before for at in received), min(received, default=None)
            )

    @override
    def decision(self, revision: int) -> Event | None:
        with self._exclusive():
            return next((event for event in self._events if event.revision == revision), None)

    @override
    def outcomes(
        self, *, after: int = 0, limit: int = 1000, known_by: int | None = None
    ) -> Sequence[tuple[int, Observation, LabelReport | None]]:
        with self._exclusive():
            first = next(iter(self._observations), self._stored + 1)
            later = (seq for seq in range(max(after + 1, first), self._stored + 1) if seq in self._observations)
            found = [(seq, self._observations[seq]) for seq in islice(later, max(limit, 0))]
            return [(seq, each, self._known(each.prediction_id, known_by)) for seq, each in found]

    def _known(self, prediction_id: str, known_by: int | None) -> LabelReport | None:
        kept = self._labels.get(prediction_id)
        if kept is None or (known_by is not None and kept.receipt > known_by):
            return None
        if known_by is not None and kept.corrected is not None and kept.corrected > known_by:
            return kept.with_time(kept.at_before)
        return kept.report

    @override
    def receipts(self) -> int:
        with self._exclusive():
            return self._receipts

    @override
    def counters(self) -> Mapping[str, float]:
        with self._exclusive():
            return dict(self._counters)

    @override
    def lead(self, holder: str, *, ttl_s: float, now: float) -> bool:
        with self._exclusive():
            current, expires_at = self._lease
            if current not in {"", holder} and now < expires_at <= now + ttl_s + LEASE_AHEAD_MAX_S:
                return False
            self._lease = (holder, now + ttl_s)
            return True

    @override
    def load_state(self, name: str) -> JsonObject | None:
        with self._exclusive():
            text = self._states.get(name)
            return None if text is None else codec.from_json(text)

    @override
    def save_state(self, name: str, state: Mapping[str, object], *, holder: str, events: Sequence[Event] = ()) -> None:
        with self._exclusive():
            if self._lease[0] != holder:
                raise NotAllowedNow(f"{holder} no longer leads this rollout")
            self._states[name] = codec.to_json(dict(state))
            for event in events:
                self._append(event)

    @override
    def save_sketches(
        self, sketches: Mapping[int, Mapping[str, object]], *, writer: str, now: float, slots_max: int
    ) -> None:
        with self._exclusive():
            for slot, document in sketches.items():
                self._sketches[slot, writer] = (now, codec.to_json(dict(document)))
            written: dict[int, float] = {}
            for (slot, _), (at, _) in self._sketches.items():
                written[slot] = max(at, written.get(slot, at))
            stay = set(sorted(written, key=lambda slot: (written[slot], slot))[-slots_max:])
            self._sketches = {key: kept for key, kept in self._sketches.items() if key[0] in stay}

    @override
    def sketches(self, *, since: float = 0.0) -> Sequence[tuple[int, str, float, JsonObject]]:
        with self._exclusive():
            found = sorted((*key, *kept) for key, kept in self._sketches.items() if kept[0] >= since)
            return [(slot, writer, at, codec.from_json(text)) for slot, writer, at, text in found]

    @override
    def prune(self, retention: Retention, *, now: float) -> int:
        """Sizes are estimates of what the rows would take on disk."""
        oldest = now - retention.max_age_s
        with self._exclusive():
            gone = [seq for seq, each in self._observations.items() if each.arrived_at < oldest]
            left = [(seq, each) for seq, each in self._observations.items() if each.arrived_at >= oldest]
            size = sum(codec.row_bytes(codec.observation_row(0, each)) for _, each in left)
            for seq, each in left:
                if size <= retention.max_bytes:
                    break
                size -= codec.row_bytes(codec.observation_row(0, each))
                gone.append(seq)
            for seq in gone:
                own = self._observations.pop(seq).prediction_id
                del self._seqs[own]
                self._labels.pop(own, None)
            for own, label in list(self._labels.items()):
                if own not in self._seqs and label.received_at < oldest:
                    del self._labels[own]
            self._conflicts = [each for each in self._conflicts if each[1] >= oldest]
            if gone:
                before = self._pruned or Pruned(0, 0, now)
                self._pruned = Pruned(max(before.up_to, *gone), before.rows + len(gone), max(before.at, now))
            return len(gone)

    @override
    def keep_identity(self, identity: Mapping[str, object]) -> None:
        with self._exclusive():
            self._identity = self._identity or codec.to_json(dict(identity))

    @override
    def rollouts(self) -> Sequence[RolloutRecord]:
        """A store in memory has one rollout."""
        with self._exclusive():
            identity = None if self._identity is None else codec.from_json(self._identity)
            started_at = self._events[0].at if self._events else None
            return [RolloutRecord(self.rollout, identity, started_at, self._plan, self._pruned)]

    @override
    def ping(self) -> float:
        start = time.perf_counter()
        with self._exclusive():
            return time.perf_counter() - start

    @override
    def close(self) -> None:
        with self._lock:
            self._closed = True

    def _outcome(self, observation: Observation) -> Outcome:
        return label_rules.outcome(observation, self._labels[observation.prediction_id].report)

    def _add(self, sums: Mapping[str, float]) -> None:
        for name, value in sums.items():
            self._counters[name] = self._counters.get(name, 0.0) + value
