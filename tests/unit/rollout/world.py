"""What the tests of the rollout share: pairs whose outcome is chosen, and a small world with a store, a clock and people."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from understudy.domain import SHARE_ONE, Attempt, Event, Label, LabelReport, Observation, Plan, Status, Variant
from understudy.rollout.controller import SHOWN, STATE, Controller, bands_of, decided_at, move
from understudy.rollout.evidence import Evidence, EvidenceRow
from understudy.rollout.phases import Order
from understudy.rollout.policy import Policy
from understudy.rollout.scoring import Model
from understudy.rollout.verify import Check, verify
from understudy.store.memory import MemoryStore
from understudy.testing import ManualClock, observation

MODELS = {variant: Model([0, 1], 1) for variant in Variant}
START = 1_000_000.0
TRUTH = 1
STEPS = [{"shadow": 100, "until": {"labels": 20}}, {"canary": 5}, {"canary": 25}, "promote"]

# What a pair's difference is under 0/1 loss; under Brier ±0.6, since a right answer has 0.8 for the truth.
SCORES = {
    "same": (0.8, 0.8),
    "both wrong": (0.2, 0.2),
    "worse": (0.8, 0.2),
    "better": (0.2, 0.8),
    "failed": (0.8, None),
}


def policy(steps: Sequence[Any] = STEPS, labels: dict[str, Any] | None = None, **goals: Any) -> Policy:
    """A policy with a margin so wide that ten pairs of a step decide."""
    quality = {"loss": "zero_one", "margin": 0.5} | goals.pop("quality", {})
    return Policy.model_validate(
        {
            "model": "m",
            "task": "binary-classification",
            "primary": "a",
            "candidate": "b",
            "steps": list(steps),
            "unit": "user",
            "labels": {"wait": 3600} | (labels or {}),
            "goals": {"quality": quality} | goals,
        }
    )


def pair(number: int, kind: str = "same", **changes: Any) -> Observation:
    """One pair a second; `kind` says how the candidate does beside the primary when the truth is 1."""
    primary, candidate = SCORES[kind]
    scores = {name: changes.pop(name, score) for name, score in (("primary", primary), ("candidate", candidate))}
    answers = {name: score for name, score in scores.items() if isinstance(score, Attempt)}
    found = observation(f"p-{number}", **{k: v for k, v in scores.items() if k not in answers}, at=START + number)
    return replace(found, **answers | changes)


def row(
    number: int, kind: str = "same", label: Label | None = TRUTH, delay: float = 10.0, **changes: Any
) -> EvidenceRow:
    """A pair as the store gives it back, with its label unless that is None."""
    found = pair(number, kind, **changes)
    report = None if label is None else LabelReport(found.prediction_id, label, found.at + delay)
    return number, found, report


def answer(status: Status) -> Attempt:
    """An answer of some status; a good one where it is OK."""
    return Attempt(Status.OK, 1, 0.8, None, 0.001) if status is Status.OK else Attempt(status)


def folded(own: Policy, rows: Sequence[EvidenceRow], models: dict[Variant, Model] = MODELS) -> Evidence:
    """Evidence that has seen these rows and settled what is settled of them."""
    evidence = Evidence(own, models)
    evidence.see(rows)
    evidence.settle(rows)
    return evidence


def stored_rows(store: Any) -> Callable[[int, int, int], Iterator[EvidenceRow]]:
    """The store's rows as `verify` asks for them."""

    def rows(after: int, upto: int, known_by: int) -> Iterator[EvidenceRow]:
        while after < upto and (page := store.outcomes(after=after, limit=500, known_by=known_by)):
            yield from (each for each in page if each[0] <= upto)
            after = page[-1][0]

    return rows


class World:
    """One rollout, in memory unless a store is given: requests are served, labels come, controllers tick, people give orders."""

    def __init__(self, own: Policy | None = None, store: Any = None) -> None:
        self.policy = own or policy()
        self.clock = ManualClock(START)
        self.store = store or MemoryStore("r", lambda outcome: {})
        self.served = 0
        if self.store.load_plan() is None:
            started = Event(self.clock.now(), "started", "system", "", 0)
            self.store.save_plan(self.policy.first_plan("ab12"), started)

    def controller(self, holder: str = "a", store: Any = None, lease_s: float = 5.0) -> Controller:
        return Controller(self.policy, MODELS, store or self.store, self.clock, holder, lease_s=lease_s)

    def serve(self, n: int, kind: str = "same", *, labelled: bool = True, **changes: Any) -> list[str]:
        """Requests arrive now, one a millisecond, and their labels with them; returns their ids."""
        numbers = range(self.served, self.served + n)
        now = self.clock.now()
        rows = [
            pair(i, kind, **{"at": now + (i - self.served) / 1000, "revision": self.plan.revision} | changes)
            for i in numbers
        ]
        self.served += n
        self.store.add_observations(rows)
        names = [each.prediction_id for each in rows]
        if labelled:
            self.label(names)
        return names

    def label(self, names: Sequence[str], label: Label = TRUTH, at: float | None = None) -> None:
        now = self.clock.now()
        self.store.add_labels([LabelReport(name, label, now if at is None else at) for name in names], received_at=now)

    def order(self, order: Order, weight: int | None = None) -> Plan:
        """A person's order, as `understudy.serving.plan` carries it out."""
        before = self.plan
        after = move(self.policy, before, order, self.clock.now(), weight=weight)
        event = Event(self.clock.now(), order.value, "ann", "because", before.revision, {"from": before.phase.value})
        return self.store.save_plan(after, event, expected_revision=before.revision)

    @property
    def plan(self) -> Plan:
        plan = self.store.load_plan()
        assert plan is not None
        return plan

    @property
    def where(self) -> tuple[str, float, int]:
        """Phase, percent of live answers, step."""
        return self.plan.phase.value, self.plan.weight * 100 / SHARE_ONE, self.plan.step

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.store.events(limit=1000)]

    @property
    def kept(self) -> Any:
        return self.store.load_state(STATE)

    @property
    def shown(self) -> Any:
        return self.store.load_state(SHOWN)

    @property
    def bands(self) -> Any:
        return bands_of(self.store)

    def verified(self, models: dict[Variant, Model] = MODELS) -> tuple[list[Check], str | None]:
        (record,) = self.store.rollouts()
        return verify(
            self.policy,
            models,
            self.store.events(limit=1000),
            self.kept,
            stored_rows(self.store),
            pruned_to=record.pruned.up_to if record.pruned else 0,
            kept=lambda revision: self.store.load_state(decided_at(revision)),
        )
