"""The parts of an answering process that its handlers use."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from understudy.clock import Clock
from understudy.domain import LabelReceipt, LabelReport, Variant
from understudy.drift.watch import DriftMonitor
from understudy.http.auth import Tokens
from understudy.inference.cards import Card
from understudy.inference.decoding import Decoder, Field
from understudy.loading.changed_files import StartFiles
from understudy.observability.metrics import Metrics
from understudy.records.recorder import Recorder
from understudy.rollout.policy import Policy
from understudy.rollout.requirements import Requirements
from understudy.serving.offload import Offload
from understudy.serving.pipeline import Pipeline
from understudy.serving.plan import Control
from understudy.serving.slots import ModelSlots
from understudy.settings import Settings
from understudy.store import Store
from understudy.wiring.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiParts:
    """The parts of an answering process that its handlers use.

    Attributes:
        add_labels: stores labels; once it returns they survive `kill -9`.
        offload: runs work on large bodies and answers; None does it on the event loop.
        store_lost: why the store is no longer the one that was opened; None while it is.
    """

    settings: Settings
    policy: Policy
    cards: Mapping[Variant, Card]
    fields: Sequence[Field]
    decoder: Decoder
    clock: Clock
    tokens: Tokens
    metrics: Metrics
    recorder: Recorder
    pipeline: Pipeline
    slots: ModelSlots
    control: Control
    requirements: Requirements
    store: Store
    store_lost: Callable[[], str | None]
    watch: DriftMonitor
    files: StartFiles
    add_labels: Callable[[Sequence[LabelReport]], Awaitable[LabelReceipt]]
    offload: Offload | None = None

    @classmethod
    def of(cls, worker: Worker) -> "ApiParts":
        """The parts of this worker."""
        return cls(
            settings=worker.settings,
            policy=worker.policy,
            cards=worker.cards,
            fields=worker.fields,
            decoder=worker.decoder,
            clock=worker.clock,
            tokens=worker.tokens,
            metrics=worker.metrics,
            recorder=worker.recorder,
            pipeline=worker.pipeline,
            slots=worker.slots,
            control=worker.control,
            requirements=worker.requirements,
            store=worker.store,
            store_lost=worker.store_lost,
            watch=worker.watch,
            files=worker.files,
            add_labels=worker.labels,
            offload=worker.offload,
        )

    @property
    def body_limits(self) -> "BodyLimits":
        """The limits of a request's body, as `read_body` takes them."""
        return {"max_bytes": self.settings.body_max_bytes, "timeout_s": self.settings.body_timeout_s}


class BodyLimits(TypedDict):
    """Limits of a request's body: size in bytes, and seconds until it is complete."""

    max_bytes: int
    timeout_s: float
