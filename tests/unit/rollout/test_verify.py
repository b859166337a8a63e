"""The decisions again: what was decided is reached again from the rows, and what was changed since is found and named."""

import sys

import pytest
from msgspec.structs import replace

from tests.support.controllers import RAMP, Process, good, told
from tests.unit.rollout.world import MODELS, World, policy, stored_rows
from understudy.domain import LabelReport, Mode
from understudy.rollout.controller import decided_at
from understudy.rollout.phases import Order
from understudy.rollout.verify import verify
from understudy.store import Retention


def disagreements(world):
    checks, changed = world.verified()
    assert len(checks) == sum(event.actor == "judge" for event in world.store.events(limit=1000))
    return [check.says for check in checks if not check.agrees] + ([changed] if changed else [])


def altered(world, seq, change):
    """What `verify` says of a store in which one row is not what it was."""
    rows = stored_rows(world.store)

    def changed_rows(after, upto, known_by):
        for row in rows(after, upto, known_by):
            yield change(*row) if row[0] == seq else row

    (record,) = world.store.rollouts()
    return verify(
        world.policy,
        MODELS,
        world.store.events(limit=1000),
        world.kept,
        changed_rows,
        pruned_to=record.pruned.up_to if record.pruned else 0,
        kept=lambda revision: world.store.load_state(decided_at(revision)),
    )


def label(value):
    return lambda seq, o, report: (seq, o, LabelReport(o.prediction_id, value, o.at))


def score(value):
    return lambda seq, o, report: (seq, replace(o, candidate=replace(o.candidate, score=value)), report)


def test_a_promotion_is_reached_again():
    world = World()
    told(world)
    checks, changed = world.verified()

    assert [check.event.kind for check in checks] == RAMP[1:]
    assert all(check.agrees for check in checks)
    assert changed is None
    assert [check.says for check in checks] == [f"advance, from {n} rows" for n in ("640", "1,280", "1,920")]


@pytest.mark.parametrize("loss", ["zero_one", "brier"])
@pytest.mark.parametrize("seq", [1, 300, 1_900])
def test_a_label_that_was_changed_is_found(loss, seq):
    world = World(policy(quality={"loss": loss, "margin": 0.3}))
    process = Process(world)
    for n in (639, 640, 640):
        world.serve(1, "better")
        world.serve(n)
        process.tick()
    assert world.kinds == RAMP
    checks, changed = altered(world, 1 if seq == 1 else seq, label(0))
    wrong = [check for check in checks if not check.agrees]

    first = next(i for i, check in enumerate(checks) if check.event.details["settled"] >= seq)
    assert wrong == checks[first:]
    assert "from the rows it is now" in wrong[0].says or "a row up to" in wrong[0].says
    block = {1: (1, 256), 300: (257, 512)}.get(seq)
    words = None if block is None else f"a row between {block[0]} and {block[1]} has changed since it was judged"
    assert changed == words


def test_a_score_that_was_changed_is_found_even_where_it_changes_no_verdict():
    """Under 0/1 loss a score of 0.8 or 0.79 is the same loss; it is another row all the same."""
    world = World()
    told(world)
    checks, changed = altered(world, 1_900, score(0.79))

    assert [check.agrees for check in checks] == [True, True, False]
    assert checks[2].says == "the verdict is the same, but a row up to 1,920 has changed since"
    assert changed is None  # no whole block holds it
    assert altered(world, 10, score(0.79))[1] == "a row between 1 and 256 has changed since it was judged"


def test_another_policy_is_found():
    world = World()
    told(world)
    world.policy = policy(quality={"margin": 0.4})
    said = disagreements(world)
    assert len(said) == 3
    assert all("log_e_" in each for each in said)


def test_a_row_of_the_tail_that_was_changed_is_found():
    """The settled prefix ends at the first row; what decided lies behind it."""
    world = World()
    process = Process(world)
    world.serve(1, labelled=False)
    world.serve(700)
    process.tick()
    assert (world.kinds, world.kept["evidence"]["settled"]) == (["started", "advance"], 0)
    assert disagreements(world) == []
    checks, _ = altered(world, 50, lambda seq, o, report: (seq, replace(o, mode=Mode.PINNED), report))
    assert not checks[0].agrees


def test_orders_of_people_in_between_do_not_confuse_it():
    world = World()
    process = Process(world)
    world.serve(300)
    process.tick()
    world.order(Order.WEIGHT, 300)
    world.serve(100)
    process.tick()
    world.order(Order.PROMOTE)
    process.tick()
    world.serve(640)
    process.tick()  # to 25 %
    world.order(Order.PAUSE)
    world.serve(10)
    process.tick()
    world.order(Order.RESUME)
    world.serve(640)
    process.tick()
    assert [kind for kind in world.kinds if kind in RAMP] == ["started", "advance", "finish"]
    assert disagreements(world) == []


@pytest.mark.parametrize("quiet", [True, False], ids=["no request since", "requests since"])
def test_a_retry_that_goes_back_to_an_earlier_step_does_not_confuse_it(quiet):
    """The mark of step 0 stands at the very rows of the rollback at step 2; it belongs behind it, not before."""
    world = World()
    process = Process(world)
    world.serve(640)
    process.tick()
    world.serve(640)
    process.tick()
    assert world.where == ("canary", 25, 2)
    world.serve(1_500, "worse")
    process.tick()
    world.order(Order.RETRY)
    if not quiet:
        world.serve(30)
    process.tick()
    assert world.kinds == ["started", "advance", "advance", "rollback", "retry"]
    world.serve(1_500, "worse")
    process.tick()

    assert world.kinds == ["started", "advance", "advance", "rollback", "retry", "rollback"]
    assert [(mark[0], mark[-1]) for mark in world.kept["evidence"]["marks"]] == [(1, 1), (2, 1), (0, 2)]
    assert disagreements(world) == []


def test_steps_that_a_person_jumps_over_and_back_are_followed():
    """Marks of higher steps before a decision at a lower one: promoted twice by hand, aborted, tried again."""
    world = World()
    process = Process(world)
    world.serve(100)
    process.tick()
    for _ in range(2):
        world.order(Order.PROMOTE)
        world.serve(5)
        process.tick()
    world.order(Order.ABORT)
    world.order(Order.RETRY)
    world.serve(600)
    process.tick()

    assert world.kinds[-2:] == ["retry", "advance"]
    assert [mark[0] for mark in world.kept["evidence"]["marks"]] == [1, 2, 0]
    assert disagreements(world) == []


def test_a_rollback_after_the_promotion_and_one_while_paused_are_reached_again():
    for order in (None, Order.PAUSE, Order.WAIT):
        world = World()
        process = Process(world)
        if order is None:
            good(world, process)
        else:
            world.serve(30)
            process.tick()
            world.order(order)
        world.serve(1_200, "worse")
        process.tick()
        world.order(Order.RETRY)
        process.tick()
        world.serve(1_200, "worse")
        process.tick()
        assert world.kinds[-3:] == ["rollback", "retry", "rollback"]
        assert disagreements(world) == []


def test_labels_that_come_when_their_row_is_settled_change_nothing():
    """Settled as missing when the wait was over, and reported much later with the time at which they became known."""
    world = World(policy(labels={"wait": "60s"}))
    process = Process(world)
    names = world.serve(100, "better", labelled=False)
    world.clock.advance(100)
    world.serve(300)
    process.tick()
    assert world.kept["evidence"]["missing"] == [[1, 100]]
    world.label(names, at=world.clock.now() - 105)
    world.serve(800)
    process.tick()

    assert world.kinds == ["started", "advance"]
    assert disagreements(world) == []


@pytest.mark.parametrize("loss", ["zero_one", "brier"])
def test_labels_of_rows_that_are_no_pairs_may_come_at_any_time(loss):
    """Pinned requests, and agreements that no label could change."""
    world = World(policy(quality={"loss": loss, "margin": 0.3}))
    process = Process(world)
    names = world.serve(30, mode=Mode.PINNED, labelled=False) + world.serve(30, "both wrong", labelled=False)
    process.tick()
    world.label(names)
    world.serve(640)
    process.tick()

    assert world.kinds == ["started", "advance"]
    assert disagreements(world) == []


def test_nothing_decided_is_nothing_to_check():
    world = World()
    process = Process(world)
    world.serve(10)
    process.tick()
    assert world.verified() == ([], None)


def pruned(world, rows):
    """Retention takes this many rows, the oldest."""
    at = world.store.outcomes(limit=rows + 1)[rows][1].at
    assert world.store.prune(Retention(0.0, sys.maxsize), now=at) == rows
    return world


def long_rollout():
    """Decisions at rows 640, 1,280 and 2,220, so that whole blocks lie between the last two."""
    world = World(
        policy(
            [
                {"shadow": 100, "until": {"labels": 20}},
                {"canary": 5},
                {"canary": 25, "until": {"labels": 900}},
                "promote",
            ]
        )
    )
    process = Process(world)
    for n in (640, 640, 940):
        world.serve(n)
        process.tick()
    assert world.kinds == RAMP
    return world


@pytest.mark.parametrize(("rows", "gone"), [(1, 0), (640, 0), (641, 1), (1_280, 1), (1_281, 2), (2_220, 2), (2_219, 2)])
def test_what_was_decided_behind_the_pruned_rows_is_checked_and_the_rest_is_said_to_be_unknown(rows, gone):
    """The decision that looked at rows up to 640 is checked from the evidence that was kept with it, and so on."""
    world = long_rollout()
    world.serve(1)
    checks, changed = pruned(world, rows).verified()

    assert [c.checkable for c in checks] == [False] * gone + [True] * (3 - gone)
    assert [c.agrees for c in checks] == [False] * gone + [True] * (3 - gone)
    assert all("cannot be checked: its rows were pruned" in c.says for c in checks[:gone])
    assert changed is None


def test_nothing_can_be_checked_when_the_rows_of_every_decision_are_gone():
    world = long_rollout()
    world.serve(30)
    checks, changed = pruned(world, 2_230).verified()
    assert [c.checkable for c in checks] == [False] * 3
    assert changed is None


def test_a_changed_row_and_a_pruned_prefix_are_told_apart():
    """Both at once: the first decision is unknown, the second holds, the third differs, and the block is named."""
    world = pruned(long_rollout(), 650)
    checks, changed = altered(world, 1_300, score(0.79))

    assert [(c.checkable, c.agrees) for c in checks] == [(False, False), (True, True), (True, False)]
    assert checks[2].says == "the verdict is the same, but a row up to 2,220 has changed since"
    assert changed == "a row between 1281 and 1536 has changed since it was judged"


def test_rows_that_are_gone_without_retention_are_a_change():
    """Somebody deleted them by hand: nothing was noted, so nothing is excused."""
    world = long_rollout()
    world.store._observations.pop(5)
    checks, changed = world.verified()
    assert not any(c.agrees for c in checks)
    assert all(c.checkable for c in checks)
    assert changed is not None


def test_decisions_that_were_kept_without_their_evidence_cannot_be_checked_behind_pruned_rows():
    """As an older version kept them."""
    world = pruned(long_rollout(), 10)
    checks, _ = verify(
        world.policy, MODELS, world.store.events(limit=1000), world.kept, stored_rows(world.store), pruned_to=10
    )
    assert [c.checkable for c in checks] == [False] * 3


def test_steps_that_were_changed_since_do_not_matter():
    """The key stays, so the evidence goes on; each decision is checked by the steps that it was made under."""
    world = World()
    process = Process(world)
    world.serve(640)
    process.tick()
    world.policy = policy([{"shadow": 100, "until": {"labels": 20_000}}, {"canary": 5}, {"canary": 40}, "promote"])
    process = Process(world)
    world.serve(640)
    process.tick()
    assert world.where == ("canary", 40, 2)
    assert disagreements(world) == []
