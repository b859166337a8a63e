"""Orders change the plan once and say who gave them; the figures are what the counters say; other workers follow."""

import asyncio
import bisect
import dataclasses
import math
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.waiting import eventually
from understudy.domain import SHARE_ONE, Event, LabelReport, Outcome, Phase, Plan, Variant
from understudy.errors import InvalidInput, NotAllowedNow, StoreError
from understudy.observability.metrics import LATENCY_BUCKETS, Metrics, parse
from understudy.observability.summaries import figures, label_figures
from understudy.rollout import losses
from understudy.rollout.comparison import quantile_of
from understudy.rollout.losses import DELAY_BUCKETS
from understudy.rollout.phases import Order
from understudy.rollout.policy import parse as parse_policy
from understudy.serving.plan import Control
from understudy.store import Retention
from understudy.store.memory import MemoryStore
from understudy.testing import ManualClock, card, observation

CARDS = {variant: card(variant.value, digest=f"sha256:{variant.value}") for variant in Variant}
KEEP = Retention(max_age_s=3600, max_bytes=2**30)
FIRST = Plan(Phase.SHADOW, weight=0, shadow=SHARE_ONE, salt=7)


def tally(outcome: Outcome) -> Mapping[str, float]:
    return losses.tally(outcome, dict.fromkeys(Variant, (0, 1)), dict.fromkeys(Variant, 1))


class Harness:
    """A control over a store in memory, with a clock that stands."""

    def __init__(self, store: MemoryStore | None = None, *, candidate: str = "b", first: Plan = FIRST) -> None:
        self.clock = ManualClock()
        self.store = store or MemoryStore("r", tally)
        self.registry = prometheus_client.CollectorRegistry()
        policy = parse_policy(f"model: m\ntask: binary-classification\nprimary: a\ncandidate: {candidate}\n")
        plan = self.store.load_plan() or self.store.save_plan(first, Event(0.0, "started", "service", "", 0))
        self.control = Control(policy, CARDS, self.store, Metrics(self.registry), self.clock, plan)

    def metric(self, name: str, **labels: str) -> float:
        text = prometheus_client.generate_latest(self.registry).decode()
        (value,) = (v for n, have, v in parse(text) if n == name and have == labels)
        return value

    async def order(self, weight: Any, revision: int | None = None, actor: str = "ada") -> None:
        await self.control.order_weight(weight, actor=actor, reason="because", expected_revision=revision)


def run(job: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await job()

    asyncio.run(main())


def test_an_order_changes_the_plan_and_is_in_the_log() -> None:
    """Weight, phase, revision and time; who, why, from what to what; the metrics show it."""

    async def main() -> None:
        harness = Harness()
        harness.clock.advance(60)
        await harness.order(12.5)

        plan = harness.control.plan
        assert (plan.phase, plan.weight, plan.shadow, plan.salt) == (Phase.CANARY, 1_250, SHARE_ONE, FIRST.salt)
        assert (plan.step, plan.revision, plan.updated_at) == (-1, 2, harness.clock.now())
        assert harness.store.load_plan() == plan
        event = (await harness.control.events(1, 10)).events[0]
        assert (event.kind, event.actor, event.reason, event.revision) == ("weight", "ada", "because", 2)
        assert event.details == {"from": "shadow", "to": "canary", "from_weight": 0.0, "weight": 12.5, "step": -1}
        assert event.at == harness.clock.now()
        assert harness.metric("understudy_rollout_weight") == 0.125
        assert harness.metric("understudy_rollout_phase", phase="canary") == 1
        assert harness.metric("understudy_rollout_phase", phase="shadow") == 0
        assert harness.metric("understudy_events_total", event="weight") == 1

    run(main)


def test_an_order_of_nothing_sends_the_candidate_back_to_rehearsing() -> None:
    """Phase shadow, with everyone answered by the primary."""

    async def main() -> None:
        harness = Harness()
        await harness.order(50)
        await harness.order(0)
        assert (harness.control.plan.phase, harness.control.plan.weight, harness.control.plan.revision) == (
            Phase.SHADOW,
            0,
            3,
        )

    run(main)


@given(st.integers(0, SHARE_ONE))
def test_every_hundredth_of_a_percent_can_be_ordered(hundredths: int) -> None:
    """Whatever float its decimal number is."""

    async def main() -> None:
        harness = Harness()
        await harness.order(hundredths / 100)
        assert harness.control.plan.weight == hundredths

    run(main)


@pytest.mark.parametrize("weight", [-1, 100.01, 0.005, "5", "5%", None, True, [5], math.nan, math.inf])
def test_what_is_no_share_is_refused_and_changes_nothing(weight: Any) -> None:
    """The field is named, the plan stays, the log stays."""

    async def main() -> None:
        harness = Harness()
        with pytest.raises(InvalidInput) as caught:
            await harness.order(weight)
        assert [error["field"] for error in caught.value.errors] == ["weight"]
        assert harness.control.plan.revision == 1
        assert len(harness.store.events()) == 1

    run(main)


def test_who_looked_at_an_old_revision_must_look_again() -> None:
    """Two people order at once: the second is told, and the first order stands."""

    async def main() -> None:
        harness = Harness()
        await harness.order(5, revision=1)
        with pytest.raises(NotAllowedNow, match="revision"):
            await harness.order(50, revision=1, actor="bob")
        assert (harness.control.plan.weight, harness.store.load_plan()) == (500, harness.control.plan)
        assert [event.actor for event in harness.store.events()] == ["service", "ada"]
        assert harness.metric("understudy_events_total", event="weight") == 1

    run(main)


def test_without_a_candidate_no_weight_can_be_ordered() -> None:
    """409, in words."""

    async def main() -> None:
        harness = Harness(candidate="null", first=Plan(Phase.SERVING, 0, 0, 7))
        with pytest.raises(NotAllowedNow, match="there is no candidate"):
            await harness.order(5)
        assert harness.control.plan.revision == 1

    run(main)


def test_an_order_at_a_worker_that_is_behind_keeps_what_another_ordered() -> None:
    """Without `If-Match`, and before the next poll: only the weight and the phase change, and the log says from what."""

    async def main() -> None:
        one = Harness()
        two = Harness(one.store)
        half = dataclasses.replace(one.control.plan, shadow=5_000, weight=4_000, phase=Phase.CANARY)
        one.store.save_plan(half, Event(0.0, "elsewhere", "x", "", 1))
        await two.order(10)
        assert one.store.load_plan() == two.control.plan
        assert (two.control.plan.shadow, two.control.plan.weight) == (5_000, 1_000)
        assert one.store.events()[-1].details["from_weight"] == 40

    run(main)


def test_an_operator_s_orders_move_the_plan_and_are_in_the_log() -> None:
    """Pause keeps the weight, resume goes on, abort takes the candidate off; who, why and from where to where."""

    async def main() -> None:
        harness = Harness()
        await harness.order(25)
        seen = []
        for order in (Order.PAUSE, Order.RESUME, Order.ABORT):
            await harness.control.order(
                order, actor="ada", reason="hm", expected_revision=harness.control.plan.revision
            )
            seen.append((harness.control.plan.phase, harness.control.plan.weight))
        assert seen == [(Phase.PAUSED, 2_500), (Phase.CANARY, 2_500), (Phase.ABORTED, 0)]
        last = harness.store.events()[-1]
        assert (last.kind, last.actor, last.reason) == ("abort", "ada", "hm")
        assert (last.details["from"], last.details["to"], last.details["from_weight"]) == ("canary", "aborted", 25.0)
        assert harness.metric("understudy_rollout_weight") == 0
        assert harness.metric("understudy_events_total", event="abort") == 1

    run(main)


def test_an_order_that_the_phase_does_not_allow_changes_nothing() -> None:
    """What is allowed is said."""

    async def main() -> None:
        harness = Harness()
        with pytest.raises(NotAllowedNow, match="resume is not allowed while the rollout is shadow; allowed: abort"):
            await harness.control.order(Order.RESUME, actor="ada", reason="", expected_revision=None)
        assert harness.store.load_plan() == harness.control.plan
        assert len(harness.store.events()) == 1

    run(main)


def test_a_worker_follows_a_plan_that_another_has_saved() -> None:
    """Within a poll, in its metrics too."""

    async def main() -> None:
        one = Harness()
        two = Harness(one.store)
        two.control.start(0.002, 60.0)
        await one.order(25)
        await eventually(lambda: two.control.plan.weight == 2_500)
        assert two.control.plan == one.control.plan
        assert two.metric("understudy_rollout_weight") == 0.25
        await two.control.close()

    run(main)


class Slow(MemoryStore):
    """A store whose poll for the plan is under way until it is let go."""

    reading, may_go = threading.Event(), threading.Event()
    polls = 0

    def load_plan(self) -> Plan | None:
        self.polls += 1
        found = super().load_plan()
        if (
            threading.current_thread() is not threading.main_thread()
            and not self.may_go.is_set()
            and not self.reading.is_set()
        ):
            self.reading.set()
            self.may_go.wait(10)
        return found


def test_a_poll_that_began_before_an_order_does_not_undo_it() -> None:
    """The plan that it has read was replaced meanwhile. The caller of the order saw the old phase in its answer."""

    async def main() -> None:
        harness = Harness(Slow("r", tally))
        assert isinstance(harness.store, Slow)
        seen: list[int] = []
        harness.control.on_plan = lambda plan: seen.append(plan.weight)
        harness.control.start(0.002, 60.0)
        await eventually(Slow.reading.is_set)
        await harness.order(25)
        seen.clear()
        Slow.may_go.set()
        polled = harness.store.polls
        await eventually(lambda: harness.store.polls > polled + 2)
        assert 0 not in seen
        assert harness.control.plan.weight == 2_500
        await harness.control.close()

    run(main)


@pytest.mark.parametrize(("phase", "kept"), [(Phase.CANARY, 0), (Phase.PROMOTED, SHARE_ONE)])
def test_a_plan_that_cannot_be_read_any_more_moves_live_traffic_off_a_trial(phase: Phase, kept: int) -> None:
    """By the clock, once; what was promoted goes on; and the same plan is in force again as soon as it can be read."""

    async def main() -> None:
        first = dataclasses.replace(FIRST, phase=phase, weight=SHARE_ONE)
        harness = Harness(Flaky("r", tally), first=first)
        assert isinstance(harness.store, Flaky)
        before = harness.control.plan
        harness.store.away = 10**9
        harness.control.start(0.002, 0.04)
        await eventually(lambda: harness.store.away < 10**9 - 20)  # polls, while the clock stands
        assert harness.control.plan is before
        harness.clock.advance(0.05)
        await eventually(lambda: harness.metric("understudy_plan_stale") == 1)
        assert (harness.control.plan.weight, harness.control.plan.revision) == (kept, before.revision)
        assert harness.metric("understudy_rollout_weight") == kept / SHARE_ONE
        harness.store.away = 0
        await eventually(lambda: harness.metric("understudy_plan_stale") == 0)
        assert harness.control.plan == before
        await harness.control.close()

    run(main)


@pytest.mark.parametrize("known", [None, Phase.ABORTED, Phase.CANARY, Phase.PROMOTED])
def test_without_a_plan_the_primary_answers_alone_until_one_can_be_read(known: Phase | None) -> None:
    """Not even a rehearsal: nobody here knows whether the candidate was taken off. Then the store's plan, or a first one."""

    async def main() -> None:
        store = Flaky("r", tally)
        if known is not None:
            store.save_plan(
                dataclasses.replace(FIRST, phase=known, weight=500), Event(0.0, "started", "service", "", 0)
            )
        harness = Harness(store)  # its metrics and policy
        registry = prometheus_client.CollectorRegistry()
        store.away = 10**9
        control = Control(
            harness.control.policy,
            CARDS,
            store,
            Metrics(registry),
            harness.clock,
            None,
            begin=lambda: store.save_plan(FIRST, Event(0.0, "started", "service", "", 0), expected_revision=0),
        )
        followed: list[Plan] = []
        control.on_plan = followed.append
        control.start(0.002, 60.0)
        await eventually(lambda: store.away < 10**9 - 10)  # polls
        assert (control.plan.phase, control.plan.weight, control.plan.shadow) == (Phase.SERVING, 0, 0)
        assert stale(registry) == 1
        store.away = 0
        await eventually(lambda: stale(registry) == 0)
        assert control.plan == store.load_plan()
        assert control.plan.phase is (known or Phase.SHADOW)
        assert followed[-1] == control.plan
        await control.close()

    def stale(registry: prometheus_client.CollectorRegistry) -> float:
        text = prometheus_client.generate_latest(registry).decode()
        (value,) = (v for n, _, v in parse(text) if n == "understudy_plan_stale")
        return value

    run(main)


class Flaky(MemoryStore):
    """A store whose plan cannot be read for a while."""

    away = 0

    def load_plan(self) -> Plan | None:
        if self.away:
            self.away -= 1
            raise StoreError("away")
        return super().load_plan()


def test_while_the_store_is_away_the_last_plan_stays_in_force() -> None:
    """It is counted, and the watch goes on: the next plan is followed."""

    async def main() -> None:
        store = Flaky("r", tally)
        harness, other = Harness(store), Harness(store)
        await other.order(25)
        store.away = 3
        harness.control.start(0.002, 60.0)
        await eventually(lambda: store.away == 0)
        assert harness.metric("understudy_store_errors_total", call="load_plan") >= 2
        await eventually(lambda: harness.control.plan.weight == 2_500)
        await harness.control.close()

    run(main)


@pytest.fixture
def state() -> dict[str, Any]:
    """`GET /rollout` after one labelled pair, one rehearsal and three fallbacks."""

    async def main() -> dict[str, Any]:
        harness = Harness()
        harness.store.add_observations(
            [observation("p-0", primary=0.25, candidate=0.75)],
            {
                "requests/primary/live/200": 1,
                "rows/live": 1,
                "latency/primary/0": 1,
                "shadow/sent": 1,
                "shadow/compared": 1,
                "fallbacks/timeout": 1,
                "fallbacks/starting": 2,
                "requests/candidate/shadow/200": 3,
                "requests/candidate/shadow/504": 2,
                "requests/candidate/shadow/429": 5,
            },
        )
        harness.store.add_labels([LabelReport("p-0", 1, 1_000_000.0 + 45)], received_at=0.0)
        assert (await harness.control.evidence()).counters == harness.store.counters()
        return dict(msgspec.to_builtins(await harness.control.state(candidate_up=False)))

    return asyncio.run(main())


def test_the_state_says_which_plan_is_in_force_and_what_is_allowed(state: dict[str, Any]) -> None:
    assert (state["model"], state["phase"], state["weight"], state["shadow_share"]) == ("m", "shadow", 0.0, 100.0)
    assert state["revision"] == 1
    assert state["allowed"] == ["promote", "promote_full", "weight", "pause", "abort"]
    assert state["verdict"]["answer"] == "hold"
    assert state["metrics"] == []


def test_the_state_names_both_models(state: dict[str, Any]) -> None:
    assert state["primary"] == {"name": "primary", "version": "1", "digest": "sha256:primary", "up": True}
    assert state["candidate"]["up"] is False


def test_the_state_has_the_figures_of_each_variant(state: dict[str, Any]) -> None:
    assert state["variants"]["primary"] == {
        "requests": 1,
        "asked": 1,
        "failed": 0,
        "latency_p50_ms": 0.25,
        "latency_p95_ms": 0.475,
        "latency_p99_ms": 0.495,
        "labelled": 1,
        "accuracy": 0.0,
        "brier": 0.5625,
        "log_loss": pytest.approx(-math.log(0.25)),
    }
    candidate = state["variants"]["candidate"]
    assert (candidate["brier"], candidate["latency_p50_ms"]) == (0.0625, None)
    # Two late rehearsals and one fallback failed; what was dropped or still starting was never asked.
    assert [candidate[name] for name in ("requests", "asked", "failed")] == [0, 6, 3]


def test_the_state_counts_labels_rehearsals_and_fallbacks(state: dict[str, Any]) -> None:
    assert state["labels"] | {"funnel": 0} == {
        "matched": 1,
        "coverage": 1.0,
        "delay_p50_s": pytest.approx(35.0),
        "funnel": 0,
        "oldest_waiting_s": None,
    }
    assert state["shadow"] == {"sent": 1, "compared": 1, "dropped": 0, "failed": 0, "late": 0}
    assert state["fallbacks"] == {"timeout": 1, "starting": 2}


def test_nothing_known_is_said_as_nothing() -> None:
    """No zero where there is no number yet."""
    assert figures({}, Variant.PRIMARY) == {
        "requests": 0,
        "asked": 0,
        "failed": 0,
        "latency_p50_ms": None,
        "latency_p95_ms": None,
        "latency_p99_ms": None,
    }
    assert label_figures({}) == {"matched": 0, "coverage": None, "delay_p50_s": None}


def test_requests_counted_are_the_live_ones() -> None:
    """Not the rehearsals, not the pinned ones; of every status."""
    counters = {
        "requests/primary/live/200": 5,
        "requests/primary/live/500": 1,
        "requests/primary/shadow/200": 9,
        "requests/primary/pinned/200": 9,
        "requests/candidate/live/200": 2,
    }

    primary = figures(counters, Variant.PRIMARY)
    assert (primary["requests"], primary["asked"], primary["failed"]) == (6, 15, 1)
    assert figures(counters, Variant.CANDIDATE)["requests"] == 2


def counted(values: list[float], edges: tuple[float, ...]) -> list[float]:
    counts = [0.0] * (len(edges) + 1)
    for value in values:
        counts[bisect.bisect_left(edges, value)] += 1
    return counts


@given(
    st.lists(st.floats(1e-5, LATENCY_BUCKETS[-1]), min_size=1, max_size=200),
    st.sampled_from([0.01, 0.25, 0.5, 0.95, 0.99, 1.0]),
)
def test_a_quantile_lies_in_the_bucket_of_the_exact_one(values: list[float], quantile: float) -> None:
    """As exact as the buckets are: between the edges around numpy's."""
    exact = float(np.percentile(values, quantile * 100, method="inverted_cdf"))
    at = bisect.bisect_left(LATENCY_BUCKETS, exact)
    found = quantile_of(counted(values, LATENCY_BUCKETS), LATENCY_BUCKETS, quantile)

    assert found is not None
    assert (LATENCY_BUCKETS[at - 1] if at else 0.0) <= found <= LATENCY_BUCKETS[at] * (1 + 1e-12)


def test_with_many_values_a_quantile_is_close_to_the_exact_one() -> None:
    """20,000 log-normal latencies: within a quarter of numpy's, where the buckets are a quarter wide."""
    values = np.random.default_rng(5).lognormal(math.log(0.01), 0.5, 20_000)
    for quantile in (0.5, 0.95, 0.99):
        found = quantile_of(counted(values.tolist(), LATENCY_BUCKETS), LATENCY_BUCKETS, quantile)
        assert found == pytest.approx(float(np.quantile(values, quantile)), rel=0.05)


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_grow(counts: list[int], a: float, b: float) -> None:
    """A higher quantile is never a smaller number, and none lies beyond the edges."""
    edges = (1.0, 2.0, 5.0)
    low, high = (quantile_of([float(c) for c in counts], edges, q) for q in sorted((a, b)))

    if not any(counts):
        assert low is high is None
    else:
        assert low is not None
        assert high is not None
        assert 0 <= low <= high <= 5


def test_the_open_bucket_answers_with_its_edge() -> None:
    """All that is known is that it is at least that: as PromQL has it."""
    assert quantile_of([0.0, 0.0, 3.0], (1.0, 2.0), 0.5) == 2.0
    delays = {f"label_delay/{len(DELAY_BUCKETS)}": 4.0, "rows/live": 8.0, "rows/pinned": 2.0, "labels/matched": 4.0}
    assert label_figures(delays) == {"matched": 4, "coverage": 0.4, "delay_p50_s": float(DELAY_BUCKETS[-1])}
