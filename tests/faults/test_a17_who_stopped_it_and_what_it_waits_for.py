"""A gate of a load test, or an abort by hand, read "not decided yet". The verdict names what is waited for, and who stopped it."""

import pytest

from tests.unit.rollout.world import World, policy
from understudy.domain import Event, Phase, Plan
from understudy.rollout.headline import current, headline
from understudy.rollout.phases import Order
from understudy.serving.rollout_document import known_to

GATED = policy([{"shadow": 100, "until": {"labels": 20}}, {"canary": 5, "require": ["loadtest"]}, {"canary": 25}])
APPROVED = policy([{"shadow": 100, "until": {"labels": 20}}, {"canary": 5, "require": ["approval"]}, {"canary": 25}])


def stands(world):
    known = known_to(world.store, world.plan, world.clock.now())
    verdict = current(world.plan, known.kept, known.decision)
    return headline(world.plan, verdict, known.decision, "poc", "new"), verdict


def judged(world, controller=None):
    controller = controller or world.controller()
    world.clock.advance(2)
    controller.tick()
    return controller


def test_a_gate_of_a_load_test_is_named():
    world = World(GATED)
    world.serve(640)
    judged(world)
    said, verdict = stands(world)
    assert said == "new rehearses: waits for a load test"
    assert verdict["waits_for"] == ["loadtest"]
    assert verdict["reason"].startswith("the evidence is sufficient; the next step waits for a load test")


def test_approval_is_named():
    world = World(APPROVED)
    world.serve(640)
    judged(world)
    assert stands(world)[0] == "new at 0 %: waits for approval by an operator"


@pytest.mark.parametrize("looked", [False, True])
def test_an_order_is_in_the_verdict_at_once(looked):
    world = World(GATED)
    world.serve(640)
    controller = judged(world) if looked else None
    world.order(Order.PAUSE)
    assert stands(world)[0] == "Paused by ann with new at 0 %: because"
    assert stands(world)[1]["reason"] == "paused by ann: because; `resume` continues"
    world.order(Order.RESUME)
    assert stands(world)[1]["reason"] == "resumed by ann: because: nothing has been judged since"
    world.order(Order.ABORT)
    said, verdict = stands(world)
    assert said == "Aborted by ann: because"
    assert (verdict["answer"], verdict["reason"], verdict["labels_left"]) == ("hold", "aborted by ann: because", None)
    world.order(Order.RETRY)
    assert stands(world)[1]["reason"] == "started again by ann: because: nothing has been judged since"
    judged(world, controller)
    assert "nothing has been judged since" not in stands(world)[1]["reason"]


def test_without_new_rows_the_judge_looks_again_after_an_order():
    world = World(GATED)
    world.serve(640)
    controller = judged(world)
    world.order(Order.WEIGHT, 1_000)
    judged(world, controller)
    assert stands(world)[1]["reason"] == "the weight was set by hand: only harm is judged until an operator promotes"
    assert stands(world)[0] == "new answers 10 %: waits for an operator"


def test_a_rollback_stays_explained_after_the_fact():
    plan = Plan(Phase.ABORTED, 0, 0, 7, 1, 4)
    rolled = Event(1.0, "rollback", "judge", "after 100 pairs it is worse", 4)
    stale = {"revision": 3, "verdict": {"answer": "rollback", "reason": "old", "error_budget": {"harm": 0.025}}}
    verdict = current(plan, stale, rolled)
    assert verdict["reason"] == "rolled back by the judge: after 100 pairs it is worse"
    assert (verdict["answer"], verdict["error_budget"]) == ("hold", {"harm": 0.025})
    assert headline(plan, verdict, rolled, "poc", "new") == "Rolled back: poc answers every request"


def test_before_anything_it_says_that_nothing_was_judged():
    world = World(GATED)
    assert stands(world)[1]["reason"] == "nothing has been judged yet: no pair has been recorded"
    assert stands(world)[0] == "new rehearses: not decided yet"
