"""The controller: one leader among all workers folds the evidence, asks the judge, and moves the plan.

`tick()` is the short list of effects around pure functions: read rows, fold, judge, keep, apply. Each effect is safe to
repeat, so it may die between any two and another worker goes on:

1. *lead*: the lease; whoever finds it expired takes it.
2. *fold*: from the state that was last kept; rows read twice are folded into the same state, since what was not kept is
   folded again from the cursors before.
3. *keep*: the state, refused when the lease has gone to somebody else. Before a transition, so that the next step's evidence
   begins behind the rows that this one was judged by, whoever dies in between.
4. *apply*: the plan changes only if its revision is still the one that was judged, together with its event. So a transition
   happens once, whoever tries.

A step of the evidence begins when the plan says so: the state remembers its step, and a controller that finds the plan ahead
of it catches up first.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import structlog

from understudy.clock import Clock
from understudy.domain import SHARE_ONE, Event, LabelReport, Observation, Phase, Plan
from understudy.errors import NotAllowedNow
from understudy.rollout import phases
from understudy.rollout.evidence import VERSION, Evidence
from understudy.rollout.judge import Verdict, judge, serving
from understudy.rollout.loadtest import LOADTEST
from understudy.rollout.phases import Order
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep
from understudy.rollout.requirements import Requirements
from understudy.rollout.scoring import Model
from understudy.rollout.tail import Tail
from understudy.runtime.fairness import in_turns, let_go
from understudy.store import Store

log = structlog.get_logger(__name__)

PAGE_ROWS = 2_000
FIRST_PAGE_ROWS = 50
"""Of the rows that wait to be settled: mostly the first of them still waits for its label."""
TAIL_MAX_ROWS = 20_000
"""Rows behind the settled prefix that one look takes in; any prefix may decide, so a longer tail loses speed, not truth."""
TAIL_SHARE = 0.1
"""Of the controller's time, what looking at the tail may take: it is read anew each time, so under much traffic it is not looked at
every time. What needs no label, and what is settled, is judged meanwhile: that is a prefix like any other."""
SEE_MAX_ROWS = 50_000
"""Rows folded per tick, so that a controller that catches up still renews its lease."""
HISTORY_MAX = 400
"""Points of the bands over time; when there are more, every other one goes."""
BAND = ("metric", "estimate", "low", "high", "n", "log_e_advance", "log_e_harm")
"""What a point of the bands keeps of each metric."""
STATE = "evidence"
"""The fold, as it was kept last."""
SHOWN = "shown"
"""What people are shown of it: the verdict, the metrics, how far it is."""
BANDS = "bands"
"""The metrics' bands over time, apart: a hundred times as long as the rest, and asked for far less often."""
JUDGED = frozenset({Phase.SHADOW, Phase.CANARY, Phase.WAITING, Phase.PAUSED, Phase.PROMOTED})

Row = tuple[int, Observation, LabelReport | None]


class Controller:
    """Moves one rollout.

    Args:
        holder: names this process in the lease.
        requirements: what steps may require besides evidence; None where nothing is ever met.
    """

    def __init__(
        self,
        policy: Policy,
        models: Mapping[Any, Model],
        store: Store,
        clock: Clock,
        holder: str,
        *,
        lease_s: float = 5.0,
        requirements: Requirements | None = None,
    ) -> None:
        self._requirements = requirements
        self._policy, self._models, self._store, self._clock = policy, models, store, clock
        self.holder, self._lease_s = holder, lease_s
        self._evidence: Evidence | None = None
        self._history: list[dict[str, Any]] = []
        self._points, self._shown_revision = 0, -1
        self._behind = (0, 0)
        self._moved = False  # since the state was kept
        self._tail_at = 0.0  # when to look at the tail again, on the performance clock
        self.verdict: Verdict | None = None

    def tick(self, *, candidate_ready: bool = True) -> Plan | None:
        """Lead, fold, judge, keep, apply. Returns the plan that it put in force, or None when nothing changed.

        `candidate_ready` holds forward moves back until the candidate has answered a probe.
        """
        if not self._store.lead(self.holder, ttl_s=self._lease_s, now=self._clock.now()):
            self._evidence = None  # whoever leads now folds on; start from what they kept when it is our turn
            return None
        plan = self._store.load_plan()
        if plan is None or plan.phase not in JUDGED or plan.released:
            return None
        evidence = self._evidence or self._load()
        self._evidence = evidence
        if plan.step >= 0 or plan.trial != evidence.trial:
            evidence.begin_step(plan.step if plan.step >= 0 else evidence.step, plan.revision, plan.trial)
        evidence.stand(plan.revision if plan.phase is Phase.PROMOTED else None)
        # Batches of labels are numbered as they are committed, so what is looked at now can be looked at again.
        known_by = self._store.receipts()
        self._moved |= self._fold(evidence, known_by)
        looked_at = self._tail(evidence, known_by)
        tail = looked_at or Tail(last=evidence.settled)
        if looked_at is not None:  # labels may have come behind a pair that waits for its own
            self._moved |= self._behind != (tail.labelled, tail.pending)
            self._behind = (tail.labelled, tail.pending)
        met = self._requirements.met() if self._requirements else {}
        verdict = self._judge(evidence, tail, plan, frozenset(met))
        order = self._order(plan, verdict, candidate_ready=candidate_ready)
        if order is None and self._baked(plan, evidence):
            order = Order.RELEASE
        if looked_at is not None or order is not None:
            self.verdict = verdict  # what is shown does not come and go with the tail
        self._moved |= self._shown_revision != plan.revision  # what is shown belongs to the plan in force
        kept = order is not None or (self._moved and looked_at is not None)
        if kept and not self._keep(evidence, tail, verdict, plan, decided=order is not None):
            return None
        if order is None:
            return None
        looked = {
            "seen": evidence.seen,
            "settled": evidence.settled,
            "tail_to": tail.last,
            "known_by": known_by,
            "marks": len(evidence.marks),
            "chain": evidence.chain.digest,
            "met": met,
            "evidence": VERSION,
        }
        return self._apply(plan, order, verdict, looked)

    def _load(self) -> Evidence:
        evidence = Evidence(self._policy, self._models)
        state = self._store.load_state(STATE)
        if state is not None and (kept := state["evidence"].get("version")) == VERSION:
            evidence.take(state["evidence"])
        elif state is not None:
            self._fold_anew(kept)
        self._history = list(bands_of(self._store))
        shown = self._store.load_state(SHOWN) or {}
        self._points, self._shown_revision = shown.get("points", 0), shown.get("revision", -1)
        return evidence

    def _fold_anew(self, kept: Any) -> None:
        """Say in the log that evidence of another version is not read, but folded again from the rows in the store."""
        reason = (
            f"the evidence was kept by version {kept or 1} of its format and is counted again by version {VERSION}, from the rows "
            "in the store; what retention took of them is not in it, and earlier decisions cannot be verified by this version"
        )
        plan = self._store.load_plan()
        details = {"from_version": kept or 1, "to_version": VERSION}
        self._store.append_event(
            Event(self._clock.now(), "evidence", "system", reason, plan.revision if plan else 0, details)
        )
        log.info("the evidence is counted again", reason=reason)

    def _fold(self, evidence: Evidence, known_by: int) -> bool:
        before = (evidence.seen, evidence.settled)
        for rows in self._pages(evidence.seen, SEE_MAX_ROWS, known_by):
            together = evidence.settled == evidence.seen  # nothing waits: these rows need not be read twice
            evidence.see(in_turns(rows))
            if together:
                evidence.settle(in_turns(rows))
        if evidence.settled < evidence.seen:
            for rows in self._pages(evidence.settled, SEE_MAX_ROWS, known_by, first=FIRST_PAGE_ROWS):
                if evidence.settle(in_turns(rows)) < len(rows):
                    break
        return before != (evidence.seen, evidence.settled)

    def _tail(self, evidence: Evidence, known_by: int) -> Tail | None:
        """The tail, or None when it was looked at just now for what that costs."""
        began = self._clock.perf()
        if began < self._tail_at:
            return None
        pages = self._pages(evidence.settled, TAIL_MAX_ROWS, known_by)
        taken = itertools.count()
        tail = evidence.tail(
            row for rows in pages for row in in_turns(rows) if next(taken) >= 0 and row[0] <= evidence.seen
        )
        tail.complete = next(taken) < TAIL_MAX_ROWS
        ended = self._clock.perf()
        self._tail_at = ended + (ended - began) * (1 / TAIL_SHARE - 1)
        return tail

    def _judge(self, evidence: Evidence, tail: Tail, plan: Plan, met: frozenset[str]) -> Verdict:
        verdict = judge_at(self._policy, evidence, tail, plan.phase, judged_step(plan), met)
        if LOADTEST in verdict.requires and self._requirements is not None:
            verdict = dataclasses.replace(verdict, reason=f"{verdict.reason}: {self._requirements.missing()}")
        return verdict

    def _baked(self, plan: Plan, evidence: Evidence) -> bool:
        """Whether the old primary has rehearsed long enough after a promotion, in the requests' own time."""
        return plan.phase is Phase.PROMOTED and evidence.baked(self._policy.bake)

    def _apply(self, plan: Plan, order: Order, verdict: Verdict, looked: dict[str, Any]) -> Plan | None:
        new = move(self._policy, plan, order, self._clock.now())
        details = {
            "from": plan.phase.value,
            "to": new.phase.value,
            "weight": new.weight * 100 / SHARE_ONE,
            "step": new.step,
            "verdict": verdict.as_dict(),
            "metrics": [m.as_dict() for m in verdict.metrics],
            "judged_step": judged_step(plan),
            "followed": self._policy.followed(),
            **looked,
        }
        baked = f"the promotion has baked for {self._policy.bake / 3600:g} h: the old primary is released"
        reason = baked if order is Order.RELEASE else verdict.reason
        event = Event(self._clock.now(), order.value, "judge", reason, plan.revision, details)
        try:
            return self._store.save_plan(new, event, expected_revision=plan.revision)
        except NotAllowedNow:
            return None  # an operator was faster; the next tick judges what they made of it

    def _order(self, plan: Plan, verdict: Verdict, *, candidate_ready: bool) -> Order | None:
        if verdict.answer == "rollback":
            return Order.ROLL_BACK
        if not candidate_ready:
            return None
        if verdict.requires == ("approval",) and plan.phase is not Phase.WAITING:
            return Order.WAIT
        if verdict.answer != "advance" or plan.phase not in {Phase.SHADOW, Phase.CANARY}:
            return None
        following = self._policy.steps[plan.step + 1] if plan.step + 1 < len(self._policy.steps) else "promote"
        return Order.FINISH if following == "promote" else Order.ADVANCE

    def _keep(self, evidence: Evidence, tail: Tail, verdict: Verdict, plan: Plan, *, decided: bool) -> bool:
        metrics = [metric.as_dict() for metric in verdict.metrics]
        bands = [{name: metric[name] for name in BAND} for metric in metrics]
        self._history.append({"at": evidence.latest_at, "revision": plan.revision, "metrics": bands})
        if len(self._history) > HISTORY_MAX:
            self._history = self._history[::-2][::-1]  # the newest stays
        self._points += 1  # of all points ever: it tells whether the bands are other ones
        shown = {
            "points": self._points,
            "revision": plan.revision,
            "verdict": verdict.as_dict(),
            "metrics": metrics,
            "progress": evidence.standing(tail).as_dict(),
            "wanted": tail.wanted,
            "funnel": {**evidence.funnel.plus(tail.funnel).state(), "complete": tail.complete},
        }
        try:
            self._store.save_state(STATE, {"evidence": evidence.state()}, holder=self.holder)
            # The bands first: whoever finds the new number of points finds the new bands.
            self._store.save_state(BANDS, {"history": self._history}, holder=self.holder)
            self._store.save_state(SHOWN, shown, holder=self.holder)
            if decided:  # so that the decision can be checked when the rows before it are pruned
                self._store.save_state(decided_at(plan.revision + 1), evidence.state(), holder=self.holder)
        except NotAllowedNow:
            self._evidence = None  # somebody else leads: they fold on from what was kept before
            return False
        self._moved, self._shown_revision = False, plan.revision
        return True

    def _pages(self, after: int, limit: int, known_by: int, *, first: int | None = None) -> Iterator[Sequence[Row]]:
        """Rows after a cursor, a page at a time, at most `limit` of them."""
        taken, size = 0, first or PAGE_ROWS
        while taken < limit:
            rows = list(self._store.outcomes(after=after, limit=size, known_by=known_by))
            count, last = len(rows), rows[-1][0] if rows else after
            yield rows
            let_go(rows)
            if count < size:
                return
            after, taken, size = last, taken + count, PAGE_ROWS


def bands_of(store: Store) -> Sequence[dict[str, Any]]:
    """The metrics' bands over time, the oldest point first. Blocks."""
    # Stores of before had them beside the verdict.
    found: Sequence[dict[str, Any]] = (store.load_state(BANDS) or store.load_state(SHOWN) or {}).get("history", [])
    return found


def decided_at(revision: int) -> str:
    """The name under which the evidence is kept that made the decision with this revision."""
    return f"{STATE}/{revision}"


def judged_step(plan: Plan) -> int:
    """The step that a plan is judged at; -1 where only harm is judged."""
    return plan.step if plan.phase in {Phase.SHADOW, Phase.CANARY} else -1


def judge_at(
    policy: Policy, evidence: Evidence, tail: Tail, phase: Phase, step: int, met: frozenset[str] = frozenset()
) -> Verdict:
    """The verdict on some evidence at a step, with the requirements that are met. Pure."""
    return judge(
        policy, phase, step, evidence.readings(tail, serving=serving(policy, step)), evidence.standing(tail, met)
    )


def move(policy: Policy, plan: Plan, order: Order, now: float, *, weight: int | None = None) -> Plan:
    """The plan that an order makes of a plan. Pure.

    Raises:
        NotAllowedNow: when the phase does not allow it.
    """
    phase = phases.after(plan.phase, order)
    step, share, shadow = plan.step, plan.weight, plan.shadow
    if order in {Order.ADVANCE, Order.PROMOTE, Order.FINISH, Order.PROMOTE_FULL}:
        last = len(policy.steps) - 1
        step = len(policy.steps) if order in {Order.FINISH, Order.PROMOTE_FULL} else _next(policy, plan)
        following = policy.steps[step] if 0 <= step < len(policy.steps) else "promote"
        if isinstance(following, CanaryStep):
            share, shadow = following.canary, following.rehearse
        elif isinstance(following, ShadowStep):
            phase, share, shadow = Phase.SHADOW, 0, following.shadow
        else:
            # The old primary goes on rehearsing until the promotion has baked.
            phase, share, shadow, step = Phase.PROMOTED, SHARE_ONE, shadow or SHARE_ONE, last
    elif order in {Order.ROLL_BACK, Order.ABORT, Order.UNDO}:
        share, shadow = 0, 0
    elif order is Order.RELEASE:
        shadow = 0
    elif order is Order.RETRY:
        first = policy.first_plan(f"{plan.salt:x}")
        phase, step, share, shadow = first.phase, 0, first.weight, first.shadow
        plan = dataclasses.replace(plan, trial=plan.trial + 1)
    elif order in {Order.WEIGHT, Order.SHADOW}:
        step, share = -1, weight or 0
    elif order is Order.RESUME:
        phase = Phase.CANARY if plan.weight else Phase.SHADOW
    return dataclasses.replace(plan, phase=phase, step=step, weight=share, shadow=shadow, updated_at=now)


def _next(policy: Policy, plan: Plan) -> int:
    """The step after the one in force; after a weight that was set by hand, the first canary step beyond that weight."""
    if plan.step >= 0:
        return plan.step + 1
    beyond = (i for i, s in enumerate(policy.steps) if isinstance(s, CanaryStep) and s.canary > plan.weight)
    return next(beyond, len(policy.steps))
