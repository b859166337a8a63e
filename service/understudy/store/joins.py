"""Stores labels and joins them with their observations, inside a writing transaction of `SqlStore`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from understudy.domain import Fate, LabelReceipt, LabelReport, Observation, Outcome
from understudy.store import codec, label_rules
from understudy.store.codec import SqlValue
from understudy.store.database import Database
from understudy.store.port import Tally, WaitingLabels
from understudy.store.schema import (
    MATCHED,
    OBSERVATION_COLUMNS,
    PENDING,
    counters,
    label_batches,
    label_conflicts,
    labels,
    observation_keys,
    observations,
    rollouts,
)

FORGET_EVERY = 64
"""Old receipts are removed once per this many batches of labels."""
IDS_AT_ONCE = 500
"""The largest number of ids in one `IN (...)`, because drivers limit the parameters of a statement (older SQLite to 999)."""


def same_prediction() -> ColumnElement[bool]:
    """The condition that joins an observation and its label."""
    return and_(labels.c.prediction_id == observations.c.prediction_id, labels.c.rollout == observations.c.rollout)


class Joins:
    """The labels of one rollout. No method commits; after an exception the caller's transaction is rolled back."""

    def __init__(self, database: Database, rollout: int, tally: Tally) -> None:
        self._db = database
        self._rollout = rollout
        self._tally = tally
        self._keys = observation_keys if database.postgres else observations  # where a prediction is found by its id
        # The state is part of the SQL text: with a bound value SQLite could not use its partial index of pending labels.
        self._pending = (labels.c.rollout == rollout, labels.c.state == literal_column(f"'{PENDING}'"))

    def add(self, connection: Connection, reports: Sequence[LabelReport], received_at: float) -> LabelReceipt:
        """Store the reports, and join and count those whose observation is stored."""
        number = self._receipt(connection)
        batch = label_rules.sort_reports(reports, self._known(connection, [report.prediction_id for report in reports]))
        found = self._found(connection, list(batch.fresh))
        rows = [
            codec.label_row(self._rollout, report, received_at)
            | {"state": MATCHED if own in found else PENDING, "receipt": number}
            for own, report in batch.fresh.items()
        ]
        matched = [label_rules.outcome(found[own], report) for own, report in batch.fresh.items() if own in found]
        _insert_all(connection, labels, rows)
        if batch.corrected:
            self._correct(connection, batch.corrected, number)
        conflicts = [codec.label_row(self._rollout, report, received_at) for report in batch.conflicts]
        _insert_all(connection, label_conflicts, conflicts)
        receipt = batch.receipt(matched)
        self.count(connection, matched, label_rules.fates(receipt))
        return receipt

    def receipt_of(self, connection: Connection, batch_id: str) -> LabelReceipt | None:
        """The receipt of a batch; None if it was not stored."""
        mine = label_batches.c.batch_id == batch_id, label_batches.c.rollout == self._rollout
        fates = connection.execute(select(label_batches.c.fates).where(*mine)).scalar_one_or_none()
        return None if fates is None else LabelReceipt([Fate(each) for each in codec.from_json(fates)], repeated=True)

    def keep_receipt(self, connection: Connection, batch_id: str, receipt: LabelReceipt) -> bool:
        """Store the receipt of a batch and remove old ones; False if another attempt has stored the batch."""
        row = {
            "rollout": self._rollout,
            "batch_id": batch_id,
            "fates": codec.to_json([fate.value for fate in receipt.fates]),
        }
        fresh = self._db.insert(label_batches).values(row).on_conflict_do_nothing().returning(label_batches.c.id)
        number = connection.execute(fresh).scalar_one_or_none()
        if number is not None and number % FORGET_EVERY == 0:
            connection.execute(delete(label_batches).where(label_batches.c.id <= number - label_rules.BATCHES_KEPT))
        return number is not None

    def waiting_for(self, connection: Connection, ids: Sequence[str]) -> list[Outcome]:
        """Join labels that are waiting for one of these stored observations; the outcomes are in the order of `ids`."""
        if not ids or connection.execute(select(labels.c.rollout).where(*self._pending).limit(1)).first() is None:
            return []
        waiting: dict[str, LabelReport] = {}
        columns = select(labels.c.prediction_id, labels.c.label, labels.c.at, labels.c.received_at, labels.c.state)
        for part in _parts(ids):
            # `state` is compared here, not there, so that the rows are found by their ids however many others wait.
            rows = connection.execute(columns.where(*self._these(part)))
            waiting.update((row[0], codec.report_of(*row[:4])) for row in rows if row.state == PENDING)
        found = self._found(connection, list(waiting))
        for part in _parts(list(waiting)):
            connection.execute(update(labels).where(*self._these(part)).values(state=MATCHED))
        return [label_rules.outcome(found[own], waiting[own]) for own in dict.fromkeys(ids) if own in waiting]

    def waiting(self, connection: Connection, received_before: float) -> WaitingLabels:
        """How many labels wait for their observation, and since when."""
        received = labels.c.received_at
        stray = func.coalesce(func.sum(case((received < received_before, 1), else_=0)), 0)
        row = connection.execute(select(func.count(), stray, func.min(received)).where(*self._pending)).one()
        return WaitingLabels(int(row[0]), int(row[1]), row[2])

    def parted(self, connection: Connection) -> list[str]:
        """The predictions whose label waits although their observation is there."""
        keys = self._keys
        same = and_(labels.c.prediction_id == keys.c.prediction_id, labels.c.rollout == keys.c.rollout)
        statement = select(labels.c.prediction_id).join(keys, same).where(*self._pending)
        return list(connection.execute(statement).scalars())

    def count(
        self, connection: Connection, outcomes: Iterable[Outcome], start: Iterable[tuple[str, float]] = ()
    ) -> None:
        """Add `start` and the tally of the outcomes to the counters."""
        sums = label_rules.total(self._tally, outcomes, start)
        if sums:
            added = self._db.insert(counters)
            upsert = added.on_conflict_do_update(
                index_elements=[counters.c.rollout, counters.c.name],
                set_={"value": counters.c.value + added.excluded.value},
            )
            rows = [{"rollout": self._rollout, "name": name, "value": value} for name, value in sums.items()]
            connection.execute(upsert, rows)

    def _receipt(self, connection: Connection) -> int:
        """The number of this batch of labels: one more than the previous one, whatever the clocks say."""
        mine = update(rollouts).where(rollouts.c.id == self._rollout)
        return int(
            connection.execute(
                mine.values(receipts=rollouts.c.receipts + 1).returning(rollouts.c.receipts)
            ).scalar_one()
        )

    def _correct(self, connection: Connection, reports: Sequence[LabelReport], receipt: int) -> None:
        """Set an earlier time from this batch on. The time before is kept, so earlier decisions can be checked."""
        own = labels.c.prediction_id == bindparam("of_id"), labels.c.rollout == self._rollout
        corrected = update(labels).where(*own).values(at_before=labels.c.at, at=bindparam("earlier"), corrected=receipt)
        connection.execute(corrected, [{"of_id": report.prediction_id, "earlier": report.at} for report in reports])

    def _known(self, connection: Connection, ids: Sequence[str]) -> dict[str, label_rules.Standing]:
        known: dict[str, label_rules.Standing] = {}
        columns = select(labels.c.prediction_id, labels.c.label, labels.c.at, labels.c.received_at, labels.c.corrected)
        for part in _parts(ids):
            rows = connection.execute(columns.where(*self._these(part)))
            known.update((row[0], label_rules.Standing(codec.report_of(*row[:4]), row[4] is not None)) for row in rows)
        return known

    def _these(self, ids: Sequence[str]) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        return labels.c.prediction_id.in_(ids), labels.c.rollout == self._rollout

    def _found(self, connection: Connection, ids: Sequence[str]) -> dict[str, Observation]:
        found: dict[str, Observation] = {}
        for part in _parts(ids):
            chosen = self._keys.c.prediction_id.in_(part), self._keys.c.rollout == self._rollout
            statement = select(*OBSERVATION_COLUMNS).where(*chosen)
            if self._keys is not observations:
                statement = statement.where(observations.c.seq == observation_keys.c.seq)
            rows = connection.execute(statement)
            found.update((row.prediction_id, codec.observation_of(row)) for row in rows)
        return found


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + IDS_AT_ONCE] for start in range(0, len(ids), IDS_AT_ONCE))


def _insert_all(connection: Connection, table: Table, rows: Sequence[Mapping[str, SqlValue]]) -> None:
    if rows:
        connection.execute(insert(table), list(rows))
