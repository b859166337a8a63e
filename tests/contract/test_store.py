"""The contract of the Store port, sentence by sentence, over every store there is."""

import math
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.contract.stores import event, names, observation, plan, receipt, report, stored, tallied
from understudy.domain import Attempt, Fate, Label, LabelReport, Mode, Outcome, Status, Variant
from understudy.errors import NotAllowedNow, StoreError
from understudy.store import Pruned, Retention, Store

FOREVER = Retention(max_age_s=math.inf, max_bytes=sys.maxsize)


# Plans and events


def test_there_is_no_plan_before_the_first(store: Store) -> None:
    assert store.load_plan() is None
    assert store.events() == []


def test_a_saved_plan_is_in_force_with_the_next_revision(store: Store) -> None:
    first = plan(weight=1, salt=2**64 - 1, step=-1, revision=99, updated_at=1.5)
    assert store.save_plan(first, event()) == replace(first, revision=1)
    assert store.load_plan() == replace(first, revision=1)
    assert store.save_plan(plan(weight=9_999), event()).revision == 2
    assert store.load_plan() == plan(weight=9_999, revision=2)


def test_a_plan_and_its_event_carry_the_same_new_revision(store: Store) -> None:
    store.save_plan(plan(), event("started", revision=77))
    store.save_plan(plan(), event("promoted"))
    assert [(each.kind, each.revision) for each in store.events()] == [("started", 1), ("promoted", 2)]


def test_a_plan_is_saved_only_over_the_expected_revision(store: Store) -> None:
    with pytest.raises(NotAllowedNow, match="revision 0, not 1"):
        store.save_plan(plan(), event(), expected_revision=1)
    assert store.load_plan() is None
    store.save_plan(plan(), event(), expected_revision=0)
    with pytest.raises(NotAllowedNow, match="revision 1, not 0"):
        store.save_plan(plan(weight=5), event(), expected_revision=0)
    assert store.save_plan(plan(weight=6), event(), expected_revision=1).revision == 2
    assert len(store.events()) == 2, "what was refused left an event"


def test_whoever_waits_for_a_plan_hears_of_it(open_store: Callable[..., Store], kind: str) -> None:
    follower = open_store()
    leader = follower if kind == "memory" else open_store()
    changed = follower.await_plan(0.01)  # from now on a change is noticed
    assert kind == "postgres" or changed is False
    heard = threading.Event()

    def wait() -> None:
        while follower.load_plan() is None:
            follower.await_plan(0.05 if kind == "sqlite" else 30.0)
        heard.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    leader.save_plan(plan(), event())
    assert heard.wait(5)
    waiting.join()


def test_a_plan_is_not_saved_when_its_event_cannot_be(store: Store) -> None:
    with pytest.raises(TypeError, match="no JSON form"):
        store.save_plan(plan(), event(details={"why": object()}))
    assert store.load_plan() is None
    assert store.events() == []


def test_events_come_oldest_first_after_an_id_and_up_to_a_limit(store: Store) -> None:
    appended = [store.append_event(event(f"e{i}", at=100.0 - i)) for i in range(5)]
    assert store.events() == appended
    ids = [each.id for each in appended]
    assert ids == sorted(set(ids))
    assert ids[0] > 0
    assert store.events(after=ids[1], limit=2) == appended[2:4]
    assert store.events(after=ids[-1]) == []
    assert store.events(limit=0) == []


def test_an_events_details_go_through_json(store: Store) -> None:
    details: dict[Any, Any] = {"n": (1, 2.5, None, True), "grüße": "日本 ✓\x00", 3: {"big": 10**30, "inf": math.inf}}
    wanted = {"n": [1, 2.5, None, True], "grüße": "日本 ✓\x00", "3": {"big": 10**30, "inf": math.inf}}
    assert store.append_event(event(details=details, reason="naïve 'quoted' \n")).details == wanted
    details["n"] = "changed afterwards"
    assert store.events()[0].details == wanted
    assert store.events()[0].reason == "naïve 'quoted' \n"


# Observations

ANSWERS = [
    Attempt(),
    Attempt(Status.TIMEOUT, seconds=0.25),
    Attempt(Status.OK, "late", 0.1 + 0.2, (0.1, 0.2, 0.7), 1e-300),
    Attempt(Status.OK, "", -0.0, (), 5e-324),
    Attempt(Status.OK, True, sys.float_info.max, (math.inf, 1e-17), 3.0),
    Attempt(Status.OK, 10**30, math.inf, None, 0.0),
    Attempt(Status.INVALID, 1.5, -math.inf, None, 0.5),
    Attempt(Status.OK, None, None, None, 0.5, (0.1, -0.0, 1e300, 5.0)),
    Attempt(Status.OK, ("red", "blue"), None, (0.9, 0.1, 0.5), 0.5),
    Attempt(Status.OK, (), None, (0.1,), 0.5),
    Attempt(Status.OK, (1, True, 1.0, "1"), None, None, 0.5),
]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("variant", list(Variant))
def test_an_observation_comes_back_as_it_was(store: Store, answer: Attempt, variant: Variant) -> None:
    made = observation(
        "ü-✈-\x00-'; DROP TABLE observations",
        request_id="another",
        at=1_700_000_000.123456,
        revision=2**40,
        variant=variant,
        mode=Mode.PINNED,
        share=10_000,
        unit="N 1 '\n",
        fallback="timeout",
        **{variant.value: answer},
    )
    store.add_observations([made, observation("plain")])
    assert [each for _, each, _ in store.outcomes()] == [made, observation("plain")]
    label = store.outcomes()[0][1].attempt(variant).label
    assert type(label) is type(answer.label)
    if isinstance(label, tuple) and isinstance(answer.label, tuple):
        assert [type(each) for each in label] == [type(each) for each in answer.label]


@pytest.mark.parametrize("agrees", [True, False, None])
def test_whether_two_answers_agree_comes_back_as_it_was(store: Store, agrees: bool | None) -> None:
    store.add_observations([observation("a", agrees=agrees)])
    assert store.outcomes()[0][1].agrees is agrees


LABELS: list[Label] = [(1.5, -0.0, 3.0), ("red", "blue"), (), (1, 2), (1.0, 2.0), (True,), (1,), ("1",)]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("label_first", [True, False])
def test_a_label_of_several_parts_comes_back_as_it_was(store: Store, label: Label, label_first: bool) -> None:
    """A vector of numbers, or a set of classes."""
    if label_first:
        assert receipt(store, report(label=label)) == (0, 0, 0, 1)
        (outcome,) = store.add_observations([observation()])
    else:
        store.add_observations([observation()])
        (outcome,) = store.add_labels([report(label=label)], received_at=200.0).outcomes
    known = store.outcomes()[0][2]
    assert known is not None
    for found in (outcome.label, known.label):
        assert isinstance(found, tuple)
        assert isinstance(label, tuple)
        assert found == label
        assert [type(each) for each in found] == [type(each) for each in label]
    assert receipt(store, report(label=label)) == (0, 1, 0, 0)
    assert receipt(store, report(label=(*label, "more"))) == (0, 0, 1, 0)


def test_a_score_that_is_nan_comes_back_as_none(store: Store) -> None:
    store.add_observations([observation(primary=Attempt(Status.INVALID, None, math.nan, (math.nan, 0.5), 0.1))])
    answer = store.outcomes()[0][1].primary
    assert answer.score is None
    assert str(answer.probabilities) == "(nan, 0.5)"


def test_observations_are_idempotent_by_prediction_and_the_first_stands(store: Store) -> None:
    store.add_observations([observation("a"), observation("b"), observation("a", at=5.0)], {"seen": 3})
    store.add_observations([observation("b", at=6.0), observation("c")], {"seen": 2.5})
    assert [each for _, each, _ in store.outcomes()] == [observation("a"), observation("b"), observation("c")]
    assert store.counters() == {"seen": 5.5}, "counts are added by every call that brings something new"


def test_a_batch_that_comes_again_adds_nothing(store: Store) -> None:
    store.add_labels([LabelReport("a", 1, 5.0)], received_at=5.0)
    batch = [observation("a"), observation("b")]
    assert [o.observation for o in store.add_observations(batch, {"seen": 2})] == batch[:1]
    assert store.add_observations(batch, {"seen": 2}) == []
    assert store.counters()["seen"] == 2
    assert [each for _, each, _ in store.outcomes()] == batch


def test_counts_need_no_observations(store: Store) -> None:
    assert store.add_observations([], {"dropped": 4}) == []
    assert store.add_observations([]) == []
    assert store.counters() == {"dropped": 4.0}


def test_outcomes_are_in_storing_order_after_a_number_and_up_to_a_limit(store: Store) -> None:
    store.add_observations([observation("c", at=3.0), observation("a", at=9.0)])
    store.add_observations([observation("b", at=1.0)])
    receipt(store, report("a", "x"), report("zzz"))
    rows = store.outcomes()
    assert [(each.prediction_id, label) for _, each, label in rows] == [
        ("c", None),
        ("a", LabelReport("a", "x", 160.0)),
        ("b", None),
    ]
    seqs = [seq for seq, _, _ in rows]
    assert seqs == sorted(set(seqs))
    assert seqs[0] > 0
    assert store.outcomes(after=seqs[0], limit=1) == rows[1:2]
    assert store.outcomes(after=seqs[-1]) == store.outcomes(limit=0) == []


# Labels


def test_a_label_after_its_observation_matches(store: Store) -> None:
    store.add_observations([observation("a", at=100.0)])
    got = store.add_labels(iter([report("a", 1, at=160.5)]), received_at=200.0)
    assert got.fates == [Fate.MATCHED]
    assert list(got.outcomes) == [Outcome(observation("a", at=100.0), 1, 60.5)]
    assert tallied(store) == {"joined": 1.0, "delay": 60.5, "label/1": 1.0}


def test_the_fate_of_each_label_is_told_in_the_order_of_the_batch(store: Store) -> None:
    store.add_observations([observation("a"), observation("b")])
    store.add_labels([report("b", 1)], received_at=200.0)
    batch = [report("z"), report("b", 1), report("a", 0), report("a", 1), report("z"), report("b", 0)]
    got = store.add_labels(batch, received_at=200.0)
    assert got.fates == [Fate.PENDING, Fate.DUPLICATE, Fate.MATCHED, Fate.CONFLICT, Fate.DUPLICATE, Fate.CONFLICT]
    assert got.counts == {Fate.MATCHED: 1, Fate.DUPLICATE: 2, Fate.CONFLICT: 2, Fate.PENDING: 1, Fate.CORRECTED: 0}
    assert names(got.outcomes) == ["a"]


def test_a_label_before_its_observation_waits_for_it(store: Store) -> None:
    assert receipt(store, report("b", "x", at=90.0), report("a"), report("zzz")) == (0, 0, 0, 3)
    assert tallied(store) == {}
    outcomes = store.add_observations([observation("a"), observation("n"), observation("b")], {"seen": 1})
    assert list(outcomes) == [Outcome(observation("a"), 1, 60.0), Outcome(observation("b"), "x", -10.0)]
    assert tallied(store) == {"joined": 2, "delay": 50, "label/1": 1, "label/'x'": 1, "seen": 1}
    assert store.outcomes()[2][2] == LabelReport("b", "x", 90.0)


def test_each_outcome_is_returned_once_ever(store: Store) -> None:
    receipt(store, report("a"), report("still waits"))
    assert names(store.add_observations([observation("a"), observation("a")])) == ["a"]
    assert store.add_observations([observation("a")]) == []
    assert store.join_pending() == []
    assert receipt(store, report("a")) == (0, 1, 0, 0)
    assert store.counters()["joined"] == 1


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_first_label_stands(store: Store, order: str) -> None:
    if order == "after":
        store.add_observations([observation("a")])
    first = (1, 0, 0, 0) if order == "after" else (0, 0, 0, 1)
    assert receipt(store, report("a", 1)) == first
    assert receipt(store, report("a", 0)) == (0, 0, 1, 0)
    assert receipt(store, report("a", 0), report("a", 1, at=999.0)) == (0, 1, 1, 0), (
        "a conflict does not become the label"
    )
    store.add_observations([observation("a")])
    assert store.outcomes()[0][2] == report("a", 1)
    assert store.counters()["joined"] == 1


def test_one_batch_may_say_the_same_prediction_several_times(store: Store) -> None:
    store.add_observations([observation("a")])
    batch = [report("b", 1), report("a", 0), report("a", 0), report("b", 2), report("a", 1), report("b", 1)]
    assert receipt(store, *batch) == (1, 2, 2, 1)
    assert receipt(store) == (0, 0, 0, 0)


SAME: list[tuple[Label, Label]] = [
    (1, 1.0),
    (1, True),
    (0.0, False),
    ("x", "x"),
    (math.nan, math.nan),
    (10**400, 10**400),
    (-0.0, 0),
]
DIFFERENT: list[tuple[Label, Label]] = [
    (1, "1"),
    (True, "true"),
    ("x", "X"),
    (math.nan, 1),
    ("é", "e\u0301"),
    (10**30, 1e31),
]


@pytest.mark.parametrize(("one", "other", "same"), [(*p, True) for p in SAME] + [(*p, False) for p in DIFFERENT])
def test_labels_are_compared_as_python_does(store: Store, one: Label, other: Label, same: bool) -> None:
    receipt(store, report("a", one))
    receipt(store, report("b", other))
    expected = (0, 1, 0, 0) if same else (0, 0, 1, 0)
    assert receipt(store, report("a", other)) == expected
    assert receipt(store, report("b", one)) == expected


@pytest.mark.parametrize("label", [True, 0, 1, -1.5, 1e300, 10**30, "", "ü✈\x00\ud800", "true", "null", math.inf])
def test_a_label_comes_back_as_it_was(store: Store, label: Label) -> None:
    receipt(store, report("a", label))
    (outcome,) = store.add_observations([observation("a")])
    known = store.outcomes()[0][2]
    assert known is not None
    assert [outcome.label, known.label] == [label, label]
    assert {type(outcome.label), type(known.label)} == {type(label)}


def test_a_batch_beyond_every_limit_on_parameters(store: Store) -> None:
    many = [f"p{i}" for i in range(2_500)]
    assert receipt(store, *[report(name) for name in many[::2]]) == (0, 0, 0, 1_250)
    assert names(store.add_observations([observation(name) for name in many])) == many[::2]
    assert receipt(store, *[report(name) for name in reversed(many)]) == (1_250, 1_250, 0, 0)
    assert store.counters()["joined"] == 2_500


# Counters, and all or nothing


class Broken(Exception):
    pass


def only_even(outcome: Outcome) -> Mapping[str, float]:
    if outcome.label == 13:
        raise Broken
    return {"joined": 1}


def test_a_tally_that_raises_undoes_the_labels(open_store: Callable[..., Store]) -> None:
    store = open_store(tally=only_even)
    store.add_observations([observation("a"), observation("b"), observation("c")])
    with pytest.raises(Broken):
        receipt(store, report("a"), report("x"), report("b", 13), report("a", 2))
    assert tallied(store) == {}
    assert [label for _, _, label in store.outcomes()] == [None, None, None]
    assert receipt(store, report("a"), report("x"), report("b")) == (2, 0, 0, 1), "nothing was half done"
    assert tallied(store) == {"joined": 2.0}


def test_a_tally_that_raises_undoes_the_observations(open_store: Callable[..., Store]) -> None:
    store = open_store(tally=only_even)
    receipt(store, report("a"), report("b", 13))
    with pytest.raises(Broken):
        store.add_observations([observation("a"), observation("b")], {"seen": 2})
    assert store.outcomes() == []
    assert tallied(store) == {}
    assert names(store.add_observations([observation("a")], {"seen": 1})) == ["a"]
    assert tallied(store) == {"joined": 1.0, "seen": 1.0}


def test_counts_and_tally_of_one_name_add_up(store: Store) -> None:
    receipt(store, report("a"))
    store.add_observations([observation("a")], {"joined": 10, "ü/é": -0.5})
    assert tallied(store) == {"joined": 11.0, "delay": 60.0, "label/1": 1.0, "ü/é": -0.5}


# Pruning

forgets_rows = pytest.mark.parametrize("kind", ["memory", "sqlite"], indirect=True)
"""PostgreSQL forgets in pieces (`understudy.store.partitions`): what is told row by row is told of the others."""


def test_pruning_by_age_takes_observations_and_their_labels(store: Store) -> None:
    store.append_event(event(at=0.0))
    store.add_observations([observation(f"p{at}", at=float(at)) for at in (20, 10)], {"seen": 2})
    assert store.prune(Retention(max_age_s=70.0, max_bytes=sys.maxsize), now=79.0) == 0
    store.add_observations([observation(f"p{at}", at=float(at)) for at in (30, 40)], {"seen": 2})
    receipt(store, report("p10"), report("p30"))
    before = store.counters()
    assert store.prune(Retention(max_age_s=70.0, max_bytes=sys.maxsize), now=100.0) == 2, "30 is not older than 70"
    assert stored(store) == ["p30", "p40"]
    assert store.counters() == before
    assert len(store.events()) == 1
    assert receipt(store, report("p30"), report("p10")) == (0, 1, 0, 1), "p10 and its label are forgotten"


def test_pruning_as_it_grows_keeps_the_newest_within_the_limit(store: Store) -> None:
    limit = Retention(math.inf, 500_000)
    gone = 0
    for i in range(0, 5_000, 250):
        store.add_observations([observation(f"p{j:04}", at=float(j)) for j in range(i, i + 250)])
        gone += store.prune(limit, now=1e9)
    left = stored(store, limit=5_000)
    assert left == [f"p{j:04}" for j in range(gone, 5_000)]
    assert 500 <= len(left) < 4_000
    assert receipt(store, report("p0000"), report("p4999")) == (1, 0, 0, 1)


@forgets_rows
def test_pruning_by_bytes_takes_the_oldest(store: Store) -> None:
    store.add_observations([observation(f"p{i:04}", at=float(i % 100)) for i in range(1_000)])
    assert store.prune(FOREVER, now=1e9) == 0
    gone = store.prune(Retention(math.inf, 60_000), now=0.0)
    left = store.outcomes()
    assert 400 < gone < 900
    assert gone + len(left) == 1_000
    assert [each.prediction_id for _, each, _ in left] == [f"p{i:04}" for i in range(gone, 1_000)], (
        "what was stored first is gone"
    )
    assert store.prune(Retention(math.inf, 60_000), now=0.0) == 0, "what is left fits"
    assert store.prune(Retention(math.inf, 0), now=0.0) == len(left)
    assert store.outcomes() == []


def test_sequence_numbers_grow_past_what_was_pruned(store: Store) -> None:
    store.add_observations([observation("a")])
    last = store.outcomes()[-1][0]
    store.prune(Retention(math.inf, 0), now=0.0)
    store.add_observations([observation("b")])
    assert [each.prediction_id for _, each, _ in store.outcomes(after=last)] == ["b"]


@forgets_rows
def test_pruning_is_remembered(store: Store) -> None:
    """Up to which number, how many, and when at the latest; never less than before."""
    store.add_observations([observation(f"p{at}", at=float(at)) for at in (30, 10, 40, 20)])
    assert store.rollouts()[0].pruned is None
    store.prune(Retention(max_age_s=70.0, max_bytes=sys.maxsize), now=100.0)
    assert store.rollouts()[0].pruned == Pruned(up_to=4, rows=2, at=100.0)
    store.prune(Retention(max_age_s=70.0, max_bytes=sys.maxsize), now=101.0)
    assert store.rollouts()[0].pruned == Pruned(up_to=4, rows=3, at=101.0), "p30 is the first row; p40 is left"
    store.prune(FOREVER, now=200.0)
    assert store.rollouts()[0].pruned == Pruned(up_to=4, rows=3, at=101.0)


def test_labels_do_not_wait_longer_than_the_retention(store: Store) -> None:
    receipt(store, report("old"), report("late", at=0.0), received_at=100.0)
    receipt(store, report("new", at=0.0), received_at=150.0)
    assert store.prune(Retention(60.0, sys.maxsize), now=200.0) == 0
    assert names(store.add_observations([observation(name) for name in ("old", "late", "new")])) == ["new"]


# The rest


def test_what_a_rollout_is_judged_by_is_kept_once(store: Store) -> None:
    """The first identity stands; it comes back as JSON."""
    (record,) = store.rollouts()
    assert (record.rollout, record.identity, record.started_at, record.plan) == ("flight-1", None, None, None)
    store.keep_identity({"policy": {"margin": 0.005}, "names": ("a", "b")})
    store.keep_identity({"policy": {"margin": 0.01}})
    in_force = store.save_plan(plan(), event(at=50.0))
    store.append_event(event(at=60.0))
    (record,) = store.rollouts()
    assert record.identity == {"policy": {"margin": 0.005}, "names": ["a", "b"]}
    assert (record.started_at, record.plan) == (50.0, in_force)


def test_stores_of_different_rollouts_do_not_see_each_other(open_store: Callable[..., Store]) -> None:
    one, other = open_store("one"), open_store("two")
    one.save_plan(plan(), event("one"))
    receipt(one, report("a"))
    one.add_observations([observation("b")], {"seen": 1})
    assert other.load_plan() is None
    assert (other.events(), other.outcomes(), other.counters()) == ([], [], {})
    assert other.add_observations([observation("a", at=1.0)]) == []
    assert receipt(other, report("b")) == (0, 0, 0, 1)
    assert names(one.add_observations([observation("a")])) == ["a"]
    assert other.save_plan(plan(), event("two"), expected_revision=0).revision == 1
    assert [each.kind for each in other.events()] == ["two"]


def test_ping_tells_how_long_it_took(store: Store) -> None:
    assert 0.0 <= store.ping() < 60.0


def test_a_closed_store_says_so_and_closes_again(store: Store) -> None:
    store.add_observations([observation("a")])
    store.close()
    store.close()
    for call in (store.counters, store.load_plan, store.ping, store.join_pending, lambda: store.add_observations([])):
        with pytest.raises(StoreError, match="closed"):
            call()
