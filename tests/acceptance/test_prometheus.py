"""A real Prometheus scrapes two workers, and PromQL says what the store says; also after one of them was killed."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.service import ROOT, Running, replay, start
from understudy.domain import Variant
from understudy.observability.monitoring import files
from understudy.rollout.policy import parse
from understudy.runtime.ports import free_port

pytestmark = pytest.mark.acceptance

ACCURACY = '1 - sum by (variant) (understudy_loss_sum{loss="zero_one"}) / sum by (variant) (understudy_loss_count{loss="zero_one"})'
ACCURACY_BY_CLASS = (
    "sum by (variant) (understudy_outcomes_total and on (variant, predicted, actual) "
    'label_replace(group by (variant, predicted) (understudy_outcomes_total), "actual", "$1", "predicted", "(.+)"))'
    " / sum by (variant) (understudy_outcomes_total)"
)
BRIER = 'sum by (variant) (understudy_loss_sum{loss="brier"}) / sum by (variant) (understudy_loss_count{loss="brier"})'
P99 = "1000 * histogram_quantile(0.99, sum by (variant, le) (understudy_request_duration_seconds_bucket))"
REQUESTS = 'sum by (variant) (understudy_requests_total{mode="live",status="200"})'


class Prometheus:
    """A server of its own, with the example's configuration on a fast clock."""

    def __init__(self, folder: Path, target: str) -> None:
        program = shutil.which("prometheus")
        if program is None:
            pytest.skip("NO PROMETHEUS: nothing is scraped here. Install it (Debian: apt-get install prometheus)")
        policy = parse((ROOT / "rollout.yaml").read_text())
        for name, text in files(policy, target, "rollout.yaml").items():
            (folder / name).write_text(text)
        config = yaml.safe_load((folder / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        port = free_port()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10)
        with (folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    program,
                    f"--config.file={folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def ask(self, expression: str) -> dict[str, float]:
        """An instant query by variant."""
        answer = self.http.get("/query", params={"query": expression}).raise_for_status().json()
        return {each["metric"].get("variant", ""): float(each["value"][1]) for each in answer["data"]["result"]}

    def rules(self) -> list[dict[str, Any]]:
        groups = self.http.get("/rules").raise_for_status().json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def close(self) -> None:
        self.http.close()
        self.process.terminate()
        self.process.wait(20)


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    server = Prometheus(folder, target)
    try:
        yield server
    finally:
        server.close()


def agree(service: Running, server: Prometheus) -> None:
    """Wait until everything is scraped; then every figure of both sides is the same to rounding."""

    def store() -> dict[str, Any]:
        return {name: figures for name, figures in service.rollout()["variants"].items() if figures["requests"]}

    service.wait_for(
        lambda: (
            server.ask(REQUESTS) == {name: float(figures["requests"]) for name, figures in store().items()}
            and server.ask(f"({BRIER}) > 0").keys() == {v.value for v in Variant}
            and abs(server.ask(BRIER)["primary"] - store()["primary"]["brier"]) < 1e-12
        )
    )
    kept = service.rollout()["variants"]
    for variant, figures in kept.items():
        assert server.ask(ACCURACY)[variant] == pytest.approx(figures["accuracy"], abs=1e-9)
        assert server.ask(ACCURACY_BY_CLASS)[variant] == pytest.approx(figures["accuracy"], abs=1e-9)
        assert server.ask(BRIER)[variant] == pytest.approx(figures["brier"], abs=1e-9)
        if figures["requests"]:
            assert server.ask(P99)[variant] == pytest.approx(
                figures["latency_p99_ms"], abs=6e-4
            )  # kept with 3 decimals


def test_promql_says_what_the_store_says_under_two_workers_and_after_killing_one(tmp_path: Path) -> None:
    """Requests, accuracy by two ways, Brier, p99; and every rule is evaluated without an error."""
    service = start(tmp_path / "state", workers=2)
    try:
        with prometheus(tmp_path, service.url.removeprefix("http://")) as server:
            service.wait_for(lambda: service.rollout()["candidate"]["up"])
            service.http.post("/rollout/weight", json={"weight": 30, "reason": "both variants answer"})
            replay(service, "--month", "7", "--limit", "1500")
            agree(service, server)
            victim = service.children("Understudy")[0]
            victim.kill()
            service.wait_for(lambda: victim.pid not in {p.pid for p in service.children("Understudy")})
            service.wait_for(lambda: len(service.children("Understudy")) == 2)
            service.wait_for(lambda: service.http.get("/readyz").status_code == 200)
            replay(service, "--month", "7", "--limit", "800")
            agree(service, server)
            service.wait_for(lambda: all(rule["health"] == "ok" for rule in server.rules()))

            assert len(server.rules()) > 20
            accuracy = "understudy:accuracy:ratio_rate1d"  # evaluated up to a second after what it reads was scraped
            service.wait_for(lambda: server.ask(accuracy).keys() == {"primary", "candidate"})
            assert all(0 < value < 1 for value in server.ask(accuracy).values())
            assert server.ask("understudy_drift_alarm > 1") == {}
    finally:
        service.stop()
