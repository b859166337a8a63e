"""The one place that chooses concrete parts and puts them together."""

import asyncio
import contextlib
import dataclasses
import os
import secrets
import socket
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from understudy import loading
from understudy.clock import SystemClock
from understudy.domain import Event, Fate, LabelReceipt, LabelReport, Plan, Variant
from understudy.drift.watch import Watch
from understudy.errors import NotAllowedNow, StoreError
from understudy.http.auth import Tokens
from understudy.inference import Engine, Reading, Scores
from understudy.inference.batching import LocalModel, SpreadModel
from understudy.inference.cards import Card
from understudy.inference.columns import WithoutArrays
from understudy.inference.decoding import Batch, Decoder, Rows
from understudy.inference.onnx import OnnxEngine, device_of
from understudy.inference.remote import RemoteEngine, RemoteModel
from understudy.loading.changed_files import start_files
from understudy.loading.store import open_store
from understudy.observability import host, webhooks
from understudy.observability.metrics import Metrics
from understudy.observability.timeline import Tracer
from understudy.records.client import LabelBatch, RecordsAway, RecordsRoad
from understudy.records.housekeeping import Upkeep
from understudy.records.label_queue import LabelQueue
from understudy.records.pairs import Pairs, judged_by_agreement, tolerances
from understudy.records.recorder import Recorder
from understudy.records.writer import Ledger
from understudy.rollout import losses
from understudy.rollout.controller import Controller
from understudy.rollout.identity import identity
from understudy.rollout.requirements import Requirements
from understudy.rollout.scoring import Model
from understudy.serving import noise_floor
from understudy.serving.pipeline import Pipeline, PipelineParts
from understudy.serving.plan import Control
from understudy.serving.shadow import Rehearsal, rehearse_here
from understudy.serving.slots import ModelSlots, Promotion, Released
from understudy.settings import Settings
from understudy.store import Retention, RolloutRecord, Store, Tally, records
from understudy.store.sql import SqlStore

log = structlog.get_logger(__name__)

CLOSE_GRACE_S = 1.0
"""How long rehearsals may go on when the service stops; the candidate's process is being stopped at the same time."""


def stored_rollouts(settings: Settings) -> Sequence[RolloutRecord]:
    """What the store holds, looked at without adding to it.

    Raises:
        StoreError: when it cannot be read.
    """
    return records.read_from(settings.resolved_store_url())


def open_rollout(settings: Settings, rollout: str) -> Store:
    """The store of a rollout that is in it, to look at its past without serving it."""
    return SqlStore(settings.resolved_store_url(), rollout, lambda outcome: {})


def holder() -> str:
    """What this process calls itself as a leader: who reads the lease finds it."""
    return f"{socket.gethostname()}:{os.getpid()}"


class ProcessParts:
    """What every process that reads the rollout file has: the models' cards, the fields, the metrics, the store, a ledger."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.policy, self.clock = settings, loading.load_policy(settings), SystemClock()
        policy = self.policy
        self.cards = loading.read_cards(policy, settings)
        self.fields = loading.fields_of(self.cards[Variant.PRIMARY], self.cards.get(Variant.CANDIDATE))
        loading.check_keys(policy, self.fields)
        self.decoder = Decoder(
            self.fields, context=[name for name in (policy.route_by, policy.unit) if name],
            rows_max=settings.rows_max, key_max_chars=settings.key_max_chars,
        )  # fmt: skip
        self.metrics = Metrics()
        self.readings = {variant: Reading(card) for variant, card in self.cards.items()}
        # Ids sort by the start of their process and then by arrival, and no two processes ever share a prefix.
        self.id_prefix = f"{int(time.time() * 1000):011x}{secrets.token_hex(4)}"
        self.rollout = loading.rollout_key(policy, self.cards)
        self.store, self.store_lost = open_store(
            settings,
            self.rollout,
            self._tally(),
            identity(policy, self.cards),
            self.id_prefix,
            self.metrics.store_spooled.set,
        )
        setup = host.setup_of(
            settings, policy, self.cards, device_of(policy.device), loading.thread_count(settings, policy)
        )
        self.requirements = Requirements(policy, setup, self.store)
        self.watch = Watch(
            self.cards, self.decoder.positions, self.store, self.metrics, self.clock, self.id_prefix, holder(), settings
        )
        noise = noise_floor.read(settings.state_dir, self.cards[Variant.PRIMARY].digest)
        self.ledger = Ledger(
            policy.model, self.store, self.metrics, self.readings, self._units_of, salt=int(self.rollout, 16),
            pairs=Pairs(
                self.readings, tolerances(policy, self.cards.values()), noise, judged=judged_by_agreement(policy)
            ), watch=self.watch.add,
            scale=policy.goals.quality.scale if policy.goals.quality else None,
        )  # fmt: skip

    def _tally(self) -> Tally:
        classes = {variant: card.classes for variant, card in self.cards.items()}
        positive = {variant: card.positive for variant, card in self.cards.items()}
        scale = self.policy.goals.quality.scale if self.policy.goals.quality else None
        return lambda outcome: losses.tally(outcome, classes, positive, scale)

    def _units_of(self, rows: Rows) -> Sequence[str | None]:
        return self.decoder.values(rows, self.policy.unit)


class Records(ProcessParts):
    """What the process that keeps the records is made of: it writes, judges, tells and cleans up for all the workers."""

    def __init__(self, settings: Settings, *, candidate_url: str | None = None) -> None:
        super().__init__(settings)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        digest = self.cards[Variant.CANDIDATE].digest if candidate_url is not None else None
        self._remote = RemoteEngine(candidate_url, digest=digest) if candidate_url is not None else None
        controller = None
        if self.policy.candidate is not None:
            judged = {variant: Model(card.classes, card.positive) for variant, card in self.cards.items()}
            controller = Controller(
                self.policy, judged, self.store, self.clock, holder(), lease_s=settings.lease_s,
                requirements=self.requirements,
            )  # fmt: skip
        urls = webhooks.read_urls(settings.webhook_urls)
        self.webhooks = webhooks.Webhooks(
            urls, webhooks.read_secrets(settings.webhook_secret_file) if urls else [], self.store, self.metrics, self.clock,
            settings, model=self.policy.model, rollout=self.rollout, holder=holder(),
        )  # fmt: skip
        self.upkeep = Upkeep(
            self.store, self.metrics, self.clock, self.ledger, controller, self._candidate_answers,
            Tracer(self.store, self.clock, holder(), settings),
        )  # fmt: skip

    def start(self) -> None:
        """Begin to judge and to clean up."""
        settings = self.settings
        retention = Retention(settings.retention_days * 86400, settings.retention_max_mib * 2**20)
        self.upkeep.start(
            tick_s=settings.tick_ms / 1000, sweep_s=settings.sweep_interval_s, retention=retention,
            trace_s=settings.traffic_interval_s,
        )  # fmt: skip
        self.watch.start(self._revision)
        self.webhooks.start()

    async def write(self, packed: bytes) -> None:
        """See `Ledger.write`."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self.ledger.write, packed)

    async def labels(self, batch: LabelBatch) -> Sequence[Fate]:
        """See `Ledger.labels`."""
        return (await asyncio.get_running_loop().run_in_executor(self._writer, self._labels, batch)).fates

    def _labels(self, batch: LabelBatch) -> LabelReceipt:
        batch.check()  # it may have waited behind a batch of records that waited for the database
        return self.ledger.labels(batch.reports, self.clock.now, batch.batch_id)

    async def close(self) -> None:
        """Stop judging, and let go of the store."""
        await self.webhooks.close()
        await self.upkeep.close()
        if self._remote is not None:
            await self._remote.close()
        self._writer.shutdown(wait=True)
        await self.watch.close()
        self.store.close()

    def _revision(self) -> int:
        plan = self.store.load_plan()
        return plan.revision if plan is not None else 0

    async def _candidate_answers(self) -> bool:
        return self._remote is not None and await self._remote.answers()


class Worker(ProcessParts):
    """What one answering process is made of."""

    def __init__(self, settings: Settings, *, candidate_url: str | None = None, records_url: str | None = None) -> None:
        super().__init__(settings)
        policy = self.policy
        self.tokens = Tokens(settings.tokens_file)
        engine = self._load(Variant.PRIMARY)
        self._records = RecordsRoad(records_url) if records_url is not None else None
        self._batches = 0  # of labels
        self.files = start_files(policy, settings, self.cards)
        self._labels = LabelQueue(self._write_labels, waiting_max=settings.queue_max_labels)
        self.recorder = Recorder(
            self.id_prefix, self.ledger.write, settings, [field.name for field in self.fields],
            keep=WithoutArrays(self.fields, self.decoder.positions),
            ship=self._records.write if self._records is not None else None,
        )  # fmt: skip
        deadline_s = policy.goals.latency.deadline_ms / 1000
        self._candidate_timeout_s = deadline_s * settings.candidate_timeout_share
        self._background: set[asyncio.Task[None]] = set()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="infer")
        self.slots = ModelSlots(self._seat(Variant.PRIMARY, engine))
        self.rehearsals = {Variant.PRIMARY: self._rehearsal(Variant.PRIMARY, self._rehearse_primary)}
        if candidate_url is not None:
            self._connect_candidate(self.cards[Variant.CANDIDATE], candidate_url)
        self.control = Control(
            policy, self.cards, self.store, self.metrics, self.clock, self._plan_at_start(), self.requirements,
            begin=self._first_plan,
        )  # fmt: skip
        self.promotion = Promotion(
            self.slots, self._load, self._seat, self.rehearsals[Variant.PRIMARY].drained, self.spawn
        )
        self.control.prepare, self.control.on_plan = self.promotion.prepare, self.promotion.follow
        self.control.primary_up = lambda: not self.promotion.released
        self.pipeline = Pipeline(PipelineParts(
            clock=self.clock, decoder=self.decoder, tokens=self.tokens, time_limits=settings.time_limits(),
            route_by=policy.route_by, id_prefix=self.id_prefix, deadline_s=deadline_s,
            candidate_timeout_s=self._candidate_timeout_s, control=self.control, recorder=self.recorder, slots=self.slots,
            rehearsals=self.rehearsals,
        ))  # fmt: skip

    async def start(self) -> None:
        """Begin to record and to follow the store's plan."""
        self.recorder.start()
        self._files_task = asyncio.get_running_loop().create_task(self._look())
        self.control.start(self.settings.plan_poll_ms / 1000, self.settings.plan_stale_s)

    async def close(self) -> None:
        """Finish rehearsals and records, then let go of everything."""
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
        self._executor.shutdown(wait=True)
        for model in (self.slots.primary, self.slots.candidate):
            if isinstance(model, LocalModel):
                model.engine.close()
        self.store.close()

    async def _look(self) -> None:
        """Look at what may change under a running service: its files, its store, its candidate."""
        while True:
            self.metrics.store_lost.set(self.store_lost() is not None)
            if self.slots.remote is not None:
                await self.slots.remote.check()
            for role, changed in (await asyncio.to_thread(self.files.look_and_tell)).items():
                self.metrics.file_changed.labels(file=role).set(changed)
            await asyncio.sleep(self.settings.files_interval_s)

    async def labels(self, reports: Sequence[LabelReport]) -> LabelReceipt:
        """Store labels; when this returns they survive `kill -9`."""
        await self.recorder.stored(reports)
        return await self._labels.add(reports)

    async def _write_labels(self, reports: Sequence[LabelReport]) -> Sequence[Fate]:
        """In the records process, and here while that is away: its id tells whether it has written them already."""
        self._batches += 1
        batch_id, again = f"{self.id_prefix}-{self._batches}", False
        if self._records is not None:
            with contextlib.suppress(RecordsAway):
                return await self._records.labels(reports, batch_id)
            again = True
        return (await asyncio.to_thread(self.ledger.labels, reports, self.clock.now, batch_id, again=again)).fates

    def _load(self, variant: Variant) -> OnnxEngine:
        """A variant's model: the one that was checked at the start, whatever is in its place now."""
        source = self.policy.primary if variant is Variant.PRIMARY else self.policy.candidate
        assert source is not None
        return loading.open_engine(source, self.settings, self.policy, expected=self.cards[variant].digest)

    def _seat(self, variant: Variant, engine: Engine) -> LocalModel:
        return LocalModel(
            engine, loading.inputs_of(engine.card, self.decoder.positions), self._executor,
            inline_max_s=self.settings.inline_max_ms / 1000, **self._limits(variant),
        )  # fmt: skip

    def _connect_candidate(self, card: Card, url: str) -> None:
        settings = self.settings
        remote = RemoteEngine(
            url, connections_max=settings.candidate_connections_max, breaker_failures=settings.breaker_failures,
            probe_interval_s=settings.probe_interval_ms / 1000, digest=card.digest,
        )  # fmt: skip
        remote.on_change = lambda up: self.metrics.candidate_up.set(1.0 if up else 0.0)
        remote.start()
        limits = self._limits(Variant.CANDIDATE)
        remote.on_retry = limits["on_retry"]
        model = RemoteModel(remote, loading.inputs_of(card, self.decoder.positions), self.readings[Variant.CANDIDATE])
        timeout_s = settings.shadow_timeout_ms / 1000
        self.slots.remote = remote
        self.slots.candidate = SpreadModel(
            lambda requests: model.infer(requests, self._candidate_timeout_s),
            self.spawn, **limits,
        )  # fmt: skip
        self.rehearsals[Variant.CANDIDATE] = self._rehearsal(
            Variant.CANDIDATE, lambda requests: model.rehearse(requests, timeout_s)
        )

    def _rehearsal(self, variant: Variant, infer: Any) -> Rehearsal:
        settings = self.settings
        return Rehearsal(
            variant, infer, self.recorder, queue_max_rows=settings.shadow_queue_max_rows,
            batch_max_rows=settings.shadow_batch_max_rows, gather_s=settings.shadow_gather_ms / 1000,
            timeout_s=settings.shadow_timeout_ms / 1000 * 2 + 1,  # waiting for the process, then for its answer
        )  # fmt: skip

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
            return None  # the store is away

    def _first_plan(self) -> Plan | None:
        plan = dataclasses.replace(self.policy.first_plan(self.rollout), updated_at=self.clock.now())
        event = Event(
            self.clock.now(), "started", "service", "a new rollout: these models and goals were not seen before", 0,
            {"phase": plan.phase.value, "weight": plan.weight / 100, "policy": self.policy.model_dump(mode="json"),
             "primary": self.cards[Variant.PRIMARY].digest,
             "candidate": card.digest if (card := self.cards.get(Variant.CANDIDATE)) else None},
        )  # fmt: skip
        try:
            return self.store.save_plan(plan, event, expected_revision=0)
        except NotAllowedNow:  # another worker was first
            return self.store.load_plan()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Let it run, and keep it alive: an event loop holds its tasks weakly."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
