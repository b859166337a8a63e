"""The rollouts of a database, what each is judged by, and what retention has removed."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, case, func, select

from understudy.store import codec
from understudy.store.database import Database, parsed_url
from understudy.store.migrate import upgrade
from understudy.store.port import Pruned, RolloutRecord
from understudy.store.schema import events, identities, plans, prunings, rollouts


def read(database: Database) -> Sequence[RolloutRecord]:
    """See `MaintenanceStore.rollouts`."""
    started = select(events.c.rollout, func.min(events.c.at).label("at")).group_by(events.c.rollout).subquery()
    statement = (
        select(rollouts.c.id, rollouts.c.name, identities.c.value, started.c.at)
        .join(identities, identities.c.rollout == rollouts.c.id, isouter=True)
        .join(started, started.c.rollout == rollouts.c.id, isouter=True)
        .order_by(rollouts.c.id)
    )
    with database.reading() as connection:
        in_force = {row.rollout: codec.plan_of(row) for row in connection.execute(select(plans))}
        pruned = {row.rollout: Pruned(row.up_to, row.rows, row.at) for row in connection.execute(select(prunings))}
        return [
            RolloutRecord(name, value and codec.from_json(value), at, in_force.get(number), pruned.get(number))
            for number, name, value, at in connection.execute(statement)
        ]


def read_from(url: str) -> Sequence[RolloutRecord]:
    """The rollouts of the database at a URL, without opening or creating one.

    Raises:
        ConfigurationError: the URL is not supported, or a newer version wrote the database.
        StoreError: the database cannot be read.
    """
    parsed = parsed_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).exists():
        return []  # connecting would create the file
    database = Database(url)
    try:
        upgrade(database)
        return read(database)
    finally:
        database.close()


def note_pruned(database: Database, connection: Connection, rollout: int, *, up_to: int, rows: int, now: float) -> None:
    """Note how far a rollout was pruned, so that removed rows are not taken for changed ones."""
    noted = database.insert(prunings).values(rollout=rollout, up_to=up_to, rows=rows, at=now)
    added, kept = noted.excluded, prunings.c
    further = {
        "up_to": case((added.up_to > kept.up_to, added.up_to), else_=kept.up_to),
        "rows": kept.rows + added.rows,
        "at": case((added.at > kept.at, added.at), else_=kept.at),
    }
    connection.execute(noted.on_conflict_do_update(index_elements=[kept.rollout], set_=further))
