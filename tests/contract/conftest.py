import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadtests.postgres import Postgres
from tests.contract.stores import tally as count
from understudy.store import Store, Tally
from understudy.store.memory import MemoryStore
from understudy.store.migrate import migrate
from understudy.store.sql import SqlStore

KINDS = ("memory", "sqlite", "postgres")
"""The stores that the one suite runs over."""

CLEAN = """
SET session_replication_role = replica;
DO $$ DECLARE names text; BEGIN
  SELECT string_agg(quote_ident(relname), ', ') INTO names FROM pg_class
  WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version';
  EXECUTE 'TRUNCATE ' || names || ' RESTART IDENTITY';
END $$;
ALTER SEQUENCE observations_seq RESTART;
"""
"""What empties a database; without triggers, since the log of events refuses to be emptied."""

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the session."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def used_database(postgres: Postgres) -> str:
    """A database with tables, that one test after the other uses: making one takes longer than most tests."""
    postgres.sql("CREATE DATABASE used")
    migrate(postgres.url("used"))
    return "used"


@pytest.fixture
def postgres_url(postgres: Postgres, used_database: str) -> str:
    """Tables without rows."""
    postgres.sql(CLEAN, used_database)
    return postgres.url(used_database)


@pytest.fixture
def empty_postgres_url(postgres: Postgres) -> str:
    """A database without tables."""
    name = f"empty_{next(_numbers)}"
    postgres.sql(f"CREATE DATABASE {name}")
    return postgres.url(name)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database's, for what needs several processes or stores."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Opens stores of one kind, by default of one rollout; a database's share one database."""
    opened: list[Store] = []
    url = request.getfixturevalue("postgres_url") if kind == "postgres" else f"sqlite:///{tmp_path}/store.db"

    def open_one(rollout: str = "flight-1", tally: Tally = count) -> Store:
        opened.append(MemoryStore(rollout, tally) if kind == "memory" else SqlStore(url, rollout, tally))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store()
