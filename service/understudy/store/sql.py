"""The store on SQLAlchemy Core: a SQLite file in WAL mode, or PostgreSQL by URL.

Each rollout has one writer at a time (see `Database.writing`), so a label and its observation cannot miss each other.
The transaction that stores the second of the two joins them, applies the tally and adds to the counters.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection, and_, bindparam, delete, func, or_, select
from typing_extensions import override

from understudy.domain import Event, JsonObject, LabelReceipt, LabelReport, Observation, Outcome, Plan
from understudy.errors import NotAllowedNow, StoreError
from understudy.runtime.fairness import yielding
from understudy.store import codec, identity, label_rules, partitions, pruning, records
from understudy.store.codec import ObservationRow
from understudy.store.database import BUSY_TIMEOUT_S, CONNECTIONS_MAX, Database, Synchronous
from understudy.store.joins import Joins, same_prediction
from understudy.store.migrate import upgrade
from understudy.store.port import LEASE_AHEAD_MAX_S, Retention, RolloutRecord, Store, Tally, WaitingLabels
from understudy.store.postgres_rows import CopyInsert
from understudy.store.schema import (
    OBSERVATION_COLUMNS,
    WIDTHS,
    counters,
    events,
    identities,
    labels,
    leases,
    observations,
    plans,
    rollouts,
    states,
)
from understudy.store.schema import sketches as sketches_table

if TYPE_CHECKING:
    from understudy.store.postgres import Listener


class SqlStore(Store):
    """A store in a database. Opening it creates or migrates the tables.

    Args:
        url: `sqlite:///path/to/file.db`, or `postgresql://user@host/name`.
        rollout: the id of the rollout; one database may hold several.
        tally: see `port.Tally`.
        busy_timeout_s: how long to wait for another process's transaction; on PostgreSQL, for any statement.
        synchronous: SQLite only. With NORMAL, acknowledged data survive `kill -9`, but a power cut may lose the last
            transactions. FULL keeps those too, with one fsync per transaction.
        connections_max: PostgreSQL only; the largest number of connections of this process, without the one that listens.
        expected: the `uuid` that the database must have; None accepts any, and creates a missing one.

    Attributes:
        uuid: identifies the database, also after it was renamed or copied.

    Raises:
        StoreLost: it is not the expected database.
        ConfigurationError: the URL is not supported, or a newer version wrote the database.
        StoreError: the database cannot be opened.
    """

    def __init__(
        self,
        url: str,
        rollout: str,
        tally: Tally,
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        synchronous: Synchronous = "NORMAL",
        connections_max: int = CONNECTIONS_MAX,
        expected: str | None = None,
    ) -> None:
        self.rollout = rollout
        self._db = Database(
            url, busy_timeout_s=busy_timeout_s, synchronous=synchronous, connections_max=connections_max
        )
        self._insert = self._db.insert
        self._listener: Listener | None = None
        self._insert_rows: Callable[[Connection, Sequence[ObservationRow]], int]
        self._notify: Callable[[Connection], None] = lambda connection: None
        try:
            if expected is not None:
                identity.expect(self._db, expected)
            upgrade(self._db)
            self.uuid = identity.uuid_of(self._db)
            self._key, self._first_seq = self._register(rollout)
            if self._db.postgres:
                self._use_postgres()
            else:
                self._insert_rows = self._inserts()
            self._joins = Joins(self._db, self._key, tally)
        except BaseException:
            self._db.close()
            raise

    def _use_postgres(self) -> None:
        from understudy.store import postgres

        partitions.ensure(self._db)
        self._insert_rows = CopyInsert(self._key)
        self._listener = postgres.Listener(self._db.engine, self.rollout)
        self._notify = lambda connection: postgres.notify(connection, self.rollout)

    def _inserts(self) -> Callable[[Connection, Sequence[ObservationRow]], int]:
        """Inserts rows of `OBSERVATION_COLUMNS`.

        A column that no row of a batch fills is not bound: binding it takes a fiftieth of the time to store the row.
        """
        statements = {
            width: self._db.inserts(
                self._insert(observations)
                .values({column.name: bindparam(column.name) for column in OBSERVATION_COLUMNS[:width]})
                .on_conflict_do_nothing()
            )
            for width in WIDTHS
        }

        def insert(connection: Connection, rows: Sequence[ObservationRow]) -> int:
            for width in WIDTHS[:-1]:
                nothing = (None,) * (len(OBSERVATION_COLUMNS) - width)
                if all(row[width:] == nothing for row in rows):
                    return statements[width](connection, [row[:width] for row in rows])
            return statements[WIDTHS[-1]](connection, rows)

        return insert

    def _register(self, rollout: str) -> tuple[int, int]:
        """The number of this rollout in every row, and the smallest sequence number of its observations."""
        known = select(rollouts.c.id, rollouts.c.first_seq).where(rollouts.c.name == rollout)
        next_seq = select(func.coalesce(func.max(observations.c.seq), 0) + 1).scalar_subquery()
        with self._db.writing() as connection:
            row = connection.execute(known).one_or_none()
            if row is None:
                fresh = self._insert(rollouts).values(name=rollout, first_seq=next_seq).on_conflict_do_nothing()
                connection.execute(fresh)
                row = connection.execute(known).one()
            return row.id, row.first_seq

    def _writing(self) -> AbstractContextManager[Connection]:
        return self._db.writing(lock=select(rollouts.c.id).where(rollouts.c.id == self._key))

    @override
    def load_plan(self) -> Plan | None:
        """This is polled, so it also checks that the database was not replaced by another one."""
        if self._db.file is not None:
            self._db.file.look()
        with self._db.reading() as connection:
            identity.check(connection, self.uuid, self._db.name)
            return self._plan(connection)

    @override
    def save_plan(self, plan: Plan, event: Event, *, expected_revision: int | None = None) -> Plan:
        with self._writing() as connection:
            current = self._plan(connection)
            revision = 0 if current is None else current.revision
            if expected_revision is not None and expected_revision != revision:
                raise NotAllowedNow(codec.moved_on(expected_revision, revision))
            new = replace(plan, revision=revision + 1)
            row = codec.plan_row(self._key, new)
            statement = self._insert(plans).values(row)
            connection.execute(statement.on_conflict_do_update(index_elements=[plans.c.rollout], set_=row))
            self._append(connection, replace(event, revision=new.revision))
            self._notify(connection)
        return new

    @override
    def await_plan(self, timeout_s: float) -> bool:
        """SQLite sends no notifications, so this waits for the timeout."""
        if self._listener is not None:
            return self._listener.wait(timeout_s)
        time.sleep(timeout_s)
        return False

    @override
    def append_event(self, event: Event) -> Event:
        with self._writing() as connection:
            return self._append(connection, event)

    def _plan(self, connection: Connection) -> Plan | None:
        row = connection.execute(select(plans).where(plans.c.rollout == self._key)).one_or_none()
        return None if row is None else codec.plan_of(row)

    def _append(self, connection: Connection, event: Event) -> Event:
        row = codec.event_row(self._key, event)
        result = connection.execute(events.insert().values(row).returning(events.c.id))
        return replace(event, id=result.scalar_one(), details=codec.from_json(str(row["details"])))

    @override
    def events(self, *, after: int = 0, limit: int = 100) -> Sequence[Event]:
        statement = select(events).where(events.c.rollout == self._key, events.c.id > after)
        with self._db.reading() as connection:
            rows = connection.execute(statement.order_by(events.c.id).limit(max(limit, 0)))
            return [codec.event_of(row) for row in rows]

    @override
    def decision(self, revision: int) -> Event | None:
        mine = select(events).where(events.c.rollout == self._key, events.c.revision == revision)
        with self._db.reading() as connection:
            row = connection.execute(mine.order_by(events.c.id).limit(1)).one_or_none()
        return None if row is None else codec.event_of(row)

    @override
    def add_observations(
        self, observations: Sequence[Observation], counts: Mapping[str, float] | None = None
    ) -> Sequence[Outcome]:
        rows = [codec.observation_row(self._key, each) for each in yielding(observations)]
        with self._writing() as connection:
            outcomes: list[Outcome] = []
            if rows:
                if not self._insert_rows(connection, rows):
                    return []  # the batch was stored before
                outcomes = self._joins.waiting_for(connection, [each.prediction_id for each in observations])
            self._joins.count(connection, outcomes, [*(counts or {}).items(), *label_rules.joined(outcomes)])
        return outcomes

    @override
    def add_labels(
        self, reports: Iterable[LabelReport], *, received_at: float, batch_id: str | None = None, again: bool = False
    ) -> LabelReceipt:
        reports = label_rules.received(reports, received_at)
        if not reports:
            return LabelReceipt([])
        with self._writing() as connection:
            if again and batch_id is not None and (before := self._joins.receipt_of(connection, batch_id)) is not None:
                return before
            receipt = self._joins.add(connection, reports, received_at)
            if batch_id is not None and not self._joins.keep_receipt(connection, batch_id, receipt):
                raise StoreError(label_rules.stored_before(batch_id))
            return receipt

    @override
    def join_pending(self) -> Sequence[Outcome]:
        """Finds something only if another program has written to the tables."""
        with self._db.reading() as connection:  # first without the writers' lock
            if not self._joins.parted(connection):
                return []
        with self._writing() as connection:
            outcomes = self._joins.waiting_for(connection, self._joins.parted(connection))
            self._joins.count(connection, outcomes, label_rules.joined(outcomes))
        return outcomes

    @override
    def waiting_labels(self, *, received_before: float) -> WaitingLabels:
        with self._db.reading() as connection:
            return self._joins.waiting(connection, received_before)

    @override
    def outcomes(
        self, *, after: int = 0, limit: int = 1000, known_by: int | None = None
    ) -> Sequence[tuple[int, Observation, LabelReport | None]]:
        together = same_prediction()
        if known_by is not None:
            together = and_(together, labels.c.receipt <= known_by)
        statement = (
            select(*OBSERVATION_COLUMNS, observations.c.seq, *_OF_LABEL)
            .join_from(observations, labels, together, isouter=True)
            .where(observations.c.rollout == self._key, observations.c.seq > max(after, self._first_seq - 1))
            .order_by(observations.c.seq)
            .limit(max(limit, 0))
        )
        with self._db.reading() as connection:
            return [_judged(row, known_by) for row in yielding(connection.execute(statement).all())]

    @override
    def receipts(self) -> int:
        with self._db.reading() as connection:
            return int(connection.execute(select(rollouts.c.receipts).where(rollouts.c.id == self._key)).scalar_one())

    @override
    def counters(self) -> Mapping[str, float]:
        statement = select(counters.c.name, counters.c.value).where(counters.c.rollout == self._key)
        with self._db.reading() as connection:
            return {row.name: row.value for row in connection.execute(statement)}

    @override
    def lead(self, holder: str, *, ttl_s: float, now: float) -> bool:
        row = {"rollout": self._key, "holder": holder, "expires_at": now + ttl_s}
        ahead = leases.c.expires_at > now + ttl_s + LEASE_AHEAD_MAX_S
        free = or_(leases.c.holder == holder, leases.c.expires_at <= now, ahead)
        statement = self._insert(leases).values(row)
        taken = statement.on_conflict_do_update(index_elements=[leases.c.rollout], set_=row, where=free)
        with self._writing() as connection:
            return connection.execute(taken.returning(leases.c.holder)).one_or_none() is not None

    @override
    def load_state(self, name: str) -> JsonObject | None:
        statement = select(states.c.value).where(states.c.rollout == self._key, states.c.name == name)
        with self._db.reading() as connection:
            text = connection.execute(statement).scalar_one_or_none()
        return None if text is None else codec.from_json(text)

    @override
    def save_state(self, name: str, state: Mapping[str, object], *, holder: str, events: Sequence[Event] = ()) -> None:
        row = {"rollout": self._key, "name": name, "value": codec.to_json(dict(state))}
        statement = self._insert(states).values(row)
        with self._writing() as connection:
            leader = connection.execute(
                select(leases.c.holder).where(leases.c.rollout == self._key)
            ).scalar_one_or_none()
            if leader != holder:
                raise NotAllowedNow(f"{holder} no longer leads this rollout")
            connection.execute(
                statement.on_conflict_do_update(index_elements=[states.c.rollout, states.c.name], set_=row)
            )
            for event in events:
                self._append(connection, event)

    @override
    def save_sketches(
        self, sketches: Mapping[int, Mapping[str, object]], *, writer: str, now: float, slots_max: int
    ) -> None:
        mine = sketches_table.c.rollout == self._key
        last = func.max(sketches_table.c.written_at)
        stay = select(sketches_table.c.slot).where(mine).group_by(sketches_table.c.slot)
        with self._writing() as connection:
            for slot, document in sketches.items():
                row = {
                    "rollout": self._key,
                    "slot": slot,
                    "writer": writer,
                    "written_at": now,
                    "value": codec.to_json(dict(document)),
                }
                keys = [sketches_table.c.rollout, sketches_table.c.slot, sketches_table.c.writer]
                statement = self._insert(sketches_table).values(row)
                connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=row))
            newest = stay.order_by(last.desc(), sketches_table.c.slot.desc()).limit(slots_max)
            connection.execute(delete(sketches_table).where(mine, sketches_table.c.slot.not_in(newest)))

    @override
    def sketches(self, *, since: float = 0.0) -> Sequence[tuple[int, str, float, JsonObject]]:
        columns = select(*(sketches_table.c[name] for name in ("slot", "writer", "written_at", "value")))
        chosen = columns.where(sketches_table.c.rollout == self._key, sketches_table.c.written_at >= since)
        with self._db.reading() as connection:
            rows = connection.execute(chosen.order_by(sketches_table.c.slot, sketches_table.c.writer))
            return [(slot, writer, at, codec.from_json(text)) for slot, writer, at, text in rows]

    @override
    def prune(self, retention: Retention, *, now: float) -> int:
        return pruning.prune(self._db, retention, now=now)

    @override
    def keep_identity(self, identity: Mapping[str, object]) -> None:
        row = {"rollout": self._key, "value": codec.to_json(dict(identity))}
        with self._writing() as connection:
            connection.execute(self._insert(identities).values(row).on_conflict_do_nothing())

    @override
    def rollouts(self) -> Sequence[RolloutRecord]:
        return records.read(self._db)

    @override
    def ping(self) -> float:
        start = time.perf_counter()
        with self._db.reading() as connection:
            connection.execute(select(rollouts.c.id).where(rollouts.c.id == self._key)).one()
        return time.perf_counter() - start

    @override
    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._db.close()


_OF_LABEL = (
    labels.c.label,
    labels.c.at.label("label_at"),
    labels.c.received_at.label("label_received_at"),
    labels.c.at_before,
    labels.c.corrected,
)


def _judged(row: codec.Row, known_by: int | None) -> tuple[int, Observation, LabelReport | None]:
    seq, label, at, received_at, at_before, corrected = row[-6:]
    observation = codec.observation_of(row)
    if label is None:
        return seq, observation, None
    if corrected is not None and known_by is not None and corrected > known_by:
        at = at_before
    return seq, observation, codec.report_of(observation.prediction_id, label, at, received_at)
