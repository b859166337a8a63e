"""Metrics of several processes add up, also those of processes that have ended."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from understudy.observability.metrics import LATENCY_BUCKETS, parse


def samples(text: str) -> dict[tuple[Any, ...], float]:
    return {
        (name, *sorted(labels.items())): value for name, labels, value in parse(text) if not name.endswith("_created")
    }


CHILD = """
import json, sys
from understudy.observability.metrics import Metrics, observe_many
from understudy.domain import Phase
metrics, job = Metrics(), json.loads(sys.argv[1])
from understudy.observability.webhooks import URLS_MAX
observe_many(metrics.request_duration.labels(model="bulk", variant="primary"), job["values"])
for value in job["values"]:
    metrics.request_duration.labels(model="single", variant="primary").observe(value)
metrics.store_rows.inc(len(job["values"]))
metrics.loss.labels(variant="primary", loss="brier").observe(0.5)
metrics.set_plan(Phase(job["phase"]), job["weight"])
"""


SCRAPE = """
import prometheus_client, sys
from prometheus_client import multiprocess
registry = prometheus_client.CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
sys.stdout.write(prometheus_client.generate_latest(registry).decode())
"""


def test_several_processes_add_up_and_the_dead_ones_stay_counted(tmp_path: Path) -> None:
    """As BentoML's workers write and whoever is scraped collects: sums of counters, and the newest plan."""
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def run(code: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout

    batches = [[0.0004, 0.001, 0.0011, 7.0], [0.02, 0.02, 5.0]]
    for values, phase, weight in zip(batches, ("shadow", "canary"), (0.0, 0.05), strict=True):
        run(CHILD, json.dumps({"values": values, "phase": phase, "weight": weight}))
    got = samples(run(SCRAPE))

    def histogram(model: str) -> dict[tuple[Any, ...], float]:
        mine = ("model", model)
        return {tuple(part for part in name if part != mine): value for name, value in got.items() if mine in name}

    assert histogram("bulk") == pytest.approx(histogram("single"))
    assert histogram("bulk")["understudy_request_duration_seconds_count", ("variant", "primary")] == 7
    assert len(histogram("bulk")) == len(LATENCY_BUCKETS) + 3
    assert got["understudy_store_rows_total",] == 7
    assert got["understudy_loss_count", ("loss", "brier"), ("variant", "primary")] == 2
    assert got["understudy_loss_sum", ("loss", "brier"), ("variant", "primary")] == 1.0
    assert got["understudy_rollout_weight",] == 0.05
    assert {name[1][1] for name, v in got.items() if name[0] == "understudy_rollout_phase" and v} == {"canary"}
