"""The base of stores that pass their calls on to another store."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from typing_extensions import override

from understudy.domain import Event, JsonObject, LabelReceipt, LabelReport, Observation, Outcome, Plan
from understudy.store.port import Retention, RolloutRecord, Store, WaitingLabels

Result = TypeVar("Result")


class ForwardingStore(Store):
    """Every method goes through `_forward`, so a subclass says once how to reach the other store and handle its errors."""

    def _forward(self, call: Callable[[Store], Result]) -> Result:
        """Make this call on the other store."""
        raise NotImplementedError

    @override
    def load_plan(self) -> Plan | None:
        return self._forward(lambda store: store.load_plan())

    @override
    def save_plan(self, plan: Plan, event: Event, *, expected_revision: int | None = None) -> Plan:
        return self._forward(lambda store: store.save_plan(plan, event, expected_revision=expected_revision))

    @override
    def await_plan(self, timeout_s: float) -> bool:
        return self._forward(lambda store: store.await_plan(timeout_s))

    @override
    def append_event(self, event: Event) -> Event:
        return self._forward(lambda store: store.append_event(event))

    @override
    def events(self, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        return self._forward(lambda store: store.events(after=after, limit=limit))

    @override
    def decision(self, revision: int) -> Event | None:
        return self._forward(lambda store: store.decision(revision))

    @override
    def add_observations(
        self, observations: Sequence[Observation], counts: Mapping[str, float] | None = None
    ) -> Sequence[Outcome]:
        return self._forward(lambda store: store.add_observations(observations, counts))

    @override
    def outcomes(
        self, *, after: int = 0, limit: int = 1000, known_by: int | None = None
    ) -> Sequence[tuple[int, Observation, LabelReport | None]]:
        return self._forward(lambda store: store.outcomes(after=after, limit=limit, known_by=known_by))

    @override
    def counters(self) -> Mapping[str, float]:
        return self._forward(lambda store: store.counters())

    @override
    def add_labels(
        self, reports: Iterable[LabelReport], *, received_at: float, batch_id: str | None = None, again: bool = False
    ) -> LabelReceipt:
        return self._forward(
            lambda store: store.add_labels(reports, received_at=received_at, batch_id=batch_id, again=again)
        )

    @override
    def join_pending(self) -> Sequence[Outcome]:
        return self._forward(lambda store: store.join_pending())

    @override
    def waiting_labels(self, *, received_before: float) -> WaitingLabels:
        return self._forward(lambda store: store.waiting_labels(received_before=received_before))

    @override
    def receipts(self) -> int:
        return self._forward(lambda store: store.receipts())

    @override
    def lead(self, holder: str, *, ttl_s: float, now: float) -> bool:
        return self._forward(lambda store: store.lead(holder, ttl_s=ttl_s, now=now))

    @override
    def load_state(self, name: str) -> JsonObject | None:
        return self._forward(lambda store: store.load_state(name))

    @override
    def save_state(self, name: str, state: Mapping[str, object], *, holder: str, events: Sequence[Event] = ()) -> None:
        self._forward(lambda store: store.save_state(name, state, holder=holder, events=events))

    @override
    def save_sketches(
        self, sketches: Mapping[int, Mapping[str, object]], *, writer: str, now: float, slots_max: int
    ) -> None:
        self._forward(lambda store: store.save_sketches(sketches, writer=writer, now=now, slots_max=slots_max))

    @override
    def sketches(self, *, since: float = 0.0) -> Sequence[tuple[int, str, float, JsonObject]]:
        return self._forward(lambda store: store.sketches(since=since))

    @override
    def prune(self, retention: Retention, *, now: float) -> int:
        return self._forward(lambda store: store.prune(retention, now=now))

    @override
    def keep_identity(self, identity: Mapping[str, object]) -> None:
        self._forward(lambda store: store.keep_identity(identity))

    @override
    def rollouts(self) -> Sequence[RolloutRecord]:
        return self._forward(lambda store: store.rollouts())

    @override
    def ping(self) -> float:
        return self._forward(lambda store: store.ping())

    @override
    def close(self) -> None:
        self._forward(lambda store: store.close())
