"""Records: what happened on the request path goes to the store and the metrics in batches, off that path.

A request costs one append. Every `flush_interval_ms` a thread turns what has gathered into observations, writes them in one
transaction and adds them to the metrics, a few hundred rows at a time, so that it never holds the interpreter for long.
A crash loses at most what gathered since the last flush began; a store that is away loses nothing until
`records_max_rows` rows wait, and what is given up after that is counted.
"""

import asyncio
import bisect
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from service import losses, route
from service.domain import SHARE_ONE, Answer, LabelReceipt, LabelReport, Mode, Observation, Outcome, Status, Variant
from service.engine import Reading, Scores
from service.errors import StoreError
from service.inputs import Rows
from service.metrics import LATENCY_BUCKETS, Metrics, observe_many
from service.pairs import COMPARED, Pairs
from service.settings import Settings
from service.store import Store

log = structlog.get_logger(__name__)

_HTTP = {
    Status.DOWN: "503",
    Status.OK: "200",
    Status.FAILED: "500",
    Status.INVALID: "500",
    Status.TIMEOUT: "504",
    Status.DROPPED: "429",
}
_SHADOW = {
    Status.DOWN: "failed",
    Status.OK: "compared",
    Status.FAILED: "failed",
    Status.INVALID: "failed",
    Status.TIMEOUT: "late",
    Status.DROPPED: "dropped",
}


LABEL_GRACE_S = 1.0
"""How long a label waits for its prediction, made by this worker, to be stored."""


STORE_RETRY_S = 1.0
"""How long to leave a store alone that refused a write."""


class Exchange:
    """One answered request on its way to the record. Mutable until its rehearsal, if there is one, has ended."""

    __slots__ = ("at", "count", "fallback", "first_id", "http", "key", "mode", "prefix", "rehearsal", "revision", "rows",
                 "scores", "seconds", "share", "statuses", "total_seconds", "variant")  # fmt: skip

    def __init__(
        self, prefix: str, first_id: int, rows: Rows, at: float, revision: int, share: int,
        variant: Variant, mode: Mode,
    ) -> None:  # fmt: skip
        self.prefix, self.first_id, self.rows, self.count = prefix, first_id, rows, len(rows)
        self.at, self.revision, self.share, self.variant, self.mode = at, revision, share, variant, mode
        self.fallback: str | None = None
        self.key: str | None = None  # what the router drew by; None: the first prediction's id
        self.http = 200
        self.rehearsal: Variant | None = None
        self.total_seconds = 0.0
        self.statuses = {Variant.PRIMARY: Status.NONE, Variant.CANDIDATE: Status.NONE}
        self.scores: dict[Variant, Scores] = {}
        self.seconds = {Variant.PRIMARY: 0.0, Variant.CANDIDATE: 0.0}

    def settle(self, variant: Variant, status: Status, scores: Scores | None, seconds: float) -> None:
        """Note how `variant`'s attempt ended."""
        self.statuses[variant] = status
        self.seconds[variant] = seconds
        if scores is not None:
            self.scores[variant] = scores

    def prediction_id(self, row: int) -> str:
        """The id of one row's prediction."""
        return f"{self.prefix}-{self.first_id + row}"

    def observations(
        self, readings: Mapping[Variant, Reading], units_of: Callable[[Rows], Sequence[str | None]], salt: int = 0
    ) -> Iterable[Observation]:
        """The rows of this exchange, as they are recorded. `salt` is the plan's."""
        answers = {
            variant: readings[variant].answers(self.scores.get(variant), status, self.seconds[variant], self.count)
            if variant in readings
            else [Answer(status)] * self.count
            for variant, status in self.statuses.items()
        }
        request_id = self.prediction_id(0)
        drawn = 0 < self.share < SHARE_ONE and self.mode is Mode.LIVE
        point = route.bucket(self.key or request_id, salt) >> 1 if drawn else None
        for i, unit in enumerate(units_of(self.rows)):
            yield Observation(
                self.prediction_id(i), request_id, self.at, self.revision, self.variant, self.mode, self.share,
                answers[Variant.PRIMARY][i], answers[Variant.CANDIDATE][i], unit, self.fallback,
                point,
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Counted:
    """What was counted on the event loop since the last flush."""

    statuses: Counter[tuple[str, str, str]]
    problems: Counter[tuple[str, str]]
    dropped: int
    batch_sizes: Mapping[Variant, Sequence[int]]


class Recorder:
    """Gathers exchanges and timings on the event loop; writes them from one thread of its own."""

    def __init__(
        self, model: str, prefix: str, store: Store, metrics: Metrics, readings: Mapping[Variant, Reading],
        units_of: Callable[[Rows], Sequence[str | None]], settings: Settings, fields: Iterable[str] = (), salt: int = 0,
        pairs: Pairs | None = None,
        watch: Callable[[Sequence[Rows], Sequence[Observation]], None] = lambda rows, observations: None,
    ) -> None:  # fmt: skip
        self._watch = watch  # told of every batch that was written; must not raise
        self._pairs = pairs or Pairs(readings, {}, {})
        self._prefix, self._salt = prefix, salt
        self._fields = frozenset(fields) | {"rows", "key"}
        self._model, self._store, self._metrics, self._readings, self._units_of = (
            model,
            store,
            metrics,
            readings,
            units_of,
        )
        self._settings = settings
        self._exchanges: deque[Exchange] = deque()
        self._waiting_rows = 0
        self.latest_at = 0.0  # when the latest recorded request happened
        self._dropped = 0
        # Each run of a model appends its rows here: a histogram's `observe` costs as much as decoding a request.
        self.batch_sizes: dict[Variant, list[int]] = {variant: [] for variant in Variant}
        self._statuses: Counter[tuple[str, str, str]] = Counter()
        self._problems: Counter[tuple[str, str]] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._task: asyncio.Task[None] | None = None
        self._open: dict[int, None] = {}  # requests that are answered but not stored yet, in the order of their ids
        self._stopping = False
        self._wake = asyncio.Event()
        self._flushed = asyncio.Event()

    def open(self, exchange: Exchange) -> None:
        """Take note of a request before it is answered, so that a label which comes at once finds it."""
        self._open[exchange.first_id] = None

    def add(self, exchange: Exchange) -> None:
        """Take over an exchange that is complete. Never blocks; drops and counts when too much waits."""
        if self._waiting_rows + exchange.count > self._settings.records_max_rows:
            self._dropped += exchange.count
            self._open.pop(exchange.first_id, None)
            return
        self._waiting_rows += exchange.count
        self._exchanges.append(exchange)
        self.latest_at = max(self.latest_at, exchange.at)

    def refused(self, status: int, problems: Iterable[Mapping[str, object]] = ()) -> None:
        """Count a request that was answered with an error before any model was chosen."""
        self._statuses["none", "live", str(status)] += 1
        for problem in problems:
            field = problem.get("field") or "body"
            # A name that a caller made up must not become a time series of its own.
            name = str(field) if field in self._fields or field == "body" else "unknown"
            self._problems[name, _kind(str(problem.get("problem")))] += 1

    def failed(self, exchange: Exchange, status: int) -> None:
        """Count a request that was routed but got an error which says nothing about a model."""
        self._open.pop(exchange.first_id, None)
        self._statuses[exchange.variant.value, exchange.mode.value, str(status)] += 1

    def start(self) -> None:
        """Begin to flush."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Write what has gathered, and stop."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown(wait=True)

    async def labels(self, reports: Sequence[LabelReport], now: Callable[[], float]) -> LabelReceipt:
        """Store labels; when this returns they survive `kill -9`.

        A label for a prediction that this worker has made but not stored yet waits for it, a moment at the most: its
        caller is told `matched`, not `pending`.
        """
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LABEL_GRACE_S):
                while self._any_open(reports):
                    self._flushed.clear()
                    self._wake.set()
                    await self._flushed.wait()
        # The time is read last, so that a label is committed soon after it: who asks what was known by then is told.
        receipt = await loop.run_in_executor(None, lambda: self._store.add_labels(reports, received_at=now()))
        for name in ("matched", "duplicate", "conflict", "pending"):
            if count := getattr(receipt, name):
                self._metrics.labels.labels(result=name).inc(count)
        self._count_outcomes(receipt.outcomes)
        return receipt

    def sweep(self) -> None:
        """Join labels that a race kept apart from their predictions. Blocks; called from a thread."""
        self._joined(self._store.join_pending())

    def _any_open(self, reports: Sequence[LabelReport]) -> bool:
        oldest = next(iter(self._open), None)
        if oldest is None:
            return False
        return any(
            prefix == self._prefix and number.isdigit() and int(number) >= oldest
            for prefix, _, number in (report.prediction_id.rpartition("-") for report in reports)
        )

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause = self._settings.flush_interval_ms / 1000
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
            self._wake.clear()
            pause = await self._flush_in_thread(loop)
            self._flushed.set()
            # A moment for whoever waits for a rehearsal to end: they wake this loop at once otherwise.
            await asyncio.sleep(0.001)
        # The last flush: a store that is away now gets one more try, and what it refuses is said.
        await self._flush_in_thread(loop)
        if self._exchanges:
            log.error("records lost at shutdown", rows=self._waiting_rows)

    async def _flush_in_thread(self, loop: asyncio.AbstractEventLoop) -> float:
        """One flush; returns how many seconds to wait before the next.

        What the loop and the thread both touch is handed over here, on the loop: between two bytecodes either may run.
        """
        counted = _Counted(
            self._statuses, self._problems, self._dropped, {v: list(s) for v, s in self.batch_sizes.items()}
        )
        self._statuses, self._problems, self._dropped = Counter(), Counter(), 0
        for sizes in self.batch_sizes.values():
            sizes.clear()
        written: list[Exchange] = []
        try:
            await loop.run_in_executor(self._thread, self._flush, counted, written)
        except StoreError as error:
            self._metrics.store_errors.labels(call="add_observations").inc()
            log.warning("the store is away; records wait", error=str(error), rows=self._waiting_rows)
            return STORE_RETRY_S
        finally:
            for exchange in written:
                self._waiting_rows -= exchange.count
                self._open.pop(exchange.first_id, None)
        return self._settings.flush_interval_ms / 1000

    def _flush(self, counted: "_Counted", written: list[Exchange]) -> None:
        """Write what has gathered, and append it to `written`. Runs in the recorder's thread.

        Raises:
            StoreError: what could not be written is first in the queue again.
        """
        self._count(counted)
        while self._exchanges:
            batch: list[Exchange] = []
            rows = 0
            while self._exchanges and (not batch or rows + self._exchanges[0].count <= self._settings.flush_max_rows):
                batch.append(self._exchanges.popleft())
                rows += batch[-1].count
            try:
                self._write(batch, rows)
            except StoreError:
                self._exchanges.extendleft(reversed(batch))
                raise
            except Exception:
                # A bug of ours, not of the store's: trying again would stop all records behind this batch.
                log.exception("a batch of records is given up", rows=rows)
                self._metrics.store_dropped.inc(rows)
            written += batch

    def _write(self, batch: Sequence[Exchange], rows: int) -> None:
        observations = [
            o for exchange in batch for o in exchange.observations(self._readings, self._units_of, self._salt)
        ]
        counts, histograms = self._counts(batch)
        with self._metrics.store_flush.time():
            outcomes = self._store.add_observations(observations, counts)
        # Metrics follow the transaction, so that a batch that is tried again is not counted twice.
        for (name, variant, mode), values in histograms.items():
            if name == "request":
                observe_many(self._metrics.request_duration.labels(model=self._model, variant=variant), values)
            else:
                observe_many(
                    self._metrics.inference_duration.labels(model=self._model, variant=variant, mode=mode), values
                )
        for name, count in counts.items():
            kind, _, rest = name.partition("/")
            if kind == "requests":
                variant, mode, status = rest.split("/")
                self._metrics.requests.labels(model=self._model, variant=variant, mode=mode, status=status).inc(count)
            elif kind == "shadow":
                self._metrics.shadow.labels(result=rest).inc(count)
            elif kind == "fallbacks":
                self._metrics.fallbacks.labels(cause=rest).inc(count)
        self._metrics.store_rows.inc(rows)
        self._metrics.count_compared({k[len(COMPARED) :]: v for k, v in counts.items() if k.startswith(COMPARED)})
        self._joined(outcomes)
        self._watch([exchange.rows for exchange in batch], observations)

    def _counts(self, batch: Sequence[Exchange]) -> tuple[dict[str, float], dict[tuple[str, str, str], list[float]]]:
        """What a batch adds to the store's counters, and the durations it adds to histograms."""
        counts: defaultdict[str, float] = defaultdict(float)
        times: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
        for exchange in batch:
            variant, mode = exchange.variant.value, exchange.mode.value
            counts[f"requests/{variant}/{mode}/{exchange.http}"] += 1
            counts[f"rows/{mode}"] += exchange.count
            if exchange.http == 200:
                times["request", variant, ""].append(exchange.total_seconds)
                counts[f"latency/{variant}/{bisect.bisect_left(LATENCY_BUCKETS, exchange.total_seconds)}"] += 1
                times["inference", variant, mode].append(exchange.seconds[exchange.variant])
            if exchange.fallback:
                counts[f"fallbacks/{exchange.fallback}"] += 1
            if exchange.rehearsal is not None:
                status = exchange.statuses[exchange.rehearsal]
                counts["shadow/sent"] += 1
                counts[f"shadow/{_SHADOW[status]}"] += 1
                counts[f"requests/{exchange.rehearsal.value}/shadow/{_HTTP[status]}"] += 1
                if status is Status.OK:
                    times["inference", exchange.rehearsal.value, "shadow"].append(exchange.seconds[exchange.rehearsal])
        return counts | self._pairs.counts(batch), times

    def _count(self, counted: "_Counted") -> None:
        for (variant, mode, status), count in counted.statuses.items():
            self._metrics.requests.labels(model=self._model, variant=variant, mode=mode, status=status).inc(count)
        for (field, problem), count in counted.problems.items():
            self._metrics.input_problems.labels(feature=field, problem=problem).inc(count)
        for variant, sizes in counted.batch_sizes.items():
            if sizes:
                observe_many(self._metrics.batch_rows.labels(variant=variant.value), sizes)
        if counted.dropped:
            self._metrics.store_dropped.inc(counted.dropped)

    def _joined(self, outcomes: Sequence[Outcome]) -> None:
        if outcomes:
            self._metrics.labels.labels(result="joined").inc(len(outcomes))
            self._count_outcomes(outcomes)

    def _count_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        classes = {variant: reading.classes for variant, reading in self._readings.items()}
        positive = {variant: reading.positive_class for variant, reading in self._readings.items()}
        observe_many(self._metrics.label_delay, [outcome.delay for outcome in outcomes])
        for outcome in outcomes:
            if outcome.observation.mode in {Mode.PINNED, Mode.LOAD}:
                continue
            for variant, predicted, actual, found in losses.scored(outcome, classes, positive):
                if predicted is not None:
                    self._metrics.outcomes.labels(variant=variant.value, predicted=predicted, actual=actual).inc()
                for name, loss in found.items():
                    self._metrics.loss.labels(variant=variant.value, loss=name).observe(loss)


def _kind(problem: str) -> str:
    """A problem's kind, from a small fixed set, for the metric's label."""
    for word in ("missing", "unknown"):
        if problem.startswith((word, f"is {word}")):
            return word
    return "value"
