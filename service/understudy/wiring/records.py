"""The parts of the records process: it writes, judges, sends webhooks and prunes for all workers."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from understudy.domain import Fate, LabelReceipt, Variant
from understudy.inference.remote import RemoteEngine
from understudy.observability import webhooks
from understudy.observability.timeline import Tracer
from understudy.records.client import LabelBatch
from understudy.records.housekeeping import Housekeeping
from understudy.rollout.controller import Controller
from understudy.rollout.scoring import Model
from understudy.settings import Settings
from understudy.store import Retention
from understudy.wiring.parts import ProcessParts, holder


class RecordsParts(ProcessParts):
    """The parts of the records process."""

    def __init__(self, settings: Settings, *, candidate_url: str | None = None) -> None:
        super().__init__(settings)
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="records")
        digest = self.cards[Variant.CANDIDATE].digest if candidate_url is not None else None
        self._remote = RemoteEngine(candidate_url, digest=digest) if candidate_url is not None else None
        controller = None
        if self.policy.candidate is not None:
            judged = {variant: Model(card.classes, card.positive) for variant, card in self.cards.items()}
            controller = Controller(
                self.policy,
                judged,
                self.store,
                self.clock,
                holder(),
                lease_s=settings.lease_s,
                requirements=self.requirements,
            )
        urls = webhooks.read_urls(settings.webhook_urls)
        self.webhooks = webhooks.Webhooks(
            urls,
            webhooks.read_secrets(settings.webhook_secret_file) if urls else [],
            self.store,
            self.metrics,
            self.clock,
            settings,
            model=self.policy.model,
            rollout=self.rollout,
            holder=holder(),
        )
        self.housekeeping = Housekeeping(
            self.store,
            self.metrics,
            self.clock,
            self.writer,
            controller,
            self._candidate_answers,
            Tracer(self.store, self.clock, holder(), settings),
        )

    def start(self) -> None:
        """Start judging, pruning and sending webhooks."""
        settings = self.settings
        retention = Retention(settings.retention_days * 86400, settings.retention_max_mib * 2**20)
        self.housekeeping.start(
            tick_s=settings.tick_ms / 1000,
            sweep_s=settings.sweep_interval_s,
            retention=retention,
            trace_s=settings.traffic_interval_s,
        )
        self.watch.start(self._revision)
        self.webhooks.start()

    async def write(self, packed: bytes) -> None:
        """See `RecordWriter.write`."""
        await asyncio.get_running_loop().run_in_executor(self._write_thread, self.writer.write, packed)

    async def labels(self, batch: LabelBatch) -> Sequence[Fate]:
        """See `RecordWriter.labels`."""
        return (await asyncio.get_running_loop().run_in_executor(self._write_thread, self._labels, batch)).fates

    def _labels(self, batch: LabelBatch) -> LabelReceipt:
        batch.check()  # it may be too old by now: a batch of records before it may have waited for the database
        return self.writer.labels(batch.reports, self.clock.now, batch.batch_id)

    async def close(self) -> None:
        """Stop judging, and close the store."""
        await self.webhooks.close()
        await self.housekeeping.close()
        if self._remote is not None:
            await self._remote.close()
        self._write_thread.shutdown(wait=True)
        await self.watch.close()
        self.store.close()

    def _revision(self) -> int:
        plan = self.store.load_plan()
        return plan.revision if plan is not None else 0

    async def _candidate_answers(self) -> bool:
        return self._remote is not None and await self._remote.answers()
