"""A20: labels were acknowledged into a database file that somebody had deleted, and lost; a restarted process began a new rollout.

Each transaction and each poll compares what is at the database's path with what was opened; nothing is acknowledged elsewhere.
"""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.stores import event, observation, plan, report, stored, tally
from tests.faults.models import tables_rollout
from tests.support.service import Running, start
from understudy.errors import StoreError, StoreLost
from understudy.store.reconnecting import ReconnectingStore
from understudy.store.sql import SqlStore


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def opened(file: Path, expected: str | None = None) -> SqlStore:
    return SqlStore(f"sqlite:///{file}", "r", tally, expected=expected)


@pytest.fixture
def store(file: Path) -> Iterator[SqlStore]:
    made = opened(file)
    made.save_plan(plan(), event())
    made.add_observations([observation("a")])
    yield made
    made.close()


def delete(file: Path) -> None:
    file.unlink()


def delete_all(file: Path) -> None:
    for each in file.parent.glob(f"{file.name}*"):
        each.unlink()


def replace(file: Path) -> None:
    other = opened(file.with_name("other.db"))
    other.close()
    file.with_name("other.db").rename(file)


def empty(file: Path) -> None:
    os.truncate(file, 0)


LOSSES = {"deleted": delete, "deleted with its log": delete_all, "replaced": replace, "emptied": empty}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)
def test_nothing_is_acknowledged_into_a_lost_file(store: SqlStore, file: Path, lose: Callable[[Path], None]) -> None:
    lose(file)
    calls: list[Callable[[], Any]] = [
        store.load_plan,
        lambda: store.add_labels([report("a")], received_at=1.0),
        store.counters,
        lambda: store.add_observations([observation("b")]),
        lambda: store.save_plan(plan(), event()),
        store.ping,
    ]
    for call in calls:
        with pytest.raises(StoreLost, match=r"deleted|replaced|truncated"):
            call()
    if lose in {delete, delete_all}:
        assert not file.exists(), "no empty file is made in its place"


def test_a_write_that_was_under_way_is_not_acknowledged(store: SqlStore, file: Path) -> None:
    """The file goes between the begin of the transaction and its end."""
    with pytest.raises(StoreLost), store._db.writing():
        file.unlink()


def test_a_file_that_is_put_back_is_gone_on_with(store: SqlStore, file: Path) -> None:
    file.rename(file.with_name("away.db"))
    with pytest.raises(StoreLost):
        store.load_plan()
    file.with_name("away.db").rename(file)
    store.add_observations([observation("b")])
    assert stored(store) == ["a", "b"]


def test_a_log_that_is_deleted_is_noticed(store: SqlStore, file: Path) -> None:
    """What was committed last is in it."""
    file.with_name(f"{file.name}-wal").unlink()
    with pytest.raises(StoreLost, match="with the last commits, was deleted"):
        store.add_labels([report("a")], received_at=1.0)


@pytest.mark.parametrize("other", ["database", "text"])
def test_a_file_that_is_overwritten_is_noticed_at_the_next_poll(store: SqlStore, file: Path, other: str) -> None:
    """The same file, other bytes: writes are refused from then on."""
    copy = file.with_name("other.db")
    if other == "text":
        copy.write_bytes(b"x" * 10_000)
    else:
        opened(copy).close()
    file.write_bytes(copy.read_bytes())
    with pytest.raises(StoreLost, match="overwritten"):
        store.load_plan()
    with pytest.raises(StoreLost, match="overwritten"):
        store.add_labels([report("a")], received_at=1.0)


def test_a_file_whose_end_is_cut_off_is_noticed(store: SqlStore, file: Path) -> None:
    with sqlite3.connect(file) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.load_plan()
    os.truncate(file, file.stat().st_size // 2)
    with contextlib.suppress(StoreError):
        store.load_plan()  # once might be a checkpoint that is under way
    with pytest.raises(StoreError):
        store.load_plan()
    with pytest.raises(StoreLost, match="truncated"):
        store.add_labels([report("a")], received_at=1.0)


def test_a_checkpoint_and_a_vacuum_are_no_loss(store: SqlStore, file: Path) -> None:
    """What SQLite itself does with the file is not taken for somebody else's doing."""
    for i in range(20):
        store.add_observations([observation(f"{i}-{j}") for j in range(50)])
        with sqlite3.connect(file) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)" if i % 2 else "PRAGMA wal_checkpoint(TRUNCATE)")
        store.load_plan()
    with sqlite3.connect(file, isolation_level=None) as other:
        other.execute("VACUUM")
    store.load_plan()
    assert len(stored(store, limit=2_000)) == 1_001


def test_a_process_that_is_started_again_makes_no_new_store(store: SqlStore, file: Path) -> None:
    """The other processes of the service go on with the old one."""
    assert store.uuid == opened(file, store.uuid).uuid
    file.rename(file.with_name("away.db"))
    with pytest.raises(StoreLost, match="is missing"):
        opened(file, store.uuid)
    assert not file.exists()
    opened(file).close()
    with pytest.raises(StoreLost, match="is not the database"):
        opened(file, store.uuid)


def test_it_is_said_while_it_is_lost(file: Path) -> None:
    patient = ReconnectingStore(lambda: opened(file), may_be_away=False)
    assert patient.lost is None
    file.rename(file.with_name("away.db"))
    with pytest.raises(StoreLost):
        patient.load_plan()
    assert "was deleted while the service runs" in str(patient.lost)
    file.with_name("away.db").rename(file)
    patient.load_plan()
    assert patient.lost is None
    patient.close()


def label(service: Running, prediction: str) -> Any:
    return service.http.post("/feedback", json={"labels": [{"prediction_id": prediction, "label": 1}]})


def test_a_running_service_refuses_labels_and_says_why(tmp_path: Path) -> None:
    """The reproduction: `rm`, labels, `kill -9` of a worker; then the file is put back."""
    service = start(tmp_path / "state", rollout=tables_rollout(tmp_path), files_interval_s="0.1")
    row = {"i": 1}
    try:
        prediction = service.predict(row).json()["predictions"][0]["prediction_id"]
        # Under load the label may come before its prediction is stored; it is known once it is a duplicate.
        service.wait_for(lambda: label(service, prediction).json()["duplicate"] == 1)
        database, away = tmp_path / "state" / "understudy.db", tmp_path / "away"
        away.mkdir()
        before = service.rollout()["revision"]

        for each in database.parent.glob("understudy.db*"):
            shutil.move(each, away / each.name)
        service.wait_for(lambda: service.http.get("/readyz").status_code == 503)
        assert "was deleted while the service runs" in service.http.get("/readyz").json()["detail"]
        refused = label(service, service.predict(row).json()["predictions"][0]["prediction_id"])
        assert refused.status_code == 503
        assert "was deleted" in refused.json()["detail"]
        service.wait_for(lambda: "understudy_store_lost 1.0" in service.http.get("/metrics").text)

        for name in ("Understudy", "Records"):
            [old] = service.children(name)
            old.kill()
            service.wait_for(lambda name=name, old=old: [c for c in service.children(name) if c.pid != old.pid])
        service.wait_for(lambda: "is missing" in str(service.http.get("/readyz").text))
        assert service.predict(row).status_code == 200, "the primary goes on answering"
        assert not database.exists()

        for each in away.iterdir():
            shutil.move(each, database.parent / each.name)
        service.wait_for(lambda: service.http.get("/readyz").status_code == 200)
        assert service.rollout()["revision"] == before
        assert label(service, prediction).json()["duplicate"] == 1
    finally:
        service.kill()


def test_looking_at_the_file_cancels_no_lock_of_the_database(file: Path, store: SqlStore) -> None:
    """Closing a descriptor of the file would: then another process that closes the database removes the log, still in use here."""
    for _ in range(3):
        store.load_plan()
    other = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT count(*) FROM plans').fetchone(); c.close()"
    subprocess.run([sys.executable, "-c", other, str(file)], check=True)

    assert file.with_name(f"{file.name}-wal").exists()
    store.add_observations([observation("b")])
    assert stored(store) == ["a", "b"]


def test_the_descriptor_is_shared_by_the_stores_of_a_process_and_closed_with_the_last(file: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    first, second = opened(file), opened(file)
    first.close()
    second.load_plan()
    second.close()

    assert len(list(Path("/proc/self/fd").iterdir())) == before
