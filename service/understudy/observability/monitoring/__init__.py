"""Files for Prometheus and Grafana: rules with the rollout file's goals as thresholds, a dashboard, a scrape config.

They are generated from `understudy.observability.metrics.TABLE` and the rollout file, so they follow renamed metrics and changed
goals. `understudy monitoring` writes the files; `k8s/monitoring/` has those of the example.
"""

import json

import yaml

from understudy.domain import JsonObject
from understudy.observability.monitoring.grafana import dashboard
from understudy.observability.monitoring.rules import rules
from understudy.rollout.policy import Policy

HEAD = "# Written by `understudy monitoring` from {}. Do not edit: change that file and run the command again.\n"


def files(policy: Policy, target: str, source: str) -> dict[str, str]:
    """File name → text.

    Args:
        target: host and port of the service, as Prometheus reaches it.
        source: the file with the goals, named in the headers.
    """
    head = HEAD.format(source)
    return {
        "rules.yaml": head + _yaml(rules(policy)),
        "prometheus.yaml": head + _yaml(scrape_config(target)),
        "grafana-dashboard.json": json.dumps(dashboard(policy), indent=1, ensure_ascii=False) + "\n",
    }


def scrape_config(target: str) -> JsonObject:
    """A minimal Prometheus configuration. A service is one target: any worker reports for all of them."""
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "understudy", "static_configs": [{"targets": [target]}]}],
    }


def _yaml(data: JsonObject) -> str:
    text: str = yaml.safe_dump(data, sort_keys=False, width=120, allow_unicode=True)
    return text
