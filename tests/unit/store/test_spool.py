"""The spool: what the store does not take waits on disk, in order, and is there once when it is back, whoever died meanwhile."""

import json
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.contract.stores import names, observation, receipt, report, stored, tally
from tests.support.waiting import until
from understudy.domain import Attempt, Observation, Outcome, Status
from understudy.errors import StoreError
from understudy.store import codec
from understudy.store.memory import MemoryStore
from understudy.store.spool import SpoolFile, SpoolingStore, packed, unpacked


class Away(MemoryStore):
    """A store that can be away, hang, or lose its answer."""

    def __init__(self) -> None:
        super().__init__("flight-1", tally)
        self.away = False
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.loses_answers = 0

    def close(self) -> None:
        """Several spools share it here."""

    def add_observations(
        self, observations: Sequence[Observation], counts: Mapping[str, float] | None = None
    ) -> Sequence[Outcome]:
        assert self.goes_on.wait(10)
        if self.away:
            raise StoreError("away")
        found = super().add_observations(observations, counts)
        if self.loses_answers:
            self.loses_answers -= 1
            raise StoreError("its answer was lost")
        return found


@pytest.fixture
def away() -> Away:
    return Away()


def spooled(store: Away, folder: Path, name: str = "one", rollout: str = "flight-1", **changes: Any) -> SpoolingStore:
    return SpoolingStore(store, rollout, folder, name, **{"max_bytes": 10**6, "patience_s": 5.0} | changes)


def test_while_the_store_is_there_nothing_touches_the_disk(away: Away, tmp_path: Path) -> None:
    spool = spooled(away, tmp_path)
    receipt(away, report("a"))
    assert names(spool.add_observations([observation("a")], {"seen": 1})) == ["a"]
    assert list(tmp_path.rglob("*")) == []
    assert spool.counters()["seen"] == 1, "everything else is the store's own"
    spool.close()


def test_what_is_refused_waits_in_order_and_is_stored_once(away: Away, tmp_path: Path) -> None:
    waiting: list[int] = []
    spool = spooled(away, tmp_path, on_waiting=waiting.append)
    receipt(away, report("p1"))
    away.away = True
    for i in range(5):
        assert spool.add_observations([observation(f"p{i}")], {"seen": 1}) == []
    assert stored(away) == []
    away.away = False
    until(lambda: waiting[-1] == 0)
    assert waiting[:5] == [1, 2, 3, 4, 5]
    assert stored(away) == [f"p{i}" for i in range(5)]
    assert away.counters()["seen"] == 5
    assert names(spool.join_pending()) == ["p1"]
    assert spool.join_pending() == []
    until(lambda: spool._drainer is None)
    spool.add_observations([observation("straight")])
    spool.close()
    assert list(tmp_path.rglob("*.spool")) == [], "an empty spool is removed"


def test_a_store_that_hangs_delays_a_batch_no_longer_than_the_patience(away: Away, tmp_path: Path) -> None:
    spool = spooled(away, tmp_path, patience_s=0.05)
    receipt(away, report("a"))
    away.goes_on.clear()
    start = time.monotonic()
    for name in "abc":
        spool.add_observations([observation(name)], {"seen": 1})
    assert time.monotonic() - start < 2
    away.goes_on.set()
    until(lambda: spool._drainer is None)
    assert stored(away) == ["a", "b", "c"]
    assert away.counters()["seen"] == 3, "the first went twice, and counts once"
    assert names(spool.join_pending()) == ["a"]
    spool.close()


def test_closing_brings_what_waits_to_a_store_that_takes_it(away: Away, tmp_path: Path) -> None:
    """Its disk may go with it: a pod that is replaced."""
    spool = spooled(away, tmp_path)
    away.away = True
    for i in range(50):
        spool.add_observations([observation(f"p{i}")], {"seen": 1})
    away.away = False
    spool.close()
    assert (len(stored(away)), away.counters()["seen"]) == (50, 50)
    assert list(tmp_path.rglob("*.spool")) == []


def test_a_lost_answer_counts_once(away: Away, tmp_path: Path) -> None:
    spool = spooled(away, tmp_path)
    away.loses_answers = 2
    for name in "ab":
        spool.add_observations([observation(name)], {"seen": 1})
    until(lambda: spool._drainer is None)
    assert away.counters()["seen"] == 2
    spool.close()


def test_a_dead_process_s_spool_is_replayed_by_another_and_a_living_one_s_is_not(away: Away, tmp_path: Path) -> None:
    away.away = True
    living, dead = spooled(away, tmp_path, "living"), spooled(away, tmp_path, "dead")
    living.add_observations([observation("l")], {"seen": 1})
    dead.add_observations([observation("d0")], {"seen": 1})
    dead.add_observations([observation("d1")], {"seen": 1})
    (file,) = tmp_path.rglob("dead.spool")
    dead.close()
    with file.open("ab") as cut_short:
        cut_short.write(packed([observation("torn")], {"seen": 1})[:-10])
    other = spooled(away, tmp_path, "other")
    with pytest.raises(StoreError):
        other.join_pending()
    assert file.exists()
    away.away = False
    other.join_pending()
    until(lambda: living._drainer is None)
    assert sorted(stored(away)) == ["d0", "d1", "l"]
    assert away.counters()["seen"] == 3
    living.close()
    assert list(tmp_path.rglob("*.spool")) == []
    other.close()


def test_a_spool_that_was_replayed_half_counts_once(away: Away, tmp_path: Path) -> None:
    """Its process died after a batch was stored, and before it could note so."""
    away.away = True
    dead = spooled(away, tmp_path, "dead")
    for name in "ab":
        dead.add_observations([observation(name)], {"seen": 1})
    dead.close()
    away.away = False
    away.add_observations([observation("a")], {"seen": 1})
    other = spooled(away, tmp_path, "other")
    other.join_pending()
    assert (stored(away), away.counters()["seen"]) == (["a", "b"], 2)
    other.close()


def test_another_rollout_s_spool_waits_for_it(away: Away, tmp_path: Path) -> None:
    away.away = True
    before = spooled(away, tmp_path, rollout="flight-0")
    before.add_observations([observation("old")])
    before.close()
    away.away = False
    spooled(away, tmp_path, "now").join_pending()
    assert stored(away) == []
    spooled(away, tmp_path, "again", rollout="flight-0").join_pending()
    assert stored(away) == ["old"]


def test_a_full_spool_is_a_store_error_and_what_is_in_it_stays(away: Away, tmp_path: Path) -> None:
    spool = spooled(away, tmp_path, max_bytes=2_000)
    away.away = True
    kept: list[str] = []

    def fill() -> None:
        for i in range(100):
            spool.add_observations([observation(f"p{i}")])
            kept.append(f"p{i}")

    with pytest.raises(StoreError, match="2000 bytes"):
        fill()
    away.away = False
    until(lambda: spool._drainer is None)
    assert stored(away) == kept
    spool.close()


def test_damage_costs_its_own_batch_only(away: Away, tmp_path: Path) -> None:
    file = SpoolFile(tmp_path / "x.spool")
    lines = [packed([observation(name)], {"seen": 1}) for name in "abc"]
    file.append(lines[0] + lines[1].replace(b'"b"', b'"B"') + lines[2])
    file.close()
    spool = spooled(away, tmp_path)
    spool._folder = tmp_path
    spool.join_pending()
    assert stored(away) == ["a", "c"]
    spool.close()


def test_one_process_at_a_time_has_a_file(tmp_path: Path) -> None:
    file = SpoolFile(tmp_path / "x.spool")
    with pytest.raises(BlockingIOError):
        SpoolFile(tmp_path / "x.spool")
    file.close()


def test_a_batch_comes_back_as_it_was() -> None:
    batch = [observation("ü\x00", unit='a "quoted"\n'), observation("b", at=0.1 + 0.2)]
    assert unpacked(packed(batch, {"a/b": 1.5})) == (batch, {"a/b": 1.5})


def test_a_line_of_an_older_version_has_fewer_columns() -> None:
    """What such a version left on disk is stored by the next one."""
    text = json.dumps([[list(codec.observation_row(0, observation("a"))[:-3])], {"seen": 1.0}]).encode()
    assert unpacked(b"%08x %b\n" % (zlib.crc32(text), text)) == ([observation("a")], {"seen": 1.0})


def test_vectors_and_agreement_survive_the_spool() -> None:
    made = observation("a", primary=Attempt(Status.OK, vector=(1.5, -0.0)), agrees=False)
    assert unpacked(packed([made], {})) == ([made], {})
