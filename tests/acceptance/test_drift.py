"""Drift in the real service: two workers, real flights, a log that says what is unlike training."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT, metric, replay, start

pytestmark = pytest.mark.acceptance


def test_july_is_alarmed_within_two_days_of_flights_and_a_restart_knows_it(tmp_path: Path) -> None:
    """Under two workers, of which one is killed half way; the counts of both add up, and every alarm is told once."""
    service = start(tmp_path / "state", workers=2)
    try:
        replay(service, "--month", "7", "--limit", "900")
        service.wait_for(lambda: (service.http.get("/rollout/drift").json()["window"] or {}).get("rows") == 900)
        service.children("Understudy")[0].kill()
        service.wait_for(lambda: len(service.children("Understudy")) == 2)
        service.wait_for(lambda: service.http.get("/readyz").status_code == 200)
        replay(service, "--month", "7", "--limit", "1900")  # the first 900 once more, and a thousand
        alarms = service.wait_for(lambda: service.rollout()["drift"]["alarms"])
        events = [e for e in service.http.get("/rollout/events?limit=500").json()["events"] if e["kind"] == "drift"]
        told = [(e["details"]["alarm"], e["details"]["variant"], e["details"]["feature"]) for e in events]
        shown = subprocess.run(
            [sys.executable, "-m", "understudy.cli", "status", "--url", service.url],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )

        assert {(a["variant"], a["feature"]) for a in alarms} >= {("primary", "month"), ("primary", "temp")}
        assert ("on", "primary", "temp") in told
        assert len(told) == len(set(told))
        assert "temp is unlike the primary's training" in " ".join(shown.stdout.split())
        assert metric(service, "understudy_drift_alarm", variant="primary", feature="month") == 1
        assert metric(service, "understudy_drift_uncounted_total") == 0
    finally:
        service.stop()
    again = start(tmp_path / "state")
    try:
        kept = {(a["variant"], a["feature"], a["since"]) for a in again.rollout()["drift"]["alarms"]}
        assert kept >= {(a["variant"], a["feature"], a["since"]) for a in alarms}
    finally:
        again.stop()


@pytest.mark.slow
def test_a_replay_of_the_whole_of_january_rings_nothing(tmp_path: Path) -> None:
    """27,004 real flights through two workers, every hour looked at: not one alarm is told, on or off, for either model."""
    service = start(tmp_path / "state", workers=2)
    try:
        replay(service, "--month", "1")
        last = 1_359_694_800.0  # midnight after 31 January in New York
        service.wait_for(lambda: (service.http.get("/rollout/drift").json()["window"] or {}).get("to", 0) >= last)
        drift = service.http.get("/rollout/drift").json()
        events = service.http.get("/rollout/events?limit=1000").json()["events"]

        assert {reading["variant"] for reading in drift["features"]} == {"primary", "candidate"}
        assert drift["alarms"] == []
        assert [event for event in events if event["kind"] == "drift"] == []
    finally:
        service.stop()
