"""Pruning on PostgreSQL: a partition at a time.

`observations` is partitioned by ranges of `seq`. The newest rows are together, a page of outcomes reads one partition, and dropping
the oldest partition frees its space at once; deleted rows would have to be vacuumed. The partitions are not by time, because
replayed history has old times. The price: a constraint that is unique over all partitions must include `seq`. So
`observation_keys`, which is not partitioned, records which predictions are stored (a label's observation takes two look-ups);
its narrow rows are deleted one by one.

A partition is closed when it reaches 1/`PIECES` of the retention, in age or bytes: `seq` then jumps to the next partition. So an
observation stays at most that much longer than the retention, and the open partition always stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Double, column, func, select, table, text

from understudy.store.database import Database
from understudy.store.port import Retention
from understudy.store.records import note_pruned

SEQS = 10_000_000
"""Sequence numbers per partition. JSON numbers are exact up to 2^53, so 900 million partitions are possible."""

PIECES = 16
"""The number of partitions that the retention is divided into."""

ROWS_AT_ONCE = 5_000
"""Keys and labels that are removed per transaction."""

_LOCK_TIMEOUT = (
    "SET LOCAL lock_timeout = '1s'"  # a statement that waits for a partition blocks all statements behind it
)
_FORGET = """
WITH gone AS (
  SELECT seq, prediction_id, rollout FROM {part} WHERE seq > :after ORDER BY seq LIMIT {limit}
), unlabelled AS (
  DELETE FROM labels USING gone WHERE labels.prediction_id = gone.prediction_id AND labels.rollout = gone.rollout
), forgotten AS (
  DELETE FROM observation_keys AS keys USING gone
  WHERE keys.prediction_id = gone.prediction_id AND keys.rollout = gone.rollout AND keys.seq = gone.seq
  RETURNING keys.rollout, keys.seq
), last AS (SELECT max(seq) AS seq FROM gone)
SELECT last.seq, forgotten.rollout, max(forgotten.seq), count(forgotten.seq)
FROM last LEFT JOIN forgotten ON true GROUP BY last.seq, forgotten.rollout
"""


@dataclass(frozen=True, slots=True)
class _Partition:
    number: int
    size: int

    @property
    def name(self) -> str:
        return _name(self.number)


def ensure(database: Database) -> None:
    """Create the open partition and the next one if they are missing."""
    with database.alone() as connection:
        _ensure(connection, _open_number(connection))


def make_room(connection: Connection, seq: int) -> int:
    """Create the partition for `seq` if it is missing.

    Returns:
        The first number behind that partition.
    """
    number = seq // SEQS
    if number not in {part.number for part in _partitions(connection)}:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(6417)")
        _ensure(connection, number)
    return (number + 1) * SEQS


def prune(database: Database, retention: Retention, *, now: float) -> int:
    """Drop partitions beyond `retention`, and close the open one if it is large or old enough.

    Returns:
        How many observations were removed.
    """
    oldest = now - retention.max_age_s
    with database.alone() as connection:
        _close_large(connection, retention, now)
    with database.reading() as connection:
        last = _open_number(connection)
        closed = [part for part in _partitions(connection) if part.number < last]
        size = sum(part.size for part in _partitions(connection))
        old = {part.number for part in closed if _edge(connection, part.name, "max") < oldest}
    gone = 0
    for part in closed:
        if part.number in old or size > retention.max_bytes:
            gone += _drop(database, part, now)
            size -= part.size
    return gone


def _name(number: int) -> str:
    return f"observations_{number:06}"


def _open_number(connection: Connection) -> int:
    last, used = connection.execute(text("SELECT last_value, is_called FROM observations_seq")).one()
    return int(last + bool(used)) // SEQS


def _ensure(connection: Connection, number: int) -> None:
    known = {part.number for part in _partitions(connection)}
    for missing in {number, number + 1} - known:
        bounds = f"FROM ({missing * SEQS}) TO ({(missing + 1) * SEQS})"
        connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {_name(missing)} PARTITION OF observations FOR VALUES {bounds}"
        )


def _partitions(connection: Connection) -> Sequence[_Partition]:
    """All partitions, oldest first, with their size on disk in bytes, indexes included."""
    statement = """
    SELECT relname, pg_total_relation_size(inhrelid) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'observations'::regclass ORDER BY relname
    """
    rows = connection.exec_driver_sql(statement).all()
    return sorted((_Partition(int(name.rpartition("_")[2]), size) for name, size in rows), key=lambda part: part.number)


def _edge(connection: Connection, name: str, which: Literal["min", "max"]) -> float:
    """The earliest (`min`) or latest (`max`) arrival in a partition; -inf for an empty one."""
    part = table(name, column("received_at", Double), column("at", Double))
    arrived_at = func.coalesce(part.c.received_at, part.c.at)
    edge = func.min(arrived_at) if which == "min" else func.max(arrived_at)
    arrival: float | None = connection.execute(select(edge)).scalar_one()
    return float("-inf") if arrival is None else arrival


def _close_large(connection: Connection, retention: Retention, now: float) -> None:
    """Let the sequence continue in the next partition if the open one is large or old enough."""
    number = _open_number(connection)
    _ensure(connection, number)
    name = _name(number)
    size = next(part.size for part in _partitions(connection) if part.number == number)
    earliest = _edge(connection, name, "min")
    if earliest == float("-inf"):
        return  # it is empty
    if size * PIECES < retention.max_bytes and now - earliest < retention.max_age_s / PIECES:
        return
    connection.exec_driver_sql("SELECT id FROM rollouts FOR NO KEY UPDATE")  # no writer may take a number meanwhile
    if _open_number(connection) != number:
        return
    _ensure(connection, number + 1)
    connection.execute(text("SELECT setval('observations_seq', :last)"), {"last": (number + 1) * SEQS - 1})


def _drop(database: Database, part: _Partition, now: float) -> int:
    after, gone = -1, 0
    statement = text(_FORGET.format(part=part.name, limit=ROWS_AT_ONCE))
    while True:
        with database.writing() as connection:
            found = connection.execute(statement, {"after": after}).all()
            for _, rollout, up_to, rows in found:
                if rows:
                    note_pruned(database, connection, rollout, up_to=up_to, rows=rows, now=now)
                    gone += rows
        if found[0][0] is None:
            break
        after = found[0][0]
    with database.alone() as connection:
        connection.exec_driver_sql(_LOCK_TIMEOUT)
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {part.name}")
    return gone
