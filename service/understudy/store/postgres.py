"""PostgreSQL only: connections with time limits, and notifications of new plans with LISTEN.

The only importer of psycopg, an optional extra. This module is imported only for a PostgreSQL URL.
"""

import threading
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from sqlalchemy import URL, Connection, Engine, TextClause, create_engine, event, text

from understudy.store.schema import escaped

log = structlog.get_logger(__name__)
Result = TypeVar("Result")

Error = psycopg.Error
REFUSED = (psycopg.IntegrityError, psycopg.DataError)
"""Errors about values that PostgreSQL would reject again on a retry."""

CHANNEL = "understudy_plan"
RELISTEN_S = 1.0
"""How long to wait before listening again after the connection broke. The plan is polled meanwhile."""


class _Connection(psycopg.Connection[TupleRow]):
    """A connection that is closed when the server does not answer, because it hangs or the network is broken.

    `statement_timeout` is enforced by the server, so it does not help then.
    """

    limit_s: float | None = None

    def wait(self, gen: PQGen[Result], interval: float = 0.1, timeout: float | None = None) -> Result:
        """See `psycopg.Connection.wait`. Without `timeout`, the limit is `limit_s`, after which the connection is closed."""
        try:
            return super().wait(gen, interval, self.limit_s if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:  # noqa: SLF001 - what `wait` is documented to raise
            if timeout is not None:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer within {self.limit_s:g} s; the connection was closed") from None


def make_engine(url: URL, *, timeout_s: float, connections_max: int) -> Engine:
    """An engine whose statements, lock waits and idle transactions end after `timeout_s`, at the server and here.

    Otherwise an abandoned transaction would hold the writers' lock as long as its connection seems alive, and all other
    replicas would wait.
    """
    arguments = _arguments(url, timeout_s)
    engine = create_engine(
        url.difference_update_query(["options"]),
        connect_args=arguments,
        pool_size=connections_max,
        max_overflow=0,
        pool_timeout=timeout_s,
        pool_pre_ping=True,
    )

    def connect(_dialect: object, _record: object, args: Sequence[str], keywords: dict[str, Any]) -> _Connection:
        connection = _Connection.connect(*args, **keywords)
        connection.limit_s = timeout_s + 1  # so that the server's own error comes first
        return connection

    event.listen(engine, "do_connect", connect)
    return engine


def _arguments(url: URL, timeout_s: float) -> dict[str, str | int]:
    limit = f"{round(timeout_s * 1000)}"
    own = url.query.get("options", "")
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    options = " ".join([*(f"-c {name}={limit}" for name in names), own if isinstance(own, str) else " ".join(own)])
    return {
        "options": options.strip(),  # options of the URL come last and take precedence
        "connect_timeout": max(2, round(timeout_s)),  # libpq's minimum is 2 s
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": int(limit),
    }


def without_limit(connection: Connection) -> None:
    """Remove the time limit for this transaction: a migration may rewrite a table."""
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    raw = connection.connection.driver_connection
    assert isinstance(raw, _Connection)
    raw.limit_s = None
    connection.connection.invalidate(soft=True)  # back in the pool, it is replaced by one with a limit


def notify(connection: Connection, rollout: str) -> None:
    """Notify all listeners when this transaction is committed."""
    connection.execute(_NOTIFY, {"channel": CHANNEL, "rollout": escaped(rollout)})


_NOTIFY: TextClause = text("SELECT pg_notify(:channel, :rollout)")


class Listener:
    """Receives notifications of new plans on its own connection. For one thread at a time.

    If it cannot listen (because of a connection pooler or a broken connection), it waits for the timeout, and the caller polls.
    """

    def __init__(self, engine: Engine, rollout: str) -> None:
        self._engine, self._rollout = engine, escaped(rollout)
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._not_before, self._broken = 0.0, False
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def wait(self, timeout_s: float) -> bool:
        """True as soon as this rollout's plan may have been saved; False after `timeout_s`."""
        until = time.monotonic() + timeout_s
        with self._lock:
            try:
                if self._listen(until):
                    return True
            except psycopg.Error as error:
                if not self._broken:
                    log.info("cannot listen for new plans; they are polled instead", error=str(error).strip())
                self._broken = True
                self._drop()
                self._not_before = time.monotonic() + RELISTEN_S
        if self._connection is None:
            self._closed.wait(until - time.monotonic())
        return False

    def close(self) -> None:
        """End a running wait and close the connection."""
        self._closed.set()
        with self._lock:
            self._drop()

    def _listen(self, until: float) -> bool:
        if self._connection is None:
            if time.monotonic() < self._not_before or self._closed.is_set():
                return False
            args, keywords = self._engine.dialect.create_connect_args(self._engine.url)
            self._connection = psycopg.connect(*args, **{"connect_timeout": 2, **keywords}, autocommit=True)
            self._connection.execute(f"LISTEN {CHANNEL}")
            self._broken = False
            return True  # a plan may have been saved before this connection listened
        while (left := until - time.monotonic()) > 0 and not self._closed.is_set():
            for notification in self._connection.notifies(timeout=min(left, 0.5), stop_after=1):
                if notification.payload == self._rollout:
                    return True
        return False

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
