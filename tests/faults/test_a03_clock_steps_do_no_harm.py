"""A clock that was set forward and back kept labels unknown, the lease taken and waits still, as long as it had been wrong.

Batches of labels have numbers, leases and prunings do not believe a jump, and waits go on.
"""

import pytest

from tests.support.controllers import Process
from tests.unit.rollout.world import World, policy
from understudy.clock import ACCEPTED_AFTER_S, SteadyClock
from understudy.store.memory import MemoryStore
from understudy.store.sql import SqlStore
from understudy.testing import ManualClock

HOUR, YEAR = 3_600.0, 365 * 86_400.0


@pytest.mark.parametrize("there", [HOUR, -HOUR, YEAR, -YEAR])
def test_a_rollout_goes_on_through_a_clock_that_jumps_and_comes_back(there):
    """Every label counts, the rollout advances, and each decision is reproduced."""
    world = World(policy(labels={"wait": 72 * HOUR}))
    process = Process(world)
    world.serve(10)
    process.tick()
    for jump in (there, -there):
        world.clock.advance(jump)
        world.serve(400)
        process.tick()
        process.tick()
    process.tick()
    assert world.where[0] == "canary"
    assert world.kept["evidence"]["missing"] == []
    checks, changed = world.verified()
    assert changed is None
    assert all(check.agrees for check in checks), [check.says for check in checks]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_lease_of_next_year_binds_nobody(kind, tmp_path):
    store = (
        MemoryStore("r", lambda o: {})
        if kind == "memory"
        else SqlStore(f"sqlite:///{tmp_path}/a.db", "r", lambda o: {})
    )
    assert store.lead("gone", ttl_s=5, now=1e9 + YEAR)
    assert store.lead("here", ttl_s=5, now=1e9)
    assert not store.lead("gone", ttl_s=5, now=1e9 + 1)
    store.close()


class _Clock(ManualClock):
    """A clock that can be set while time passes."""

    passed = 0.0

    def perf(self):
        return self.passed

    def live(self, seconds):
        self.time += seconds
        self.passed += seconds


def test_what_is_removed_for_its_age_is_not_aged_by_a_jump():
    """Until the clock has stayed ahead for a day: then it was wrong before."""
    clock = _Clock()
    steady, began = SteadyClock(clock), clock.now()
    clock.live(10)
    assert steady.now() == began + 10
    clock.advance(YEAR)
    assert steady.now() == began + 10
    clock.live(ACCEPTED_AFTER_S / 2)
    assert steady.now() == began + 10 + ACCEPTED_AFTER_S / 2
    clock.advance(-YEAR)
    assert steady.now() == clock.now()
    clock.advance(YEAR)
    steady.now()
    clock.live(ACCEPTED_AFTER_S)
    assert steady.now() == clock.now()
    clock.advance(-YEAR)
    assert steady.now() == clock.now()
