"""A Grafana dashboard: the most important figures, then every metric of the table. Pure.

For Grafana 9 and later (schema 37). Grafana asks for the data source on import; `job` is a variable, so one dashboard serves
several rollouts.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from understudy.domain import JsonObject
from understudy.observability.metrics import TABLE, Spec
from understudy.rollout.policy import Policy

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 24, 8
ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Requests",
        (
            "understudy_request",
            "understudy_inference",
            "understudy_batch",
            "understudy_fallbacks",
            "understudy_candidate",
            "understudy_input",
        ),
    ),
    ("Rehearsals", ("understudy_shadow", "understudy_compared", "understudy_disagreements", "understudy_probability")),
    ("Labels and quality", ("understudy_label", "understudy_outcomes", "understudy_loss", "understudy_expected")),
    ("Rollout", ("understudy_evidence", "understudy_rollout", "understudy_events")),
    ("Drift", ("understudy_feature", "understudy_drift")),
    ("Store", ("understudy_store",)),
    ("Others", ("",)),
)
"""Rows of the dashboard with the prefixes of their metrics; the first match counts."""

Panel: TypeAlias = JsonObject


def dashboard(policy: Policy) -> Panel:
    """The dashboard of a rollout."""
    panels: list[Panel] = []
    _lay(panels, f"{policy.model}: at a glance", list(_headline(policy)), per_row=4)
    left = list(TABLE)
    for title, names in ROWS:
        mine = [spec for spec in left if spec.name.startswith(names)]
        left = [spec for spec in left if spec not in mine]
        if mine:
            _lay(panels, title, [_of(spec) for spec in mine], per_row=3)
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "uid": "understudy",
        "title": "Understudy",
        "description": "Written by `understudy monitoring` from the table of metrics and the rollout file.",
        "tags": ["understudy"],
        "schemaVersion": 37,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "data source"},
                {
                    "name": "job",
                    "type": "query",
                    "datasource": SOURCE,
                    "label": "job",
                    "refresh": 2,
                    "includeAll": True,
                    "multi": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                    "query": {"query": "label_values(understudy_rollout_weight, job)", "refId": "job"},
                },
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "rollout events",
                    "datasource": SOURCE,
                    "enable": True,
                    "iconColor": "orange",
                    "expr": 'changes(understudy_rollout_weight{job=~"$job"}[1m]) > 0',
                    "titleFormat": "the weight changed",
                },
            ]
        },
        "panels": panels,
    }


def _headline(policy: Policy) -> Iterator[Panel]:
    goals = policy.goals
    yield _stat("Phase", 'max by (phase) (understudy_rollout_phase{job=~"$job"}) == 1', "{{phase}}", text="name")
    yield _stat("Candidate's share of answers", 'max(understudy_rollout_weight{job=~"$job"})', "", "percentunit")
    yield _stat(
        "Drift alarms",
        'sum(max by (variant, feature) (understudy_drift_alarm{job=~"$job"})) or vector(0)',
        "",
        steps=((None, "green"), (1, "orange")),
    )
    yield _stat("Label coverage over a day", 'understudy:label_coverage:ratio_rate1d{job=~"$job"}', "", "percentunit")
    yield _lines(
        "Answered requests",
        ['understudy:requests:rate5m{job=~"$job"}'],
        "{{variant}}",
        "reqps",
        line=goals.throughput_rps,
    )
    yield _lines(
        "p99 latency and its goal",
        ['understudy:latency_seconds:p99_rate5m{job=~"$job"}'],
        "{{variant}}",
        "s",
        line=goals.latency.p99_ms / 1000,
    )
    yield _lines("Errors", ['understudy:errors:ratio_rate5m{job=~"$job"}'], "{{variant}}", "percentunit")
    yield _lines("Accuracy over a day", ['understudy:accuracy:ratio_rate1d{job=~"$job"}'], "{{variant}}", "percentunit")
    if goals.quality is not None:
        loss = goals.quality.loss
        yield _lines(
            f"{loss} over a day (less is better)",
            [f'understudy:loss:mean_rate1d{{job=~"$job",loss="{loss}"}}'],
            "{{variant}}",
            line=goals.quality.poc_target,
        )
    yield _lines(
        "Evidence: candidate minus primary",
        ['max by (metric, bound) (understudy_evidence{job=~"$job"})'],
        "{{metric}} {{bound}}",
    )
    away, line = (f'max by (variant, feature) (understudy_feature_psi{part}{{job=~"$job"}})' for part in ("", "_line"))
    yield _lines(
        "Drift: distance as a share of its threshold, the five largest",
        [f"topk(5, {away} / {line})"],
        "{{variant}} {{feature}}",
        line=1.0,
    )
    yield _lines("Lost rehearsals", ['understudy:shadow_lost:ratio_rate1h{job=~"$job"}'], "", "percentunit")


def _of(spec: Spec) -> Panel:
    """The panel of one metric: the rate of a counter, the value of a gauge, quantiles of a histogram, the mean of a summary."""
    chosen, by = '{job=~"$job"}', ", ".join(spec.labels)
    legend = " ".join(f"{{{{{label}}}}}" for label in spec.labels)
    unit = "s" if spec.name.endswith("_seconds") else "short"
    grouped = f" by ({by})" if by else ""
    if spec.kind == "counter":
        expressions = [f"sum{grouped} (rate({spec.name}{chosen}[$__rate_interval]))"]
        unit = "cps"
    elif spec.kind == "gauge":
        expressions = [f"max{grouped} ({spec.name}{chosen})"]
    elif spec.kind == "summary":
        sums, counts = (
            f"sum{grouped} (rate({spec.name}_{part}{chosen}[$__rate_interval]))" for part in ("sum", "count")
        )
        expressions = [f"{sums} / ({counts} > 0)"]
    else:
        inner = f"sum by ({', '.join((*spec.labels, 'le'))}) (rate({spec.name}_bucket{chosen}[$__rate_interval]))"
        expressions = [f"histogram_quantile({q}, {inner})" for q in (0.5, 0.99)]
        panel = _lines(spec.name, expressions, legend, unit, description=spec.help)
        for target, name in zip(panel["targets"], ("p50", "p99"), strict=True):
            target["legendFormat"] = f"{name} {legend}".strip()
        return panel
    return _lines(spec.name, expressions, legend, unit, description=spec.help)


def _lines(
    title: str,
    expressions: Sequence[str],
    legend: str,
    unit: str = "short",
    *,
    line: float | None = None,
    description: str = "",
) -> Panel:
    """A time series with an optional goal as a horizontal line."""
    custom: Panel = {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never"}
    defaults: Panel = {"unit": unit, "custom": custom}
    if line is not None:
        custom["thresholdsStyle"] = {"mode": "dashed"}
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"value": None, "color": "transparent"}, {"value": line, "color": "orange"}],
        }
    return _panel("timeseries", title, expressions, legend, description) | {
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }


def _stat(
    title: str,
    expression: str,
    legend: str,
    unit: str = "short",
    *,
    text: str = "auto",
    steps: Sequence[tuple[float | None, str]] = ((None, "blue"),),
) -> Panel:
    """One number, or the name of the series whose value is 1."""
    thresholds = {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}
    return _panel("stat", title, [expression], legend, "") | {
        "fieldConfig": {"defaults": {"unit": unit, "thresholds": thresholds}, "overrides": []},
        "options": {"textMode": text, "colorMode": "value", "reduceOptions": {"calcs": ["lastNotNull"]}},
    }


def _panel(kind: str, title: str, expressions: Sequence[str], legend: str, description: str) -> Panel:
    targets = [
        {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
        for i, expression in enumerate(expressions)
    ]
    return {"type": kind, "title": title, "description": description, "datasource": SOURCE, "targets": targets}


def _lay(panels: list[Panel], title: str, row: Sequence[Panel], *, per_row: int) -> None:
    """Append a row and its panels, from left to right."""
    y = max((p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels), default=0)
    panels.append(
        {
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
        }
    )
    width = WIDTH // per_row
    for i, panel in enumerate(row):
        place = {"x": i % per_row * width, "y": y + 1 + i // per_row * HEIGHT, "w": width, "h": HEIGHT}
        panels.append(panel | {"gridPos": place})
