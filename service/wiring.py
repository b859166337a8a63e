"""The one place that chooses concrete parts and puts them together."""

import asyncio
import dataclasses
import os
import secrets
import shutil
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from service import floor, losses, machine, webhooks
from service.auth import Tokens
from service.clock import SystemClock
from service.control import Control
from service.domain import Event, Outcome, Variant
from service.engine import Engine, Reading, Scores
from service.engine.batching import LocalModel, SpreadModel
from service.engine.catalog import Card
from service.engine.onnx import OnnxEngine, cpu_quota, resolve
from service.engine.remote import RemoteEngine
from service.errors import ConfigurationError, NotAllowedNow
from service.inputs import Batch, Columns, Decoder, Field, Rows
from service.metrics import Metrics
from service.pairs import Pairs, tolerances
from service.promotion import Promotion, Released
from service.record import Recorder
from service.rollout import policy as rollout_file
from service.rollout.controller import Controller
from service.rollout.identity import identity
from service.rollout.policy import Policy
from service.rollout.requirements import Requirements
from service.rollout.scoring import Model
from service.settings import Settings
from service.shadow import Rehearsal
from service.store import Retention, RolloutRecord, Store, records
from service.store.sql import SqlStore
from service.watch import Watch


def load_policy(settings: Settings) -> Policy:
    """The rollout file.

    Raises:
        ConfigurationError: when it is missing or does not fit its schema.
    """
    path = rollout_path(settings)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"the rollout file {path} cannot be read ({error.strerror}); name one with UNDERSTUDY_ROLLOUT_FILE, or make "
            "one with `understudy init POC.onnx CANDIDATE.onnx`"
        ) from error
    policy = rollout_file.parse(text, str(path))
    found = {name: _placed(getattr(policy, name), path.parent) for name in ("primary", "candidate")}
    return policy.model_copy(update=found)


def rollout_path(settings: Settings) -> Path:
    """The rollout file: as named, or, for a Bento that is served from any folder, beside the package it was built with."""
    path = settings.rollout_file
    beside = Path(__file__).parents[1] / path
    return beside if not path.is_absolute() and not path.exists() and beside.exists() else path


def _placed(source: str | None, folder: Path) -> str | None:
    """A model's path: relative to the working folder, or else to the rollout file's."""
    if source is None or source.startswith("bentoml:") or Path(source).exists():
        return source
    return str(folder / source) if (folder / source).exists() else source


def run_dir(settings: Settings) -> Path:
    """The folder of one running service: metrics files and readiness marks. Named after its supervisor's process."""
    supervisor = os.getppid() if "BENTOML_RUNNER_MAP" in os.environ else os.getpid()
    return settings.state_dir.absolute() / "run" / str(supervisor)


def private_metrics_dir(settings: Settings) -> None:
    """Let this service's workers keep their metrics files in its own folder, in the supervisor, before workers start.

    BentoML's default is one folder per user, which each start wipes: a second service on the machine would take the
    first one's metrics away.
    """
    from bentoml._internal.configuration.containers import BentoMLContainer  # noqa: PLC0415

    root = settings.state_dir.absolute() / "run"
    for left in root.glob("*") if root.is_dir() else ():
        if left.name.isdigit() and not Path(f"/proc/{left.name}").exists():
            shutil.rmtree(left, ignore_errors=True)
    BentoMLContainer.prometheus_multiproc_dir.set(str(run_dir(settings) / "metrics"))


def fields_of(primary: Card, candidate: Card | None) -> list[Field]:
    """The fields of a request row: what the primary reads, then what only the candidate reads (which may be left out).

    Raises:
        ConfigurationError: when the two disagree on the kind of a field that both read.
    """
    fields = {spec.name: Field(spec.name, spec.dtype, tuple(spec.shape[1:]), spec.nullable) for spec in primary.inputs}
    for spec in candidate.inputs if candidate else ():
        known = fields.get(spec.name)
        if known is None:
            fields[spec.name] = Field(spec.name, spec.dtype, tuple(spec.shape[1:]), spec.nullable, required=False)
        elif (known.dtype == "string") != (spec.dtype == "string"):
            raise ConfigurationError(f"primary and candidate disagree on {spec.name}: {known.dtype} and {spec.dtype}")
    return list(fields.values())


def inputs_of(card: Card, positions: Mapping[str, int]) -> Columns:
    """Builds a model's own columns from the rows of a request."""
    return Columns([Field(s.name, s.dtype, tuple(s.shape[1:]), s.nullable) for s in card.inputs], positions)


def thread_count(settings: Settings, policy: Policy) -> int:
    """ONNX Runtime threads per process: the CPU quota divided among the processes that run models, at least one."""
    processes = (settings.workers or policy.workers) + (1 if policy.candidate else 0)
    return settings.threads or max(1, int(cpu_quota()) // processes)


def open_engine(source: str, settings: Settings, policy: Policy) -> OnnxEngine:
    """A warmed engine for one of the rollout file's models."""
    return OnnxEngine(
        source, device=policy.device, threads=thread_count(settings, policy), warm_max_rows=settings.batch_max_rows
    )


def preflight(settings: Settings) -> list[str]:
    """Load, warm and compare what would be served; returns what is worth saying about it.

    Raises:
        ConfigurationError: the first thing that keeps the service from starting.
    """
    policy = load_policy(settings)
    said = [f"rollout file {settings.rollout_file}: {policy.model}, {policy.task}, {len(policy.steps)} steps"]
    cards: list[Card] = []
    for source in [policy.primary] + ([policy.candidate] if policy.candidate else []):
        engine = open_engine(source, settings, policy)
        cards.append(engine.card)
        said.append(
            f"{source}: {engine.card.name} {engine.card.version} on {engine.device}, one row in "
            f"{engine.seconds(1) * 1000:.3f} ms, {engine.card.digest[:19]}…"
        )
        if policy.task != "other" and engine.card.task not in {policy.task, "other"}:
            raise ConfigurationError(f"{source} is a {engine.card.task} model; the rollout file says {policy.task}")
        engine.close()
    tolerances(policy, cards)
    fields = fields_of(cards[0], cards[1] if len(cards) > 1 else None)
    said.append(f"a row has {len(fields)} fields: {', '.join(field.name for field in fields)}")
    Tokens(settings.tokens_file)
    if urls := webhooks.read_urls(settings.webhook_urls):
        webhooks.read_secrets(settings.webhook_secret_file)
        said.append(f"events go to {', '.join(webhooks.receiver(url) for url in urls)}")
    return said


log = structlog.get_logger(__name__)

CLOSE_GRACE_S = 1.0
"""How long rehearsals may go on when the service stops; the candidate's process is being stopped at the same time."""


def read_cards(policy: Policy) -> dict[Variant, Card]:
    """The cards of the rollout file's models.

    Raises:
        ConfigurationError: when a model cannot be read.
    """
    primary = {Variant.PRIMARY: _card_of(policy.primary)}
    return primary | ({Variant.CANDIDATE: _card_of(policy.candidate)} if policy.candidate else {})


def rollout_key(policy: Policy, cards: Mapping[Variant, Card]) -> str:
    """What the evidence on these models under this policy is kept under."""
    candidate = cards.get(Variant.CANDIDATE)
    return policy.key(cards[Variant.PRIMARY].digest, candidate.digest if candidate else None)


def stored_rollouts(settings: Settings) -> Sequence[RolloutRecord]:
    """What the store holds, looked at without adding to it.

    Raises:
        StoreError: when it cannot be read.
    """
    return records.read_from(settings.resolved_store_url())


def open_rollout(settings: Settings, rollout: str) -> Store:
    """The store of a rollout that is in it, to look at its past without serving it."""
    return SqlStore(settings.resolved_store_url(), rollout, lambda outcome: {})


class Worker:
    """What one answering process is made of."""

    def __init__(self, settings: Settings, *, candidate_url: str | None = None) -> None:
        self.settings, self.policy, self.clock = settings, load_policy(settings), SystemClock()
        policy = self.policy
        self.tokens = Tokens(settings.tokens_file)
        engine = open_engine(policy.primary, settings, policy)
        candidate_card = _card_of(policy.candidate) if policy.candidate else None
        self.cards = {Variant.PRIMARY: engine.card} | ({Variant.CANDIDATE: candidate_card} if candidate_card else {})
        self.fields = fields_of(engine.card, candidate_card)
        self.decoder = Decoder(
            self.fields, context=[name for name in (policy.route_by, policy.unit) if name],
            rows_max=settings.rows_max, key_max_chars=settings.key_max_chars,
        )  # fmt: skip
        self.metrics = Metrics()
        self.readings = {variant: Reading(card) for variant, card in self.cards.items()}
        self.store = self._open_store()
        # Ids sort by worker start and then by arrival, and no two workers ever share a prefix.
        self.id_prefix = f"{int(time.time() * 1000):011x}{secrets.token_hex(4)}"
        self.next_id = 0
        self.watch = Watch(
            self.cards, self.decoder.positions, self.store, self.metrics, self.clock, self.id_prefix, settings
        )
        self.recorder = Recorder(
            policy.model, self.id_prefix, self.store, self.metrics, self.readings, self._units_of, settings,
            [field.name for field in self.fields], salt=int(self.rollout, 16),
            pairs=Pairs(
                self.readings, tolerances(policy, self.cards.values()), floor.read(settings.state_dir, engine.card.digest)
            ),
            watch=self.watch.add,
        )  # fmt: skip
        self.body_limits: dict[str, Any] = {"max_bytes": settings.body_max_bytes, "timeout_s": settings.body_timeout_s}
        self.deadline_s = policy.goals.latency.deadline_ms / 1000
        self.candidate_timeout_s = self.deadline_s * settings.candidate_timeout_share
        self._background: set[asyncio.Task[None]] = set()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="infer")
        self.primary: LocalModel | Released = self._seat(Variant.PRIMARY, engine)
        self.remote: RemoteEngine | None = None
        self.candidate: SpreadModel | LocalModel | None = None
        self.rehearsals: dict[Variant, Rehearsal] = {
            Variant.PRIMARY: self._rehearsal(Variant.PRIMARY, lambda rows: self.primary.infer(rows))
        }
        if candidate_card is not None and candidate_url is not None:
            self._connect_candidate(candidate_card, candidate_url)
        plan = self.store.load_plan()
        judged = {variant: Model(card.classes, card.positive) for variant, card in self.cards.items()}
        setup = machine.setup_of(settings, policy, self.cards, engine.device, thread_count(settings, policy))
        self.requirements = Requirements(policy, setup, self.store)
        controller = Controller(
            policy,
            judged,
            self.store,
            self.clock,
            self.id_prefix,
            lease_s=settings.lease_s,
            requirements=self.requirements,
        )
        self.control = Control(
            policy, self.cards, self.store, self.metrics, self.clock, plan or self._first_plan(), controller,
            self.requirements,
        )  # fmt: skip
        self.promotion = Promotion(self, self._load, self._seat, self.rehearsals[Variant.PRIMARY].drained, self._spawn)
        self.control.prepare, self.control.on_plan = self.promotion.prepare, self.promotion.follow
        self.control.primary_up = lambda: not self.promotion.released
        urls = webhooks.read_urls(settings.webhook_urls)
        self.webhooks = webhooks.Webhooks(
            urls, webhooks.read_secrets(settings.webhook_secret_file) if urls else [], self.store, self.metrics, self.clock,
            settings, model=policy.model, rollout=self.rollout, holder=self.id_prefix,
        )  # fmt: skip

    async def start(self) -> None:
        """Begin to record and to follow the store's plan."""
        self.recorder.start()
        settings = self.settings
        retention = Retention(settings.retention_days * 86400, settings.retention_max_mib * 2**20)
        self.control.start(
            settings.plan_poll_ms / 1000, self.recorder, settings.sweep_interval_s, retention, settings.tick_ms / 1000,
            lambda: self.remote is not None and self.remote.up,
        )  # fmt: skip
        self.watch.start(lambda: self.control.plan.revision)
        self.webhooks.start()

    async def close(self) -> None:
        """Finish rehearsals and records, then let go of everything."""
        await self.webhooks.close()
        await self.control.close()
        for rehearsal in self.rehearsals.values():
            await rehearsal.close(CLOSE_GRACE_S)
        await self.recorder.close()
        await self.watch.close()
        if self.remote is not None:
            await self.remote.close()
        self._executor.shutdown(wait=True)
        for model in (self.primary, self.candidate):
            if isinstance(model, LocalModel):
                model.engine.close()
        self.store.close()

    def _load(self, variant: Variant) -> Engine:
        source = self.policy.primary if variant is Variant.PRIMARY else self.policy.candidate
        assert source is not None
        return open_engine(source, self.settings, self.policy)

    def _seat(self, variant: Variant, engine: Engine) -> LocalModel:
        return LocalModel(
            engine, inputs_of(engine.card, self.decoder.positions), self._executor,
            inline_max_s=self.settings.inline_max_ms / 1000, **self._limits(variant),
        )  # fmt: skip

    def _connect_candidate(self, card: Card, url: str) -> None:
        settings = self.settings
        remote = RemoteEngine(
            url, connections_max=settings.candidate_connections_max, breaker_failures=settings.breaker_failures,
            probe_interval_s=settings.probe_interval_ms / 1000,
        )  # fmt: skip
        remote.on_change = lambda up: self.metrics.candidate_up.set(1.0 if up else 0.0)
        remote.start()
        columns, reading = inputs_of(card, self.decoder.positions), self.readings[Variant.CANDIDATE]
        shadow_timeout_s = settings.shadow_timeout_ms / 1000

        async def answer(rows: Batch) -> Scores:
            return reading.read(await remote.run(columns.build(rows), self.candidate_timeout_s), len(rows))

        async def rehearse(rows: Batch) -> Scores:
            await remote.wait_until_up(shadow_timeout_s)  # a rehearsal can wait; a caller cannot
            return reading.read(await remote.run(columns.build(rows), shadow_timeout_s), len(rows))

        self.remote = remote
        self.candidate = SpreadModel(answer, self._spawn, **self._limits(Variant.CANDIDATE))
        self.rehearsals[Variant.CANDIDATE] = self._rehearsal(Variant.CANDIDATE, rehearse)

    def _rehearsal(self, variant: Variant, infer: Any) -> Rehearsal:
        settings = self.settings
        return Rehearsal(
            variant, infer, self.recorder, queue_max_rows=settings.shadow_queue_max_rows,
            batch_max_rows=settings.shadow_batch_max_rows,
            timeout_s=settings.shadow_timeout_ms / 1000 * 2 + 1,  # waiting for the process, then for its answer
        )  # fmt: skip

    def _limits(self, variant: Variant) -> dict[str, Any]:
        return {
            "max_rows": self.settings.batch_max_rows,
            "queue_max_rows": self.settings.queue_max_rows,
            "on_batch": self.recorder.batch_sizes[variant].append,
        }

    def _open_store(self) -> Store:
        settings = self.settings
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        classes = {variant: card.classes for variant, card in self.cards.items()}
        positive = {variant: card.positive for variant, card in self.cards.items()}

        def tally(outcome: Outcome) -> Mapping[str, float]:
            return losses.tally(outcome, classes, positive)

        self.rollout = rollout_key(self.policy, self.cards)
        store = SqlStore(
            settings.resolved_store_url(), self.rollout, tally, busy_timeout_s=settings.store_timeout_s,
            connections_max=settings.store_connections_max,
        )  # fmt: skip
        store.keep_identity(identity(self.policy, self.cards))
        return store

    def _first_plan(self) -> Any:
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

    def _units_of(self, rows: Rows) -> Sequence[str | None]:
        return self.decoder.values(rows, self.policy.unit)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _card_of(source: str) -> Card:
    """A model's card without keeping the model: for a bare file the graph is opened and let go again."""
    _, card = resolve(source)
    if card is None:
        engine = OnnxEngine(source, device="cpu", warm_max_rows=1)
        card = engine.card
        engine.close()
    return card
