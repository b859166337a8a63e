"""The store's port and its adapters: SQLite, PostgreSQL, memory and the spool.

`port` has the protocols. `sql.SqlStore` implements them on SQLite and PostgreSQL, `memory.MemoryStore` in dictionaries;
one contract suite (`tests/contract/`) runs over all three. `reconnecting` and `spool` wrap another store.
"""

from understudy.store.port import (
    LEASE_AHEAD_MAX_S,
    EventStore,
    LabelStore,
    MaintenanceStore,
    ObservationStore,
    PlanStore,
    Pruned,
    RecordStore,
    Retention,
    RolloutRecord,
    SketchStore,
    StateStore,
    Store,
    Tally,
    WaitingLabels,
)

__all__ = [
    "LEASE_AHEAD_MAX_S",
    "EventStore",
    "LabelStore",
    "MaintenanceStore",
    "ObservationStore",
    "PlanStore",
    "Pruned",
    "RecordStore",
    "Retention",
    "RolloutRecord",
    "SketchStore",
    "StateStore",
    "Store",
    "Tally",
    "WaitingLabels",
]
