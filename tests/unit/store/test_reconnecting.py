"""A store that may be away: opened when it is there, waited for by nobody, and spoken of once."""

import threading
import time

import pytest
import structlog

from tests.contract.stores import tally
from tests.support.waiting import until
from understudy.errors import ConfigurationError, StoreError
from understudy.store import Store, reconnecting
from understudy.store.memory import MemoryStore
from understudy.store.reconnecting import REMIND_S, SETTLED_S, Outage, ReconnectingStore


class Door:
    """Opens a store, or refuses to."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal, self.store, self.tries = refusal, MemoryStore("flight-1", tally), 0

    def __call__(self) -> Store:
        self.tries += 1
        if self.refusal is not None:
            raise self.refusal
        return self.store


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnecting, "RETRY_S", 0.02)


def answers(store: ReconnectingStore) -> bool:
    try:
        store.load_plan()
    except StoreError:
        return False
    return True


def test_one_that_is_there_is_opened_once_and_asked() -> None:
    door = Door()
    store = ReconnectingStore(door, may_be_away=True)
    assert store.load_plan() is None
    assert dict(store.counters()) == {}
    assert door.tries == 1


def test_one_that_is_away_refuses_until_it_is_there() -> None:
    door = Door(StoreError("nobody listens there"))
    store = ReconnectingStore(door, may_be_away=True)
    with pytest.raises(StoreError, match="nobody listens there"):
        store.load_plan()
    door.refusal = None
    until(lambda: answers(store))
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.load_plan()


def test_it_is_not_tried_at_every_call() -> None:
    door = Door(StoreError("away"))
    store = ReconnectingStore(door, may_be_away=True)
    until(lambda: not answers(store) and door.tries > 1)
    before = door.tries
    for _ in range(50):
        assert not answers(store)
    assert door.tries <= before + 1


def test_while_one_thread_opens_it_no_other_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    door, goes_on, begun = Door(StoreError("away")), threading.Event(), threading.Event()
    monkeypatch.setattr(reconnecting, "RETRY_S", 0.0)
    store = ReconnectingStore(door, may_be_away=True)

    def slowly() -> Store:
        begun.set()
        assert goes_on.wait(10)
        return door.store

    store._open_store = slowly
    thread = threading.Thread(target=store.load_plan)
    thread.start()
    assert begun.wait(10)
    start = time.monotonic()
    assert not answers(store)
    assert time.monotonic() - start < 5, "the opening would have taken until `goes_on`"
    goes_on.set()
    thread.join(10)
    assert answers(store)


def test_a_mistake_keeps_the_service_from_starting() -> None:
    """A URL that cannot work, and a file that cannot be opened."""
    with pytest.raises(ConfigurationError):
        ReconnectingStore(Door(ConfigurationError("no such dialect")), may_be_away=True)
    with pytest.raises(StoreError):
        ReconnectingStore(Door(StoreError("unable to open database file")), may_be_away=False)


def test_a_mistake_that_is_found_later_is_said_to_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(StoreError("away"))
    monkeypatch.setattr(reconnecting, "RETRY_S", 0.0)
    store = ReconnectingStore(door, may_be_away=True)
    door.refusal = ConfigurationError("a newer version wrote it")
    with pytest.raises(StoreError, match="a newer version wrote it"):
        store.load_plan()


def test_nobody_hears_of_plans_of_one_that_is_not_open() -> None:
    """And whoever waits for one waits as long as it said, not in a circle."""
    store = ReconnectingStore(Door(StoreError("away")), may_be_away=True)
    start = time.monotonic()
    assert store.await_plan(0.05) is False
    assert time.monotonic() - start >= 0.05


def test_closing_one_that_was_never_there_is_quiet() -> None:
    with structlog.testing.capture_logs() as said:
        store = ReconnectingStore(Door(StoreError("away")), may_be_away=True)
        store.close()
        assert not answers(store)
    assert [line["event"] for line in said] == ["the store is unavailable: predictions continue, records wait"]


def test_an_outage_is_two_lines_and_a_reminder_a_minute() -> None:
    """Ten failures a second for five minutes; the last line says how long it was and how many records waited."""
    clock = Clock()
    outage = Outage(clock)
    with structlog.testing.capture_logs() as said:
        outage.succeeded()
        for i in range(3001):
            clock.now = 1000 + i / 10
            outage.failed("connection\n\trefused")
            outage.waiting(i)
        outage.waiting(17)
        clock.now += SETTLED_S
        for _ in range(10):
            outage.succeeded()
    assert [line["event"].split(":")[0] for line in said] == [
        "the store is unavailable",
        *["the store is still unavailable"] * 5,
        "the store is available again",
    ]
    assert said[0]["error"] == "connection refused"
    assert said[1]["outage_s"] == REMIND_S
    assert (said[-1]["outage_s"], said[-1]["records_waited"]) == (301.0, 3000)


def test_a_store_that_comes_and_goes_is_spoken_of_at_a_bounded_rate() -> None:
    clock = Clock()
    outage = Outage(clock)
    with structlog.testing.capture_logs() as said:
        for _ in range(100):  # away for a second, back for two
            outage.failed("flaps")
            clock.now += SETTLED_S
            outage.succeeded()
            clock.now += 2
    assert len(said) == 2 * (300 // REMIND_S)


def test_a_call_that_is_answered_between_two_that_are_not_does_not_end_an_outage() -> None:
    clock = Clock()
    outage = Outage(clock)
    with structlog.testing.capture_logs() as said:
        for _ in range(20):
            outage.failed("every other one")
            clock.now += SETTLED_S / 2
            outage.succeeded()
    assert len(said) == 1
