"""What is SqlStore's own: SQLite's settings, the way statements are carried out, and how it says that it cannot."""

import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event as sqlalchemy_event

from tests.contract.stores import event, names, observation, plan, receipt, report, tally
from understudy.domain import Attempt, Status
from understudy.errors import ConfigurationError, StoreError
from understudy.store import Retention
from understudy.store.database import _write_ahead
from understudy.store.sql import SqlStore


def rows(file: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(file)) as connection:
        found = connection.execute(statement).fetchall()
        connection.commit()
        return found


def pragma(store: SqlStore, name: str) -> Any:
    with store._db.reading() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def test_sqlite_is_set_up_for_many_readers_and_kill_9(sql: SqlStore, tmp_path: Path) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 10_000}
    assert {name: pragma(sql, name) for name in wanted} == wanted
    careful = SqlStore(f"sqlite:///{tmp_path}/new/folder/x.db", "r", tally, synchronous="FULL", busy_timeout_s=0.5)
    assert (pragma(careful, "synchronous"), pragma(careful, "busy_timeout")) == (2, 500)
    careful.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "write it like sqlite"),
        ("sqlite://", "use a file"),
        ("sqlite:///:memory:", "use a file"),
        ("mysql://ann:secret@host/x", "not mysql"),
        ("postgresql+nonesuch://ann:secret@host/x", "cannot be used"),
    ],
)
def test_a_url_that_cannot_work_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        SqlStore(url, "r", tally)
    assert "secret" not in str(refused.value)


def test_a_file_that_is_no_database_is_a_store_error(file: Path, url: str) -> None:
    file.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"store\.db: file is not a database"):
        SqlStore(url, "r", tally)


def test_a_database_that_someone_else_holds_is_a_store_error_and_nothing_is_half_done(
    sql: SqlStore, url: str, file: Path
) -> None:
    hasty = SqlStore(url, "flight-1", tally, busy_timeout_s=0.01)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            hasty.add_observations([observation("a")], {"seen": 1})
        assert hasty.outcomes() == [], "readers do not wait"
        other.execute("ROLLBACK")
    hasty.add_observations([observation("a")], {"seen": 1})
    assert sql.counters() == {"seen": 1.0}
    hasty.close()


class Starting:
    """A connection to a file that other processes are opening for the first time."""

    def __init__(self, refusals: int, words: str = "database is locked") -> None:
        self.refusals, self.words = refusals, words

    def execute(self, _statement: str) -> None:
        self.refusals -= 1
        if self.refusals >= 0:
            raise sqlite3.OperationalError(self.words)


def test_the_log_is_turned_on_even_while_others_do_the_same() -> None:
    """SQLite's own waiting does not cover this one statement."""
    connection: Any = Starting(3)
    _write_ahead(connection, deadline=math.inf)
    assert connection.refusals == -1
    for refused in (Starting(3, "disk I/O error"), Starting(3)):
        with pytest.raises(sqlite3.OperationalError, match=refused.words):
            _write_ahead(refused, deadline=-math.inf if "locked" in refused.words else math.inf)  # type: ignore[arg-type]
        assert refused.refusals == 2


def test_a_full_disk_is_a_store_error_and_the_batch_can_come_again(sql: SqlStore) -> None:
    batch = [observation(f"p{i}", unit="x" * 1_000) for i in range(200)]
    with sql._db.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 10}")
    with pytest.raises(StoreError, match="full"):
        sql.add_observations(batch, {"seen": 1})
    with sql._db.reading() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert sql.counters() == {}
    sql.add_observations(batch, {"seen": 1})
    assert len(sql.outcomes()) == 200


@pytest.mark.parametrize("value", [math.nan, None])
def test_what_no_row_can_hold_is_no_store_error(sql: SqlStore, value: Any) -> None:
    """Whoever tries again after a StoreError would try for ever."""
    with pytest.raises(ValueError, match="cannot store this"):
        sql.add_observations([observation("a"), observation("b", at=value)], {"seen": 1})
    with pytest.raises(ValueError, match="cannot store this"):
        receipt(sql, report("a"), report("b", at=value))
    with pytest.raises(ValueError, match="surrogates"):
        receipt(sql, report("a"), report("\ud800"))
    assert (sql.outcomes(), sql.counters()) == ([], {})
    assert receipt(sql, report("a")) == (0, 0, 0, 1)


def test_events_cannot_be_changed_or_removed_even_by_hand(sql: SqlStore, file: Path) -> None:
    sql.append_event(event())
    for statement in ("UPDATE events SET reason = 'another'", "DELETE FROM events"):
        with pytest.raises(sqlite3.IntegrityError, match="never changed or removed"):
            rows(file, statement)
    assert len(sql.events()) == 1


def test_numpys_numbers_are_kept_as_numbers(sql: SqlStore, file: Path) -> None:
    score, label, both = np.float32(0.1), np.int64(3), np.array([0.25, 0.75], dtype=np.float32)
    sql.add_observations([observation("a", primary=Attempt(Status.OK, label, score, both, np.float64(0.5)))])
    receipt(sql, report("a", np.bool_(True)), report("b", np.str_("x")))
    sql.append_event(event(details={"estimate": np.float64(0.5), "n": np.int32(7), "band": np.array([1, 2])}))
    kept = sql.outcomes()[0]
    assert kept[1].primary == Attempt(Status.OK, 3, float(score), (0.25, 0.75), 0.5)
    assert kept[2] == report("a", True)
    assert sql.events()[0].details == {"estimate": 0.5, "n": 7, "band": [1, 2]}
    assert rows(file, "SELECT typeof(primary_score), typeof(primary_seconds) FROM observations") == [("real", "real")]


def test_conflicts_are_kept_for_people_and_age_like_the_rest(sql: SqlStore, file: Path) -> None:
    receipt(sql, report("a", 1), received_at=100.0)
    receipt(sql, report("a", 0), report("a", "0"), received_at=200.0)
    columns = "SELECT prediction_id, label, at, received_at FROM label_conflicts"
    assert rows(file, columns) == [("a", "0", 160.0, 200.0), ("a", '"0"', 160.0, 200.0)]
    sql.prune(Retention(50.0, 10**9), now=251.0)
    assert rows(file, columns) == []


def test_a_label_that_a_race_kept_apart_is_joined_once(sql: SqlStore, file: Path) -> None:
    """SQLite cannot have such a race: the state is made by hand."""
    sql.add_observations([observation("a"), observation("b")])
    receipt(sql, report("a"), report("zzz"))
    rows(file, "UPDATE labels SET state = 'pending'")
    rows(file, "DELETE FROM counters")
    assert names(sql.join_pending()) == ["a"]
    assert sql.join_pending() == []
    assert sql.counters()["joined"] == 1


def test_no_statement_reads_a_whole_table(sql: SqlStore) -> None:
    """As SQLite explains it: what runs per flush or per page of outcomes must not slow down as the table grows."""
    seen: list[tuple[str, Any]] = []
    sqlalchemy_event.listen(
        sql._db._reader, "before_cursor_execute", lambda _c, _cur, text, values, _ctx, many: seen.append((text, values))
    )
    receipt(sql, report("w"))
    sql.add_observations([observation("a"), observation("w")], {"seen": 1})
    receipt(sql, report("a"))
    sql.outcomes(after=1)
    sql.save_plan(plan(), event())
    sql.ping()
    plans = []
    with sql._db.reading() as connection:
        for text, values in seen:
            if text.startswith(("SELECT", "UPDATE")):
                explained = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)
                plans += [(row.detail, text) for row in explained]
    assert len(plans) >= 8
    assert [each for each in plans if each[0].startswith("SCAN") or "TEMP B-TREE" in each[0]] == []


def test_a_rollout_that_comes_back_finds_its_rows_and_a_new_one_starts_behind_the_old(sql: SqlStore, url: str) -> None:
    sql.add_observations([observation("a"), observation("b")])
    other = SqlStore(url, "flight-2", tally)
    other.add_observations([observation("a")])
    assert other._first_seq == 3
    again = SqlStore(url, "flight-1", tally)
    again.add_observations([observation("c")])
    assert [(seq, each.prediction_id) for seq, each, _ in again.outcomes()] == [(1, "a"), (2, "b"), (4, "c")]
    assert [(seq, each.prediction_id) for seq, each, _ in other.outcomes()] == [(3, "a")]
    other.close()
    again.close()
