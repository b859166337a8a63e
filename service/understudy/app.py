"""The BentoML services: `Understudy` answers, `Candidate` runs the model on trial, `Records` stores and judges.

A BentoML service class may supply its own ASGI application; ours puts a router (`understudy.http.router`) in front of BentoML's.
"""

import asyncio
import signal
import sys
from collections.abc import Callable
from typing import Any

from understudy.runtime import gc_freeze  # first: it keeps Python from collecting garbage until all else is imported

# isort: split
import bentoml
import structlog
from _bentoml_sdk import Service

from understudy import loading
from understudy.api.internal import CandidateCalls, RecordsCalls
from understudy.errors import ConfigurationError, TrialFailed, UnderstudyError
from understudy.http import connection
from understudy.http.router import AppRouter
from understudy.loading import preflight as checks
from understudy.runtime import started, supervisor
from understudy.settings import read_settings

log = structlog.get_logger(__name__)
try:
    settings = read_settings()
    policy = loading.start_policy(settings)
except ConfigurationError as bad:
    raise SystemExit(f"understudy does not start: {bad.detail}") from None
loading.private_metrics_dir(settings)


SWITCH_INTERVAL_S = 0.0005
RECORDS_GC_THRESHOLD = 10_000
"""New objects between two garbage collections of the records process: about what a batch of its rows makes."""
EXTRA_DRAIN_S = 3.0
"""Extra drain time for the candidate and records processes, so that draining workers can still call them."""


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
        try:
            loading.hand_on_candidate(settings, policy)
        except TrialFailed as error:
            raise SystemExit(f"understudy does not start: {error.detail}") from None
        except UnderstudyError:
            pass  # the candidate's process reports why its model does not load

    @bentoml.on_startup
    async def load(self) -> None:
        """Load and warm the model before the socket accepts connections."""
        calls = CandidateCalls(settings)
        calls.load(lambda: loading.open_candidate(settings, policy))
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
    return None if loading.served_policy(settings).candidate is None else settings.candidate_url or candidate.url


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
        RecordsCalls(self._records, settings.body_timeout_s).open(router)
        drain_first(router, extra_s=EXTRA_DRAIN_S)
        gc_freeze.settle(RECORDS_GC_THRESHOLD)

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
            found = checks.preflight(settings)
            for line in found.messages:
                log.info(line)
            for source, version in started.tags().items():
                if source != version:
                    log.info("the tag means this version until the next start", tag=source, version=version)
            if found.away:
                log.error("the candidate is away, and the primary is served alone", reason=found.away)
            loading.hand_on_models(settings, found.cards, found.away)
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
