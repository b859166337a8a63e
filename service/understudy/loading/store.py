"""Opens the store of a service's process: the database, wrapped so that it may be unavailable and batches are spooled."""

from collections.abc import Callable, Mapping, Sequence

from understudy import loading
from understudy.settings import Settings
from understudy.store import RolloutRecord, Store, Tally, records
from understudy.store.reconnecting import ReconnectingStore
from understudy.store.spool import SpoolingStore
from understudy.store.sql import SqlStore


def open_store(
    settings: Settings,
    rollout: str,
    tally: Tally,
    identity: Mapping[str, object],
    name: str,
    on_waiting: Callable[[int], None],
) -> tuple[Store, Callable[[], str | None]]:
    """Open the store of one rollout.

    Args:
        identity: the document that the rollout's id is a hash of.
        name: this process's name, for its spool file.
        on_waiting: called with the number of rows in the spool whenever it changes.

    Returns:
        The store, and a function that returns why its database is lost, or None.

    Raises:
        ConfigurationError: the store cannot be opened, and a retry would not help.
        StoreError: a SQLite file cannot be opened, and no process of this service has opened it before.
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

    # A file that cannot be opened is a mistake, unless this service has opened it before.
    may_be_away = not url.startswith("sqlite") or loading.store_was_open(settings)
    reconnecting = ReconnectingStore(opened, may_be_away=may_be_away)

    def waiting(rows: int) -> None:
        on_waiting(rows)
        reconnecting.outage.waiting(rows)

    spooled = SpoolingStore(
        reconnecting,
        rollout,
        settings.state_dir / "spool",
        name,
        max_bytes=settings.spool_max_mib * 2**20,
        patience_s=settings.spool_after_ms / 1000,
        on_waiting=waiting,
    )
    return spooled, lambda: reconnecting.lost


def stored_rollouts(settings: Settings) -> Sequence[RolloutRecord]:
    """The rollouts in the store. Nothing is created if there is no database.

    Raises:
        StoreError: the store cannot be read.
    """
    return records.read_from(settings.resolved_store_url())


def open_rollout(settings: Settings, rollout: str) -> Store:
    """Open the store of a rollout to read its history without serving it."""
    return SqlStore(settings.resolved_store_url(), rollout, lambda outcome: {})
