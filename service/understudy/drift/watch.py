"""Drift, around the pure `understudy.drift`: whoever writes records counts, whoever leads looks. Off the request path.

A `Gatherer` sits where batches of exchanges become records: it adds a batch to the counts of its hour and writes what has changed
to the store every `drift_interval_s`. A crash loses the counts of that long: they are no evidence. The `Lookout` of the process
that leads adds everybody's counts up, looks at each hour once it is over, and keeps alarms and figures in the store, together
with the events that it tells: so an alarm is told once, whoever dies.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import structlog

from understudy.clock import Clock
from understudy.documents import Drift
from understudy.domain import Variant
from understudy.drift.gather import Gatherer, watched_by
from understudy.drift.leader import STATE, Lookout
from understudy.drift.sketch import Layout
from understudy.errors import NotAllowedNow, StoreError
from understudy.inference.cards import Card
from understudy.observability.metrics import Metrics
from understudy.settings import Settings
from understudy.store import Store

__all__ = ["STATE", "DriftMonitor", "Gatherer", "Lookout", "watched_by"]

log = structlog.get_logger(__name__)


class DriftMonitor:
    """A process's part in watching for drift: counts what is recorded, and looks while it leads.

    Args:
        writer: names these counts, which no other process ever does, not even one with the same number after a restart.
        holder: names this process in the rollout's lease, as the controller's does: another name would take turns with it.
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
        self._gatherer = Gatherer(self.layout, positions, store, metrics, clock, writer, settings)
        self._lookout = Lookout(self.layout, store, metrics, clock, holder, settings)
        self.add = self._gatherer.add
        self._task: asyncio.Task[None] | None = None

    def start(self, revision: Callable[[], int]) -> None:
        """Begin to write and to look; `revision` is the plan's, for the events."""
        self._task = asyncio.get_running_loop().create_task(self._run(revision))

    async def close(self) -> None:
        """Stop, and write what was counted."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(StoreError):
            await asyncio.to_thread(self._gatherer.flush)

    def shown(self) -> Drift:
        """The document of `GET /rollout/drift`, as the leader kept it last. Blocks."""
        notes = ["estimates are what the models' own probabilities say: no evidence, and nothing is decided by them"]
        if not self.layout.watched:
            notes = ["no card has a reference profile: `understudy profile` makes one from training data"]
        state = self._store.load_state(STATE) or {"window": None, "alarms": [], "readings": [], "estimates": {}}
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
                await asyncio.to_thread(self._gatherer.flush)
                await asyncio.to_thread(self._lookout.look, revision())
            except NotAllowedNow:
                continue
            except StoreError:  # drift is looked at when the store is back
                self._metrics.store_errors.labels(call="drift").inc()
            except Exception:
                log.exception("a bug in drift: please report it; nothing else depends on it")
