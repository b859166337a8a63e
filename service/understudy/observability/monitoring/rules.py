"""Recording and alert rules, with the rollout file's goals as thresholds. Pure.

Recorded names are level:metric:operations (Prometheus' own practice). Workers need no summing: whichever is scraped adds all of
its service's up. Replicas are several instances of one job, and are summed here. A ratio of nothing is absent.
"""

from typing import Any

from understudy.rollout.policy import Policy

BY = "job, model, variant"
LABELLED = 'understudy_labels_total{result=~"matched|joined"}'


def rules(policy: Policy) -> dict[str, Any]:
    """The content of a rule file."""
    return {
        "groups": [
            {"name": "understudy-recording", "rules": recording()},
            {"name": "understudy-alerts", "rules": alerts(policy)},
        ]
    }


def recording() -> list[dict[str, str]]:
    """What dashboards and alerts are computed from, once."""
    live, seconds = (
        'understudy_requests_total{mode="live",variant!="none"',
        "understudy_request_duration_seconds_bucket",
    )
    # Outcomes whose predicted class is the actual one; a label cannot be compared with another in any other way.
    diagonal = 'label_replace(group by (job, variant, predicted) (understudy_outcomes_total), "actual", "$1", "predicted", "(.+)")'
    right = f"(increase(understudy_outcomes_total[1d]) and on (job, variant, predicted, actual) {diagonal})"
    every = "increase(understudy_outcomes_total[1d])"
    lost = 'increase(understudy_shadow_total{result=~"dropped|failed|late"}[1h])'
    return [
        _record("understudy:requests:rate5m", f"sum by ({BY}) (rate({live}}}[5m]))"),
        _ratio("understudy:errors:ratio_rate5m", BY, f'rate({live},status=~"5.."}}[5m])', f"rate({live}}}[5m])"),
        *(
            _record(f"understudy:latency_seconds:{name}_rate5m",
                    f"histogram_quantile({quantile}, sum by ({BY}, le) (rate({seconds}[5m])))")
            for name, quantile in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        ),
        _ratio("understudy:loss:mean_rate1d", "job, variant, loss", "increase(understudy_loss_sum[1d])",
               "increase(understudy_loss_count[1d])"),
        _record("understudy:accuracy:ratio_rate1d", '1 - understudy:loss:mean_rate1d{loss="zero_one"}'),
        _ratio("understudy:recall:ratio_rate1d", "job, variant, actual", right, every),
        _ratio("understudy:precision:ratio_rate1d", "job, variant, predicted", right, every),
        _ratio("understudy:label_coverage:ratio_rate1d", "job", f"increase({LABELLED}[1d])",
               "increase(understudy_store_rows_total[1d])"),
        _ratio("understudy:shadow_lost:ratio_rate1h", "job", lost, 'increase(understudy_shadow_total{result="sent"}[1h])'),
        _ratio("understudy:fallbacks:ratio_rate5m", "job", "rate(understudy_fallbacks_total[5m])", f"rate({live}}}[5m])"),
    ]  # fmt: skip


def alerts(policy: Policy) -> list[dict[str, Any]]:
    """What somebody should look at. `page` wakes people: callers do not get answers. `ticket` waits for the morning."""
    goals = policy.goals
    wait = round(policy.labels.wait)
    stored = f"sum by (job) (increase(understudy_store_rows_total[{wait}s]))"
    # A range that reaches back before a service's first day is as long as that day: whoever is younger has not waited yet.
    since = f"sum by (job) (count_over_time(understudy_store_rows_total[1h] offset {wait}s)) > 0"
    found = [
        _alert("UnderstudyDown", 'up{job=~".*understudy.*"} == 0', "1m", "page",
               "{{ $labels.instance }} is not scraped: nobody may be answering."),
        _alert("UnderstudyErrors", "understudy:errors:ratio_rate5m > 0.01", "5m", "page",
               "{{ $value | humanizePercentage }} of the requests that the {{ $labels.variant }} answers fail."),
        _alert("UnderstudySlow", f"understudy:latency_seconds:p99_rate5m > {goals.latency.p99_ms / 1000:g}", "10m", "page",
               f"The {{{{ $labels.variant }}}}'s p99 is {{{{ $value | humanizeDuration }}}}; the goal is {goals.latency.p99_ms:g}"
               " ms."),
        _alert("UnderstudyCandidateDown",
               'understudy_candidate_up == 0 and on (job, instance) sum by (job, instance) '
               '(understudy_rollout_phase{phase=~"shadow|canary|waiting|paused"}) > 0', "5m", "ticket",
               "The candidate's process does not answer; the primary does in its place."),
        _alert("UnderstudyFallbacks", "understudy:fallbacks:ratio_rate5m > 0.01", "10m", "ticket",
               "{{ $value | humanizePercentage }} of the requests were routed to the candidate and answered by the primary."),
        _alert("UnderstudyRolledBack", 'max by (job) (understudy_rollout_phase{phase="aborted"}) == 1', "0m", "ticket",
               "The candidate was taken off: `understudy explain` says why."),
        _alert("UnderstudyWaiting", 'max by (job) (understudy_rollout_phase{phase="waiting"}) == 1', "10m", "ticket",
               "The rollout waits for a person: `understudy promote` or `understudy abort`."),
        _alert("UnderstudyLabelsMissing",
               f"(sum by (job) (increase({LABELLED}[{wait}s])) or {stored} * 0) == 0 and {stored} > 0 and {since}", "1h", "ticket",
               "No label has come for as long as labels are waited for: nothing can be judged."),
        _alert("UnderstudyShadowLost", "understudy:shadow_lost:ratio_rate1h > 0.05", "15m", "ticket",
               "{{ $value | humanizePercentage }} of the rehearsals were dropped, failed or late: evidence comes slower."),
        _alert("UnderstudyRecordsLost",
               "sum by (job) (increase(understudy_store_dropped_total[10m])) > 0", "0m", "ticket",
               "Records were given up because the store is too slow or away: what they said is lost as evidence."),
        _alert("UnderstudyStoreErrors", "sum by (job, call) (rate(understudy_store_errors_total[5m])) > 0", "5m", "ticket",
               "The store refuses {{ $labels.call }}: records wait, and nothing is judged."),
        _alert("UnderstudyStoreAway", "sum by (job) (understudy_store_spooled_rows) > 0", "2m", "page",
               "{{ $value }} records wait on disk for the store: answers go on, and nothing is judged."),
        _alert("UnderstudyPlanStale", "max by (job, instance) (understudy_plan_stale) == 1", "1m", "ticket",
               "{{ $labels.instance }} cannot read the plan, and keeps live traffic away from a candidate on trial."),
        _alert("UnderstudyBadInput",
               'sum by (job) (rate(understudy_requests_total{variant="none",status="422"}[15m])) / '
               "(sum by (job) (rate(understudy_requests_total[15m])) > 0) > 0.05", "15m", "ticket",
               "{{ $value | humanizePercentage }} of the requests do not fit the model: understudy_input_problems_total has the "
               "fields."),
        _alert("UnderstudyDrift", "max by (job, variant, feature) (understudy_drift_alarm) == 1", "0m", "ticket",
               "{{ $labels.feature }} is unlike the {{ $labels.variant }}'s training: `understudy explain` says how."),
    ]  # fmt: skip
    quality = goals.quality
    if quality is not None and quality.poc_target is not None:
        target = f"{quality.poc_target:.10g}"
        found.append(_alert(
            "UnderstudyTargetMissed",
            f'understudy:loss:mean_rate1d{{loss="{quality.loss}"}} > {target} '
            f'and on (job, variant) sum by (job, variant) (increase(understudy_loss_count{{loss="{quality.loss}"}}[1d])) > 500',
            "1h", "ticket",
            f"The {{{{ $labels.variant }}}}'s {quality.loss} over a day is {{{{ $value }}}}; the target is {target}.",
        ))  # fmt: skip
    return found


def _record(name: str, expression: str) -> dict[str, str]:
    return {"record": name, "expr": expression}


def _ratio(name: str, by: str, part: str, whole: str) -> dict[str, str]:
    """A share of a whole: 0 where nothing of it was counted yet, absent where there is no whole."""
    total = f"sum by ({by}) ({whole})"
    return _record(name, f"(sum by ({by}) ({part}) or {total} * 0) / ({total} > 0)")


def _alert(name: str, expression: str, lasts: str, severity: str, summary: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "for": lasts,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }
