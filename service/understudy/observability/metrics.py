"""Every metric of the service in one table, and how they are counted in bulk off the request path.

The only importer of `prometheus_client`, and only inside functions: when imported, it decides whether to write to the
directory in `PROMETHEUS_MULTIPROC_DIR`, which BentoML sets for its workers. Each process writes its own files there.
The worker that is scraped adds up all files, including those of dead workers, so counters never decrease.
"""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from understudy.domain import Phase
from understudy.rollout.comparison import DISTANCE_BUCKETS
from understudy.rollout.losses import DELAY_BUCKETS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Histogram

    from understudy.rollout.judge import MetricVerdict

LATENCY_BUCKETS = (
    0.0005,
    0.001,
    0.0015,
    0.002,
    0.003,
    0.004,
    0.005,
    0.006,
    0.008,
    0.01,
    0.0125,
    0.015,
    0.02,
    0.025,
    0.03,
    0.04,
    0.05,
    0.065,
    0.08,
    0.1,
    0.15,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
)
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric: its name, kind, help text and label names; `buckets` are upper edges of a histogram.

    `multiprocess` says how the workers' values of a gauge are combined: the latest, or the sum or maximum of living workers.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram", "summary"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    multiprocess: str = "mostrecent"


TABLE = (
    Spec(
        "understudy_requests_total",
        "counter",
        "requests by variant that answered or rehearsed, mode, and HTTP status",
        ("model", "variant", "mode", "status"),
    ),
    Spec(
        "understudy_request_duration_seconds",
        "histogram",
        "seconds from a request's first byte to its response, for answered predictions",
        ("model", "variant"),
        LATENCY_BUCKETS,
    ),
    Spec(
        "understudy_inference_duration_seconds",
        "histogram",
        "seconds that a request waited for its batch to be computed",
        ("model", "variant", "mode"),
        LATENCY_BUCKETS,
    ),
    Spec("understudy_batch_rows", "histogram", "rows per run of a model", ("variant",), ROW_BUCKETS),
    Spec(
        "understudy_batch_retries_total",
        "counter",
        "batches that failed and were run again in smaller parts",
        ("variant",),
    ),
    Spec(
        "understudy_shadow_total",
        "counter",
        "rehearsals: sent = compared + dropped + failed + late + running",
        ("result",),
    ),
    Spec("understudy_compared_rows_total", "counter", "rows that both models answered"),
    Spec(
        "understudy_disagreements_total",
        "counter",
        "compared rows with different labels, or with a number outside its tolerance",
        ("output",),
    ),
    Spec(
        "understudy_probability_distance",
        "histogram",
        "total variation distance between the two models' probabilities for a row, 0 to 1",
        (),
        DISTANCE_BUCKETS,
    ),
    Spec(
        "understudy_fallbacks_total",
        "counter",
        "requests routed to the candidate that the primary answered",
        ("cause",),
    ),
    Spec(
        "understudy_store_lost",
        "gauge",
        "1 while the database was deleted, replaced or truncated since it was opened",
        (),
        multiprocess="livemax",
    ),
    Spec(
        "understudy_file_changed",
        "gauge",
        "1 while the rollout file (`rollout`) or a model's files differ from those at the start of the service",
        ("file",),
    ),
    Spec(
        "understudy_candidate_up", "gauge", "1 while the candidate's process gets requests, 0 while it is only probed"
    ),
    Spec(
        "understudy_labels_total",
        "counter",
        "labels received: matched, duplicate, conflict, pending, joined, corrected, invalid",
        ("result",),
    ),
    Spec(
        "understudy_label_delay_seconds",
        "histogram",
        "seconds from a prediction to when its label became known",
        (),
        DELAY_BUCKETS,
    ),
    Spec("understudy_outcomes_total", "counter", "labelled predictions by class", ("variant", "predicted", "actual")),
    Spec("understudy_loss", "summary", "per-row losses of labelled predictions", ("variant", "loss")),
    Spec(
        "understudy_evidence",
        "gauge",
        "estimate and band (low, high) of each metric: candidate minus primary",
        ("metric", "bound"),
    ),
    Spec("understudy_rollout_weight", "gauge", "the candidate's share of live answers, 0 to 1"),
    Spec("understudy_rollout_phase", "gauge", "1 for the current phase, 0 for the others", ("phase",)),
    Spec(
        "understudy_input_problems_total",
        "counter",
        "values of rejected requests that did not fit the model, by feature",
        ("feature", "problem"),
    ),
    Spec(
        "understudy_feature_psi",
        "gauge",
        "population stability index of a day's values against the variant's training data",
        ("variant", "feature"),
    ),
    Spec(
        "understudy_feature_psi_line",
        "gauge",
        "threshold of the population stability index, above which there is drift",
        ("variant", "feature"),
    ),
    Spec(
        "understudy_feature_missing",
        "gauge",
        "share of a day's values that are missing, 0 to 1",
        ("variant", "feature"),
    ),
    Spec(
        "understudy_feature_outside",
        "gauge",
        "share of a day's values that are not in the training data: outside its range, or an unknown category, 0 to 1",
        ("variant", "feature"),
    ),
    Spec("understudy_drift_alarm", "gauge", "1 while a feature has a drift alarm", ("variant", "feature")),
    Spec(
        "understudy_drift_uncounted_total",
        "counter",
        "rows not counted for drift: too many hours at once, or an internal error",
    ),
    Spec(
        "understudy_expected",
        "gauge",
        "a day's accuracy and Brier loss estimated from the model's own probabilities, without labels; not evidence",
        ("variant", "figure"),
    ),
    Spec(
        "understudy_plan_stale",
        "gauge",
        "1 while the plan is too old, so that a candidate on trial gets no live traffic",
        (),
        multiprocess="livemax",
    ),
    Spec("understudy_events_total", "counter", "events appended to the audit log by this service", ("event",)),
    Spec(
        "understudy_webhooks_total",
        "counter",
        "attempts to send an event: delivered, failed (to be retried), given_up",
        ("receiver", "result"),
    ),
    Spec("understudy_webhook_waiting", "gauge", "events not yet delivered to a receiver, at most 100", ("receiver",)),
    Spec("understudy_store_flush_seconds", "histogram", "seconds of one transaction of records", (), LATENCY_BUCKETS),
    Spec("understudy_store_rows_total", "counter", "observations stored"),
    Spec(
        "understudy_store_dropped_total",
        "counter",
        "observations dropped because the store was too slow or unavailable",
    ),
    Spec(
        "understudy_store_spooled_rows",
        "gauge",
        "observations waiting on disk for the store",
        (),
        multiprocess="livesum",
    ),
    Spec("understudy_store_errors_total", "counter", "store calls that failed", ("call",)),
)


class Metrics:
    """The metrics of one process, by attribute: `metrics.requests.labels(...)`."""

    def __init__(self, registry: "CollectorRegistry | None" = None) -> None:
        import prometheus_client as prom

        kinds = {"counter": prom.Counter, "histogram": prom.Histogram, "summary": prom.Summary, "gauge": prom.Gauge}
        made: dict[str, Any] = {}
        for spec in TABLE:
            options: dict[str, Any] = {} if registry is None else {"registry": registry}
            if spec.kind == "histogram":
                options["buckets"] = spec.buckets
            elif spec.kind == "gauge":
                options["multiprocess_mode"] = spec.multiprocess
            made[spec.name] = kinds[spec.kind](spec.name, spec.help, spec.labels, **options)
        self._made = made
        self.requests = made["understudy_requests_total"]
        self.request_duration = made["understudy_request_duration_seconds"]
        self.inference_duration = made["understudy_inference_duration_seconds"]
        self.batch_rows = made["understudy_batch_rows"]
        self.batch_retries = made["understudy_batch_retries_total"]
        self.shadow = made["understudy_shadow_total"]
        self.compared_rows = made["understudy_compared_rows_total"]
        self.disagreements = made["understudy_disagreements_total"]
        self.distance = made["understudy_probability_distance"]
        self.fallbacks = made["understudy_fallbacks_total"]
        self.store_lost = made["understudy_store_lost"]
        self.file_changed = made["understudy_file_changed"]
        self.candidate_up = made["understudy_candidate_up"]
        self.labels = made["understudy_labels_total"]
        self.label_delay = made["understudy_label_delay_seconds"]
        self.outcomes = made["understudy_outcomes_total"]
        self.loss = made["understudy_loss"]
        self.evidence = made["understudy_evidence"]
        self.weight = made["understudy_rollout_weight"]
        self.phase = made["understudy_rollout_phase"]
        self.input_problems = made["understudy_input_problems_total"]
        self.feature_psi = made["understudy_feature_psi"]
        self.feature_psi_line = made["understudy_feature_psi_line"]
        self.feature_missing = made["understudy_feature_missing"]
        self.feature_outside = made["understudy_feature_outside"]
        self.drift_alarm = made["understudy_drift_alarm"]
        self.drift_uncounted = made["understudy_drift_uncounted_total"]
        self.expected = made["understudy_expected"]
        self.plan_stale = made["understudy_plan_stale"]
        self.store_spooled = made["understudy_store_spooled_rows"]
        self.events = made["understudy_events_total"]
        self.webhooks = made["understudy_webhooks_total"]
        self.webhook_waiting = made["understudy_webhook_waiting"]
        self.store_flush = made["understudy_store_flush_seconds"]
        self.store_rows = made["understudy_store_rows_total"]
        self.store_dropped = made["understudy_store_dropped_total"]
        self.store_errors = made["understudy_store_errors_total"]

    def count_compared(self, sums: Mapping[str, float]) -> None:
        """Count a batch's comparison (`understudy.rollout.comparison.ComparisonSums.sums`)."""
        if not sums:
            return
        self.compared_rows.inc(sums.get("rows", 0.0))
        for name, value in sums.items():
            what, _, output = name.partition("/")
            if what in {"label_flips", "rows_outside"} and value:
                self.disagreements.labels(output=output or "label").inc(value)
        buckets = [sums.get(f"distance/{i}", 0.0) for i in range(len(DISTANCE_BUCKETS) + 1)]
        _add(self.distance, buckets, sums.get("distance_sum", 0.0))

    def set_evidence(self, metrics: Iterable["MetricVerdict"]) -> None:
        """Export the estimate and the band of each metric."""
        for metric in metrics:
            for bound in ("estimate", "low", "high"):
                self.evidence.labels(metric=metric.metric, bound=bound).set(getattr(metric, bound))

    def set_plan(self, phase: Phase, weight: float) -> None:
        """Export the plan in force; `weight` is 0 to 1."""
        self.weight.set(weight)
        for name in Phase:
            self.phase.labels(phase=name.value).set(1.0 if name is phase else 0.0)


def observe_many(histogram: "Histogram", values: Sequence[float] | Iterable[float]) -> list[int]:
    """Add many observations to a histogram child at once.

    `observe` for each request would be a large part of a request's cost. Here each bucket is incremented once per batch.
    This uses the child's inner buckets, because prometheus_client has no call for it; a test compares it with `observe`.

    Returns:
        How many values fell into each bucket; the last one has no upper edge.
    """
    edges = histogram._upper_bounds
    counts = [0] * len(edges)
    total = 0.0
    for value in values:
        counts[bisect.bisect_left(edges, value)] += 1
        total += value
    _add(histogram, counts, total)
    return counts


def _add(histogram: "Histogram", counts: Sequence[float], total: float) -> None:
    for bucket, count in zip(histogram._buckets, counts, strict=True):
        if count:
            bucket.inc(count)
    histogram._sum.inc(total)


def parse(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """The samples of a `/metrics` text: name, labels, value."""
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, dict(sample.labels), sample.value
