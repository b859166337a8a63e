"""The migrations make the tables of schema.py, once, whoever else starts at the same moment."""

import re
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from tests.contract.stores import event, observation, plan, stored, tally
from understudy.errors import ConfigurationError, StoreError
from understudy.store.migrate import HEAD, MIGRATIONS, migrate
from understudy.store.schema import metadata
from understudy.store.sql import SqlStore

NEWEST = max(path.name for path in (MIGRATIONS / "versions").glob("*.py"))[:4]


def tables(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in rows if not name.startswith("sqlite_")}


def test_from_scratch_they_make_every_table_and_a_second_time_nothing(file: Path, url: str) -> None:
    assert migrate(url) is None
    assert tables(file) == set(metadata.tables) | {"alembic_version"}
    assert migrate(url) == NEWEST


def test_the_newest_is_the_one_that_needs_no_alembic_to_be_told() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


@pytest.mark.filterwarnings("ignore:.*expression-based index")  # the next test compares it
def test_they_agree_with_the_schema(url: str) -> None:
    migrate(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_they_say_what_the_schema_says_word_for_word(file: Path, url: str, tmp_path: Path) -> None:
    """Alembic does not compare primary keys, AUTOINCREMENT, WITHOUT ROWID or an index's condition; SQLite's own text does.

    A column that was added later stands behind the constraints there, so the clauses are compared in any order.
    """

    def clauses(text: str) -> tuple[str, list[str], str]:
        head, _, rest = " ".join(text.split()).partition("(")
        body, _, tail = rest.rpartition(")")
        return head.strip(), sorted(part.strip() for part in re.split(r",(?![^(]*\))", body)), tail.strip()

    def texts(database: Path) -> dict[str, tuple[str, list[str], str]]:
        with closing(sqlite3.connect(database)) as connection:
            rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type != 'trigger'")
            return {name: clauses(text) for name, text in rows if name != "alembic_version"}

    migrate(url)
    engine = create_engine(f"sqlite:///{tmp_path}/schema.db")
    metadata.create_all(engine)
    engine.dispose()
    assert texts(file) == texts(tmp_path / "schema.db")


def test_they_keep_what_is_there(url: str) -> None:
    store = SqlStore(url, "flight-1", tally)
    store.save_plan(plan(), event())
    store.add_observations([observation("a")])
    store.close()
    migrate(url)
    again = SqlStore(url, "flight-1", tally)
    assert again.load_plan() == plan(revision=1)
    assert stored(again) == ["a"]
    again.close()


def test_four_threads_may_start_at_once(url: str) -> None:
    start = threading.Barrier(4)

    def open_one(number: int) -> str:
        start.wait()
        store = SqlStore(url, "flight-1", tally)
        store.add_observations([observation(f"p{number}")])
        store.close()
        return store.rollout

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_one, range(4))) == ["flight-1"] * 4
    store = SqlStore(url, "flight-1", tally)
    assert sorted(stored(store)) == ["p0", "p1", "p2", "p3"]
    store.close()


def test_a_database_of_a_newer_version_is_refused(file: Path, url: str) -> None:
    migrate(url)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(ConfigurationError, match=f"revision 9999.*newest is {NEWEST}.*a newer version wrote it"):
        SqlStore(url, "flight-1", tally)


def test_half_a_migration_is_none(file: Path, url: str) -> None:
    """A table of that name is in the way: everything the migration had made before it is undone."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE plans (mine TEXT)")
    with pytest.raises(StoreError, match="table plans already exists"):
        migrate(url)
    assert tables(file) == {"plans"}


def test_they_lie_inside_the_package() -> None:
    names = {path.name for path in MIGRATIONS.rglob("*") if path.suffix in {".py", ".mako"}}
    assert {"env.py", "script.py.mako", "0001_initial.py"} <= names
