"""One leader at a time, and a state that only the leader may change; the same over every store."""

import math

import pytest

from understudy.errors import NotAllowedNow
from understudy.store import Store


def test_one_leads_until_the_lease_is_over(store: Store) -> None:
    """Others wait, the leader renews, and who comes after the end takes over."""
    assert store.lead("a", ttl_s=10, now=100)
    assert not store.lead("b", ttl_s=10, now=105)
    assert store.lead("a", ttl_s=10, now=109)
    assert not store.lead("b", ttl_s=10, now=118)
    assert store.lead("b", ttl_s=10, now=119)
    assert not store.lead("a", ttl_s=10, now=120)


def test_only_the_leader_keeps_state(store: Store) -> None:
    """A leader that was replaced while it worked changes nothing."""
    assert store.load_state("evidence") is None
    with pytest.raises(NotAllowedNow):
        store.save_state("evidence", {"n": 1}, holder="a")
    store.lead("a", ttl_s=10, now=100)
    store.save_state("evidence", {"n": 1, "half": 0.1 + 0.2}, holder="a")
    store.lead("b", ttl_s=10, now=200)
    with pytest.raises(NotAllowedNow, match="no longer leads"):
        store.save_state("evidence", {"n": 2}, holder="a")

    kept = store.load_state("evidence")
    assert kept is not None
    assert kept["n"] == 1
    assert math.isclose(kept["half"], 0.1 + 0.2, rel_tol=0, abs_tol=0)
