"""Inserts observations into PostgreSQL with COPY, into the partition of their sequence numbers."""

from collections.abc import Sequence

from sqlalchemy import Connection

from understudy.store import partitions
from understudy.store.codec import ObservationRow
from understudy.store.schema import OBSERVATION_COLUMNS, escaped

_COLUMNS = ", ".join(column.name for column in OBSERVATION_COLUMNS)
_COPY = f"COPY observations (seq, {_COLUMNS}) FROM STDIN"
_TAKE_KEYS = """
INSERT INTO observation_keys (prediction_id, rollout, seq)
SELECT id, %s, nextval('observations_seq') FROM unnest(%s::text[]) WITH ORDINALITY AS fresh(id, place) ORDER BY place
ON CONFLICT DO NOTHING RETURNING prediction_id, seq
"""


class CopyInsert:
    """Stores rows of one rollout whose prediction is new, numbered in their order.

    One statement on the keys finds the new predictions; their rows are inserted with COPY.
    """

    def __init__(self, rollout: int) -> None:
        self._rollout = rollout
        self._room_to = 0  # partitions exist for all numbers below this

    def __call__(self, connection: Connection, rows: Sequence[ObservationRow]) -> int:
        """Store rows in this transaction, which excludes the rollout's other writers; returns how many were new."""
        first = {escaped(row[1]): row for row in reversed(rows)}
        ids = list(dict.fromkeys(escaped(row[1]) for row in rows))
        raw = connection.connection.driver_connection
        assert raw is not None
        with raw.cursor() as cursor:
            fresh = cursor.execute(_TAKE_KEYS, (self._rollout, ids)).fetchall()
            if not fresh:
                return 0
            last = max(seq for _, seq in fresh)
            if last >= self._room_to:
                self._room_to = partitions.make_room(connection, last)
            with cursor.copy(_COPY) as copy:
                for own, seq in fresh:
                    copy.write_row((seq, *(escaped(v) if isinstance(v, str) else v for v in first[own])))
        return len(fresh)
