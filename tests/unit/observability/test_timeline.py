"""Latency and failures over time: differences of counters, bounded, kept by whoever leads, and the same after a restart."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.documents import Traffic
from understudy.domain import Variant
from understudy.errors import StoreError
from understudy.observability.metrics import LATENCY_BUCKETS
from understudy.observability.summaries import figures
from understudy.observability.timeline import COARSE, STATE, History, Tracer, shown
from understudy.settings import Settings
from understudy.store.memory import MemoryStore
from understudy.testing import ManualClock, observation

SLOT = LATENCY_BUCKETS.index(0.005)  # the bucket from 4 to 5 ms


def counters(answered: float = 0, failed: float = 0, slot: int = SLOT) -> dict[str, float]:
    return {
        "requests/primary/live/200": answered,
        "requests/primary/live/500": failed,
        f"latency/primary/{slot}": answered,
        "rows/live": answered + failed,
    }


def history(kept: Any = None, points_max: int = 10) -> History:
    return History(kept, interval_s=5.0, points_max=points_max)


def test_a_point_is_what_happened_between_two_looks() -> None:
    """Not the sums since the beginning: a minute of failures stands out after a day without any."""
    seen = history()
    seen.look(counters(1_000_000), 100.0)
    seen.look(counters(1_000_090, 10), 105.0)
    (found,) = seen.state()["recent"]

    assert found == {
        "from": 100.0,
        "to": 105.0,
        "primary": {
            "requests": 100,
            "asked": 100,
            "failed": 10,
            "p50_ms": pytest.approx(4.5),
            "p99_ms": pytest.approx(4.99),
        },
    }


def test_what_the_candidate_failed_at_in_rehearsal_and_in_the_canary_counts_against_it() -> None:
    """As in the figures of `GET /rollout`, of which this is the derivative."""
    seen = history()
    seen.look({}, 0.0)
    grown = {
        "requests/candidate/shadow/200": 7.0,
        "requests/candidate/shadow/504": 2.0,
        "fallbacks/timeout": 1.0,
        "requests/primary/live/200": 10.0,
    }
    seen.look(grown, 5.0)
    candidate = seen.state()["recent"][0]["candidate"]

    assert (candidate["asked"], candidate["failed"], candidate["p99_ms"]) == (10, 3, None)


def test_where_nothing_was_asked_there_is_a_gap_and_no_zero() -> None:
    """And nothing is written: an idle service costs its store nothing."""
    seen = history()
    assert seen.look(counters(1), 0.0)
    assert seen.look(counters(2), 5.0)
    assert not seen.look(counters(2), 10.0)
    assert not seen.look(counters(2), 15.0)
    assert seen.look(counters(3), 20.0)

    assert [(each["from"], each["to"]) for each in seen.state()["recent"]] == [(0.0, 5.0), (15.0, 20.0)]


def test_the_oldest_points_go_and_the_long_ones_remember() -> None:
    """Bounded for ever; a long point adds up its short ones, so its percentiles are of all its requests."""
    seen = history(points_max=4)
    looks = 7 * COARSE
    for i in range(looks + 1):
        seen.look(counters(10 * i, i), 5.0 * i)
    kept = seen.state()

    assert len(kept["recent"]) == len(kept["long"]) == 4
    assert kept["recent"][-1]["to"] == kept["long"][-1]["to"] == 5.0 * looks
    assert {(each["primary"]["asked"], each["primary"]["failed"]) for each in kept["long"]} == {(11 * COARSE, COARSE)}
    assert all(each["to"] - each["from"] == 5.0 * COARSE for each in kept["long"])


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.sets(st.integers(0, 59)))
def test_restarts_lose_nothing_and_count_nothing_twice(answers: list[int], restarts: set[int]) -> None:
    """Whatever happens to the process between two looks, the points add up to the counters."""
    seen, total = history(points_max=100), 0
    seen.look(counters(0), 0.0)
    for i, answered in enumerate(answers):
        total += answered
        if i in restarts:
            seen = history(json.loads(json.dumps(seen.state())), points_max=100)
        seen.look(counters(total), 5.0 * (i + 1))

    assert sum(each["primary"]["requests"] for each in seen.state()["recent"]) == total


def test_a_point_reads_as_the_figures_of_its_counters() -> None:
    """One definition of a failure and of a percentile everywhere."""
    seen = history()
    seen.look({}, 0.0)
    now = counters(90, 10)
    seen.look(now, 5.0)
    told, point = figures(now, Variant.PRIMARY), seen.state()["recent"][0]["primary"]

    assert [point[name] for name in ("requests", "asked", "failed", "p50_ms", "p99_ms")] == [
        told[name] for name in ("requests", "asked", "failed", "latency_p50_ms", "latency_p99_ms")
    ]


def test_a_clock_that_was_set_back_makes_no_point_of_negative_length() -> None:
    """It happens to machines."""
    seen = history()
    seen.look(counters(1), 100.0)
    seen.look(counters(2), 40.0)

    assert [(each["from"], each["to"]) for each in seen.state()["recent"]] == [(40.0, 40.0)]


def test_only_what_is_new_is_told_to_whoever_asks_for_it() -> None:
    """A page that has the last points asks for those after."""
    seen = history()
    for i in range(4):
        seen.look(counters(i), 5.0 * i)
    state = seen.state()

    assert [each.to for each in shown(state, "recent", 5.0).points] == [10.0, 15.0]
    assert shown(state, "recent", 0.0).interval_s == 5.0
    assert shown(state, "long", 0.0) == Traffic(span="long", interval_s=5.0 * COARSE, points_max=10, points=[])
    assert shown(None, "recent", 0.0).points == []


class Away(MemoryStore):
    away = False

    def save_state(self, *args: Any, **kwargs: Any) -> None:
        if self.away:
            raise StoreError("away")
        super().save_state(*args, **kwargs)


def test_whoever_leads_keeps_it_and_the_next_leader_goes_on() -> None:
    """One history for all processes; a store that is away loses no request of it."""
    store, clock = Away("r", lambda outcome: {}), ManualClock()
    first, second = (Tracer(store, clock, name, Settings(lease_s=5.0, traffic_interval_s=1.0)) for name in ("a", "b"))

    def serve(number: int) -> None:
        store.add_observations([observation(f"p-{number}")], {"requests/primary/live/200": 1.0})

    first.look()
    serve(1)
    second.look()  # the lease is the first one's
    assert store.load_state(STATE) is not None
    assert store.load_state(STATE)["recent"] == []
    clock.advance(1)
    first.look()
    serve(2)
    store.away = True
    clock.advance(1)
    with pytest.raises(StoreError):
        first.look()
    store.away = False
    serve(3)
    clock.advance(10)
    second.look()
    kept = store.load_state(STATE)

    assert kept is not None
    assert [each["primary"]["requests"] for each in kept["recent"]] == [1, 2]
