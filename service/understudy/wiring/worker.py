"""The parts of a worker, a process that answers requests."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from understudy import loading
from understudy.domain import Event, Fate, LabelReceipt, LabelReport, Plan, Variant
from understudy.errors import NotAllowedNow, StoreError
from understudy.http.auth import Tokens
from understudy.inference import Engine, Scores
from understudy.inference.batching import LocalModel
from understudy.inference.cards import Card
from understudy.inference.columns import WithoutArrays
from understudy.inference.decoding import Batch
from understudy.inference.onnx import OnnxEngine
from understudy.inference.remote import RemoteEngine, RemoteModel
from understudy.inference.sized import local_model
from understudy.inference.sizes import elements_of_arrays
from understudy.inference.spread_model import SpreadModel
from understudy.loading.changed_files import start_files
from understudy.records.client import RecordsClient, RecordsUnavailable
from understudy.records.label_queue import LabelQueue
from understudy.records.recorder import Recorder
from understudy.runtime.memory import give_back_rest
from understudy.serving.offload import Offload
from understudy.serving.pipeline import Pipeline, PipelineParts
from understudy.serving.plan import Control
from understudy.serving.shadow import Rehearsal, rehearse_here
from understudy.serving.slots import ModelSlots, Promotion, Released
from understudy.settings import Settings
from understudy.wiring.parts import ProcessParts

log = structlog.get_logger(__name__)

CLOSE_GRACE_S = 1.0
"""How long rehearsals may continue when the service stops. The candidate's process is being stopped at the same time."""


class Worker(ProcessParts):
    """The parts of a worker."""

    def __init__(self, settings: Settings, *, candidate_url: str | None = None, records_url: str | None = None) -> None:
        super().__init__(settings)
        policy = self.policy
        self.tokens = Tokens(settings.tokens_file)
        engine = self._load(Variant.PRIMARY)
        self._records = RecordsClient(records_url) if records_url is not None else None
        self._batches = 0  # of labels
        self.files = start_files(policy, settings, self.cards)
        self._labels = LabelQueue(self._write_labels, waiting_max=settings.queue_max_labels)
        self.recorder = Recorder(
            self.id_prefix,
            self.writer.write,
            settings,
            [field.name for field in self.fields],
            keep=WithoutArrays(self.fields, self.decoder.positions),
            ship=self._records.write if self._records is not None else None,
        )
        deadline_s = policy.goals.latency.deadline_ms / 1000
        self._candidate_timeout_s = deadline_s * settings.candidate_timeout_share
        self._background: set[asyncio.Task[None]] = set()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="infer")
        self.offload = Offload(settings.large_from_bytes, settings.large_queue_max_bytes)
        self.slots = ModelSlots(self._local_model(Variant.PRIMARY, engine))
        self.rehearsals = {Variant.PRIMARY: self._rehearsal(Variant.PRIMARY, self._rehearse_primary)}
        if candidate_url is not None:
            self._connect_candidate(self.cards[Variant.CANDIDATE], candidate_url)
        self.control = Control(
            policy,
            self.cards,
            self.store,
            self.metrics,
            self.clock,
            self._plan_at_start(),
            self.requirements,
            begin=self._first_plan,
        )
        self.promotion = Promotion(
            self.slots, self._load, self._local_model, self.rehearsals[Variant.PRIMARY].drained, self.spawn
        )
        self.control.prepare, self.control.on_plan = self.promotion.prepare, self.promotion.follow
        self.control.primary_up = lambda: not self.promotion.released
        self.pipeline = Pipeline(
            PipelineParts(
                clock=self.clock,
                decoder=self.decoder,
                tokens=self.tokens,
                time_limits=settings.time_limits(),
                route_by=policy.route_by,
                id_prefix=self.id_prefix,
                deadline_s=deadline_s,
                candidate_timeout_s=self._candidate_timeout_s,
                control=self.control,
                recorder=self.recorder,
                slots=self.slots,
                rehearsals=self.rehearsals,
            )
        )

    async def start(self) -> None:
        """Start recording, and polling the store's plan."""
        self.recorder.start()
        self._files_task = asyncio.get_running_loop().create_task(self._look())
        self.control.start(self.settings.plan_poll_ms / 1000, self.settings.plan_stale_s)

    async def close(self) -> None:
        """Finish rehearsals and records, then close everything."""
        self._files_task.cancel()
        await self.control.close()
        for rehearsal in self.rehearsals.values():
            await rehearsal.close(CLOSE_GRACE_S)
        await self.recorder.close()
        await self.watch.close()
        if self._records is not None:
            self._records.close()
        if self.slots.remote is not None:
            await self.slots.remote.close()
        local = [m for m in (self.slots.primary, self.slots.candidate) if isinstance(m, LocalModel)]
        for model in local:
            model.stop()
        self._executor.shutdown(wait=True)
        self.offload.close()
        for model in local:
            model.engine.close()
        self.store.close()

    async def _look(self) -> None:
        """Watch what may change while the service runs: its files, its store, its candidate."""
        while True:
            self.metrics.store_lost.set(self.store_lost() is not None)
            if self.slots.remote is not None:
                await self.slots.remote.check()
            for role, changed in (await asyncio.to_thread(self.files.look_and_log)).items():
                self.metrics.file_changed.labels(file=role).set(changed)
            await asyncio.to_thread(give_back_rest)
            await asyncio.sleep(self.settings.files_interval_s)

    async def labels(self, reports: Sequence[LabelReport]) -> LabelReceipt:
        """Store labels; when this returns they survive `kill -9`."""
        await self.recorder.stored(reports)
        return await self._labels.add(reports)

    async def _write_labels(self, reports: Sequence[LabelReport]) -> Sequence[Fate]:
        """Write labels in the records process, or here if it is down. The batch's id prevents writing them twice."""
        self._batches += 1
        batch_id, again = f"{self.id_prefix}-{self._batches}", False
        if self._records is not None:
            with contextlib.suppress(RecordsUnavailable):
                return await self._records.labels(reports, batch_id)
            again = True
        return (await asyncio.to_thread(self.writer.labels, reports, self.clock.now, batch_id, again=again)).fates

    def _load(self, variant: Variant) -> OnnxEngine:
        """Load a variant's model: the bytes that were checked at the start, even if the file has changed since."""
        source = self.policy.primary if variant is Variant.PRIMARY else self.policy.candidate
        assert source is not None
        return loading.open_engine(
            source, self.settings, self.policy, expected=self.cards[variant].digest, variant=variant
        )

    def _local_model(self, variant: Variant, engine: Engine) -> LocalModel:
        return local_model(
            engine,
            loading.inputs_of(engine.card, self.decoder.positions),
            self._executor,
            inline_max_s=self.settings.inline_max_ms / 1000,
            deadline_s=self.policy.goals.latency.deadline_ms / 1000,
            **self._limits(variant),
        )

    def _connect_candidate(self, card: Card, url: str) -> None:
        settings = self.settings
        remote = RemoteEngine(
            url,
            connections_max=settings.candidate_connections_max,
            breaker_failures=settings.breaker_failures,
            probe_interval_s=settings.probe_interval_ms / 1000,
            digest=card.digest,
        )
        remote.on_change = lambda up: self.metrics.candidate_up.set(1.0 if up else 0.0)
        remote.start()
        limits = self._limits(Variant.CANDIDATE)
        remote.on_retry = limits["on_retry"]
        model = RemoteModel(remote, loading.inputs_of(card, self.decoder.positions), self.readers[Variant.CANDIDATE])
        timeout_s = settings.shadow_timeout_ms / 1000
        self.slots.remote = remote
        self.slots.candidate = SpreadModel(
            lambda requests: model.infer(requests, self._candidate_timeout_s),
            self.spawn,
            **limits,
        )
        self.rehearsals[Variant.CANDIDATE] = self._rehearsal(
            Variant.CANDIDATE, lambda requests: model.rehearse(requests, timeout_s)
        )

    def _rehearsal(self, variant: Variant, infer: Any) -> Rehearsal:
        settings = self.settings
        return Rehearsal(
            variant,
            infer,
            self.recorder,
            queue_max_rows=settings.shadow_queue_max_rows,
            batch_max_rows=settings.shadow_batch_max_rows,
            gather_s=settings.shadow_gather_ms / 1000,
            queue_max_elements=settings.shadow_queue_max_elements,
            elements_of=elements_of_arrays(self.fields, self.decoder.positions),
            timeout_s=settings.shadow_timeout_ms / 1000 * 2 + 1,  # waiting for the process, then for its answer
        )

    def _limits(self, variant: Variant) -> dict[str, Any]:
        return {
            "max_rows": self.settings.batch_max_rows,
            "queue_max_rows": self.settings.queue_max_rows,
            "max_delay_s": self.settings.batch_max_delay_ms / 1000,
            "on_batch": self.recorder.batch_sizes[variant].append,
            "on_retry": self.metrics.batch_retries.labels(variant=variant.value).inc,
        }

    async def _rehearse_primary(self, requests: Sequence[Batch]) -> Sequence[Scores | Exception]:
        primary = self.slots.primary
        if isinstance(primary, Released):
            raise primary.refusal()
        return await rehearse_here(primary, requests)

    def _plan_at_start(self) -> Plan | None:
        try:
            return self.store.load_plan() or self._first_plan()
        except StoreError:
            return None  # the store is unavailable

    def _first_plan(self) -> Plan | None:
        plan = dataclasses.replace(self.policy.first_plan(self.rollout), updated_at=self.clock.now())
        event = Event(
            self.clock.now(),
            "started",
            "service",
            "a new rollout: these models and goals were not seen before",
            0,
            {
                "phase": plan.phase.value,
                "weight": plan.weight / 100,
                "policy": self.policy.model_dump(mode="json"),
                "primary": self.cards[Variant.PRIMARY].digest,
                "candidate": card.digest if (card := self.cards.get(Variant.CANDIDATE)) else None,
            },
        )
        try:
            return self.store.save_plan(plan, event, expected_revision=0)
        except NotAllowedNow:  # another worker was first
            return self.store.load_plan()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as a task, and keep a reference to it: the event loop has only a weak one."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
