"""The controller: the leader folds the evidence, asks the judge, and changes the plan.

`tick()` is a short sequence of effects around pure functions. Each effect is safe to repeat, so the process may die between any
two of them, and another one continues:

1. *lead*: take or renew the lease.
2. *fold*: add new rows to the state that was kept last. What was not kept is folded again from the earlier cursors, with the
   same result.
3. *keep*: store the state; fails if another process holds the lease. This comes before the plan changes, so that the evidence of
   the next step begins after the rows that this step was judged by, also if the process dies in between.
4. *apply*: the plan changes only if its revision is still the one that was judged, in one transaction with its event. So a
   decision happens once, also if several processes try.

The plan says when a step begins. The state remembers its step, and a controller whose state is behind the plan catches up first.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import structlog

from understudy.clock import Clock
from understudy.domain import SHARE_ONE, Event, Phase, Plan, Variant
from understudy.errors import NotAllowedNow
from understudy.rollout import phases
from understudy.rollout.documents import BandDocument, BandPoint, Cursors, DecisionDetails, MetricDocument, ShownState
from understudy.rollout.evidence import Evidence, EvidenceRow
from understudy.rollout.evidence_state import VERSION
from understudy.rollout.judge import Verdict, judge, serving
from understudy.rollout.loadtest import LOADTEST
from understudy.rollout.phases import Order
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep
from understudy.rollout.requirements import Requirements
from understudy.rollout.scoring import Model
from understudy.rollout.tail import Tail
from understudy.runtime.fairness import clear_yielding, yielding
from understudy.store import Store

log = structlog.get_logger(__name__)

PAGE_ROWS = 2_000
FIRST_PAGE_ROWS = 50
"""Size of the first page of rows that may be settled: usually the first row still waits for its label."""
TAIL_MAX_ROWS = 20_000
"""Rows after the settled prefix that are read at most. Any prefix may decide, so with a longer tail a decision may come later."""
TAIL_SHARE = 0.1
"""The share of the controller's time that reading the tail may take. The tail is read anew each time, so with much traffic some
ticks skip it. They judge what needs no label and what is settled, which is a prefix like any other."""
SEE_MAX_ROWS = 50_000
"""Rows folded per tick at most, so that a controller that is far behind still renews its lease."""
HISTORY_MAX = 400
"""Number of points of the bands over time. If there are more, every other one is removed."""
STATE = "evidence"
"""Name in the store of the evidence."""
SHOWN = "shown"
"""Name in the store of what is displayed: the verdict, the metrics and the progress."""
BANDS = "bands"
"""Name in the store of the metrics' bands over time. They are a hundred times as long as `SHOWN` and read far less often."""
JUDGED = frozenset({Phase.SHADOW, Phase.CANARY, Phase.WAITING, Phase.PAUSED, Phase.PROMOTED})


class Controller:
    """Controls one rollout.

    Args:
        holder: name of this process in the lease.
        requirements: what steps may require besides evidence. None: no requirement is ever met.
    """

    def __init__(
        self,
        policy: Policy,
        models: Mapping[Variant, Model],
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
        self._history: list[BandPoint] = []
        self._points, self._shown_revision = 0, -1
        self._behind = (0, 0)
        self._moved = False  # whether anything changed since the state was kept
        self._tail_at = 0.0  # when to read the tail again, on the performance clock
        self.verdict: Verdict | None = None

    def tick(self, *, candidate_ready: bool = True) -> Plan | None:
        """Lead, fold, judge, keep, apply; see the module.

        Args:
            candidate_ready: whether the candidate has answered a probe. Until then nothing advances.

        Returns:
            The plan that was put in force, or None if nothing changed.
        """
        if not self._store.lead(self.holder, ttl_s=self._lease_s, now=self._clock.now()):
            self._evidence = None  # another process leads: read what it kept when this one leads again
            return None
        plan = self._store.load_plan()
        if plan is None or plan.phase not in JUDGED or plan.released:
            return None
        evidence = self._evidence or self._load()
        self._evidence = evidence
        if plan.step >= 0 or plan.trial != evidence.trial:
            evidence.begin_step(plan.step if plan.step >= 0 else evidence.step, plan.revision, plan.trial)
        evidence.stand(plan.revision if plan.phase is Phase.PROMOTED else None)
        # Batches of labels are numbered when they are committed, so the same labels can be read again later.
        known_by = self._store.receipts()
        self._moved |= self._fold(evidence, known_by)
        fresh_tail = self._tail(evidence, known_by)
        tail = fresh_tail or Tail(last=evidence.settled)
        if fresh_tail is not None:  # labels may have come after a pair that waits for its own
            self._moved |= self._behind != (tail.labelled, tail.pending)
            self._behind = (tail.labelled, tail.pending)
        met = self._requirements.met() if self._requirements else {}
        verdict = self._judge(evidence, tail, plan, frozenset(met))
        order = self._order(plan, verdict, candidate_ready=candidate_ready)
        if order is None and self._baked(plan, evidence):
            order = Order.RELEASE
        if fresh_tail is not None or order is not None:
            self.verdict = verdict  # only then, so that the displayed verdict does not alternate
        self._moved |= self._shown_revision != plan.revision  # what is displayed belongs to the plan in force
        kept = order is not None or (self._moved and fresh_tail is not None)
        if kept and not self._keep(evidence, tail, verdict, plan, decided=order is not None):
            return None
        if order is None:
            return None
        cursors: Cursors = {
            "seen": evidence.seen,
            "settled": evidence.settled,
            "tail_to": tail.last,
            "known_by": known_by,
            "marks": len(evidence.marks),
            "chain": evidence.chain.digest,
            "met": met,
            "evidence": VERSION,
        }
        return self._apply(plan, order, verdict, cursors)

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

    def _fold_anew(self, kept: int | None) -> None:
        """Log that evidence of another version is not read, but computed again from the rows in the store."""
        reason = (
            f"the stored evidence has version {kept or 1} of its format and is computed again in version {VERSION}, from the rows "
            "in the store; rows that retention has removed are missing from it, and this version cannot verify earlier decisions"
        )
        plan = self._store.load_plan()
        details = {"from_version": kept or 1, "to_version": VERSION}
        self._store.append_event(
            Event(self._clock.now(), "evidence", "system", reason, plan.revision if plan else 0, details)
        )
        log.info("the evidence is computed again", reason=reason)

    def _fold(self, evidence: Evidence, known_by: int) -> bool:
        before = (evidence.seen, evidence.settled)
        for rows in self._pages(evidence.seen, SEE_MAX_ROWS, known_by):
            together = evidence.settled == evidence.seen  # nothing waits, so these rows need not be read twice
            evidence.see(yielding(rows))
            if together:
                evidence.settle(yielding(rows))
        if evidence.settled < evidence.seen:
            for rows in self._pages(evidence.settled, SEE_MAX_ROWS, known_by, first=FIRST_PAGE_ROWS):
                if evidence.settle(yielding(rows)) < len(rows):
                    break
        return before != (evidence.seen, evidence.settled)

    def _tail(self, evidence: Evidence, known_by: int) -> Tail | None:
        """The tail; None if reading it again now would take too much time (`TAIL_SHARE`)."""
        began = self._clock.perf()
        if began < self._tail_at:
            return None
        pages = self._pages(evidence.settled, TAIL_MAX_ROWS, known_by)
        taken = itertools.count()
        tail = evidence.tail(
            row for rows in pages for row in yielding(rows) if next(taken) >= 0 and row[0] <= evidence.seen
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
        """Whether the old primary has rehearsed long enough after a promotion, in request time."""
        return plan.phase is Phase.PROMOTED and evidence.baked(self._policy.bake)

    def _apply(self, plan: Plan, order: Order, verdict: Verdict, cursors: Cursors) -> Plan | None:
        new = move(self._policy, plan, order, self._clock.now())
        details: DecisionDetails = {
            "from": plan.phase.value,
            "to": new.phase.value,
            "weight": new.weight * 100 / SHARE_ONE,
            "step": new.step,
            "verdict": verdict.as_dict(),
            "metrics": [m.as_dict() for m in verdict.metrics],
            "judged_step": judged_step(plan),
            "followed": self._policy.followed(),
            **cursors,
        }
        baked = f"the bake of {self._policy.bake / 3600:g} h after the promotion is over: the old primary is released"
        reason = baked if order is Order.RELEASE else verdict.reason
        event = Event(self._clock.now(), order.value, "judge", reason, plan.revision, details)
        try:
            return self._store.save_plan(new, event, expected_revision=plan.revision)
        except NotAllowedNow:
            return None  # an operator changed the plan first; the next tick judges that plan

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
        bands = [_band(metric) for metric in metrics]
        self._history.append({"at": evidence.latest_at, "revision": plan.revision, "metrics": bands})
        if len(self._history) > HISTORY_MAX:
            self._history = self._history[::-2][::-1]  # keeps the newest
        self._points += 1  # counts all points ever, so that readers notice new bands
        shown: ShownState = {
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
            # The bands first: a reader of the new number of points must find the new bands.
            self._store.save_state(BANDS, {"history": self._history}, holder=self.holder)
            self._store.save_state(SHOWN, dict(shown), holder=self.holder)
            if decided:  # so that the decision can be verified after the rows before it are pruned
                self._store.save_state(decided_at(plan.revision + 1), dict(evidence.state()), holder=self.holder)
        except NotAllowedNow:
            self._evidence = None  # another process leads and continues from what was kept before
            return False
        self._moved, self._shown_revision = False, plan.revision
        return True

    def _pages(
        self, after: int, limit: int, known_by: int, *, first: int | None = None
    ) -> Iterator[Sequence[EvidenceRow]]:
        """Rows after a cursor, in pages, at most about `limit` of them."""
        taken, size = 0, first or PAGE_ROWS
        while taken < limit:
            rows = list(self._store.outcomes(after=after, limit=size, known_by=known_by))
            count, last = len(rows), rows[-1][0] if rows else after
            yield rows
            clear_yielding(rows)
            if count < size:
                return
            after, taken, size = last, taken + count, PAGE_ROWS


def _band(metric: MetricDocument) -> BandDocument:
    return {
        "metric": metric["metric"],
        "estimate": metric["estimate"],
        "low": metric["low"],
        "high": metric["high"],
        "n": metric["n"],
        "log_e_advance": metric["log_e_advance"],
        "log_e_harm": metric["log_e_harm"],
    }


def bands_of(store: Store) -> Sequence[BandPoint]:
    """The metrics' bands over time, the oldest point first. Blocks."""
    # Older versions stored them with `SHOWN`.
    history = (store.load_state(BANDS) or store.load_state(SHOWN) or {}).get("history", [])
    return cast("Sequence[BandPoint]", history)


def decided_at(revision: int) -> str:
    """Name in the store of the evidence behind the decision with this revision."""
    return f"{STATE}/{revision}"


def judged_step(plan: Plan) -> int:
    """The step at which a plan is judged; -1 if only harm is judged."""
    return plan.step if plan.phase in {Phase.SHADOW, Phase.CANARY} else -1


def judge_at(
    policy: Policy, evidence: Evidence, tail: Tail, phase: Phase, step: int, met: frozenset[str] = frozenset()
) -> Verdict:
    """The verdict on evidence at a step, given the requirements that are met. Pure."""
    return judge(
        policy, phase, step, evidence.readings(tail, serving=serving(policy, step)), evidence.standing(tail, met)
    )


def move(policy: Policy, plan: Plan, order: Order, now: float, *, weight: int | None = None) -> Plan:
    """The plan after an order. Pure.

    Raises:
        NotAllowedNow: if the phase does not allow the order.
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
            # The old primary keeps rehearsing until the bake is over.
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
    """The next step. If the weight was set by hand: the first canary step with a larger weight."""
    if plan.step >= 0:
        return plan.step + 1
    beyond = (i for i, s in enumerate(policy.steps) if isinstance(s, CanaryStep) and s.canary > plan.weight)
    return next(beyond, len(policy.steps))
