"""Opens a service's store: the one that its other processes have, behind what waits for it and what spools for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from understudy import loading
from understudy.settings import Settings
from understudy.store import RolloutRecord, Store, Tally, records
from understudy.store.patient import ReconnectingStore
from understudy.store.spool import SpoolingStore
from understudy.store.sql import SqlStore


def open_store(
    settings: Settings, rollout: str, tally: Tally, identity: Mapping[str, Any], name: str, told: Callable[[int], None]
) -> tuple[Store, Callable[[], str | None]]:
    """The store, and a function that says why its database is lost (None: it is not).

    Args:
        identity: what the rollout's id stands for; name: of this process, for its spool; told: is given the rows that wait there.

    Raises:
        ConfigurationError: it can never be opened.
        StoreError: a SQLite file cannot be opened, and no process of this service had opened it before.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    url = settings.resolved_store_url()

    def opened() -> Store:
        store = SqlStore(
            url,
            rollout,
            tally,
            busy_timeout_s=settings.store_timeout_s,
            connections_max=settings.store_connections_max,
            expected=loading.known_store(settings),
        )
        try:
            loading.note_store(settings, store.uuid)
            store.keep_identity(identity)
        except BaseException:
            store.close()
            raise
        return store

    # A file that cannot be opened is a mistake, unless this service had opened it before.
    patient = ReconnectingStore(opened, may_be_away=not url.startswith("sqlite") or loading.store_was_open(settings))

    def waiting(rows: int) -> None:
        told(rows)
        patient.outage.waiting(rows)

    spooled = SpoolingStore(
        cast("Store", patient),
        rollout,
        settings.state_dir / "spool",
        name,
        max_bytes=settings.spool_max_mib * 2**20,
        patience_s=settings.spool_after_ms / 1000,
        told=waiting,
    )
    return cast("Store", spooled), lambda: patient.lost


def stored_rollouts(settings: Settings) -> Sequence[RolloutRecord]:
    """What the store holds, looked at without adding to it.

    Raises:
        StoreError: when it cannot be read.
    """
    return records.read_from(settings.resolved_store_url())


def open_rollout(settings: Settings, rollout: str) -> Store:
    """The store of a rollout that is in it, to look at its past without serving it."""
    return SqlStore(settings.resolved_store_url(), rollout, lambda outcome: {})
