"""The port that every store implements, split by who uses it.

All methods block, so they are called from threads and never from an event loop. All may be called by several threads
and several processes at once.

Every method may raise `StoreError`: the database is unreachable or rejected the call, or the store is closed. Then
nothing was changed. A method that writes may raise `ValueError`: a value cannot be stored, so retrying is useless. An
exception that the tally raises is passed on unchanged, and nothing is stored.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from understudy.domain import Event, JsonObject, LabelReceipt, LabelReport, Observation, Outcome, Plan

Tally: TypeAlias = Callable[[Outcome], Mapping[str, float]]
"""Pure function from a joined outcome to what it adds to each counter. The store applies it in the transaction that joins
the label, so each outcome is counted exactly once, even if the process is killed."""

LEASE_AHEAD_MAX_S = 3_600.0
"""A lease that ends later than this from now was taken under a wrong clock, and is ignored."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How much history is kept.

    Attributes:
        max_age_s: observations and their labels are removed this many seconds after they arrived. The age of a replayed
            request counts from its arrival, not from its own time.
        max_bytes: when observations take more than this on disk, those stored first are removed.
    """

    max_age_s: float
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What retention has removed of a rollout.

    Attributes:
        up_to: no row with a greater sequence number was removed; some rows with a smaller one may be left.
        rows: how many rows were removed.
        at: the time, on the service's clock, of the latest pruning; ages were counted up to it.
    """

    up_to: int
    rows: int
    at: float


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """One rollout of a database.

    Attributes:
        identity: the document stored by `keep_identity`; None if there is none.
        started_at: the time of its first event; None before that.
        plan: the plan in force; None before the first.
        pruned: what retention has removed; None if nothing.
    """

    rollout: str
    identity: JsonObject | None
    started_at: float | None
    plan: Plan | None
    pruned: Pruned | None


@dataclass(frozen=True, slots=True)
class WaitingLabels:
    """Labels whose observation is not stored yet.

    Attributes:
        count: how many there are.
        stray: how many of them were received before a given time.
        oldest: when the oldest was received; None if there are none.
    """

    count: int
    stray: int
    oldest: float | None


class PlanStore(Protocol):
    """The plan in force: what the router obeys."""

    def load_plan(self) -> Plan | None:
        """The plan in force; None before the first."""
        ...

    def save_plan(self, plan: Plan, event: Event, *, expected_revision: int | None = None) -> Plan:
        """Put `plan` in force and append `event`, in one transaction.

        Both get the next revision, whatever `plan` says.

        Returns:
            The plan with its new revision.

        Raises:
            NotAllowedNow: `expected_revision` is not the revision in force (0 before the first plan).
        """
        ...

    def await_plan(self, timeout_s: float) -> bool:
        """Wait until any process may have saved a plan. For one thread at a time.

        Not every store is notified of other processes' plans, so callers poll as well.

        Returns:
            True if a plan may have been saved; False after `timeout_s`.
        """
        ...


class EventStore(Protocol):
    """The audit log. Events are never changed or removed."""

    def append_event(self, event: Event) -> Event:
        """Append an event; returns it with its id.

        `details` are stored as JSON: tuples come back as lists, keys as text.
        """
        ...

    def events(self, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        """At most `limit` events with an id greater than `after`, oldest first."""
        ...

    def decision(self, revision: int) -> Event | None:
        """The event that put the plan of this revision in force; None if there is no such plan."""
        ...


class ObservationStore(Protocol):
    """Observations, and the counters that are added up with them."""

    def add_observations(
        self, observations: Sequence[Observation], counts: Mapping[str, float] | None = None
    ) -> Sequence[Outcome]:
        """Store observations and add `counts` to the counters, in one transaction.

        Idempotent by `prediction_id`: the first observation of a prediction is kept. If all of them were stored before,
        `counts` are not added either, so a batch whose acknowledgement was lost can be sent again. A score of NaN is
        stored as None.

        Returns:
            The outcomes of labels that were waiting for these observations. Each outcome is returned once.
        """
        ...

    def outcomes(
        self, *, after: int = 0, limit: int = 1000, known_by: int | None = None
    ) -> Sequence[tuple[int, Observation, LabelReport | None]]:
        """At most `limit` observations in the order in which they were stored, each with its label if there is one.

        Each comes with its sequence number, which is greater than `after`. Sequence numbers grow and have gaps.

        Args:
            known_by: leave out labels and corrections of batches after this number; None leaves out none.
        """
        ...

    def counters(self) -> Mapping[str, float]:
        """All counters by name."""
        ...


class LabelStore(Protocol):
    """Labels, and how they are joined with their observations."""

    def add_labels(
        self, reports: Iterable[LabelReport], *, received_at: float, batch_id: str | None = None, again: bool = False
    ) -> LabelReceipt:
        """Store labels and join those whose observation is stored. On return they survive `kill -9`.

        Idempotent: the first label of a prediction is kept, within one batch as well. Labels are compared as in Python:
        1, 1.0 and True are equal, "1" differs. It does not matter whether the observation or its label comes first. A
        repeated label with an earlier time corrects the time, once. An outcome's delay is the report's `at` minus the
        observation's; if the caller gave no time, both are taken on the service's clock.

        Args:
            received_at: when the labels arrived, on the service's clock.
            batch_id: names this batch. One of the last `label_rules.BATCHES_KEPT` batches is not stored twice.
            again: an earlier attempt may have stored this batch. If so, its receipt is returned, marked `repeated` and
                without outcomes.

        Raises:
            StoreError: also when a batch with this id was stored and `again` is False.
        """
        ...

    def join_pending(self) -> Sequence[Outcome]:
        """Join waiting labels whose observation is stored, in case a race left them apart. Each is returned once."""
        ...

    def waiting_labels(self, *, received_before: float) -> WaitingLabels:
        """How many labels wait for their observation, and how many of them arrived before a time."""
        ...

    def receipts(self) -> int:
        """The number of the latest batch of labels. Passed to `outcomes` as `known_by`, it selects the same labels again."""
        ...


class StateStore(Protocol):
    """The lease that chooses one leader, and the documents that the leader keeps."""

    def lead(self, holder: str, *, ttl_s: float, now: float) -> bool:
        """Take or renew the rollout's lease for `ttl_s` seconds; False while another process holds it."""
        ...

    def load_state(self, name: str) -> JsonObject | None:
        """The document that `save_state` stored under this name; None if there is none."""
        ...

    def save_state(self, name: str, state: Mapping[str, object], *, holder: str, events: Sequence[Event] = ()) -> None:
        """Replace the JSON document under a name and append `events`, in one transaction.

        Raises:
            NotAllowedNow: another process has taken the lease meanwhile; nothing is stored.
        """
        ...


class SketchStore(Protocol):
    """What each process counted of the requests of each hour (a slot), for drift."""

    def save_sketches(
        self, sketches: Mapping[int, Mapping[str, object]], *, writer: str, now: float, slots_max: int
    ) -> None:
        """Replace this writer's JSON document of each slot.

        Only the `slots_max` slots that were written last are kept, over all writers.
        """
        ...

    def sketches(self, *, since: float = 0.0) -> Sequence[tuple[int, str, float, JsonObject]]:
        """Slot, writer, time of writing and document of all that was written at `since` or later, ordered by slot."""
        ...


class MaintenanceStore(Protocol):
    """The database as a whole: its rollouts, its size and its connections."""

    def prune(self, retention: Retention, *, now: float) -> int:
        """Remove observations beyond `retention`, with their labels. Counters and events are kept.

        Labels that have waited longer than `max_age_s`, and conflicts of that age, are removed too. PostgreSQL removes
        whole partitions, so an observation stays as long as its partition has one to keep. All rollouts of a database
        are pruned together, because they share its disk.

        Returns:
            How many observations were removed.
        """
        ...

    def keep_identity(self, identity: Mapping[str, object]) -> None:
        """Store the JSON document that this rollout's id is a hash of. The first one is kept."""
        ...

    def rollouts(self) -> Sequence[RolloutRecord]:
        """Every rollout of the database, in the order in which they were first opened."""
        ...

    def ping(self) -> float:
        """Make the smallest round trip; returns its duration in seconds."""
        ...

    def close(self) -> None:
        """Close the connections. Calling it twice is harmless."""
        ...


class RecordStore(ObservationStore, LabelStore, Protocol):
    """Observations and labels: what the records process writes."""


class Store(PlanStore, EventStore, RecordStore, StateStore, SketchStore, MaintenanceStore, Protocol):
    """Everything that is stored about one rollout."""
