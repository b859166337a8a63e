"""The controller: whole rollouts as stories of ticks, with crashes, second leaders and people in between."""

import dataclasses

import pytest

from tests.support.controllers import RAMP, Process, Trap, broken, good, moves, told
from tests.unit.rollout.world import STEPS, World, policy
from understudy.domain import SHARE_ONE, Phase, Plan
from understudy.errors import NotAllowedNow
from understudy.rollout import controller as controller_module
from understudy.rollout.controller import move
from understudy.rollout.phases import Order

WRITES = ("lead", "save_state", "save_plan")
READS = ("load_plan", "load_state", "outcomes")
EFFECTS = (*WRITES, *READS)
NONE, ALL = 0, SHARE_ONE


def test_a_candidate_that_is_as_good_is_promoted_step_by_step():
    world = World()
    process = Process(world)
    where = [world.where]
    for n in (640, 640, 640, 5):
        world.serve(n)
        process.tick()
        where.append(world.where)

    assert where == [("shadow", 0, 0), ("canary", 5, 1), ("canary", 25, 2), ("promoted", 100, 3), ("promoted", 100, 3)]
    assert world.kinds == RAMP
    assert [event.revision for event in world.store.events()] == [1, 2, 3, 4]
    assert all(event.actor == "judge" for event in world.store.events()[1:])
    assert "every goal of this step is met" in world.store.events()[-1].reason
    assert world.shown["verdict"]["answer"] == "hold"
    assert world.shown["verdict"]["reason"].startswith("promoted")


def test_a_step_needs_pairs_of_its_own():
    """What was good in shadow carries nobody through the canary."""
    world = World()
    process = Process(world)
    world.serve(2_000)
    for _ in range(5):
        process.tick()
    assert world.where == ("canary", 5, 1)
    world.serve(500)
    process.tick()
    assert world.where == ("canary", 5, 1)
    world.serve(140)
    process.tick()
    assert world.where == ("canary", 25, 2)


def test_a_broken_candidate_gets_no_answer_and_no_request_any_more():
    world = World()
    told(world, broken)

    assert world.kinds == ["started", "advance", "rollback"]
    assert world.where == ("aborted", 0, 1)
    assert world.plan.shadow == 0
    last = world.store.events()[-1]
    assert (last.details["from"], last.details["to"]) == ("canary", "aborted")
    assert "worse than the harm line" in last.reason


def test_harm_after_the_promotion_takes_the_candidate_off():
    world = World()
    process = told(world)
    world.serve(1_200, "worse")
    process.tick()
    assert world.kinds == [*RAMP, "rollback"]
    assert world.where == ("aborted", 0, 3)


def test_nothing_is_judged_without_a_plan_and_where_there_is_no_trial():
    world = World()
    world.order(Order.ABORT)
    world.serve(640, "worse")
    process = Process(world, trap := Trap(world.store))
    assert process.tick() is None
    assert trap.calls["outcomes"] == 0
    assert world.kinds == ["started", "abort"]


def test_bad_news_that_waits_for_its_label_holds_and_then_decides():
    world = World(policy(quality={"loss": "brier", "margin": 0.3}))
    process = Process(world)
    world.serve(640, labelled=False)
    names = [f"p-{i}" for i in range(640)]
    process.tick()
    assert process.controller.verdict.reason.startswith("no labelled pair yet")
    world.label(names[:3])
    process.tick()
    assert process.controller.verdict.reason == "3 of the 20 labels that this step needs"
    world.label(names[3:])
    process.tick()
    assert world.where == ("canary", 5, 1)


def test_a_decision_names_the_batch_of_labels_up_to_which_it_knew_them():
    """Batches are numbered as they are committed; so what was looked at can be looked at again, whatever the clocks say."""
    world = World()
    controller = world.controller()
    names = world.serve(640, labelled=False)
    assert controller.tick() is None
    assert controller.verdict.reason.startswith("no labelled pair yet")
    for part in (names[:200], names[200:]):
        world.clock.advance(60)
        world.label(part)
    world.clock.advance(60)
    assert controller.tick().phase is Phase.CANARY
    assert world.store.events()[-1].details["known_by"] == world.store.receipts() == 2


def test_pages_and_limits_of_a_look_change_no_verdict(monkeypatch):
    world, other = World(), World()
    told(world)
    monkeypatch.setattr(controller_module, "PAGE_ROWS", 7)
    told(other)
    assert moves(other) == moves(world)

    slow = World()
    process = Process(slow)
    monkeypatch.setattr(controller_module, "SEE_MAX_ROWS", 100)
    slow.serve(640)
    process.tick()
    assert slow.kept["evidence"]["seen"] == 105
    for _ in range(6):
        process.tick()
    assert slow.kept["evidence"]["seen"] == 640
    assert slow.kinds[:2] == ["started", "advance"]


def test_the_bands_over_time_are_thinned_out_and_keep_the_newest(monkeypatch):
    monkeypatch.setattr(controller_module, "HISTORY_MAX", 6)
    world = World()
    process = Process(world)
    at = []
    for _ in range(12):
        world.serve(1)
        process.tick()
        at.append(world.bands[-1]["at"])
    history = [point["at"] for point in world.bands]

    assert len(history) <= 6
    assert history == sorted(set(history))
    assert history[-1] == at[-1]
    assert set(history) <= set(at)


def test_whoever_finds_a_new_number_of_points_finds_the_bands_that_go_with_it():
    """The number is what `If-None-Match` goes by: it must be another one whenever the bands are, across leaders too."""
    world = World()
    seen = {}
    for process in (Process(world), Process(world)):
        for _ in range(3):
            world.serve(1)
            world.clock.advance(10)
            process.tick()
            assert seen.setdefault(world.shown["points"], world.bands) == world.bands
    assert sorted(seen) == list(range(1, len(world.bands) + 1))


def test_the_bands_of_a_store_that_kept_them_beside_the_verdict_are_found():
    """A rollout that began before they were apart goes on with its picture."""
    world = World()
    world.store.lead("old", ttl_s=1.0, now=world.clock.now())
    world.store.save_state("shown", {"history": [{"at": 1.0}], "metrics": []}, holder="old")
    assert world.bands == [{"at": 1.0}]
    world.clock.advance(2)
    world.serve(1)
    Process(world).tick()

    assert len(world.bands) == 2
    assert world.bands[0] == {"at": 1.0}


# Readiness, requirements.


def test_forward_moves_wait_for_the_candidate_and_a_rollback_does_not():
    world = World()
    process = Process(world)
    world.serve(640)
    assert process.tick(candidate_ready=False) is None
    assert process.controller.verdict.answer == "advance"
    assert world.kinds == ["started"]
    assert process.tick(candidate_ready=True).weight == 500

    world.serve(60, "worse")
    process.tick(candidate_ready=False)
    assert world.kinds == ["started", "advance", "rollback"]


def test_an_approval_is_waited_for_once_and_a_person_gives_it():
    world = World(policy([{"shadow": 100}, {"canary": 5, "require": ["approval"]}, "promote"]))
    process = Process(world)
    world.serve(640)
    process.tick()
    assert world.where == ("waiting", 0, 0)
    process.tick()
    assert world.kinds == ["started", "wait"]
    assert process.controller.verdict.reason.endswith("the next step waits for approval by an operator")
    world.order(Order.PROMOTE)
    assert world.where == ("canary", 5, 1)


def test_harm_rolls_back_while_a_person_is_waited_for_and_while_paused():
    for order in (Order.WAIT, Order.PAUSE):
        world = World()
        process = Process(world)
        world.serve(5)
        process.tick()
        world.order(order)
        world.serve(60, "worse")
        process.tick()
        assert world.where == ("aborted", 0, 0)


def test_a_load_test_that_is_required_holds():
    world = World(policy([{"shadow": 100}, {"canary": 5, "require": ["loadtest"]}]))
    process = Process(world)
    world.serve(640)
    process.tick()
    assert world.where == ("shadow", 0, 0)
    assert process.controller.verdict.requires == ("loadtest",)


# One leader.


def test_who_does_not_lead_does_nothing_until_the_lease_is_over_and_then_goes_on():
    world, alone = World(), World()
    told(alone)
    first, second = world.controller("a", lease_s=30), world.controller("b", lease_s=30)
    for n, who in ((640, first), (640, first), (640, second), (5, second)):
        world.serve(n)
        for _ in range(2):
            world.clock.advance(10)
            other = second if who is first else first
            if who is second and other is not None:
                world.clock.advance(31)  # the first is silent, and its lease ends
            who.tick()
            revision = world.plan.revision
            assert other.tick() is None
            assert world.plan.revision == revision

    assert moves(world) == moves(alone)
    assert first._evidence is None  # what it had folded is of no use when its turn comes again


@pytest.mark.parametrize("effect", ["save_state", "save_plan"])
def test_a_leader_that_is_overtaken_while_it_works_does_nothing_twice(effect):
    """It stalls, its lease ends, another does the whole tick, and then it wakes."""
    world, alone = World(), World()
    told(alone)
    other = world.controller("b")

    def overtaken():
        world.clock.advance(10)
        other.tick()

    stalled = world.controller("a", Trap(world.store, effect, 1, "before", overtaken))
    world.serve(640)
    world.clock.advance(10)
    assert stalled.tick() is None
    assert world.kinds == ["started", "advance"]
    for n in (640, 640, 5):
        world.serve(n)
        for who in (other, stalled):
            world.clock.advance(10)
            who.tick()
    assert world.kinds == RAMP
    assert world.plan.revision == alone.plan.revision


# Crashes.


def calls_of(story):
    world = World()
    told(world, story, trap := Trap(world.store))
    return [(effect, nth) for effect in EFFECTS for nth in range(1, trap.calls[effect] + 1)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("story", "effect"),
    # A crash at a read finds what the write before it left: the short story shows it, the long one is for `make test-all`.
    [
        pytest.param(story, effect, marks=pytest.mark.slow if story is good and effect in READS else ())
        for story in (good, broken)
        for effect in EFFECTS
    ],
)
def test_a_crash_at_any_effect_loses_no_transition_and_doubles_none(story, effect, when):
    """Killed before or after every single call of the story in turn; somebody else goes on, and the log is the same."""
    whole = World()
    told(whole, story)
    expected = moves(whole)
    ours = [nth for each, nth in calls_of(story) if each == effect]
    assert ours

    for nth in ours:
        world = World()
        process = told(world, story, Trap(world.store, effect, nth, when))
        assert process.crashes == 1
        assert moves(world) == expected, f"{when} call {nth} of {effect}"
        assert dataclasses.replace(world.plan, updated_at=0) == dataclasses.replace(whole.plan, updated_at=0)
        checks, changed = world.verified()
        assert [c.says for c in checks if not c.agrees] == []
        assert changed is None


# People.


def test_an_operator_who_is_faster_than_the_judge_wins():
    world = World()
    trap = Trap(world.store, "save_plan", 1, "before", lambda: world.order(Order.PAUSE))
    process = Process(world, trap)
    world.serve(640)

    assert process.tick() is None
    assert world.kinds == ["started", "pause"]
    assert process.tick() is None
    assert world.where == ("paused", 0, 0)
    assert process.controller.verdict.reason.startswith("paused by an operator")
    world.order(Order.RESUME)
    process.tick()
    assert world.where == ("canary", 5, 1)


def test_a_weight_by_hand_is_judged_for_harm_only():
    world = World()
    process = Process(world)
    world.order(Order.WEIGHT, 1_000)
    world.serve(640)
    process.tick()
    assert world.where == ("canary", 10, -1)
    assert (
        process.controller.verdict.reason
        == "the weight was set by hand: only harm is judged until an operator promotes"
    )
    world.serve(700, "worse")
    process.tick()
    assert world.where == ("aborted", 0, -1)


def test_a_retry_keeps_the_evidence_for_advancing_and_begins_a_trial():
    world = World()
    process = told(world, broken)
    before = world.kept["evidence"]
    world.order(Order.RETRY)
    assert world.where == ("shadow", 0, 0)
    assert (world.plan.shadow, world.plan.trial) == (SHARE_ONE, 2)
    process.tick()
    after = world.kept["evidence"]

    assert world.kinds == ["started", "advance", "rollback", "retry"]
    assert (after["trial"], after["quality"]["totals"]["late"]["n"]) == (2, 0)
    assert after["seen"] >= before["seen"] > 0
    assert after["quality"]["totals"]["whole"]["n"] >= before["quality"]["totals"]["whole"]["n"] > 0


def test_undo_takes_a_promotion_back():
    world = World()
    told(world)
    world.order(Order.UNDO)
    assert world.where == ("aborted", 0, 3)
    with pytest.raises(NotAllowedNow, match="undo is not allowed while the rollout is aborted; allowed: retry"):
        world.order(Order.UNDO)


def plan(phase, weight=NONE, step=0, shadow=ALL):
    return Plan(phase, weight, shadow, salt=0xAB12, step=step, revision=3)


SHORT = [{"shadow": 50}, {"canary": 5}, {"shadow": 20}, {"canary": 25}]  # ends without `promote`
S, C, W, P, A, D = Phase.SHADOW, Phase.CANARY, Phase.WAITING, Phase.PAUSED, Phase.ABORTED, Phase.PROMOTED


@pytest.mark.parametrize(
    ("steps", "before", "order", "weight", "expected"),
    [
        (STEPS, plan(S), Order.ADVANCE, None, plan(C, 500, 1)),
        (STEPS, plan(C, 500, 1), Order.ADVANCE, None, plan(C, 2_500, 2)),
        (STEPS, plan(C, 2_500, 2), Order.FINISH, None, plan(D, ALL, 3)),
        (STEPS, plan(S), Order.PROMOTE, None, plan(C, 500, 1)),
        (STEPS, plan(W, 500, 1), Order.PROMOTE, None, plan(C, 2_500, 2)),
        (STEPS, plan(C, 2_500, 2), Order.PROMOTE, None, plan(D, ALL, 3)),
        (STEPS, plan(C, 100, -1), Order.PROMOTE, None, plan(C, 500, 1)),
        (STEPS, plan(C, 500, -1), Order.PROMOTE, None, plan(C, 2_500, 2)),
        (STEPS, plan(C, 4_000, -1), Order.PROMOTE, None, plan(D, ALL, 3)),
        (STEPS, plan(S, 0, -1), Order.PROMOTE, None, plan(C, 500, 1)),
        (STEPS, plan(S), Order.PROMOTE_FULL, None, plan(D, ALL, 3)),
        (STEPS, plan(P, 500, 1), Order.PROMOTE_FULL, None, plan(D, ALL, 3)),
        (STEPS, plan(S), Order.WEIGHT, 1_234, plan(C, 1_234, -1)),
        (STEPS, plan(P, 500, 1), Order.WEIGHT, 50, plan(C, 50, -1)),
        (STEPS, plan(C, 2_500, 2), Order.SHADOW, 0, plan(S, 0, -1)),
        (STEPS, plan(C, 2_500, 2), Order.WAIT, None, plan(W, 2_500, 2)),
        (STEPS, plan(C, 2_500, 2), Order.PAUSE, None, plan(P, 2_500, 2)),
        (STEPS, plan(P, 2_500, 2), Order.RESUME, None, plan(C, 2_500, 2)),
        (STEPS, plan(P, 100, -1), Order.RESUME, None, plan(C, 100, -1)),
        (STEPS, plan(P), Order.RESUME, None, plan(S)),
        (STEPS, plan(C, 2_500, 2), Order.ROLL_BACK, None, plan(A, 0, 2, 0)),
        (STEPS, plan(P, 2_500, 2), Order.ABORT, None, plan(A, 0, 2, 0)),
        (STEPS, plan(D, ALL, 3), Order.UNDO, None, plan(A, 0, 3, 0)),
        (STEPS, plan(A, 0, 3, 0), Order.RETRY, None, plan(S)),
        (STEPS[1:], plan(A, 0, 2, 0), Order.RETRY, None, plan(C, 500, 0)),
        (SHORT, plan(C, 500, 1, 5_000), Order.ADVANCE, None, plan(S, 0, 2, 2_000)),
        (SHORT, plan(C, 2_500, 3), Order.FINISH, None, plan(D, ALL, 3)),
        (SHORT, plan(S, 0, 0, 5_000), Order.PROMOTE_FULL, None, plan(D, ALL, 3, 5_000)),
        ([], plan(S), Order.PROMOTE_FULL, None, plan(D, ALL, -1)),
    ],
)
def test_where_an_order_leads(steps, before, order, weight, expected):
    found = move(policy(steps), before, order, 77.0, weight=weight)
    trial = before.trial + (order is Order.RETRY)
    assert found == dataclasses.replace(expected, updated_at=77.0, trial=trial)
    assert before.updated_at == 0.0


def test_a_promotion_bakes_from_its_first_request_on_in_the_requests_own_time():
    """Nothing is released before anybody was answered under it, nor too early after a quiet night; undoing starts anew."""
    world = World(policy(STEPS[:1]).model_copy(update={"bake": 100.0}))
    process = Process(world)
    world.serve(5)
    process.tick()
    world.clock.advance(80_000)
    world.order(Order.PROMOTE_FULL)
    process.tick()
    assert (world.where[0], world.plan.shadow) == ("promoted", ALL)
    world.serve(5)
    process.tick()
    process.tick()
    assert world.plan.shadow == ALL
    world.clock.advance(60)
    process.tick()
    assert world.plan.shadow == ALL  # the clock of this machine does not count
    world.serve(5)
    process.tick()
    process.tick()
    world.clock.advance(40)
    world.serve(5)
    process.tick()
    process.tick()
    assert world.plan.released
    assert world.kinds == ["started", "promote_full", "release"]
    world.order(Order.UNDO)
    process.tick()
    assert world.kept["evidence"]["baking"]  # nothing is judged while it is off
    world.order(Order.RETRY)
    process.tick()
    world.serve(3)
    process.tick()
    process.tick()
    assert not world.kept["evidence"]["baking"]


class Costly(Trap):
    """A store whose every page of rows takes a second."""

    def __init__(self, world):
        super().__init__(world.store)
        self._clock = world.clock

    def outcomes(self, **asked):
        self.calls["outcomes"] += 1
        self._clock.advance(1.0)
        return self._store.outcomes(**asked)


def test_a_tail_that_costs_much_is_looked_at_for_a_tenth_of_the_time(monkeypatch):
    """One second of reading, nine without; and what it says of the rollout waits no longer than that."""
    world = World()
    world.serve(1, labelled=False)  # a pair that waits for its label holds up all that follow
    store = Costly(world)
    controller = world.controller(store=store, lease_s=1_000.0)
    looked = []
    tail = controller._tail
    monkeypatch.setattr(controller, "_tail", lambda *args: looked.append(found := tail(*args)) or found)
    controller.tick()
    world.serve(640)
    for _ in range(
        3
    ):  # each reads two pages before it would come to the tail: a second for what is new, one for what waits
        world.clock.advance(0.5)
        assert controller.tick() is None
    assert [each is not None for each in looked] == [True, False, False, False]
    assert world.kept["evidence"]["seen"] == 1
    while controller.tick() is None:
        assert len(looked) < 12
    assert looked[-1].labelled == 640
    assert world.kinds == ["started", "advance"]
    assert [check.agrees for check in world.verified()[0]] == [True]


def test_harm_that_needs_no_label_is_judged_between_two_looks_at_the_tail(monkeypatch):
    world = World(policy(errors={"margin": 0.02}))
    world.serve(1, labelled=False)
    controller = world.controller(store=Costly(world), lease_s=1_000.0)
    controller.tick()
    rest = controller._tail_at
    world.serve(300, "failed", labelled=False)
    assert controller.tick().phase is Phase.ABORTED
    assert world.clock.now() < rest
    checks, changed = world.verified()
    assert [check.says for check in checks if not check.agrees] == []
    assert changed is None


def test_rows_that_are_settled_at_once_are_read_once(monkeypatch):
    monkeypatch.setattr(controller_module, "PAGE_ROWS", 100)
    world = World()
    world.serve(640)
    store = Trap(world.store)
    controller = world.controller(store=store)
    world.clock.advance(10)
    controller.tick()
    assert world.kept["evidence"]["settled"] == 640
    assert store.calls["outcomes"] == 7 + 1, "seven pages, and a look for a tail"
