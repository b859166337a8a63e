"""12,000 labels stood beside "240 of the 500 labels", unexplained. Every row and label is at a stage, or lost under a reason."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.rollout.world import MODELS, World, policy, row
from understudy.domain import Attempt, LabelReport, Mode, Status, Variant
from understudy.rollout import funnel, losses
from understudy.rollout.controller import SHOWN
from understudy.serving.rollout_document import known_to
from understudy.store import Retention
from understudy.store.memory import MemoryStore

CLASSES = {variant: model.classes for variant, model in MODELS.items()}
POSITIVE = {variant: model.positive for variant, model in MODELS.items()}
SLOWLY = policy([{"shadow": 100, "until": {"labels": 500}}, {"canary": 5}])


def world(own=SLOWLY):
    return World(own, MemoryStore("r", lambda outcome: losses.tally(outcome, CLASSES, POSITIVE)))


def rows_of(world):
    known = known_to(world.store, world.plan, world.clock.now())
    return funnel.rows(known.kept["funnel"] if known.kept else None, known.counters)


def labels_of(world):
    known = known_to(world.store, world.plan, world.clock.now())
    read = known.kept["funnel"] if known.kept else None
    return funnel.labels(read, known.counters, known.waiting.count, known.waiting.stray)


def lost(stages):
    return {(each["stage"], item["reason"]): item["count"] for each in stages for item in each["lost"]}


def exact(stages):
    counts = [each["count"] for each in stages]
    assert all(item["count"] > 0 and item["hint"] for each in stages for item in each["lost"])
    gone = [sum(item["count"] for item in each["lost"]) for each in stages]
    assert [a - g for a, g in zip(counts, gone, strict=True)] == [*counts[1:], counts[-1]]
    return counts


def store(world, observations, counts=None):
    world.store.add_observations(observations, {f"rows/{o.mode.value}": 0 for o in observations} | (counts or {}))
    world.store.add_observations([], {"rows/live": len(observations)})


def test_rows_of_one_request_count_once_and_the_sentence_says_so():
    here = world()
    names = []
    for request in range(24):
        rows = [row(request * 50 + i + 1, request_id=f"p-{request * 50 + 1}")[1] for i in range(50)]
        store(here, rows)
        names += [each.prediction_id for each in rows]
    here.label(names)
    here.clock.advance(2)
    here.controller().tick()

    assert exact(rows_of(here)) == [1_200, 1_200, 1_200, 1_200, 24]
    assert lost(rows_of(here)) == {("settled", "request already counted"): 1_176}
    assert exact(labels_of(here)) == [1_200, 1_200, 24]
    assert here.shown["verdict"]["reason"] == (
        "24 of the 500 labels that this step needs "
        "(1,200 labels came; 1,176 of them on further rows of a request that counts already)"
    )


ANSWERS = {
    "good": {},
    "dropped": {"candidate": Attempt(Status.DROPPED)},
    "away": {"candidate": Attempt(Status.DOWN)},
    "not drawn": {"candidate": Attempt(Status.NONE)},
    "failed": {"candidate": Attempt(Status.FAILED)},
    "pinned": {"mode": Mode.PINNED},
    "load": {"mode": Mode.LOAD},
}
REASONS = {
    "dropped": "queue full",
    "away": "model unavailable",
    "not drawn": "not drawn for rehearsal",
    "pinned": "pinned",
    "load": "load test",
}


@pytest.mark.parametrize("kind", REASONS)
def test_what_was_not_asked_of_both_models_says_why(kind):
    here = world()
    store(here, [row(1)[1], row(2, **ANSWERS[kind])[1]])
    here.label(["p-1", "p-2"])
    here.clock.advance(2)
    here.controller().tick()
    assert exact(rows_of(here)) == [2, 1, 1, 1, 1]
    assert lost(rows_of(here)) == {("answered", REASONS[kind]): 1}
    assert lost(labels_of(here)) == {("matched", REASONS[kind]): 1}


def test_late_expired_repeated_and_odd_labels_have_a_reason_each():
    here = world()
    rows = [row(i + 1, unit=unit)[1] for i, unit in enumerate(["a", "a", "b", "c", "d", "e"])]
    store(here, rows)
    last = replace(row(9_000)[1], prediction_id="last", request_id="last", at=rows[-1].at + 4_000)
    here.label(["p-1", "p-2"])
    here.label(["p-3"], at=rows[2].at + 3_700)  # late; p-4 gets none
    here.label(["p-5"], label="elephant")
    here.label(["p-6"])
    store(here, [last])
    here.clock.advance(2)
    here.controller().tick()
    found = lost(rows_of(here))
    assert exact(rows_of(here))[0] == 7
    assert found["settled", "unit already counted"] == 1
    assert found["rehearsed", "late"] == 1
    assert found["rehearsed", "expired"] == 1
    assert found["rehearsed", "waiting for its label"] == 1


def test_rows_that_were_never_stored_and_rows_that_nobody_read_are_counted():
    here = world()
    store(here, [row(1)[1]], {funnel.GIVEN_UP: 7})
    assert exact(rows_of(here)) == [8, 0, 0, 0, 0]
    assert lost(rows_of(here)) == {("answered", "records lost"): 7, ("answered", "not read yet"): 1}


events = st.lists(
    st.tuples(
        st.sampled_from(sorted(ANSWERS)),
        st.sampled_from(["own", "own", "previous"]),  # request
        st.sampled_from([None, "ann", "bob"]),  # unit
        st.sampled_from([None, 0, 1, "odd"]),  # label
        st.sampled_from([1.0, 3_000.0, 3_700.0]),  # its delay
        st.sampled_from(["tick", "restart", "go on", "go on", "prune", "pending", "again", "conflict", "hours"]),
    ),
    max_size=25,
)


@given(events)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_nothing_vanishes_and_nothing_is_counted_twice(stream):
    here = world()
    controller = here.controller()
    sent = request = 0
    for number, (kind, of, unit, label, delay, then) in enumerate(stream, 1):
        request = number if of == "own" or not request else request
        found = row(number, unit=unit, request_id=f"p-{request}", **ANSWERS[kind])[1]
        found = replace(found, at=here.clock.now())
        report = None if label is None else LabelReport(found.prediction_id, label, found.at + delay)
        now = here.clock.now()
        if report is not None and then == "pending":
            here.store.add_labels([report], received_at=now)
        here.store.add_observations([found], {f"rows/{found.mode.value}": 1})
        if report is not None and then != "pending":
            here.store.add_labels([report], received_at=now)
        sent += report is not None
        if report is not None and then in {"again", "conflict"}:
            here.store.add_labels([report if then == "again" else replace_label(report)], received_at=now)
            sent += 1
        here.clock.advance(4_000 if then == "hours" else 2)
        if then == "prune":
            here.store.prune(Retention(3_000, 10**9), now=here.clock.now())
        if then == "restart":
            controller = here.controller()
        if then != "go on":
            controller.tick()
        assert exact(rows_of(here))[0] == number
        assert exact(labels_of(here))[0] == sent
    here.clock.advance(2)
    controller.tick()
    again = here.controller("b", lease_s=1e9)
    here.clock.advance(100)
    again.tick()
    assert exact(rows_of(here))[0] == len(stream)
    kept = here.store.load_state(SHOWN)
    if kept is not None:
        placed = exact(rows_of(here))
        assert placed[-1] <= len(
            {each.request_id for _, each, _ in here.store.outcomes(limit=1_000)} | {*range(len(stream))}
        )
        assert set(Variant) == {Variant.PRIMARY, Variant.CANDIDATE}


def replace_label(report):
    return LabelReport(report.prediction_id, 1 if report.label != 1 else 0, report.at)
