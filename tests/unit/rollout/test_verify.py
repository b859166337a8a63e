"""The decisions again: what was decided is reached again from the rows, and what was changed since is found and named."""

import dataclasses

import pytest

from service.domain import LabelReport, Mode
from service.rollout.phases import Order
from service.rollout.verify import verify
from tests.unit.rollout.test_controller import RAMP, Process, good, told
from tests.unit.rollout.world import MODELS, World, policy, stored_rows


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

    return verify(world.policy, MODELS, world.store.events(limit=1000), world.kept, changed_rows)


def label(value):
    return lambda seq, o, report: (seq, o, LabelReport(o.prediction_id, value, o.at))


def score(value):
    return lambda seq, o, report: (
        seq, dataclasses.replace(o, candidate=dataclasses.replace(o.candidate, score=value)), report
    )  # fmt: skip


def test_a_promotion_is_reached_again():
    world = World()
    told(world)
    checks, changed = world.verified()

    assert [check.event.kind for check in checks] == RAMP[1:]
    assert all(check.agrees for check in checks)
    assert changed is None
    assert [check.says for check in checks] == [f"advance, from {n} rows" for n in (640, 660, 680)]


@pytest.mark.parametrize("loss", ["zero_one", "brier"])
@pytest.mark.parametrize("seq", [1, 300, 650])
def test_a_label_that_was_changed_is_found(loss, seq):
    world = World(policy(quality={"loss": loss, "margin": 0.3}))
    process = Process(world)
    for n in (639, 40, 40):
        world.serve(1, "better")
        world.serve(n)
        process.tick()
    assert world.kinds == RAMP
    checks, changed = altered(world, 1 if seq == 1 else seq, label(0))
    wrong = [check for check in checks if not check.agrees]

    first = next(i for i, check in enumerate(checks) if check.event.details["settled"] >= seq)
    assert wrong == checks[first:]
    assert "the rows now say" in wrong[0].says or "a row up to" in wrong[0].says
    block = {1: (1, 256), 300: (257, 512)}.get(seq)
    words = None if block is None else f"a row between {block[0]} and {block[1]} is not what it was when it was judged"
    assert changed == words


def test_a_score_that_was_changed_is_found_even_where_it_changes_no_verdict():
    """Under 0/1 loss a score of 0.8 or 0.79 is the same loss; it is another row all the same."""
    world = World()
    told(world)
    checks, changed = altered(world, 600, score(0.79))

    assert [check.agrees for check in checks] == [False, False, False]
    assert checks[0].says == "the verdict is the same, but a row up to 640 is not what it was then"
    assert changed is None  # no whole block holds it
    assert altered(world, 10, score(0.79))[1] == "a row between 1 and 256 is not what it was when it was judged"


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
    checks, _ = altered(world, 50, lambda seq, o, report: (seq, dataclasses.replace(o, mode=Mode.PINNED), report))
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
    world.serve(300)
    process.tick()  # to 25 %
    world.order(Order.PAUSE)
    world.serve(10)
    process.tick()
    world.order(Order.RESUME)
    world.serve(20)
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
    world.serve(20)
    process.tick()
    assert world.where == ("canary", 25, 2)
    world.serve(800, "worse")
    process.tick()
    world.order(Order.RETRY)
    if not quiet:
        world.serve(30)
    process.tick()

    assert world.kinds == ["started", "advance", "advance", "rollback", "retry", "rollback"]
    assert [mark[0] for mark in world.kept["evidence"]["marks"]] == [1, 2, 0]
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
