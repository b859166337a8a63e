"""Bringing a database to the tables that this version speaks, with Alembic and without a file beside the package."""

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from service.errors import ConfigurationError
from service.store.database import BUSY_TIMEOUT_S, Database

MIGRATIONS = Path(__file__).parent / "migrations"

_one_at_a_time = threading.Lock()  # Alembic keeps the running migration in module globals


def migrate(url: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> str | None:
    """Make or migrate the tables behind `url`; harmless when that is done, or when others do it at the same time.

    Returns:
        The revision that the database had before, None for an empty one.

    Raises:
        ConfigurationError: when a newer version has migrated the database already.
        StoreError: when the database did not do what was asked.
    """
    database = Database(url, busy_timeout_s=busy_timeout_s)
    try:
        return upgrade(database)
    finally:
        database.close()


def upgrade(database: Database) -> str | None:
    """What `migrate` does, on connections that are there."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    with _one_at_a_time:
        with database.reading() as connection:
            before = MigrationContext.configure(connection).get_current_revision()
        if before == scripts.get_current_head():
            return before
        # Whoever waited here for another process finds its work done: the revision is read again inside.
        with database.alone(unhurried=True) as connection:
            before = MigrationContext.configure(connection).get_current_revision()
            _refuse_newer(scripts, before, database.name)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    return before


def _refuse_newer(scripts: ScriptDirectory, revision: str | None, name: str) -> None:
    if revision is None:
        return
    try:
        scripts.get_revision(revision)
    except CommandError as error:
        raise ConfigurationError(
            f"{name} is at revision {revision}, which this version does not know (its newest is"
            f" {scripts.get_current_head()}): a newer version wrote it. Start that version, or name another database."
        ) from error
