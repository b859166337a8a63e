"""The BentoML services: `Understudy` answers, `Candidate` runs the model on trial, `Records` stores and judges.

A BentoML service class may supply its own ASGI application; ours puts a router (`understudy.http.router`) in front of BentoML's.
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
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from understudy import loading
from understudy.domain import Fate
from understudy.errors import ConfigurationError, MalformedRequest, NotReady, UnderstudyError
from understudy.http import connection
from understudy.http.asgi import Receive, Scope, Send, header, read_body, respond
from understudy.http.responses import json_response
from understudy.http.router import AppRouter, route
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
"""The senders have narrower limits: `flush_max_rows`, `batch_max_rows`, `shadow_batch_max_rows`, and `rows_max` per request."""
EXTRA_DRAIN_S = 3.0
"""Extra drain time for the candidate and records processes, so that draining workers can still call them."""


class CandidateCalls:
    """The calls of the candidate's process, over its own socket: a model's input columns in, its output arrays out."""

    def __init__(self) -> None:
        self._calls: Calls | None = None
        self._reason = "the candidate is still loading"
        self._draining: Callable[[], bool] = lambda: False

    def load(self) -> None:
        """Load and warm the model. If it does not load, the process stays and answers every call with the reason."""
        try:
            self._calls = Calls(loading.open_candidate(settings, policy))
        except UnderstudyError as error:
            self._reason = error.detail
            log.error("the candidate does not load", reason=error.detail)

    def open(self, router: AppRouter) -> None:
        """Start to answer."""
        self._draining = lambda: router.draining
        router.open(
            [route("/probe", self.probe, "POST"), route("/readyz", self.ready, "GET")],
            predictions={"/infer": self.infer},
        )

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
        await respond(send, 200, [(b"content-type", wire.MEDIA_TYPE.encode())], reply)

    async def probe(self, request: Request) -> Response:
        """`POST /probe`: whether the model can answer."""
        await read_body(request.scope, request.receive, max_bytes=1024, timeout_s=settings.body_timeout_s)
        self._ready(request.scope)
        return json_response({})

    async def ready(self, request: Request) -> Response:
        """`GET /readyz`: whether this process takes new connections. Only probed if the candidate is served alone."""
        self._ready(request.scope)
        if self._draining():
            raise NotReady("the candidate's process is being stopped")
        return PlainTextResponse("\n")

    def _ready(self, scope: Scope) -> Calls:
        if self._calls is None:
            raise NotReady(self._reason)
        expected, digest = header(scope, DIGEST_HEADER), self._calls.engine.card.digest
        if expected is not None and expected != digest:
            raise NotReady(
                f"the candidate's process has model {digest}, but the service expects {expected}: start both with the same model"
            )
        return self._calls


class RecordWriter(Protocol):
    """The part of `understudy.wiring.RecordsParts` that the calls below use."""

    async def write(self, packed: bytes) -> None:
        """Write a batch of exchanges."""

    async def labels(self, batch: LabelBatch) -> Sequence[Fate]:
        """Write labels."""


class RecordsCalls:
    """The calls of the records process, over its own socket: batches of exchanges, and labels."""

    def __init__(self, records: RecordWriter) -> None:
        self._records = records

    def open(self, router: AppRouter) -> None:
        """Start to answer."""
        router.open([route("/batch", self.batch, "POST"), route("/labels", self.labels, "POST")])

    async def batch(self, request: Request) -> Response:
        """`POST /batch`: write a batch. It is stored when this answers."""
        body = await _body(request)
        try:
            await self._records.write(body)
        except ValueError as error:
            raise MalformedRequest(str(error)) from error
        return json_response({})

    async def labels(self, request: Request) -> Response:
        """`POST /labels`: write labels. The response has the fate of each."""
        body = await _body(request)
        try:
            fates = await self._records.labels(unpack_labels(body))
        except ValueError as error:
            raise MalformedRequest(str(error)) from error
        return Response(pack_fates(fates), media_type=wire.MEDIA_TYPE)


async def _body(request: Request) -> bytes:
    return await read_body(request.scope, request.receive, max_bytes=BATCH_MAX_BYTES, timeout_s=settings.body_timeout_s)


class RoutedService(Service[Any]):
    """A BentoML service whose application is behind our router."""

    router: AppRouter

    def to_asgi(self, is_main: bool = True) -> AppRouter:
        """Put our router in front of BentoML's application."""
        connection.install()
        self.router = AppRouter(super().to_asgi(is_main))
        return self.router


def drain_first(router: AppRouter, *, extra_s: float = 0.0, on_drain: Callable[[], None] = lambda: None) -> None:
    """On SIGTERM, keep answering for `drain_s` plus `extra_s` before the server stops.

    This gives load balancers time to see that the process is no longer ready.
    """
    if not settings.drain_s:
        return
    loop = asyncio.get_running_loop()
    stop: Any = signal.getsignal(signal.SIGTERM)

    def drain() -> None:
        if not router.draining:
            log.info("draining", seconds=settings.drain_s)
            router.drain()
            on_drain()
            loop.call_later(settings.drain_s + extra_s, stop, signal.SIGTERM, None)

    loop.add_signal_handler(signal.SIGTERM, drain)


@bentoml.service(
    service_class=RoutedService, workers=1, metrics={"enabled": True}, logging={"access": {"enabled": False}}
)
class Candidate:
    """Runs the candidate in its own process, so that a crash, hang or leak harms nothing else."""

    @bentoml.on_deployment
    @staticmethod
    def supervised() -> None:
        """Run once in the supervisor, also if the candidate is served alone."""
        supervisor.install()
        with contextlib.suppress(UnderstudyError):  # the candidate's process reports why its model does not load
            loading.hand_on_candidate(settings, policy)

    @bentoml.on_startup
    async def load(self) -> None:
        """Load and warm the model before the socket accepts connections."""
        calls = CandidateCalls()
        calls.load()
        router = router_of(Candidate)
        calls.open(router)
        drain_first(router, extra_s=EXTRA_DRAIN_S)
        gc_freeze.settle()


def router_of(service: object) -> AppRouter:
    """The router of a BentoML service, which its decorator makes of the class."""
    assert isinstance(service, RoutedService)
    return service.router


def candidate_url() -> str | None:
    """The candidate's URL: on a Unix socket of this service, or as configured; None without a candidate."""
    candidate: Any = Candidate
    return None if policy.candidate is None else settings.candidate_url or candidate.url


@bentoml.service(
    service_class=RoutedService, workers=1, metrics={"enabled": True}, logging={"access": {"enabled": False}}
)
class Records:
    """Writes exchanges and labels to the store and the metrics, and judges the rollout, beside the workers."""

    @bentoml.on_startup
    async def start(self) -> None:
        """Open the store, if it is available, before the socket accepts connections."""
        from understudy import wiring

        self._records = wiring.RecordsParts(settings, candidate_url=candidate_url())
        self._records.start()
        router = router_of(Records)
        RecordsCalls(self._records).open(router)
        drain_first(router, extra_s=EXTRA_DRAIN_S)
        gc_freeze.settle()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Close the store."""
        await self._records.close()


@bentoml.service(
    service_class=RoutedService,
    workers=settings.workers or policy.workers,
    http={"host": "0.0.0.0" if settings.tokens_file else "127.0.0.1"},  # noqa: S104 - with tokens, that is what a container needs
    metrics={"enabled": True},
    logging={"access": {"enabled": False}},
)
class Understudy:
    """Serves the primary over REST, rehearses and canaries the candidate, and records the evidence."""

    if policy.candidate is not None and not settings.candidate_url:
        candidate = bentoml.depends(Candidate)
    records = bentoml.depends(Records)

    @bentoml.on_deployment
    @staticmethod
    def preflight() -> None:
        """Check once, before any worker starts, what would keep the service from starting, and report it in one line."""
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
        """Load and warm the models, and start to answer."""
        from understudy import wiring
        from understudy.api.parts import ApiParts
        from understudy.api.rest import ERROR_FORMATS, Rest

        records: Any = Records
        try:
            self._worker = wiring.Worker(settings, candidate_url=candidate_url(), records_url=records.url)
        except UnderstudyError as error:
            log.error("this worker does not start; the supervisor tries again", reason=error.detail)
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
        router = router_of(service)
        rest = Rest(
            ApiParts.of(self._worker),
            lambda: all_ready() and not router.draining,
            lambda: service.openapi_spec.asdict(),
        )
        router.open(rest.routes(), rest.predictions(), rest.direct(), ERROR_FORMATS)
        drain_first(router, on_drain=self._drain)
        # A thread (labels, a poll of the plan) would otherwise hold the interpreter for 5 ms while requests wait.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc_freeze.settle()

    def _drain(self) -> None:
        self._worker.pipeline.draining = True

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Write the records that wait, and close the store."""
        await self._worker.close()


gc_freeze.resume()
