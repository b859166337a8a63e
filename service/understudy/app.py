"""The BentoML services: `Understudy` answers, `Candidate` runs the model on trial, `Records` stores and judges.

A BentoML service class may give its own ASGI application; ours puts a front door (`understudy.http.router`) before BentoML's.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from understudy.runtime import gc_freeze  # first: it keeps Python from collecting garbage until all else is imported

# isort: split
import bentoml
import structlog
from _bentoml_sdk import Service

from understudy import loading
from understudy.domain import Fate
from understudy.errors import ConfigurationError, MalformedRequest, NotReady, UnderstudyError
from understudy.http import connection
from understudy.http.asgi import Receive, Routes, Scope, Send, answer, header, read_body
from understudy.http.router import FrontDoor
from understudy.inference import wire
from understudy.inference.calls import Calls
from understudy.records.client import LabelBatch, pack_fates, unpack_labels
from understudy.runtime import supervisor
from understudy.settings import read_settings

log = structlog.get_logger(__name__)
try:
    settings = read_settings()
    policy = loading.start_policy(settings)
except ConfigurationError as bad:
    raise SystemExit(f"understudy does not start: {bad.detail}") from None
loading.private_metrics_dir(settings)


SWITCH_INTERVAL_S = 0.0005
DIGEST_HEADER = wire.DIGEST_HEADER.lower().encode()
BATCH_MAX_BYTES = 2**30
"""Batches are bounded where they are made: `flush_max_rows`, `batch_max_rows`, `shadow_batch_max_rows`; a request by `rows_max`."""
OUTLIVES_S = 3.0
"""How much longer than the processes that answer, when they drain, those live that they ask."""


class CandidateDoor:
    """The candidate's process: columns in, arrays out, over its own socket."""

    def __init__(self) -> None:
        self._calls: Calls | None = None
        self._why = "the candidate is still loading"

    def load(self) -> None:
        """Load and warm the model. A model that does not load leaves a process that says why."""
        try:
            self._calls = Calls(loading.open_candidate(settings, policy))
        except UnderstudyError as error:
            self._why = error.detail
            log.error("the candidate does not load", reason=error.detail)

    def routes(self, draining: Callable[[], bool]) -> Routes:
        """Path → method → handler."""
        self._draining = draining
        return {"/infer": {"POST": self.infer}, "/probe": {"POST": self.probe}, "/readyz": {"GET": self.ready}}

    async def infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the model on the packed rows of several requests."""
        body = await read_body(scope, receive, max_bytes=BATCH_MAX_BYTES, timeout_s=settings.body_timeout_s)
        calls = self._ready(scope)
        try:
            columns, sizes = wire.unpack_call(body)
        except ValueError as error:
            raise MalformedRequest(str(error)) from error
        if calls.seconds(sizes) > settings.inline_max_ms / 1000:
            reply = await asyncio.to_thread(calls.run, columns, sizes)
        else:
            reply = calls.run(columns, sizes)
        await answer(send, 200, reply, content_type=wire.MEDIA_TYPE.encode())

    async def probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say whether the model can be asked."""
        await read_body(scope, receive, max_bytes=1024, timeout_s=settings.body_timeout_s)
        self._ready(scope)
        await answer(send, 200, b"{}")

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say whether new connections should come here: asked where the candidate is served alone."""
        self._ready(scope)
        if self._draining():
            raise NotReady("it is being stopped")
        await answer(send, 200, b"\n", content_type=b"text/plain; charset=utf-8")

    def _ready(self, scope: Scope) -> Calls:
        if self._calls is None:
            raise NotReady(self._why)
        wanted, found = header(scope, DIGEST_HEADER), self._calls.engine.card.digest
        if wanted is not None and wanted != found:
            raise NotReady(
                f"it has the model {found}, and the service asks for {wanted}: start both with the same model"
            )
        return self._calls


class RecordWriter(Protocol):
    """What the records process is asked for: see `understudy.wiring.RecordsParts`."""

    async def write(self, packed: bytes) -> None:
        """Write a batch."""

    async def labels(self, batch: LabelBatch) -> Sequence[Fate]:
        """Write labels."""


class RecordsDoor:
    """The records process: batches of what has happened, and labels, over its own socket."""

    def __init__(self, records: RecordWriter) -> None:
        self._records = records

    def routes(self) -> Routes:
        """Path → method → handler."""
        return {"/batch": {"POST": self.batch}, "/labels": {"POST": self.labels}}

    async def batch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write a batch; the answer says that it is written."""
        body = await read_body(scope, receive, max_bytes=BATCH_MAX_BYTES, timeout_s=settings.body_timeout_s)
        try:
            await self._records.write(body)
        except ValueError as error:
            raise MalformedRequest(str(error)) from error
        await answer(send, 200, b"{}")

    async def labels(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write labels; the answer says what became of each."""
        body = await read_body(scope, receive, max_bytes=BATCH_MAX_BYTES, timeout_s=settings.body_timeout_s)
        try:
            fates = await self._records.labels(unpack_labels(body))
        except ValueError as error:
            raise MalformedRequest(str(error)) from error
        await answer(send, 200, pack_fates(fates), content_type=wire.MEDIA_TYPE.encode())


class FrontDoorService(Service[Any]):
    """A BentoML service whose application stands behind a front door."""

    door: FrontDoor

    def to_asgi(self, is_main: bool = True) -> Any:
        """See `Service.to_asgi`."""
        connection.install()
        self.door = FrontDoor(super().to_asgi(is_main))
        return self.door


def drain_first(door: FrontDoor, *, then_s: float = 0.0, begun: Callable[[], None] = lambda: None) -> None:
    """On SIGTERM go on answering for `drain_s`, and for `then_s` more, before the server stops as it does.

    Whoever sends requests has time to hear that this process is not ready any more.
    """
    if not settings.drain_s:
        return
    loop = asyncio.get_running_loop()
    stop: Any = signal.getsignal(signal.SIGTERM)

    def drain() -> None:
        if not door.draining:
            log.info("draining", seconds=settings.drain_s)
            door.drain()
            begun()
            loop.call_later(settings.drain_s + then_s, stop, signal.SIGTERM, None)

    loop.add_signal_handler(signal.SIGTERM, drain)


@bentoml.service(
    service_class=FrontDoorService, workers=1, metrics={"enabled": True}, logging={"access": {"enabled": False}}
)
class Candidate:
    """Runs the model on trial, in a process of its own, so that it can crash, hang or leak by itself."""

    @bentoml.on_deployment
    @staticmethod
    def supervised() -> None:
        """Once, in the supervisor, also where the candidate is served alone."""
        supervisor.install()
        with contextlib.suppress(UnderstudyError):  # its process says why it does not load
            loading.hand_on_candidate(settings, policy)

    @bentoml.on_startup
    async def load(self) -> None:
        """Load and warm the model before the socket is listened to."""
        door = CandidateDoor()
        door.load()
        service: Any = Candidate
        service.door.open(door.routes(lambda: service.door.draining))
        drain_first(service.door, then_s=OUTLIVES_S)
        gc_freeze.settle()


def where_the_candidate_is() -> str | None:
    """Its URL: beside this service, on a Unix socket, or where it was started apart."""
    candidate: Any = Candidate
    return None if policy.candidate is None else settings.candidate_url or candidate.url


@bentoml.service(
    service_class=FrontDoorService, workers=1, metrics={"enabled": True}, logging={"access": {"enabled": False}}
)
class Records:
    """Writes what was answered to the store and the metrics, and judges the rollout, beside the processes that answer."""

    @bentoml.on_startup
    async def start(self) -> None:
        """Open the store, if it is there, before the socket is listened to."""
        from understudy import wiring

        self._records = wiring.RecordsParts(settings, candidate_url=where_the_candidate_is())
        self._records.start()
        service: Any = Records
        service.door.open(RecordsDoor(self._records).routes())
        drain_first(service.door, then_s=OUTLIVES_S)
        gc_freeze.settle()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Let go of the store."""
        await self._records.close()


@bentoml.service(
    service_class=FrontDoorService,
    workers=settings.workers or policy.workers,
    http={"host": "0.0.0.0" if settings.tokens_file else "127.0.0.1"},  # noqa: S104 - with tokens, that is what a container needs
    metrics={"enabled": True},
    logging={"access": {"enabled": False}},
)
class Understudy:
    """Serves the proof of concept over REST, rehearses and canaries its successor, and records the evidence."""

    if policy.candidate is not None and not settings.candidate_url:
        candidate = bentoml.depends(Candidate)
    records = bentoml.depends(Records)

    @bentoml.on_deployment
    @staticmethod
    def preflight() -> None:
        """Once, before any worker starts: whatever keeps the service from starting is said here, in one line."""
        supervisor.install()
        try:
            found = loading.preflight(settings)
            for line in found.said:
                log.info(line)
            loading.hand_on_models(settings, found.cards)
        except UnderstudyError as error:
            raise SystemExit(f"understudy does not start: {error.detail}") from None

    @bentoml.on_startup
    async def start(self) -> None:
        """Load, warm, and begin to answer."""
        from understudy import wiring
        from understudy.api.parts import ApiParts
        from understudy.api.rest import TELLERS, Rest

        records: Any = Records
        try:
            self._worker = wiring.Worker(settings, candidate_url=where_the_candidate_is(), records_url=records.url)
        except UnderstudyError as error:
            log.error("this process does not start; it is tried again", reason=error.detail)
            raise
        await self._worker.start()
        marks = loading.run_dir(settings) / "ready"
        marks.mkdir(parents=True, exist_ok=True)
        (marks / str(bentoml.server_context.worker_index)).touch()
        wanted = settings.workers or policy.workers
        ready = False

        def all_ready() -> bool:
            nonlocal ready
            ready = ready or len(list(marks.iterdir())) >= wanted
            return ready

        service: Any = Understudy
        rest = Rest(
            ApiParts.of(self._worker),
            lambda: all_ready() and not service.door.draining,
            lambda: service.openapi_spec.asdict(),
        )
        service.door.open(rest.routes(), TELLERS, rest.direct())
        drain_first(service.door, begun=self._drain)
        # A thread (labels, a poll of the plan) would otherwise keep the interpreter for 5 ms, and every request waiting.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc_freeze.settle()

    def _drain(self) -> None:
        self._worker.pipeline.draining = True

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Write what has gathered, then let go."""
        await self._worker.close()


gc_freeze.resume()
