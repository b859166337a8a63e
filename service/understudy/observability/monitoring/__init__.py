"""What Prometheus and Grafana are given: rules with the rollout file's own goals as thresholds, a dashboard, a scrape config.

All of it is written from `understudy.observability.metrics.TABLE` and the rollout file, so that a metric that is renamed, or a
goal that changes, changes here too. `understudy monitoring` writes the files; `k8s/monitoring/` has the example's.
"""

import json
from typing import Any

import yaml

from understudy.observability.monitoring.grafana import dashboard
from understudy.observability.monitoring.rules import rules
from understudy.rollout.policy import Policy

HEAD = "# Written by `understudy monitoring` from {}. Change that, then write it again.\n"


def files(policy: Policy, target: str, said: str) -> dict[str, str]:
    """File name → text.

    Args:
        target: host and port of the service, as Prometheus reaches it.
        said: where the goals come from, for the heads of the files.
    """
    head = HEAD.format(said)
    return {
        "rules.yaml": head + _yaml(rules(policy)),
        "prometheus.yaml": head + _yaml(scrape_config(target)),
        "grafana-dashboard.json": json.dumps(dashboard(policy), indent=1, ensure_ascii=False) + "\n",
    }


def scrape_config(target: str) -> dict[str, Any]:
    """The smallest Prometheus configuration: any worker answers for all of them, so a service is one target."""
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "understudy", "static_configs": [{"targets": [target]}]}],
    }


def _yaml(data: Any) -> str:
    text: str = yaml.safe_dump(data, sort_keys=False, width=120, allow_unicode=True)
    return text
