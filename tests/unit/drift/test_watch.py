"""Drift with several workers: counts add up, one looks, alarms are told once, whoever dies or takes over."""

from collections.abc import Sequence
from typing import Any

import msgspec
import prometheus_client
import pytest

from models.data import Flight
from tests.unit.drift.world import cards, layout, month, positions, told
from understudy.domain import Variant
from understudy.drift import SLOT_S, WINDOW_SLOTS
from understudy.drift.gather import HELD_SLOTS
from understudy.drift.watch import STATE, DriftCounter, DriftLeader, DriftMonitor, watched_by
from understudy.errors import NotAllowedNow, StoreError
from understudy.observability.metrics import Metrics, parse
from understudy.settings import Settings
from understudy.store.memory import MemoryStore
from understudy.testing import ManualClock, card


class Harness:
    """A store, a clock, and workers that share them."""

    def __init__(self, **settings: Any) -> None:
        self.store, self.clock = MemoryStore("r", lambda outcome: {}), ManualClock()
        self.registry = prometheus_client.CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.settings = Settings(**settings)

    def gatherer(self, name: str = "a") -> DriftCounter:
        return DriftCounter(layout(), positions(), self.store, self.metrics, self.clock, name, self.settings)

    def lookout(self, name: str = "a") -> DriftLeader:
        return DriftLeader(layout(), self.store, self.metrics, self.clock, name, self.settings)

    def day_by_day(
        self, flights: Sequence[Flight], gatherers: Sequence[DriftCounter], lookouts: Sequence[DriftLeader]
    ) -> None:
        """Each worker counts its share of an hour, and each looks; then the next hour."""
        hours: dict[int, list[Flight]] = {}
        for flight in flights:
            hours.setdefault(int(flight.scheduled_at // SLOT_S), []).append(flight)
        for hour in sorted(hours):
            for i, gatherer in enumerate(gatherers):
                gatherer.add(*told(hours[hour][i :: len(gatherers)]))
                gatherer.flush()
            self.clock.advance(1)
            for _ in range(2):  # an hour is looked at when nothing came since the look before
                for lookout in lookouts:
                    lookout.look(revision=7)

    def told(self) -> list[tuple[str, str]]:
        return [(e.details["alarm"], f"{e.details['variant']}/{e.details['feature']}") for e in self.store.events()]

    def metric(self, name: str, **labels: str) -> float:
        text = prometheus_client.generate_latest(self.registry).decode()
        return next(v for n, have, v in parse(text) if n == name and labels.items() <= have.items())


FEATURES = {("on", "primary/month"), ("on", "primary/temp"), ("on", "primary/dewp"), ("on", "candidate/month")}


def features(harness: Harness) -> set[tuple[str, str]]:
    return {(on, what) for on, what in harness.told() if "(prediction)" not in what}


def test_two_workers_see_what_one_would_and_one_of_them_tells() -> None:
    """Every alarm once; the event says what, beside whom, and when."""
    harness = Harness()
    harness.day_by_day(
        month(7)[:1900], [harness.gatherer("a"), harness.gatherer("b")], [harness.lookout("a"), harness.lookout("b")]
    )
    alone = Harness()
    alone.day_by_day(month(7)[:1900], [alone.gatherer()], [alone.lookout()])

    assert features(harness) == FEATURES
    assert harness.told() == alone.told()
    assert len(harness.told()) == len(set(harness.told()))
    temp = next(e for e in harness.store.events() if e.details["feature"] == "temp")
    assert (temp.kind, temp.actor, temp.revision) == ("drift", "drift", 7)
    assert temp.details["outside"] == 1
    assert harness.metric("understudy_drift_alarm", variant="primary", feature="temp") == 1
    assert harness.metric("understudy_drift_alarm", variant="primary", feature="carrier") == 0
    assert harness.metric("understudy_feature_psi", variant="primary", feature="temp") > harness.metric(
        "understudy_feature_psi_line", variant="primary", feature="temp"
    )
    assert harness.metric("understudy_events_total", event="drift") == len(harness.told())


def test_who_takes_over_goes_on_and_tells_nothing_twice() -> None:
    """The leader dies after the alarms; the next one's lease begins, and it knows them."""
    harness = Harness()
    gatherer, first, second = harness.gatherer(), harness.lookout("a"), harness.lookout("b")
    harness.day_by_day(month(7)[:1900], [gatherer], [first, second])
    before = harness.told()
    harness.clock.advance(harness.settings.lease_s + 1)
    harness.day_by_day(month(7)[1900:2300], [gatherer], [second])

    assert features(harness) == FEATURES
    assert harness.told()[: len(before)] == before
    state = harness.store.load_state(STATE)
    assert state is not None
    assert {f"{a['variant']}/{a['feature']}" for a in state["alarms"]} >= {"primary/month", "primary/temp"}


def test_january_after_july_ends_the_alarms() -> None:
    """History may be sent in any order: what counts is the day that is looked at, not which came last in time."""
    harness = Harness(drift_days_max=3)
    gatherer, lookout = harness.gatherer(), harness.lookout()
    for history in (month(7), month(1)):
        harness.day_by_day(history[:2900], [gatherer], [lookout])

    assert {(on, what) for on, what in features(harness) if on == "off"} >= {
        ("off", "primary/month"),
        ("off", "primary/temp"),
    }
    assert len(harness.store.sketches()) <= 72 * 2


def test_a_worker_s_memory_is_bounded_and_loses_no_row() -> None:
    """Beyond so many hours it begins anew beside what it wrote; beyond the limit rows are counted as not counted."""
    harness = Harness()
    gatherer = harness.gatherer()
    flights = month(7)[:4000]
    for start in range(0, 4000, 500):
        gatherer.add(*told(flights[start : start + 500]))
        gatherer.flush()
    kept = [layout().counts(document) for *_, document in harness.store.sketches()]

    assert sum(layout().rows(counts) for counts in kept if counts is not None) == 4000
    assert len({writer for _, writer, *_ in harness.store.sketches()}) > 1
    assert len(gatherer._slots) <= HELD_SLOTS + 24
    tight = Harness(drift_days_max=2)
    own = tight.gatherer()
    own.add(*told(flights))
    assert len(own._slots) == 48
    assert tight.metric("understudy_drift_uncounted_total") == sum(
        f.scheduled_at // SLOT_S not in own._slots for f in flights
    )


class Away(MemoryStore):
    """A store that refuses whatever is asked of it while `down`."""

    down = False

    def save_sketches(self, *args: Any, **kwargs: Any) -> None:
        if self.down:
            raise StoreError("away")
        super().save_sketches(*args, **kwargs)

    def save_state(self, *args: Any, **kwargs: Any) -> None:
        if self.down:
            raise StoreError("away")
        super().save_state(*args, **kwargs)


def test_a_store_that_is_away_loses_neither_counts_nor_alarms() -> None:
    """What was not written is written later; what was not told is told later, once."""
    harness = Harness()
    harness.store = store = Away("r", lambda outcome: {})
    gatherer, lookout = harness.gatherer(), harness.lookout()
    harness.day_by_day(month(7)[:900], [gatherer], [lookout])
    store.down = True
    gatherer.add(*told(month(7)[900:1900]))
    with pytest.raises(StoreError):
        gatherer.flush()
    store.down = False
    gatherer.flush()
    assert lookout.look() == []  # the hours are not at rest yet
    store.down = True
    with pytest.raises(StoreError):
        lookout.look()
    assert harness.told() == []
    store.down = False
    lookout.look()
    lookout.look()

    assert features(harness) == FEATURES
    assert len(harness.told()) == len(set(harness.told()))


def test_a_leader_that_was_replaced_tells_nothing() -> None:
    """It finds out when it keeps; its successor tells."""
    harness = Harness()
    gatherer, lookout = harness.gatherer(), harness.lookout("a")
    harness.day_by_day(month(7)[:300], [gatherer], [lookout])
    gatherer.add(*told(month(7)[300:310]))
    gatherer.flush()
    lead = harness.store.lead
    harness.store.lead = lambda *args, **kwargs: True  # type: ignore[method-assign] -- it believes that it leads
    assert lead("b", ttl_s=1e9, now=harness.clock.now() + 1e6)
    with pytest.raises(NotAllowedNow):
        lookout.look()


def test_a_model_without_profiles_is_not_watched_and_says_so() -> None:
    """Nothing is counted, nothing is written, and the page says why."""
    harness = Harness()
    bare = DriftMonitor(
        {Variant.PRIMARY: card()}, {"x": 0}, harness.store, harness.metrics, harness.clock, "a", "a", harness.settings
    )
    bare.add([[(1.0,)]], told(month(7)[:1])[1])
    bare._counter.flush()

    assert harness.store.sketches() == []
    assert bare._leader.look() == []
    assert bare.shown().features == []
    assert "no card has a reference profile" in bare.shown().notes[0]


def test_a_bug_in_counting_stops_no_record() -> None:
    """It is said in the log, and the rows are counted as not counted."""
    harness = Harness()
    gatherer = harness.gatherer()
    gatherer.add([[("not", "a", "row")]], told(month(7)[:1])[1])
    gatherer.flush()

    assert harness.metric("understudy_drift_uncounted_total") == 1
    assert harness.store.sketches() == []


def test_what_is_shown_is_the_newest_window_beside_its_lines() -> None:
    """Also before it is whole; then it says what it waits for."""
    harness = Harness()
    gatherer, lookout = harness.gatherer(), harness.lookout()
    watch = DriftMonitor(cards(), {}, harness.store, harness.metrics, harness.clock, "a", "a", harness.settings)
    assert watch.shown().window is None
    harness.day_by_day(month(7)[:300], [gatherer], [lookout])
    early = msgspec.to_builtins(watch.shown())
    harness.day_by_day(month(7)[300:1900], [gatherer], [lookout])
    later = msgspec.to_builtins(watch.shown())

    assert early["window"]["rows"] == 300
    assert "a window needs 18" in early["window"]["not_whole"]
    assert later["window"]["not_whole"] is None
    assert later["window"]["to"] - later["window"]["from"] == WINDOW_SLOTS * SLOT_S
    temp = next(f for f in later["features"] if (f["variant"], f["feature"]) == ("primary", "temp"))
    assert temp["psi"] > temp["line"]
    assert temp["since"] is not None
    assert later["estimates"]["candidate"]["accuracy"] == pytest.approx(0.8)
    assert "no evidence" in later["notes"][0]


def test_features_beyond_the_limit_are_left_out() -> None:
    """The first of the card stay, and the predictions."""
    watched = watched_by(cards(), 2)

    assert [each.key for each in watched] == [
        "primary/month",
        "primary/day",
        "primary/(prediction)",
        "candidate/month",
        "candidate/day",
        "candidate/(prediction)",
    ]
