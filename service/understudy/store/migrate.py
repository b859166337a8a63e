"""Creates and migrates the tables with Alembic, without a configuration file.

Alembic is imported only if there is something to migrate, which most starts have not.
"""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import column, inspect, select, table

from understudy.errors import ConfigurationError
from understudy.store.database import BUSY_TIMEOUT_S, Database

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0011"
"""The newest revision in `migrations/versions`; a test keeps the two equal."""

_alembics_own = table("alembic_version", column("version_num"))

_one_at_a_time = threading.Lock()  # Alembic keeps its state in module globals


def migrate(url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> str | None:
    """Create or migrate the tables. Harmless if they are up to date, or if several processes do it at once.

    Returns:
        The revision that the database had before; None for an empty database.

    Raises:
        ConfigurationError: a newer version has migrated the database.
        StoreError: the database is unreachable or rejected a statement.
    """
    database = Database(url, busy_timeout_s=busy_timeout_s)
    try:
        return upgrade(database)
    finally:
        database.close()


def upgrade(database: Database) -> str | None:
    """As `migrate`, on an open database."""
    with database.reading() as connection:
        if inspect(connection).has_table(_alembics_own.name):
            before = connection.execute(select(_alembics_own.c.version_num)).scalar_one_or_none()
            if before == HEAD:
                return HEAD
    return _migrated(database)


def _migrated(database: Database) -> str | None:
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    # The revision is read inside, because another process may have migrated the database while this one waited.
    with _one_at_a_time, database.alone(unhurried=True) as connection:
        before = MigrationContext.configure(connection).get_current_revision()
        _refuse_newer(ScriptDirectory.from_config(config), before, database.name)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before


def _refuse_newer(scripts: "ScriptDirectory", revision: str | None, name: str) -> None:
    from alembic.util import CommandError

    if revision is None:
        return
    try:
        scripts.get_revision(revision)
    except CommandError as error:
        raise ConfigurationError(
            f"{name} is at revision {revision}, which this version does not know (its newest is"
            f" {scripts.get_current_head()}): a newer version wrote it. Start that version, or use another database."
        ) from error
