"""Stores batches of exchanges, one transaction each, and counts them in the metrics.

This runs in the records process (`understudy.app.Records`), so that it does not hold the interpreter of a worker. Each worker has a
writer too, for labels while the records process is unavailable, and for its last batch when it stops.
"""

import bisect
import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog

from understudy.domain import GIVEN_UP, LabelReceipt, LabelReport, Mode, Observation, Outcome, Status, Variant
from understudy.errors import StoreError
from understudy.inference import OutputReader
from understudy.inference.decoding import Rows
from understudy.observability.metrics import LATENCY_BUCKETS, Metrics, observe_many
from understudy.records.exchange import Bundle, Exchange, unpack
from understudy.records.pairs import COMPARED, Pairs
from understudy.rollout import losses
from understudy.rollout.loss_table import LossScale
from understudy.runtime.fairness import clear_yielding, yield_cpu, yielding
from understudy.store import RecordStore

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


BATCHES_REMEMBERED = 256
"""How many written batches are remembered. There are few senders, and each sends one batch at a time."""


class RecordWriter:
    """Stores exchanges and labels. Blocks, so it is called from threads; one batch at a time.

    Args:
        units_of: returns each row's unit, or None.
        salt: the plan's salt.
        pairs: compares both models' answers.
        watch: called with every stored batch; must not raise.
        scale: the goal's scale, see `losses.scored`.
    """

    def __init__(
        self,
        model: str,
        store: RecordStore,
        metrics: Metrics,
        readers: Mapping[Variant, OutputReader],
        units_of: Callable[[Rows], Sequence[str | None]],
        salt: int = 0,
        pairs: Pairs | None = None,
        watch: Callable[[Sequence[Rows], Sequence[Observation]], None] = lambda rows, observations: None,
        scale: LossScale | None = None,
    ) -> None:
        self._model, self._store, self._metrics = model, store, metrics
        self._readers, self._units_of, self._salt = readers, units_of, salt
        self._scale = scale
        self._pairs, self._watch = pairs or Pairs(readers, {}, {}), watch
        self._written: deque[bytes] = deque(maxlen=BATCHES_REMEMBERED)

    def write(self, packed: bytes) -> None:
        """Store a packed batch; on return its rows survive `kill -9`. The same batch may be sent again.

        Raises:
            StoreError: nothing was stored.
            ValueError: the bytes are not a batch.
        """
        # After a time-out a sender sends a stored batch again: neither the store nor the metrics add it twice.
        digest = hashlib.blake2b(packed, digest_size=16).digest()
        if digest in self._written:
            return
        yield_cpu()
        bundle = unpack(packed)
        if bundle.exchanges:
            try:
                self._write(bundle.exchanges, bundle.dropped)
            except StoreError:
                self._metrics.store_errors.labels(call="add_observations").inc()
                raise
            except Exception:
                # An internal error, not the store's: retrying would block all later batches.
                rows = sum(exchange.count for exchange in bundle.exchanges)
                log.exception("internal error: a batch of records is dropped. Please report it", rows=rows)
                self._metrics.store_dropped.inc(rows)
                self._store.add_observations([], {GIVEN_UP: rows + bundle.dropped})
            self._written.append(digest)
        elif bundle.dropped:
            self._store.add_observations([], {GIVEN_UP: bundle.dropped})
        self._count(bundle)
        clear_yielding(bundle.exchanges)

    def labels(
        self,
        reports: Sequence[LabelReport],
        now: Callable[[], float],
        batch_id: str | None = None,
        *,
        again: bool = False,
    ) -> LabelReceipt:
        """Store labels; on return they survive `kill -9`. See `LabelStore.add_labels`."""
        # The time is read last, so that labels are committed soon after their time of receipt.
        receipt = self._store.add_labels(reports, received_at=now(), batch_id=batch_id, again=again)
        if receipt.repeated:
            return receipt  # already counted by the process that stored it
        for fate, count in receipt.counts.items():
            if count:
                self._metrics.labels.labels(result=fate).inc(count)
        self._count_outcomes(receipt.outcomes)
        return receipt

    def sweep(self) -> None:
        """Join labels that a race left apart from their predictions."""
        self._joined(self._store.join_pending())

    def _write(self, batch: Sequence[Exchange], dropped: int) -> None:
        agreement = self._pairs.agreement(batch)
        observations = [
            o
            for i, exchange in enumerate(yielding(batch))
            for o in exchange.observations(self._readers, self._units_of, self._salt, agreement.get(i))
        ]
        counts, histograms = self._counts(batch)
        if dropped:
            counts[GIVEN_UP] = dropped
        with self._metrics.store_flush.time():
            outcomes = self._store.add_observations(observations, counts)
        yield_cpu()
        # Metrics are counted after the transaction, so that a retried batch is not counted twice.
        for (name, variant, mode), values in yielding(histograms.items(), 1):
            if name == "request":
                observe_many(self._metrics.request_duration.labels(model=self._model, variant=variant), values)
            else:
                observe_many(
                    self._metrics.inference_duration.labels(model=self._model, variant=variant, mode=mode), values
                )
        for name, count in yielding(counts.items()):
            kind, _, rest = name.partition("/")
            if kind == "requests":
                variant, mode, status = rest.split("/")
                self._metrics.requests.labels(model=self._model, variant=variant, mode=mode, status=status).inc(count)
            elif kind == "shadow":
                self._metrics.shadow.labels(result=rest).inc(count)
            elif kind == "fallbacks":
                self._metrics.fallbacks.labels(cause=rest).inc(count)
        self._metrics.store_rows.inc(len(observations))
        self._metrics.count_compared({k[len(COMPARED) :]: v for k, v in counts.items() if k.startswith(COMPARED)})
        self._joined(outcomes)
        yield_cpu()
        self._watch([exchange.rows for exchange in batch], observations)

    def _counts(self, batch: Sequence[Exchange]) -> tuple[dict[str, float], dict[tuple[str, str, str], list[float]]]:
        """What a batch adds to the store's counters, and the durations for the histograms."""
        # Most requests of a batch ended in the same few ways: what each way counts for is worked out once.
        ways: defaultdict[tuple[Any, ...], list[Exchange]] = defaultdict(list)
        for e in yielding(batch):
            ended = None if e.rehearsal is None else e.attempt(e.rehearsal).status
            ways[e.variant, e.mode, e.http, e.fallback, e.rehearsal, ended].append(e)
        counts: defaultdict[str, float] = defaultdict(float)
        times: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
        for (variant, mode, http, fallback, rehearsal, ended), exchanges in ways.items():
            n = len(exchanges)
            counts[f"requests/{variant}/{mode}/{http}"] += n
            counts[f"rows/{mode}"] += sum([e.count for e in exchanges])
            if http == HTTPStatus.OK:
                times["request", variant, ""] += [e.total_seconds for e in exchanges]
                times["inference", variant, mode] += [e.attempt(variant).seconds for e in exchanges]
            if fallback:
                counts[f"fallbacks/{fallback}"] += n
            if rehearsal is not None:
                counts["shadow/sent"] += n
                counts[f"shadow/{_SHADOW[ended]}"] += n
                counts[f"requests/{rehearsal}/shadow/{_HTTP[ended]}"] += n
                if ended is Status.OK:
                    times["inference", rehearsal, "shadow"] += [e.attempt(rehearsal).seconds for e in exchanges]
            yield_cpu()
        for (name, who, _), values in times.items():
            if name == "request":
                for bucket, count in Counter([bisect.bisect_left(LATENCY_BUCKETS, value) for value in values]).items():
                    counts[f"latency/{who}/{bucket}"] = count
        return {**counts, **self._pairs.counts(batch)}, times

    def _count(self, bundle: Bundle) -> None:
        """Count what the worker counted outside of exchanges."""
        for variant, mode, status, count in bundle.statuses:
            self._metrics.requests.labels(model=self._model, variant=variant, mode=mode, status=status).inc(count)
        for field, problem, count in bundle.problems:
            self._metrics.input_problems.labels(feature=field, problem=problem).inc(count)
        for variant, sizes in bundle.sizes.items():
            observe_many(self._metrics.batch_rows.labels(variant=variant), sizes)
        if bundle.dropped:
            self._metrics.store_dropped.inc(bundle.dropped)

    def _joined(self, outcomes: Sequence[Outcome]) -> None:
        if outcomes:
            self._metrics.labels.labels(result="joined").inc(len(outcomes))
            self._count_outcomes(outcomes)

    def _count_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        classes = {variant: reader.classes for variant, reader in self._readers.items()}
        positive = {variant: reader.positive_class for variant, reader in self._readers.items()}
        observe_many(self._metrics.label_delay, [max(0.0, outcome.delay) for outcome in outcomes])
        for outcome in outcomes:
            if outcome.observation.mode in {Mode.PINNED, Mode.LOAD}:
                continue
            for variant, predicted, actual, found in losses.scored(outcome, classes, positive, self._scale):
                if predicted is not None:
                    self._metrics.outcomes.labels(variant=variant.value, predicted=predicted, actual=actual).inc()
                for name, loss in found.items():
                    self._metrics.loss.labels(variant=variant.value, loss=name).observe(loss)
