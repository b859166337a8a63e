"""The store's port and its adapters: SQLite, PostgreSQL, memory and the spool.

`memory.MemoryStore` keeps the contract in dictionaries, `sql.SqlStore` keeps it in SQLite or PostgreSQL; one contract
suite (`tests/contract/test_store.py`) runs over both. All methods block and are called from threads, never from the
event loop; all are safe to call from several threads and several processes at once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from understudy.domain import Event, LabelReceipt, LabelReport, Observation, Outcome, Plan

Tally: TypeAlias = Callable[[Outcome], Mapping[str, float]]
"""Pure function of a joined outcome to the named counters it adds to. The store applies it in the very transaction that
joins the label, so a counter never misses an outcome and never counts one twice, whatever is killed."""


LEASE_AHEAD_MAX_S = 3_600.0
"""A lease that ends later than that from now was taken under a clock that was wrong: it binds nobody."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How much history is kept.

    Attributes:
        max_age_s: observations (and their labels) that arrived more than this many seconds ago go. A replayed request's age counts
            from when it arrived, not from when it happened.
        max_bytes: when the observations take more than this on disk, those go that were stored first.
    """

    max_age_s: float
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What retention took of a rollout.

    Attributes:
        up_to: no row with a greater sequence number is gone; of the others, some may be left.
        rows: how many are gone.
        at: the latest time that ages were counted to, on the service's clock.
    """

    up_to: int
    rows: int
    at: float


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """One of a database's rollouts.

    Attributes:
        identity: what was kept with `keep_identity`; None where nobody has.
        started_at: when its first event happened; None before that.
        plan: what is in force; None before the first.
    """

    rollout: str
    identity: Mapping[str, Any] | None
    started_at: float | None
    plan: Plan | None
    pruned: Pruned | None


@dataclass(frozen=True, slots=True)
class WaitingLabels:
    """Labels that wait for their observation.

    Attributes:
        count: all of them; stray: those that were received before some time.
        oldest: when the oldest of them was received; None where none waits.
    """

    count: int
    stray: int
    oldest: float | None


class Store(Protocol):
    """What the house remembers about one rollout.

    Raises:
        StoreError: from any method, when the database did not do what was asked, or the store is closed. Nothing is
            half done then, nor when the tally raises, whose exception comes through as it is.
        ValueError: from any method that writes, when a value is none that a row can hold, so that another try is no use.
    """

    def load_plan(self) -> Plan | None:
        """The plan in force, or None before the first."""
        ...

    def save_plan(self, plan: Plan, event: Event, *, expected_revision: int | None = None) -> Plan:
        """Put `plan` in force and append `event`, both or neither; returns the plan with its new revision.

        The event is stored with the new revision, which is one more than that in force, whatever `plan` says.

        Raises:
            NotAllowedNow: when `expected_revision` is given and is not the revision in force (0 before the first plan).
        """
        ...

    def append_event(self, event: Event) -> Event:
        """Append to the audit log; returns the event with its id. Events are never changed or removed.

        `details` go through JSON: a tuple comes back as a list, a key as text.
        """
        ...

    def events(self, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        """Events with an id greater than `after`, oldest first, at most `limit`."""
        ...

    def await_plan(self, timeout_s: float) -> bool:
        """Return True soon after any process may have saved a plan, False after `timeout_s`. For one thread at a time.

        Not every store hears of another process's plan, so whoever follows it polls as well.
        """
        ...

    def add_observations(
        self, observations: Sequence[Observation], counts: Mapping[str, float] | None = None
    ) -> Sequence[Outcome]:
        """Store observations and add `counts` to the counters, all or nothing. Idempotent by `prediction_id`.

        The first observation of a prediction stands. `counts` are added unless all the observations were there before: so a
        batch whose acknowledgement was lost may come again. A score that is NaN comes back as None.

        Returns:
            The outcomes of labels that had been waiting for these observations, each returned once ever.
        """
        ...

    def add_labels(
        self, reports: Iterable[LabelReport], *, received_at: float, batch_id: str | None = None, again: bool = False
    ) -> LabelReceipt:
        """Store labels and join those whose observation is there. When this returns, they survive `kill -9`.

        Idempotent and conflict-aware: the first label of a prediction stands, within a batch as well. Labels are
        compared as Python does (1, 1.0 and True are the same, "1" is another). Order does not matter, nor whether the
        observation is stored before or after its label. A label that comes again with an earlier time corrects the time, once. An
        outcome's delay is the report's `at` less the observation's; where the caller said no time, that on the service's clock.

        Args:
            received_at: when they came, on the service's clock.
            batch_id: names this batch; one of the last `codec.BATCHES_KEPT` that was stored is not stored again.
            again: an earlier try may have stored it: the receipt is that of the earlier try then, `repeated`, without outcomes.

        Raises:
            StoreError: also when a batch of this id was stored, and this is not said to come `again`.
        """
        ...

    def join_pending(self) -> Sequence[Outcome]:
        """Join waiting labels whose observation is there, should a race have kept them apart; each once ever."""
        ...

    def waiting_labels(self, *, received_before: float) -> WaitingLabels:
        """How many labels wait for their observation, and how many of them were received before a time."""
        ...

    def decision(self, revision: int) -> Event | None:
        """The event that put the plan of this revision in force; None where there is no such plan."""
        ...

    def outcomes(
        self, *, after: int = 0, limit: int = 1000, known_by: int | None = None
    ) -> Sequence[tuple[int, Observation, LabelReport | None]]:
        """At most `limit` observations in the order in which they were stored, with their label if it has come.

        Each with its sequence number: greater than `after`, growing, and not without gaps.

        Args:
            known_by: labels and corrections of later batches are left out; None for none.
        """
        ...

    def receipts(self) -> int:
        """How many batches of labels have been stored: what `outcomes` takes as `known_by`, to look at the same labels again."""
        ...

    def counters(self) -> Mapping[str, float]:
        """All counters, by name."""
        ...

    def lead(self, holder: str, *, ttl_s: float, now: float) -> bool:
        """Take or renew the rollout's one lease for `ttl_s` seconds; False while somebody else holds it."""
        ...

    def load_state(self, name: str) -> Mapping[str, Any] | None:
        """A document kept with `save_state`, or None."""
        ...

    def save_state(self, name: str, state: Mapping[str, Any], *, holder: str, events: Sequence[Event] = ()) -> None:
        """Keep a JSON-able document under a name, in place of what was there, and append `events`: all of it or nothing.

        Raises:
            NotAllowedNow: when somebody else has taken the lease meanwhile; nothing is kept then.
        """
        ...

    def save_sketches(
        self, sketches: Mapping[int, Mapping[str, Any]], *, writer: str, now: float, slots_max: int
    ) -> None:
        """Keep one JSON-able document per slot and writer, in place of what that writer kept there before.

        Of all slots, only the `slots_max` that were written last stay.
        """
        ...

    def sketches(self, *, since: float = 0.0) -> Sequence[tuple[int, str, float, Mapping[str, Any]]]:
        """Slot, writer, time of writing and document of what was kept at `since` or later, in order of slots."""
        ...

    def prune(self, retention: Retention, *, now: float) -> int:
        """Remove observations beyond `retention` with their labels; returns how many. Counters and events stay.

        Labels that have waited longer than `max_age_s` for their observation go as well, and conflicts of that age.
        PostgreSQL forgets in pieces: what lies in one with observations that are still covered stays until they go.
        Where several rollouts share a database it is pruned as a whole: they share the disk.
        """
        ...

    def keep_identity(self, identity: Mapping[str, Any]) -> None:
        """Keep what this rollout's id stands for, a JSON-able document. The first one stands."""
        ...

    def rollouts(self) -> Sequence[RolloutRecord]:
        """Every rollout of the database, in the order in which they were first opened."""
        ...

    def ping(self) -> float:
        """Do the smallest round trip; returns how many seconds it took."""
        ...

    def close(self) -> None:
        """Let go of connections. Calling it twice is harmless."""
        ...
