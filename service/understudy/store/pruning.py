"""Removes data beyond the retention in small transactions, so that writers do not wait for long.

All rollouts of a database are pruned together: they share its disk, and finished rollouts have no process of their own.
On SQLite this module removes rows; on PostgreSQL, `partitions` drops partitions. SQLite reuses freed pages for new rows;
only `VACUUM` returns them to the disk.
"""

import time
from collections.abc import Sequence

from sqlalchemy import Connection, Row, bindparam, delete, func, literal_column, select
from sqlalchemy.sql.selectable import Select

from understudy.store import codec, partitions
from understudy.store.database import Database
from understudy.store.port import Retention
from understudy.store.records import note_pruned
from understudy.store.schema import OBSERVATION_COLUMNS, PENDING, arrived_at, label_conflicts, labels, observations

ROWS_AT_ONCE = 500
"""Rows per transaction: a few milliseconds, during which other writers wait."""

SAMPLE_ROWS = 500
"""The newest rows that are measured to estimate the size of a row on disk. Counting pages would need SQLite's `dbstat`, which many
builds lack, and the count would not shrink when rows are removed, because pages stay half full."""


def prune(database: Database, retention: Retention, *, now: float) -> int:
    """See `MaintenanceStore.prune`; for all rollouts of the database."""
    oldest = now - retention.max_age_s
    by_rows = not database.postgres
    gone = _prune_rows(database, retention, now) if by_rows else partitions.prune(database, retention, now=now)
    _forget_reports(database, oldest)
    return gone


def _prune_rows(database: Database, retention: Retention, now: float) -> int:
    rows = select(observations.c.seq, observations.c.prediction_id, observations.c.rollout).order_by(observations.c.seq)
    # Rows are stored roughly in the order of their arrival, so the old ones are among the first: no index is needed.
    first = select(observations.c.seq).order_by(observations.c.seq).limit(ROWS_AT_ONCE).scalar_subquery()
    old = rows.where(observations.c.seq.in_(first), arrived_at < now - retention.max_age_s)
    gone = _remove(database, old, None, now)
    return gone + _remove(database, rows, _beyond(database, retention.max_bytes), now)


def _beyond(database: Database, max_bytes: int) -> int:
    """How many rows exceed `max_bytes`."""
    newest = select(*OBSERVATION_COLUMNS).order_by(observations.c.seq.desc()).limit(SAMPLE_ROWS)
    with database.reading() as connection:
        rows = connection.execute(select(func.count()).select_from(observations)).scalar_one()
        sizes = [codec.row_bytes(row) for row in connection.execute(newest)]
    return max(rows - int(max_bytes * len(sizes) / sum(sizes)), 0) if sizes else 0


def _remove(database: Database, oldest_first: Select[int, str, int], most: int | None, now: float) -> int:
    """Remove at most `most` observations of a query with their labels, and note it; returns how many were removed."""
    removed = 0
    while most is None or removed < most:
        at_once = ROWS_AT_ONCE if most is None else min(ROWS_AT_ONCE, most - removed)
        with database.reading() as connection:
            rows = connection.execute(oldest_first.limit(at_once)).all()
        if not rows:
            break
        start = time.perf_counter()
        with database.writing() as connection:
            gone = _remove_rows(connection, rows)
            for rollout in {row.rollout for row in gone}:
                seqs = [row.seq for row in gone if row.rollout == rollout]
                note_pruned(database, connection, rollout, up_to=max(seqs), rows=len(seqs), now=now)
        removed += len(gone)
        # Leave the lock to other writers for as long as it was held.
        time.sleep(time.perf_counter() - start)
    return removed


def _remove_rows(connection: Connection, rows: Sequence[Row[int, str, int]]) -> Sequence[Row[int, int]]:
    ids = [{"of_id": row.prediction_id, "of_rollout": row.rollout} for row in rows]
    connection.execute(
        delete(labels).where(labels.c.prediction_id == bindparam("of_id"), labels.c.rollout == bindparam("of_rollout")),
        ids,
    )
    # Another process may have removed the same rows meanwhile: count only those removed here.
    chosen = delete(observations).where(observations.c.seq.in_([row.seq for row in rows]))
    return connection.execute(chosen.returning(observations.c.rollout, observations.c.seq)).all()


def _forget_reports(database: Database, oldest: float) -> None:
    """Remove old conflicts, and labels that have waited too long for their observation."""
    pending = labels.c.state == literal_column(f"'{PENDING}'"), labels.c.received_at < oldest
    waiting = select(labels.c.prediction_id, labels.c.rollout).where(*pending).limit(ROWS_AT_ONCE)
    while True:
        with database.reading() as connection:
            keys = [{"of_id": own, "of_rollout": rollout} for own, rollout in connection.execute(waiting)]
        if not keys:
            break
        with database.writing() as connection:
            own = labels.c.prediction_id == bindparam("of_id"), labels.c.rollout == bindparam("of_rollout")
            connection.execute(delete(labels).where(*own, *pending), keys)
    with database.writing() as connection:
        connection.execute(delete(label_conflicts).where(label_conflicts.c.received_at < oldest))
