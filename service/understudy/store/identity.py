"""The identity of a database: its `uuid`, created once with its tables."""

import uuid

from sqlalchemy import Connection, inspect, select

from understudy.errors import StoreLost
from understudy.store.database import Database
from understudy.store.file import exists, number_of
from understudy.store.schema import store_identity

_ROW = 1


def uuid_of(database: Database) -> str:
    """The database's identity; it is created if there is none."""
    fresh = database.insert(store_identity).values(id=_ROW, uuid=str(uuid.uuid4())).on_conflict_do_nothing()
    with database.reading() as connection:
        found = _read(connection)
    if found is None:
        with database.writing() as connection:
            connection.execute(fresh)
            found = str(_read(connection))
            if database.file is not None:
                connection.exec_driver_sql(f"PRAGMA application_id = {number_of(found)}")
    if database.file is not None:
        database.file.opened(number_of(found))
    return found


def expect(database: Database, expected: str) -> None:
    """Check the identity of a database before it is opened; nothing is created.

    Raises:
        StoreLost: the database is missing or another one.
    """
    if database.file is not None and not exists(database.file.path):
        raise StoreLost(
            f"the database {database.name} that this service started with is missing. Put it back, or restart the service "
            "to begin a new store"
        )
    with database.reading() as connection:
        if not inspect(connection).has_table(store_identity.name):
            raise _another(database.name)
        check(connection, expected, database.name)


def check(connection: Connection, expected: str, name: str) -> None:
    """Check that this is the database that was opened.

    Raises:
        StoreLost: it is another one.
    """
    if _read(connection) != expected:
        raise _another(name)


def _read(connection: Connection) -> str | None:
    found: str | None = connection.execute(select(store_identity.c.uuid)).scalar_one_or_none()
    return found


def _another(name: str) -> StoreLost:
    return StoreLost(
        f"{name} is not the database that this service started with. Put that one back, or restart the service "
        "to use this one"
    )
