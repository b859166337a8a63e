"""Runs the drift monitor in a process that writes records: counts rows, and judges the counts while the process leads.

A `DriftCounter` adds each batch of records to the counts of its hour, and writes changed counts to the store every
`drift_interval_s`. A crash loses the counts of that interval; they are no evidence. The `DriftLeader` of the leading process adds
up the counts of all processes, reads each hour once it is over, and stores alarms and readings in one transaction with their
events. So an alarm is reported once, whichever process dies.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import cast

import structlog

from understudy.clock import Clock
from understudy.documents import Drift
from understudy.domain import Variant
from understudy.drift.gather import DriftCounter, watched_by
from understudy.drift.leader import STATE, DriftLeader, DriftState
from understudy.drift.sketch import Layout
from understudy.errors import NotAllowedNow, StoreError
from understudy.inference.cards import Card
from understudy.observability.metrics import Metrics
from understudy.settings import Settings
from understudy.store import Store

__all__ = ["STATE", "DriftCounter", "DriftLeader", "DriftMonitor", "watched_by"]

log = structlog.get_logger(__name__)


class DriftMonitor:
    """Counts the rows that this process records, and judges the counts of all processes while it leads.

    Args:
        writer: a name for these counts. No other process may ever use it, not even after a restart.
        holder: name of this process in the rollout's lease. It must be the controller's, or the two would compete for the lease.
    """

    def __init__(
        self,
        cards: Mapping[Variant, Card],
        positions: Mapping[str, int],
        store: Store,
        metrics: Metrics,
        clock: Clock,
        writer: str,
        holder: str,
        settings: Settings,
    ) -> None:
        self.layout = Layout(watched_by(cards, settings.drift_features_max))
        self._store, self._metrics, self._interval_s = store, metrics, settings.drift_interval_s
        self._counter = DriftCounter(self.layout, positions, store, metrics, clock, writer, settings)
        self._leader = DriftLeader(self.layout, store, metrics, clock, holder, settings)
        self.add = self._counter.add
        self._task: asyncio.Task[None] | None = None

    def start(self, revision: Callable[[], int]) -> None:
        """Start writing counts and judging them. `revision` gives the plan's revision, for events."""
        self._task = asyncio.get_running_loop().create_task(self._run(revision))

    async def close(self) -> None:
        """Stop, and write the remaining counts."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(StoreError):
            await asyncio.to_thread(self._counter.flush)

    def shown(self) -> Drift:
        """The document of `GET /rollout/drift`, from what the leader has stored. Blocks."""
        notes = ["estimates come from the models' own probabilities: they are no evidence, and no decision uses them"]
        if not self.layout.watched:
            notes = ["no card has a reference profile: `understudy profile` makes one from training data"]
        state = cast("DriftState | None", self._store.load_state(STATE))
        if state is None:
            return Drift(window=None, alarms=[], features=[], estimates={}, notes=notes)
        return Drift(
            window=state["window"],
            alarms=state["alarms"],
            features=state["readings"],
            estimates=state["estimates"],
            notes=notes,
        )

    async def _run(self, revision: Callable[[], int]) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await asyncio.to_thread(self._counter.flush)
                await asyncio.to_thread(self._leader.look, revision())
            except NotAllowedNow:
                continue
            except StoreError:  # tried again when the store is available
                self._metrics.store_errors.labels(call="drift").inc()
            except Exception:
                log.exception(
                    "drift could not be checked because of a bug: please report it; nothing else depends on it"
                )
