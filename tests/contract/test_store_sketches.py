"""Counts for drift: one document per hour and writer, the newest hours only, and alarms told together with the state."""

from collections.abc import Callable

import pytest

from tests.contract.stores import event
from understudy.errors import NotAllowedNow
from understudy.store import Store


def slots(store: Store, since: float = 0.0) -> list[tuple[int, str, float]]:
    return [(slot, writer, document["rows"]) for slot, writer, _, document in store.sketches(since=since)]


def test_each_writer_has_one_document_an_hour_and_the_last_stands(store: Store) -> None:
    """What two workers counted of one hour stands side by side; writing again replaces one's own."""
    store.save_sketches({1: {"rows": 3}, 2: {"rows": 4}}, writer="a", now=10.0, slots_max=9)
    store.save_sketches({1: {"rows": 5}}, writer="b", now=11.0, slots_max=9)
    store.save_sketches({2: {"rows": 6}}, writer="a", now=12.0, slots_max=9)

    assert slots(store) == [(1, "a", 3), (1, "b", 5), (2, "a", 6)]
    assert slots(store, since=11.0) == [(1, "b", 5), (2, "a", 6)]


def test_only_the_hours_that_were_written_last_stay(store: Store) -> None:
    """Whatever hours they are: history that is replayed is written last."""
    store.save_sketches({slot: {"rows": slot} for slot in range(5)}, writer="a", now=1.0, slots_max=3)
    assert [slot for slot, _, _ in slots(store)] == [2, 3, 4]
    store.save_sketches({-7: {"rows": 1}}, writer="b", now=2.0, slots_max=3)

    assert [slot for slot, _, _ in slots(store)] == [-7, 3, 4]


def test_rollouts_do_not_see_each_other_s_counts(open_store: Callable[..., Store]) -> None:
    """Also where they share a database."""
    one, other = open_store("flight-1"), open_store("flight-2")
    one.save_sketches({1: {"rows": 3}}, writer="a", now=10.0, slots_max=9)
    other.save_sketches({7: {"rows": 1}}, writer="a", now=20.0, slots_max=1)

    assert slots(one) == [(1, "a", 3)]


def test_a_state_and_its_events_are_kept_together_or_not_at_all(store: Store) -> None:
    """Whoever has lost the lease tells nothing."""
    store.lead("a", ttl_s=10, now=100)
    store.save_state("drift", {"n": 1}, holder="a", events=[event("drift"), event("drift")])
    store.lead("b", ttl_s=10, now=200)
    with pytest.raises(NotAllowedNow):
        store.save_state("drift", {"n": 2}, holder="a", events=[event("drift")])

    assert [each.kind for each in store.events()] == ["drift", "drift"]
    assert store.load_state("drift") == {"n": 1}
