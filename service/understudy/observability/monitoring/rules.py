"""Recording and alert rules, with the rollout file's goals as thresholds. Pure.

Recorded names are level:metric:operations, as Prometheus recommends. Workers need no sums: whichever is scraped reports the totals
of its service. Replicas are instances of one job and are summed here. A ratio without a denominator is absent.
"""

from collections.abc import Iterator

from understudy.domain import JsonObject
from understudy.rollout.goals import Goals
from understudy.rollout.policy import Policy

BY = "job, model, variant"
LABELLED = 'understudy_labels_total{result=~"matched|joined"}'
LIVE = 'understudy_requests_total{mode="live",variant!="none"'
ROWS_JUDGED_MIN = 500
"""Labelled rows of a day that a missed target needs."""


def rules(policy: Policy) -> JsonObject:
    """The content of a rule file."""
    return {
        "groups": [
            {"name": "understudy-recording", "rules": recording()},
            {"name": "understudy-alerts", "rules": alerts(policy)},
        ]
    }


def recording() -> list[dict[str, str]]:
    """The rules that dashboards and alerts are computed from."""
    return [*_traffic_ratios(), *_quality_ratios()]


def _traffic_ratios() -> Iterator[dict[str, str]]:
    seconds = "understudy_request_duration_seconds_bucket"
    yield _record("understudy:requests:rate5m", f"sum by ({BY}) (rate({LIVE}}}[5m]))")
    failed = f'rate({LIVE},status=~"5.."}}[5m])'
    yield _ratio("understudy:errors:ratio_rate5m", BY, failed, f"rate({LIVE}}}[5m])")
    for name, quantile in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        buckets = f"sum by ({BY}, le) (rate({seconds}[5m]))"
        yield _record(f"understudy:latency_seconds:{name}_rate5m", f"histogram_quantile({quantile}, {buckets})")


def _quality_ratios() -> Iterator[dict[str, str]]:
    # Outcomes whose predicted class is the actual one: PromQL cannot compare two labels in any other way.
    diagonal = 'label_replace(group by (job, variant, predicted) (understudy_outcomes_total), "actual", "$1", "predicted", "(.+)")'
    right = f"(increase(understudy_outcomes_total[1d]) and on (job, variant, predicted, actual) {diagonal})"
    every = "increase(understudy_outcomes_total[1d])"
    losses, rows = "increase(understudy_loss_sum[1d])", "increase(understudy_loss_count[1d])"
    yield _ratio("understudy:loss:mean_rate1d", "job, variant, loss", losses, rows)
    yield _record("understudy:accuracy:ratio_rate1d", '1 - understudy:loss:mean_rate1d{loss="zero_one"}')
    yield _ratio("understudy:recall:ratio_rate1d", "job, variant, actual", right, every)
    yield _ratio("understudy:precision:ratio_rate1d", "job, variant, predicted", right, every)
    stored = "increase(understudy_store_rows_total[1d])"
    yield _ratio("understudy:label_coverage:ratio_rate1d", "job", f"increase({LABELLED}[1d])", stored)
    lost = 'increase(understudy_shadow_total{result=~"dropped|failed|late"}[1h])'
    sent = 'increase(understudy_shadow_total{result="sent"}[1h])'
    yield _ratio("understudy:shadow_lost:ratio_rate1h", "job", lost, sent)
    fallbacks = "rate(understudy_fallbacks_total[5m])"
    yield _ratio("understudy:fallbacks:ratio_rate5m", "job", fallbacks, f"rate({LIVE}}}[5m])")


def alerts(policy: Policy) -> list[JsonObject]:
    """The alert rules. `page`: callers get no answers, so somebody is woken. `ticket`: it can wait until the morning."""
    return [
        *_service_alerts(policy.goals),
        *_rollout_alerts(),
        *_label_alerts(round(policy.labels.wait)),
        *_store_alerts(),
        *_input_alerts(),
        *_target_alerts(policy.goals),
    ]


def _service_alerts(goals: Goals) -> Iterator[JsonObject]:
    yield _alert(
        "UnderstudyDown",
        'up{job=~".*understudy.*"} == 0',
        "1m",
        "page",
        "Prometheus cannot scrape {{ $labels.instance }}: callers may get no answers.",
    )
    yield _alert(
        "UnderstudyErrors",
        "understudy:errors:ratio_rate5m > 0.01",
        "5m",
        "page",
        "{{ $value | humanizePercentage }} of the requests to the {{ $labels.variant }} fail.",
    )
    yield _alert(
        "UnderstudySlow",
        f"understudy:latency_seconds:p99_rate5m > {goals.latency.p99_ms / 1000:g}",
        "10m",
        "page",
        f"p99 of the {{{{ $labels.variant }}}} is {{{{ $value | humanizeDuration }}}}; the goal is {goals.latency.p99_ms:g} ms.",
    )


def _rollout_alerts() -> Iterator[JsonObject]:
    on_trial = 'understudy_rollout_phase{phase=~"shadow|canary|waiting|paused"}'
    yield _alert(
        "UnderstudyCandidateDown",
        f"understudy_candidate_up == 0 and on (job, instance) sum by (job, instance) ({on_trial}) > 0",
        "5m",
        "ticket",
        "The candidate's process does not answer; the primary answers in its place.",
    )
    yield _alert(
        "UnderstudyFallbacks",
        "understudy:fallbacks:ratio_rate5m > 0.01",
        "10m",
        "ticket",
        "{{ $value | humanizePercentage }} of the requests were routed to the candidate and answered by the primary.",
    )
    yield _alert(
        "UnderstudyRolledBack",
        'max by (job) (understudy_rollout_phase{phase="aborted"}) == 1',
        "0m",
        "ticket",
        "The candidate was taken off: `understudy explain` says why.",
    )
    yield _alert(
        "UnderstudyWaiting",
        'max by (job) (understudy_rollout_phase{phase="waiting"}) == 1',
        "10m",
        "ticket",
        "The rollout waits for an operator: `understudy promote` or `understudy abort`.",
    )
    yield _alert(
        "UnderstudyShadowLost",
        "understudy:shadow_lost:ratio_rate1h > 0.05",
        "15m",
        "ticket",
        "{{ $value | humanizePercentage }} of the rehearsals were dropped, failed or late: the rollout takes longer.",
    )
    yield _alert(
        "UnderstudyPlanStale",
        "max by (job, instance) (understudy_plan_stale) == 1",
        "1m",
        "ticket",
        "{{ $labels.instance }} cannot read the plan and sends no live traffic to a candidate on trial.",
    )


def _label_alerts(wait_s: int) -> Iterator[JsonObject]:
    stored = f"sum by (job) (increase(understudy_store_rows_total[{wait_s}s]))"
    labelled = f"sum by (job) (increase({LABELLED}[{wait_s}s]))"
    # A range that starts before the service is cut at its start, so a younger service has not waited long enough.
    old_enough = f"sum by (job) (count_over_time(understudy_store_rows_total[1h] offset {wait_s}s)) > 0"
    yield _alert(
        "UnderstudyLabelsMissing",
        f"({labelled} or {stored} * 0) == 0 and {stored} > 0 and {old_enough}",
        "1h",
        "ticket",
        "No label has come within `labels.wait`: quality cannot be judged. Check the job that reports labels.",
    )


def _store_alerts() -> Iterator[JsonObject]:
    yield _alert(
        "UnderstudyRecordsLost",
        "sum by (job) (increase(understudy_store_dropped_total[10m])) > 0",
        "0m",
        "ticket",
        "Records were dropped because the store is too slow or unavailable: their rows are lost as evidence.",
    )
    yield _alert(
        "UnderstudyStoreErrors",
        "sum by (job, call) (rate(understudy_store_errors_total[5m])) > 0",
        "5m",
        "ticket",
        "Store calls fail ({{ $labels.call }}): records wait, and nothing is judged.",
    )
    yield _alert(
        "UnderstudyStoreAway",
        "sum by (job) (understudy_store_spooled_rows) > 0",
        "2m",
        "page",
        "The store is unavailable: {{ $value }} records wait on disk. Predictions continue, but nothing is judged.",
    )


def _input_alerts() -> Iterator[JsonObject]:
    rejected = 'sum by (job) (rate(understudy_requests_total{variant="none",status="422"}[15m]))'
    every = "(sum by (job) (rate(understudy_requests_total[15m])) > 0)"
    yield _alert(
        "UnderstudyBadInput",
        f"{rejected} / {every} > 0.05",
        "15m",
        "ticket",
        "{{ $value | humanizePercentage }} of the requests do not fit the model; understudy_input_problems_total has the fields.",
    )
    yield _alert(
        "UnderstudyDrift",
        "max by (job, variant, feature) (understudy_drift_alarm) == 1",
        "0m",
        "ticket",
        "{{ $labels.feature }} differs from the {{ $labels.variant }}'s training data: `understudy explain` says how.",
    )


def _target_alerts(goals: Goals) -> Iterator[JsonObject]:
    quality = goals.quality
    if quality is None or quality.poc_target is None:
        return
    target = f"{quality.poc_target:.10g}"
    rows = f'sum by (job, variant) (increase(understudy_loss_count{{loss="{quality.loss}"}}[1d])) > {ROWS_JUDGED_MIN}'
    yield _alert(
        "UnderstudyTargetMissed",
        f'understudy:loss:mean_rate1d{{loss="{quality.loss}"}} > {target} and on (job, variant) {rows}',
        "1h",
        "ticket",
        f"The {{{{ $labels.variant }}}}'s {quality.loss} over a day is {{{{ $value }}}}; the target is {target}.",
    )


def _record(name: str, expression: str) -> dict[str, str]:
    return {"record": name, "expr": expression}


def _ratio(name: str, by: str, part: str, whole: str) -> dict[str, str]:
    """A share of a whole: 0 if nothing of it was counted yet, absent if there is no whole."""
    total = f"sum by ({by}) ({whole})"
    return _record(name, f"(sum by ({by}) ({part}) or {total} * 0) / ({total} > 0)")


def _alert(name: str, expression: str, lasts: str, severity: str, summary: str) -> JsonObject:
    return {
        "alert": name,
        "expr": expression,
        "for": lasts,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }
