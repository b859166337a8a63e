"""What is PostgreSQL's own: partitions, a log that stays, many starts at once, and a server that goes away or stops answering."""

import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from loadtests.postgres import Postgres
from tests.contract.stores import event, observation, plan, receipt, report, stored, tally
from tests.support.processes import children, go
from understudy.errors import ConfigurationError, StoreError
from understudy.store import Retention, partitions
from understudy.store.migrate import MIGRATIONS, migrate
from understudy.store.schema import metadata, postgres_metadata
from understudy.store.sql import SqlStore

NEWEST = max(path.name for path in (MIGRATIONS / "versions").glob("*.py"))[:4]
LIMIT_S = 1.0


@contextmanager
def opened(url: str, rollout: str = "flight-1", **changes: float) -> Iterator[SqlStore]:
    store = SqlStore(url, rollout, tally, **{"busy_timeout_s": LIMIT_S, **changes})  # type: ignore[arg-type]
    try:
        yield store
    finally:
        store.close()


def test_four_processes_may_start_at_once(empty_postgres_url: str) -> None:
    with children(*[("migrate", empty_postgres_url)] * 4) as started:
        for child in started:
            go(child)
        printed = [child.communicate(timeout=60)[0].strip() for child in started]
        assert [child.returncode for child in started] == [0] * 4
    assert sorted(printed) == sorted(["None", NEWEST, NEWEST, NEWEST])


def test_the_migrations_agree_with_the_schema(empty_postgres_url: str) -> None:
    migrate(empty_postgres_url)
    engine = create_engine(empty_postgres_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = compare_metadata(context, [metadata, postgres_metadata])
    engine.dispose()
    # SQLite's constraint; here the keys have it, as their primary key.
    assert [each[0] for each in found] == ["add_constraint"]
    assert found[0][1].name == "uq_observations_prediction_id"


def test_events_cannot_be_changed_or_removed_even_by_hand(postgres_url: str) -> None:
    with (
        opened(postgres_url) as store,
        psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as by_hand,
    ):
        store.append_event(event())
        for statement in ("UPDATE events SET reason = 'another'", "DELETE FROM events", "TRUNCATE events"):
            with pytest.raises(psycopg.errors.RestrictViolation, match="never changed or removed"):
                by_hand.execute(statement)
        assert len(store.events()) == 1


def test_a_database_of_a_newer_version_is_refused(empty_postgres_url: str, postgres: Postgres) -> None:
    migrate(empty_postgres_url)
    postgres.sql("UPDATE alembic_version SET version_num = '9999'", empty_postgres_url.rpartition("/")[2])
    with pytest.raises(ConfigurationError, match="a newer version wrote it"):
        SqlStore(empty_postgres_url, "r", tally)


@pytest.mark.parametrize("driver", ["psycopg2", "asyncpg"])
def test_another_driver_is_refused_without_the_password(driver: str) -> None:
    with pytest.raises(ConfigurationError, match=r"postgresql\+psycopg://") as refused:
        SqlStore(f"postgresql+{driver}://ann:secret@host/x", "r", tally)
    assert "secret" not in str(refused.value)


def test_a_server_that_is_not_there_is_a_store_error_without_the_password() -> None:
    with socket.socket() as bound:  # nobody else can listen on its port, and it does not
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(StoreError, match="refused") as away:
            SqlStore(f"postgresql://ann:secret@127.0.0.1:{port}/x", "r", tally)
    assert "secret" not in str(away.value)


# Partitions


def tables(postgres: Postgres, url: str) -> list[str]:
    names = postgres.sql(
        "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'observations'::regclass"
        " ORDER BY 1",
        url.rpartition("/")[2],
    )
    return names.split()


def test_retention_drops_whole_partitions_and_the_keys_and_labels_with_them(
    empty_postgres_url: str, postgres: Postgres
) -> None:
    database = empty_postgres_url.rpartition("/")[2]
    month = Retention(30.0, sys.maxsize)
    with opened(empty_postgres_url) as store, opened(empty_postgres_url, "flight-2") as other:
        for day in range(64):
            store.add_observations([observation(f"p{day}", at=float(day))])
            other.add_observations([observation(f"p{day}", at=float(day))])
            receipt(store, report(f"p{day}"))
            store.prune(month, now=float(day))
        assert stored(store) == stored(other)
        oldest = int(stored(store)[0][1:])
        assert 64 - 30 - 30 / partitions.PIECES - 2 <= oldest <= 64 - 30, "a piece longer at most"
        left = 64 - oldest
        assert postgres.sql("SELECT count(*) FROM observation_keys", database) == str(2 * left)
        assert postgres.sql("SELECT count(*) FROM labels", database) == str(left)
        assert len(tables(postgres, empty_postgres_url)) <= partitions.PIECES + 4
        assert store.counters()["joined"] == 64
        assert [(each.pruned and each.pruned.rows) for each in store.rollouts()] == [oldest, oldest]
        seqs = [seq for seq, _, _ in store.outcomes()]
        assert seqs == sorted(set(seqs))


def test_numbers_go_on_where_no_partition_was_made(empty_postgres_url: str, postgres: Postgres) -> None:
    """Housekeeping makes partitions ahead; a store that nobody prunes makes them as it needs them."""
    with opened(empty_postgres_url) as store:
        postgres.sql(
            f"SELECT setval('observations_seq', {3 * partitions.SEQS - 2})", empty_postgres_url.rpartition("/")[2]
        )
        store.add_observations([observation("before")])
        store.add_observations([observation("a"), observation("b")])
        assert stored(store) == ["before", "a", "b"]
        assert [seq // partitions.SEQS for seq, _, _ in store.outcomes()] == [2, 3, 3]


def test_pruning_from_many_processes_takes_each_row_once(empty_postgres_url: str) -> None:
    with opened(empty_postgres_url, busy_timeout_s=10) as one, opened(empty_postgres_url, busy_timeout_s=10) as two:
        for i in range(5):
            one.add_observations([observation(f"p{i}-{j}", at=float(i)) for j in range(50)])
            one.prune(Retention(math.inf, 1), now=0.0) if i == 4 else one.prune(Retention(1e9, sys.maxsize), now=1e12)
        gone: list[int] = []
        threads = [
            threading.Thread(target=lambda s=s: gone.append(s.prune(Retention(0.0, 0), now=1e6)))  # type: ignore[misc]
            for s in (one, two)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.outcomes() == []


# A server that goes away


def test_a_frozen_server_is_a_store_error_in_time_and_it_is_used_again_afterwards(
    postgres: Postgres, postgres_url: str
) -> None:
    with opened(postgres_url) as store:
        store.save_plan(plan(), event())
        postgres.freeze()
        try:
            for call in (store.load_plan, lambda: store.add_observations([observation("a")])):
                start = time.monotonic()
                with pytest.raises(StoreError):
                    call()
                assert time.monotonic() - start < 4 * LIMIT_S + 2
        finally:
            postgres.thaw()
        assert store.load_plan() is not None
        store.add_observations([observation("a")])
        assert stored(store) == ["a"]


def test_a_killed_server_is_a_store_error_and_what_it_acknowledged_is_there_after_its_restart(
    postgres: Postgres, postgres_url: str
) -> None:
    with opened(postgres_url) as store:
        store.add_observations([observation("a")], {"seen": 1})
        postgres.kill()
        try:
            with pytest.raises(StoreError):
                store.add_observations([observation("b")], {"seen": 1})
            store.await_plan(0.01)
        finally:
            postgres.start()
        for name in "ab":
            store.add_observations([observation(name)], {"seen": 1})
        assert stored(store) == ["a", "b"]
        assert store.counters() == {"seen": 2}
        store.await_plan(0.01)


def test_a_client_that_forgets_its_transaction_does_not_stop_the_others(postgres_url: str) -> None:
    """A frozen worker's connection stays open, with the writers' lock: the server ends the transaction."""
    with opened(postgres_url) as forgetful, opened(postgres_url, busy_timeout_s=10) as other:

        def forget() -> None:
            with forgetful._writing():
                start = time.monotonic()
                other.add_observations([observation("a")])
                assert time.monotonic() - start < 3 * LIMIT_S

        with pytest.raises(StoreError):
            forget()
        assert stored(other) == ["a"]


def test_the_pool_is_bounded_and_says_so(postgres_url: str) -> None:
    with opened(postgres_url, connections_max=1) as store, store._db.reading():
        asked: Callable[[], object] = store.load_plan
        with pytest.raises(StoreError, match="limit"):
            asked()
