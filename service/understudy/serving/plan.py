"""The rollout for REST: its state, counters and audit log, and the orders that change it. Not on the prediction path."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Mapping

import structlog

from understudy.clock import Clock
from understudy.documents import Audit, Events, Evidence, Rollout, Traffic
from understudy.domain import SHARE_ONE, Event, JsonObject, Phase, Plan, Variant
from understudy.errors import ConfigurationError, InvalidInput, NotAllowedNow, StoreError
from understudy.inference.cards import Card
from understudy.observability import timeline
from understudy.observability.metrics import Metrics
from understudy.rollout.controller import SHOWN, bands_of, move
from understudy.rollout.judge import trial_budget
from understudy.rollout.loadtest import LOADTEST, steps_entered
from understudy.rollout.phases import Order
from understudy.rollout.policy import CanaryStep, Policy
from understudy.rollout.requirements import Requirements
from understudy.serving.rollout_document import known_to, shown
from understudy.store import Store

log = structlog.get_logger(__name__)

REASON_MAX_CHARS = 2_000
HEAR_S = 0.5
"""How long a thread waits for a new plan at a time; closing the service waits this long at most."""
UNKNOWN = Plan(Phase.SERVING, weight=0, shadow=0, salt=0)
"""The plan in force until the store's plan can be read."""


class Control:
    """Keeps this worker's plan equal to the store's, and changes the store's on orders.

    Args:
        plan: the store's plan; None if it could not be read. Until it can be, the primary answers alone and the candidate does
            not even rehearse, because it may have been taken off.
        begin: saves a first plan in a store that has none, and returns the store's plan.

    Attributes:
        plan: the plan of this worker's router. It is replaced as a whole, so a request sees one plan from start to end.
        on_plan: called with each plan that comes into force in this worker.
        prepare: awaited before that; an exception keeps the plan out of force in this worker.
        primary_up: whether this process holds the primary.
    """

    def __init__(
        self,
        policy: Policy,
        cards: Mapping[Variant, Card],
        store: Store,
        metrics: Metrics,
        clock: Clock,
        plan: Plan | None,
        requirements: Requirements | None = None,
        begin: Callable[[], Plan | None] = lambda: None,
    ) -> None:
        self.policy, self.cards, self._begin = policy, cards, begin
        self._store, self._metrics, self._clock = store, metrics, clock
        self._requirements = requirements
        self._tasks: list[asyncio.Task[None]] = []
        self.on_plan: Callable[[Plan], None] = lambda plan: None
        self.prepare: Callable[[Plan], Awaitable[None]] = _nothing_to_prepare
        self.primary_up: Callable[[], bool] = lambda: True
        self._read_at = clock.perf()
        self._stale = plan is None
        metrics.plan_stale.set(self._stale)
        self._follow(plan or UNKNOWN)

    def start(self, poll_s: float, stale_s: float) -> None:
        """Start to watch for new plans. A plan that could not be read for `stale_s` becomes stale."""
        self.on_plan(self.plan)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._watch(poll_s)), loop.create_task(self._distrust(stale_s))]

    async def close(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def order(
        self, order: Order, *, actor: str, reason: str, expected_revision: int | None, force: bool = False
    ) -> None:
        """Carry out an operator's order.

        Args:
            force: start a step whose requirement is not met; recorded in the audit log, and takes a reason.

        Raises:
            InvalidInput: the order is forced without a reason.
            NotAllowedNow: the phase does not allow it, the revision has changed, or a step's requirement is not met.
        """
        await self._move(order, actor, reason, expected_revision, {}, force=force)

    async def order_weight(
        self, weight: object, *, actor: str, reason: str, expected_revision: int | None, force: bool = False
    ) -> None:
        """Set the candidate's share of live answers by hand.

        Args:
            weight: percent, 0 to 100, at most two decimals; with 0 the candidate only rehearses.
            force: as for `order`, since a weight must not bypass a step's requirement.

        Raises:
            InvalidInput: the weight is no such number, or the order is forced without a reason.
            NotAllowedNow: the phase does not allow it, the revision has changed, or a step's requirement is not met.
        """
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 100:
            problem = f"takes a number of percent, 0 to 100, not {weight!r}"
            raise InvalidInput([{"row": None, "field": "weight", "problem": problem}])
        share = round(weight * SHARE_ONE / 100)
        if abs(share - weight * SHARE_ONE / 100) > 1e-6:
            problem = "takes at most two decimals: 0.01 is the smallest step"
            raise InvalidInput([{"row": None, "field": "weight", "problem": problem}])
        order = Order.WEIGHT if share else Order.SHADOW
        await self._move(order, actor, reason, expected_revision, {"weight": weight}, share, force=force)

    async def _move(
        self,
        order: Order,
        actor: str,
        reason: str,
        expected_revision: int | None,
        details: JsonObject,
        share: int | None = None,
        *,
        force: bool,
    ) -> None:
        if force and not reason.strip():
            raise InvalidInput(
                [{"row": None, "field": "reason", "problem": "is missing: `force` needs one, for the log"}]
            )

        # The store's plan, not this worker's: another worker may just have changed it.
        before = await asyncio.to_thread(self._load) or self.plan
        if expected_revision is not None and expected_revision != before.revision:
            raise NotAllowedNow(f"the rollout is at revision {before.revision}, not at {expected_revision}: look again")
        plan = move(self.policy, before, order, self._clock.now(), weight=share)
        change: JsonObject = {
            "from": before.phase.value,
            "to": plan.phase.value,
            "from_weight": before.weight * 100 / SHARE_ONE,
            "weight": plan.weight * 100 / SHARE_ONE,
            "step": plan.step,
        }
        if order is Order.RETRY:
            # The chance that this trial ends in a wrong rollback; over all trials it sums to the harm budget at most.
            change |= {"trial": plan.trial, "harm_budget": trial_budget(self.policy, plan.trial)}
        skipped = await asyncio.to_thread(self._skipped, before, order, share, force=force)
        event = Event(self._clock.now(), order.value, actor, reason, before.revision, change | details | skipped)
        await self.prepare(plan)
        saved = await asyncio.to_thread(self._store.save_plan, plan, event, expected_revision=before.revision)
        self._metrics.events.labels(event=order.value).inc()
        self._follow(saved)
        self._trust()

    def _skipped(self, plan: Plan, order: Order, share: int | None, *, force: bool) -> JsonObject:
        """The requirement that a forced order skips, for the audit log. An operator's order counts as approval.

        Raises:
            NotAllowedNow: a step would start whose requirement is not met, and the order is not forced.
        """
        lacking = [s for s in steps_entered(self.policy, plan, order, share) if LOADTEST in s.require]
        if not lacking or self._requirements is None or not (why := self._requirements.missing()):
            return {}
        if force:
            return {"skipped": LOADTEST, "skipped_because": why}
        step = lacking[0]
        name = f"canary {step.canary / 100:g}" if isinstance(step, CanaryStep) else f"shadow {step.shadow / 100:g}"
        raise NotAllowedNow(
            f"the step `{name}` requires a load test: {why}; or force the order, with a reason for the log"
        )

    async def state(self, *, candidate_up: bool) -> Rollout:
        """The body of `GET /rollout`."""
        known = await asyncio.to_thread(known_to, self._store, self.plan, self._clock.now())
        up = {Variant.PRIMARY: self.primary_up(), Variant.CANDIDATE: candidate_up}
        return shown(self.policy, self.cards, self.plan, known, up)

    async def evidence_mark(self) -> JsonObject:
        """A cheap fingerprint that changes whenever the result of `evidence` does."""
        counters, kept = await asyncio.to_thread(lambda: (self._store.counters(), self._store.load_state(SHOWN)))
        return {"revision": self.plan.revision, "counters": dict(counters), "points": (kept or {}).get("points", 0)}

    async def evidence(self) -> Evidence:
        """The body of `GET /rollout/evidence`: the counters that the figures come from, and the bands over time."""
        counters, bands = await asyncio.to_thread(lambda: (self._store.counters(), bands_of(self._store)))
        return Evidence(revision=self.plan.revision, counters=dict(counters), bands=bands)

    async def traffic(self, span: str, after: float) -> Traffic:
        """The body of `GET /rollout/traffic`."""
        kept = await asyncio.to_thread(self._store.load_state, timeline.STATE)
        return timeline.shown(kept, span, after)

    async def audit(self) -> Audit:
        """The body of `GET /rollout/audit`."""
        kept = await asyncio.to_thread(self._store.load_state, SHOWN)
        share = self.policy.labels.audit
        return Audit(
            share=None if share is None else share * 100 / SHARE_ONE,
            wait_s=self.policy.labels.wait,
            wanted=kept["wanted"] if kept else [],
        )

    async def events(self, after: int, limit: int) -> Events:
        """The body of `GET /rollout/events`."""
        found = await asyncio.to_thread(lambda: self._store.events(after=after, limit=limit))
        return Events(events=[dataclasses.replace(event, details=dict(event.details)) for event in found])

    def _follow(self, plan: Plan) -> None:
        self.plan = plan
        self.on_plan(plan)
        self._metrics.set_plan(plan.phase, plan.weight / SHARE_ONE)

    async def _watch(self, poll_s: float) -> None:
        while True:
            try:
                await self._hear_of_plan(poll_s)
                before = self.plan
                plan = await asyncio.to_thread(self._load)
            except StoreError:  # the last plan stays in force until it is stale
                self._metrics.store_errors.labels(call="load_plan").inc()
                continue
            if self.plan is not before:
                continue  # an order came in between, so the plan that was read may be outdated
            if plan is not None and (self._stale or plan.revision != self.plan.revision):
                try:
                    await self.prepare(plan)
                except ConfigurationError as error:
                    log.error("the plan cannot come into force here", reason=error.detail, revision=plan.revision)
                    continue
                if self.plan is before:
                    self._follow(plan)
            self._trust()

    def _load(self) -> Plan | None:
        """The store's plan; saves a first one if there is none."""
        return self._store.load_plan() or self._begin()

    async def _distrust(self, stale_s: float) -> None:
        """Take live traffic off a candidate on trial when the plan is stale, because an order to stop would not arrive.

        It goes by the clock, not by errors: a store that hangs raises none.
        """
        while True:
            await asyncio.sleep(stale_s / 20)
            age = self._clock.perf() - self._read_at
            if age > stale_s and not self._stale:
                log.warning(
                    "the plan could not be read for too long: a candidate on trial gets no live traffic until it can be read again",
                    age_s=round(age, 1),
                )
                self._stale = True
                self._metrics.plan_stale.set(1)
                self._follow(without_trial(self.plan))

    def _trust(self) -> None:
        """The plan has just been read or saved."""
        self._read_at = self._clock.perf()
        if self._stale:
            self._stale = False
            self._metrics.plan_stale.set(0)
            log.info("the plan can be read again")

    async def _hear_of_plan(self, poll_s: float) -> None:
        """Wait until the store reports a new plan, or `poll_s` is over."""
        clock = asyncio.get_running_loop().time
        until = clock() + poll_s
        while (left := until - clock()) > 0:
            if await asyncio.to_thread(self._store.await_plan, min(left, HEAR_S)):
                return


async def _nothing_to_prepare(plan: Plan) -> None:
    """The default of `Control.prepare`."""


def without_trial(plan: Plan) -> Plan:
    """The plan without live traffic to a candidate on trial. A promoted candidate keeps its traffic.

    >>> without_trial(Plan(Phase.CANARY, 500, 10_000, 7)).weight, without_trial(Plan(Phase.PROMOTED, 10_000, 0, 7)).weight
    (0, 10000)
    """
    return plan if plan.phase is Phase.PROMOTED else dataclasses.replace(plan, weight=0)
