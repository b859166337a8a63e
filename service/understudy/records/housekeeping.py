"""Periodic work of the records process: judging, traffic over time, joining late labels, pruning."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from understudy.clock import Clock, SteadyClock
from understudy.domain import Plan
from understudy.errors import StoreError
from understudy.observability.metrics import Metrics
from understudy.observability.timeline import Tracer
from understudy.records.writer import RecordWriter
from understudy.rollout.controller import Controller
from understudy.store import MaintenanceStore, Retention

log = structlog.get_logger(__name__)


class Housekeeping:
    """Runs the controller when this process leads, and keeps the store in order.

    Args:
        ready: whether the candidate answers; the rollout does not advance while it does not.
        tracer: records latency and failures over time; None for no such records.
    """

    def __init__(
        self,
        store: MaintenanceStore,
        metrics: Metrics,
        clock: Clock,
        writer: RecordWriter,
        controller: Controller | None,
        ready: Callable[[], Awaitable[bool]],
        tracer: Tracer | None = None,
    ) -> None:
        self._store, self._metrics, self._steady = store, metrics, SteadyClock(clock)
        self._writer, self._controller, self._ready = writer, controller, ready
        self._tracer = tracer
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *, tick_s: float, sweep_s: float, retention: Retention, trace_s: float = 5.0) -> None:
        """Start the periodic tasks; each runs for the first time after its interval."""
        loop = asyncio.get_running_loop()
        if self._controller is not None:
            self._tasks.append(loop.create_task(self._judge(self._controller, tick_s)))
        if self._tracer is not None:
            self._tasks.append(loop.create_task(self._trace(self._tracer, trace_s)))
        self._tasks.append(loop.create_task(self._clean(sweep_s, retention)))

    async def close(self) -> None:
        """Stop the tasks."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _judge(self, controller: Controller, tick_s: float) -> None:
        while True:
            await asyncio.sleep(tick_s)
            try:
                ready = await self._ready()
                plan = await asyncio.to_thread(controller.tick, candidate_ready=ready)
            except StoreError:  # nothing is judged while the store is unavailable
                self._metrics.store_errors.labels(call="tick").inc()
                continue
            except Exception:
                log.exception("internal error in the judge; the plan is unchanged. Please report it")
                continue
            if controller.verdict is not None:
                self._metrics.set_evidence(controller.verdict.metrics)
            if plan is not None:
                self._log_plan(plan)

    def _log_plan(self, plan: Plan) -> None:
        log.info("the plan has changed", phase=plan.phase.value, weight=plan.weight / 100, revision=plan.revision)
        self._metrics.events.labels(event=plan.phase.value).inc()

    async def _trace(self, tracer: Tracer, trace_s: float) -> None:
        while True:
            try:
                await asyncio.to_thread(tracer.look)
            except StoreError:  # retried at the next interval
                self._metrics.store_errors.labels(call="traffic").inc()
            except Exception:
                log.exception("internal error in traffic over time; nothing else is affected. Please report it")
            await asyncio.sleep(trace_s)

    async def _clean(self, sweep_s: float, retention: Retention) -> None:
        while True:
            await asyncio.sleep(sweep_s)
            try:
                await asyncio.to_thread(self._writer.sweep)
                # Age counts from arrival, so that replayed history is not old when it arrives.
                await asyncio.to_thread(self._store.prune, retention, now=self._steady.now())
            except StoreError:  # retried at the next interval
                self._metrics.store_errors.labels(call="housekeeping").inc()
