"""The gate: which records open it and which do not, that the judge waits for one, and that people go past it only by saying so."""

import asyncio
from typing import Any

import prometheus_client
import pytest

from tests.support.loadtests import GOALS, GOOD, SETUP, filed, gated, other, record
from tests.unit.rollout.world import MODELS, World, policy
from understudy.domain import Event, Plan
from understudy.errors import InvalidInput, NotAllowedNow
from understudy.observability.metrics import Metrics
from understudy.rollout.controller import Controller
from understudy.rollout.loadtest import (
    LOADTEST,
    LaunchGoals,
    LoadTestMachine,
    Record,
    held,
    shortcoming,
    steps_entered,
)
from understudy.rollout.phases import Order
from understudy.rollout.requirements import Requirements
from understudy.serving.plan import Control


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"achieved_rps": 98.9}, "98.9 requests/s were answered in time, the goal is 100.0"),
        ({"offered_rps": 90, "achieved_rps": 90}, "only 90.0 requests/s were offered, the goal is 100.0"),
        ({"latency": GOOD["latency"] | {"p99_ms": 50.1}}, "p99 is 50.1 ms, the goal is 50 ms"),
        ({"latency": GOOD["latency"] | {"p99_ms": None}}, "p99 is unknown, the goal is 50 ms"),
        (
            {"variants": {"candidate": {"requests": 9, "p99_ms": 51}}},
            "the candidate's p99 is 51.0 ms, the goal is 50 ms",
        ),
        ({"error_rate": 0.002}, "0.200% of the requests failed or were not answered in time, 0.100% are allowed"),
        ({"fallback_rate": 0.02}, "2.000% of the candidate's requests fell back to the primary, 1.000% are allowed"),
        ({"shadow_loss": 0.02}, "2.000% of the rehearsals were lost, 1.000% are allowed"),
        (
            {"records_loss": 0.3},
            "30.000% of the records were lost, or not stored a second after the test, 1.000% are allowed",
        ),
        ({"cost_per_million": 10.5}, "a million predictions cost 10.5000, 10 is the most"),
        ({"cost_per_million": None}, "a million predictions cost ?, 10 is the most"),
    ],
)
def test_every_goal_is_held_and_says_what_was_measured(change: dict[str, Any], says: str) -> None:
    """One missed goal at a time, each in its own words; what is met exactly is met."""
    missed = [finding.says for finding in held(GOALS, record(**change).measured) if not finding.met]

    assert missed == [says]
    assert all(f.met for f in held(GOALS, record(achieved_rps=99.0, error_rate=0.001, cost_per_million=10).measured))


def test_goals_that_the_file_does_not_set_are_not_held() -> None:
    """p50 and p95 are held when they are named; without a throughput or a cost there is none."""
    plain = LaunchGoals.of(policy().goals)
    strict = LaunchGoals.of(policy(latency={"p99_ms": 50, "p50_ms": 1, "p95_ms": 4}).goals)

    assert [f.goal for f in held(plain, record().measured)] == [
        "p99_ms",
        "candidate.p99_ms",
        "error_rate",
        "fallback_rate",
        "shadow_loss",
        "records_loss",
    ]
    assert [f.goal for f in held(strict, record().measured) if not f.met] == [
        "p50_ms",
        "candidate.p50_ms",
        "p95_ms",
        "candidate.p95_ms",
    ]


@pytest.mark.parametrize(
    ("test", "says"),
    [
        (record(setup=other(candidate="sha256:d")), "candidate is sha256:d, not sha256:c"),
        (record(setup=other(device="cuda")), "device is cuda, not cpu"),
        (record(setup=other(settings={"workers": 2, "threads": 1})), "workers is 2, not 1"),
        (record(setup=other(settings={"workers": 1})), "threads is absent, not 1"),
        (record(setup=other(machine=LoadTestMachine(cpu="y", cores=2, memory_gib=24))), "cpu is y, not x"),
        (record(setup=other(code="1+cd")), "code is 1+cd, not 1+ab"),
        (record(goals=GOALS.model_copy(update={"throughput_rps": 10.0})), "other goals: throughput_rps"),
        (record("fail"), "did not pass (fail: 100 of 100 requests/s, p99 9.0 ms; because)"),
        (record("invalid"), "did not pass (invalid:"),
        (
            record(error_rate=0.5),
            "claims to have passed, but its numbers do not meet the goals: 50.000% of the requests failed",
        ),
    ],
)
def test_a_record_counts_for_exactly_what_it_was_taken_of(test: Record, says: str) -> None:
    """Models, device, settings, machine, code and goals; and its numbers are read again."""
    assert shortcoming(record(), SETUP, GOALS) is None
    assert says in (shortcoming(test, SETUP, GOALS) or "")


def test_the_newest_that_says_anything_counts() -> None:
    """A later failure closes the gate, an invalid test and one of something else change nothing; the log is read once."""
    world = World(gated())
    requirements = Requirements(world.policy, SETUP, world.store)
    assert requirements.asked
    assert requirements.met() == {}
    assert requirements.missing() == "no load test has been recorded; run `understudy loadtest`"
    assert requirements.last() is None

    filed(world.store, record(setup=other(device="cuda")))
    assert requirements.met() == {}
    assert "device is cuda, not cpu; run `understudy loadtest` again" in requirements.missing()
    first = filed(world.store, record())
    assert requirements.met() == {"loadtest": first}
    filed(world.store, record("invalid"))
    filed(world.store, record(setup=other(device="cuda")))
    world.store.append_event(Event(1.0, LOADTEST, "x", "not a record", 1, {"verdict": "pass"}))
    assert requirements.met() == {"loadtest": first}
    assert requirements.missing() == ""
    filed(world.store, record("fail"))
    assert requirements.met() == {}
    again = filed(world.store, record())
    assert requirements.met() == Requirements(world.policy, SETUP, world.store).met() == {"loadtest": again}


class Gated(World):
    """A world whose controller knows the requirements."""

    def __init__(self) -> None:
        super().__init__(gated())
        self.requirements = Requirements(self.policy, SETUP, self.store)

    def controller(self, holder: str = "a", store: Any = None, lease_s: float = 5.0) -> Controller:
        return Controller(
            self.policy,
            MODELS,
            store or self.store,
            self.clock,
            holder,
            lease_s=lease_s,
            requirements=self.requirements,
        )

    def told(self, controller: Controller, times: int) -> None:
        for _ in range(times):
            self.serve(200, "better")
            self.clock.advance(10)
            controller.tick()


def test_the_judge_waits_for_a_load_test_and_verify_agrees() -> None:
    """It holds before the step and says why; a test of other models changes nothing; the right one lets it go on."""
    world = Gated()
    controller = world.controller()
    world.told(controller, 8)
    assert world.where == ("canary", 5.0, 1)
    assert world.shown["verdict"]["reason"].endswith(
        "the next step waits for a load test: no load test has been recorded; run `understudy loadtest`"
    )

    filed(world.store, record(setup=other(primary="sha256:old")))
    world.told(controller, 2)
    assert world.where == ("canary", 5.0, 1)
    assert "primary is sha256:old, not sha256:p" in world.shown["verdict"]["reason"]

    event = filed(world.store, record())
    world.told(controller, 6)
    assert world.where[0] == "promoted"
    decisions = [e for e in world.store.events(limit=1000) if e.actor == "judge"]
    assert [dict(e.details)["met"] for e in decisions] == [{}, {"loadtest": event}, {"loadtest": event}]
    checks, changed = world.verified()
    assert [check.agrees for check in checks] == [True, True, True]
    assert changed is None


def test_verify_finds_a_decision_whose_load_test_does_not_bear_it() -> None:
    """The record is not in the log before it, is none, failed, or was of other models than the rollout's."""
    world = Gated()
    filed(world.store, record())
    world.told(world.controller(), 12)
    assert world.where[0] == "promoted"
    genuine = list(world.store.events(limit=1000))

    def verdicts(change: Any) -> list[str]:
        world.store.events = lambda **_: [change(e) for e in genuine]  # type: ignore[method-assign]
        return [check.says for check in world.verified()[0] if not check.agrees]

    def with_details(kind: str, details: dict[str, Any]) -> Any:
        return lambda e: Event(e.at, e.kind, e.actor, e.reason, e.revision, details, e.id) if e.kind == kind else e

    failed = record("fail").model_dump(mode="json")
    assert "does not count: it did not pass" in verdicts(with_details(LOADTEST, failed))[0]
    assert "cannot be read" in verdicts(with_details(LOADTEST, {}))[0]
    renamed = verdicts(
        lambda e: Event(e.at, "x", e.actor, e.reason, e.revision, e.details, e.id) if e.kind == LOADTEST else e
    )
    assert "no load test was recorded there before the decision" in renamed[0]
    started = {"primary": "sha256:q", "candidate": "sha256:c"}
    assert "it tested other models" in verdicts(with_details("started", started))[0]
    assert verdicts(lambda e: e) == []


@pytest.mark.parametrize(
    ("plan", "order", "share", "entered"),
    [
        ((1, 500), Order.PROMOTE, None, [5000]),
        ((0, 0), Order.PROMOTE, None, [500]),
        ((0, 0), Order.PROMOTE_FULL, None, [500, 5000]),
        ((2, 5000), Order.PROMOTE_FULL, None, []),
        ((2, 5000), Order.PROMOTE, None, []),
        ((0, 0), Order.WEIGHT, 500, [500]),
        ((0, 0), Order.WEIGHT, 501, [500, 5000]),
        ((-1, 600), Order.WEIGHT, 700, [5000]),
        ((-1, 600), Order.PROMOTE, None, [5000]),
        ((-1, 600), Order.PROMOTE_FULL, None, [5000]),
        ((2, 5000), Order.WEIGHT, 6000, []),
        ((2, 5000), Order.WEIGHT, 100, []),
        ((1, 500), Order.SHADOW, 0, []),
        ((1, 500), Order.PAUSE, None, []),
    ],
)
def test_the_steps_that_an_order_starts(
    plan: tuple[int, int], order: Order, share: int | None, entered: list[int]
) -> None:
    """One, all that are left, or those whose work a weight set by hand would do; going down starts none."""
    own = gated()
    step, weight = plan
    before = Plan(own.first_plan("ab").phase, weight, 10_000, 1, step)

    assert [s.canary for s in steps_entered(own, before, order, share)] == entered  # type: ignore[union-attr]


def test_a_person_goes_past_a_requirement_only_by_force_and_with_a_reason() -> None:
    """Promote, promote to the end, and a weight beyond: refused with the reason and the way out; forced, the log says so."""

    async def main() -> None:
        world = Gated()
        world.order(Order.PROMOTE)
        metrics = Metrics(prometheus_client.CollectorRegistry())
        control = Control(world.policy, {}, world.store, metrics, world.clock, world.plan, world.requirements)

        async def order(order: Order, reason: str = "", *, force: bool = False) -> None:
            await control.order(order, actor="olga", reason=reason, expected_revision=None, force=force)

        for what in (Order.PROMOTE, Order.PROMOTE_FULL):
            with pytest.raises(
                NotAllowedNow, match=r"`canary 50` requires a load test: no load test .* force the order"
            ):
                await order(what, "I want to")
        with pytest.raises(NotAllowedNow, match="`canary 50` requires a load test"):
            await control.order_weight(6, actor="olga", reason="", expected_revision=None)
        with pytest.raises(InvalidInput, match="`force` needs one"):
            await order(Order.PROMOTE, "  ", force=True)
        assert world.where == ("canary", 5.0, 1)
        await control.order_weight(4, actor="olga", reason="", expected_revision=None)
        await control.order_weight(6, actor="olga", reason="it burns", expected_revision=None, force=True)
        last = world.store.events(limit=1000)[-1]
        assert (last.reason, last.details["skipped"]) == ("it burns", "loadtest")
        assert last.details["skipped_because"].startswith("no load test")
        filed(world.store, record())
        await order(Order.PROMOTE)
        assert world.where == ("canary", 50.0, 2)
        assert "skipped" not in world.store.events(limit=1000)[-1].details

    asyncio.run(main())
