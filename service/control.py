"""The rollout as REST shows it: its state, its counters, its log, and the orders that change it. Off the request path."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import structlog

from service import losses
from service.clock import Clock
from service.domain import SHARE_ONE, Event, Phase, Plan, Variant
from service.engine.catalog import Card
from service.errors import InvalidInput, NotAllowedNow, StoreError
from service.metrics import LATENCY_BUCKETS, Metrics
from service.record import Recorder
from service.rollout.policy import Policy
from service.store import Retention, Store

log = structlog.get_logger(__name__)

REASON_MAX_CHARS = 2_000


class Control:
    """Keeps this worker's plan equal to the store's, and changes the store's on orders.

    Attributes:
        plan: what this worker's router obeys; replaced as a whole, so a request sees one plan from start to end.
    """

    def __init__(
        self, policy: Policy, cards: Mapping[Variant, Card], store: Store, metrics: Metrics, clock: Clock, plan: Plan
    ) -> None:
        self.policy, self.cards, self.plan = policy, cards, plan
        self._store, self._metrics, self._clock = store, metrics, clock
        self._tasks: list[asyncio.Task[None]] = []
        self._follow(plan)

    def start(self, poll_s: float, recorder: Recorder, sweep_s: float, retention: Retention) -> None:
        """Begin to watch for new plans, to join waiting labels, and to prune."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._watch(poll_s)),
            loop.create_task(self._housekeeping(recorder, sweep_s, retention)),
        ]

    async def close(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def order_weight(self, weight: object, *, actor: str, reason: str, expected_revision: int | None) -> None:
        """Set the candidate's share of live answers by hand.

        Args:
            weight: percent, 0 to 100, at most two decimals; 0 sends the candidate back to rehearsing only.

        Raises:
            InvalidInput: when it is not such a number.
            NotAllowedNow: when there is no candidate, or the revision has moved on.
        """
        if self.policy.candidate is None:
            raise NotAllowedNow("the rollout file names no candidate")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 100:
            raise InvalidInput(
                [{"row": None, "field": "weight", "problem": f"takes a number of percent, 0 to 100, not {weight!r}"}]
            )
        share = round(weight * SHARE_ONE / 100)
        if abs(share - weight * SHARE_ONE / 100) > 1e-6:
            raise InvalidInput(
                [{"row": None, "field": "weight", "problem": "takes at most two decimals: 0.01 is the smallest step"}]
            )
        phase = Phase.CANARY if share else Phase.SHADOW
        before = self.plan
        plan = dataclasses.replace(before, phase=phase, weight=share, step=-1, updated_at=self._clock.now())
        details = {"weight": weight, "from_weight": before.weight * 100 / SHARE_ONE, "phase": phase.value}
        event = Event(self._clock.now(), "weight", actor, reason, before.revision, details)
        saved = await asyncio.to_thread(self._store.save_plan, plan, event, expected_revision=expected_revision)
        self._metrics.events.labels(event="weight").inc()
        self._follow(saved)

    async def state(self, *, candidate_up: bool) -> dict[str, Any]:
        """The body of `GET /rollout`."""
        counters = await asyncio.to_thread(self._store.counters)
        plan = self.plan
        reason = "weights are set by hand; nothing is judged yet"
        return {
            "model": self.policy.model,
            "phase": plan.phase.value,
            "step": plan.step,
            "weight": plan.weight * 100 / SHARE_ONE,
            "shadow_share": plan.shadow * 100 / SHARE_ONE,
            "primary": self._who(Variant.PRIMARY),
            "candidate": self._who(Variant.CANDIDATE, up=candidate_up),
            "verdict": {"answer": "hold", "reason": reason},
            "metrics": [],
            "variants": {variant.value: figures(counters, variant) for variant in Variant},
            "labels": label_figures(counters),
            "shadow": {
                name: int(counters.get(f"shadow/{name}", 0))
                for name in ("sent", "compared", "dropped", "failed", "late")
            },
            "fallbacks": {k.partition("/")[2]: int(v) for k, v in counters.items() if k.startswith("fallbacks/")},
            "revision": plan.revision,
            "updated_at": plan.updated_at,
        }

    async def evidence(self) -> dict[str, Any]:
        """The body of `GET /rollout/evidence`: the counters that everything else is computed from."""
        return {"revision": self.plan.revision, "counters": dict(await asyncio.to_thread(self._store.counters))}

    async def events(self, after: int, limit: int) -> dict[str, Any]:
        """The body of `GET /rollout/events`."""
        found = await asyncio.to_thread(lambda: self._store.events(after=after, limit=limit))
        return {"events": [{**dataclasses.asdict(event), "details": dict(event.details)} for event in found]}

    def _who(self, variant: Variant, *, up: bool = True) -> dict[str, Any] | None:
        card = self.cards.get(variant)
        return None if card is None else {"name": card.name, "version": card.version, "digest": card.digest, "up": up}

    def _follow(self, plan: Plan) -> None:
        self.plan = plan
        self._metrics.set_plan(plan.phase, plan.weight / SHARE_ONE)

    async def _watch(self, poll_s: float) -> None:
        while True:
            await asyncio.sleep(poll_s)
            try:
                plan = await asyncio.to_thread(self._store.load_plan)
            except StoreError as error:
                self._metrics.store_errors.labels(call="load_plan").inc()
                log.warning("the plan could not be read; the last one stays in force", error=str(error))
                continue
            if plan is not None and plan.revision != self.plan.revision:
                self._follow(plan)

    async def _housekeeping(self, recorder: Recorder, sweep_s: float, retention: Retention) -> None:
        while True:
            await asyncio.sleep(sweep_s)
            try:
                await asyncio.to_thread(recorder.sweep)
                # Age counts in the requests' own time, so that history which is replayed is not old when it arrives.
                if recorder.latest_at:
                    await asyncio.to_thread(
                        self._store.prune, retention, now=min(recorder.latest_at, self._clock.now())
                    )
            except StoreError as error:
                self._metrics.store_errors.labels(call="housekeeping").inc()
                log.warning("housekeeping is put off", error=str(error))


def figures(counters: Mapping[str, float], variant: Variant) -> dict[str, Any]:
    """What the store's counters say of one variant: requests answered, latency, and mean losses where labels have come.

    Latencies are interpolated in the histogram's buckets, as PromQL's `histogram_quantile` does it.
    """
    live = {k: v for k, v in counters.items() if k.startswith(f"requests/{variant}/live/")}
    found: dict[str, Any] = {"requests": int(sum(live.values()))}
    buckets = [counters.get(f"latency/{variant}/{i}", 0.0) for i in range(len(LATENCY_BUCKETS) + 1)]
    for name, quantile in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        seconds = quantile_of(buckets, LATENCY_BUCKETS, quantile)
        found[f"latency_{name}_ms"] = None if seconds is None else round(seconds * 1000, 3)
    prefix = f"loss_count/{variant}/"
    for key, count in counters.items():
        if key.startswith(prefix) and count:
            name = key.removeprefix(prefix)
            mean = counters[f"loss_sum/{variant}/{name}"] / count
            found["labelled"] = int(count)
            found["accuracy" if name == "zero_one" else name] = 1 - mean if name == "zero_one" else mean
    return found


def label_figures(counters: Mapping[str, float]) -> dict[str, Any]:
    """Labels joined, their share of all recorded rows, and the median delay in seconds (interpolated)."""
    rows = sum(v for k, v in counters.items() if k.startswith("rows/"))
    matched = counters.get("labels/matched", 0.0)
    buckets = [counters.get(f"label_delay/{i}", 0.0) for i in range(len(losses.DELAY_BUCKETS) + 1)]
    return {
        "matched": int(matched),
        "coverage": matched / rows if rows else None,
        "delay_p50_s": quantile_of(buckets, losses.DELAY_BUCKETS, 0.5),
    }


def quantile_of(counts: list[float], edges: tuple[float, ...], quantile: float) -> float | None:
    """A quantile from a histogram: linear inside the bucket, the last edge for the open bucket. None when it is empty.

    >>> quantile_of([0, 10, 0], (1, 2), 0.5)
    1.5
    """
    total = sum(counts)
    if not total:
        return None
    rank, seen = quantile * total, 0.0
    for i, count in enumerate(counts):
        if count and seen + count >= rank:
            if i == len(edges):
                return float(edges[-1])
            low = edges[i - 1] if i else 0.0
            return low + (edges[i] - low) * (rank - seen) / count
        seen += count
    return float(edges[-1])
