"""The engine of one database URL, and what differs between SQLite and PostgreSQL.

All other modules use the same SQLAlchemy Core statements for both, except for inserting (`postgres_rows`) and removing
(`partitions`) observations.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from sqlalchemy import URL, Connection, Engine, Insert, Select, Table, create_engine, event, exc, make_url
from sqlalchemy.dialects import postgresql, sqlite

from understudy.errors import ConfigurationError, StoreError
from understudy.runtime.fairness import yield_cpu
from understudy.store.codec import SqlValue
from understudy.store.file import DatabaseFile

Synchronous: TypeAlias = Literal["NORMAL", "FULL"]
"""SQLite only. With NORMAL, commits survive `kill -9`, but a power cut may lose the last ones. With FULL they survive both, at one
fsync per commit. PostgreSQL has `synchronous_commit` for this, set at the server."""

BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for another process's transaction before it raises StoreError; on PostgreSQL, how long any statement
may take."""

CONNECTIONS_MAX = 5
"""PostgreSQL connections per process, without the one that listens for plans."""

Upsert: TypeAlias = sqlite.Insert | postgresql.Insert
_UPSERTS: dict[str, Callable[[Table], Upsert]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_LOCKED_RETRY_S = 0.01
STEPS = 1_000
"""Steps of SQLite's virtual machine, about 80 µs, after which the thread yields the CPU (`understudy.runtime.fairness`)."""


class Database:
    """Reading and writing transactions, with driver errors translated to StoreError.

    Args:
        url: as SQLAlchemy writes it, `sqlite:///path/to/file.db` or `postgresql://user@host/name`.
        busy_timeout_s: see `BUSY_TIMEOUT_S`.
        synchronous: see `Synchronous`.
        connections_max: see `CONNECTIONS_MAX`.

    Attributes:
        postgres: whether it is PostgreSQL.
        engine: SQLAlchemy's.
        file: SQLite's; None on PostgreSQL.

    Raises:
        ConfigurationError: the URL is not supported.
    """

    def __init__(
        self,
        url: str,
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        synchronous: Synchronous = "NORMAL",
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        parsed = parsed_url(url)
        self.name = parsed.render_as_string(hide_password=True)
        self.postgres = parsed.get_backend_name() == "postgresql"
        self._upsert = _UPSERTS[parsed.get_backend_name()]
        self.file: DatabaseFile | None = None
        try:
            if self.postgres:
                from understudy.store.postgres import REFUSED, make_engine

                engine = make_engine(parsed, timeout_s=busy_timeout_s, connections_max=connections_max)
                self._refused: tuple[type[Exception], ...] = REFUSED
            else:
                self.file = DatabaseFile(Path(str(parsed.database)))
                engine = _sqlite_engine(parsed, busy_timeout_s, synchronous, self.file)
                self._refused = ()
        except (exc.SQLAlchemyError, ImportError) as error:
            hint = "; `pip install 'understudy[postgres]'`" if isinstance(error, ImportError) else ""
            raise ConfigurationError(f"the store's URL {self.name} cannot be used: {error}{hint}") from error
        self.engine = engine
        # A transaction reads one state of the database, as always in SQLite.
        self._reader = engine.execution_options(isolation_level="REPEATABLE READ") if self.postgres else engine
        self._writer = engine.execution_options(writes=True)
        self._driver_error: type[Exception] = engine.dialect.loaded_dbapi.Error
        # Writers of one process queue here instead of polling for the database's lock.
        self._write_lock = threading.Lock()
        self._closed = False

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and blocks no writer."""
        with self._translated(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self, lock: Select[int] | None = None) -> Iterator[Connection]:
        """An exclusive transaction: committed at the end, rolled back after any exception.

        SQLite has one writer at a time anyway. On PostgreSQL, `lock` selects the row that writers lock, so that `seq` grows
        in the order of commits, and a label and its observation cannot miss each other.
        """
        with self._write_lock, self._translated(), self._writer.begin() as connection:
            if lock is not None and self.postgres:
                connection.execute(lock.with_for_update(key_share=True))
            yield connection
            if self.file is not None:
                self.file.check_log()  # otherwise this commit would be acknowledged and then lost

    @contextmanager
    def alone(self, *, unhurried: bool = False) -> Iterator[Connection]:
        """A writing transaction that excludes all others of this kind, for migrations and partitions.

        With `unhurried`, statements may take longer than the timeout.
        """
        with self.writing() as connection:
            if self.postgres:
                if unhurried:
                    from understudy.store.postgres import without_limit

                    without_limit(connection)
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(6417)")
            yield connection

    def insert(self, table: Table) -> Upsert:
        """An INSERT that knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
        return self._upsert(table)

    def inserts(self, statement: Insert) -> Callable[[Connection, Sequence[tuple[SqlValue, ...]]], int]:
        """A function that executes an INSERT once per tuple of parameters and returns how many rows were inserted.

        Tuples go to SQLite's driver directly: SQLAlchemy would need a dictionary per row, which takes about as long as
        storing it.
        """
        compiled = statement.compile(dialect=self._reader.dialect)
        return lambda connection, rows: connection.exec_driver_sql(str(compiled), list(rows)).rowcount

    def close(self) -> None:
        """Close the connections; afterwards every method raises StoreError."""
        self._closed = True
        self.engine.dispose()
        if self.file is not None:
            self.file.release()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        if self._closed:
            raise StoreError(f"{self.name}: the store is closed")
        if self.file is not None:
            self.file.check()
        try:
            yield
        except (exc.IntegrityError, exc.DataError) as error:  # a retry would fail as well
            raise ValueError(f"{self.name} cannot store this: {error.orig}") from error
        except exc.DBAPIError as error:
            raise StoreError(f"{self.name}: {error.orig}") from error
        except self._refused as error:  # from the driver itself, for rows that bypass SQLAlchemy
            raise ValueError(f"{self.name} cannot store this: {error}") from error
        except (exc.SQLAlchemyError, self._driver_error) as error:
            raise StoreError(f"{self.name}: {error}") from error


def parsed_url(url: str) -> URL:
    """Parse the URL of a database.

    Raises:
        ConfigurationError: the URL is invalid or not supported.
    """
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise ConfigurationError("the store's URL is invalid: write it like sqlite:///understudy.db") from error
    backend = parsed.get_backend_name()
    if backend not in _UPSERTS:
        raise ConfigurationError(f"the store supports {' and '.join(_UPSERTS)}, not {backend}")
    if backend == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise ConfigurationError("SQLite's :memory: is a separate database for each connection; use a file")
    if parsed.drivername == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "postgresql" and parsed.get_driver_name() != "psycopg":
        raise ConfigurationError(
            f"the store's URL {parsed.render_as_string()} cannot be used: PostgreSQL needs the driver psycopg"
            f" (postgresql+psycopg://), not {parsed.drivername}"
        )
    return parsed


def _sqlite_engine(url: URL, busy_timeout_s: float, synchronous: Synchronous, file: DatabaseFile) -> Engine:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": busy_timeout_s, "isolation_level": None})
    event.listen(engine, "connect", _sqlite_connect(busy_timeout_s, synchronous))
    event.listen(engine, "begin", _sqlite_begin)
    event.listen(engine, "do_connect", lambda *_: file.check())  # SQLite would make an empty file
    event.listen(engine, "close", lambda *_: file.closed())
    return engine


def _sqlite_connect(busy_timeout_s: float, synchronous: Synchronous) -> Callable[[sqlite3.Connection, object], None]:
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        _write_ahead(connection, time.monotonic() + busy_timeout_s)
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.set_progress_handler(yield_cpu, STEPS)

    return prepare


def _write_ahead(connection: sqlite3.Connection, deadline: float) -> None:
    """Turn on the write-ahead log, so that readers and the writer do not block each other. The file keeps this setting."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            # This one switch does not wait by itself when another process starts at the same moment.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_LOCKED_RETRY_S)
        else:
            return


def _sqlite_begin(connection: Connection) -> None:
    # A transaction that reads first and writes later cannot wait for its lock; one that will write says so at once.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
