"""Migrations in processes of their own, one and several at once."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tests.support.processes import children, go
from understudy.store.migrate import HEAD, MIGRATIONS, migrate
from understudy.store.schema import metadata

NEWEST = max(path.name for path in (MIGRATIONS / "versions").glob("*.py"))[:4]


def tables(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in rows if not name.startswith("sqlite_")}


def test_a_database_that_is_up_to_date_is_opened_without_alembic(url: str) -> None:
    """It takes a while to load, in each of the processes of a service, and has nothing to do there."""
    migrate(url)
    code = "import sys; from understudy.store.migrate import migrate; print(migrate(sys.argv[1]), 'alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [HEAD, "False"]


def test_four_processes_may_start_at_once(file: Path, url: str) -> None:
    with children(*[("migrate", url)] * 4) as started:
        for child in started:
            go(child)
        printed = [child.communicate(timeout=60)[0].strip() for child in started]
        assert [child.returncode for child in started] == [0] * 4
    assert sorted(printed) == sorted(["None", NEWEST, NEWEST, NEWEST])
    assert tables(file) == set(metadata.tables) | {"alembic_version"}
