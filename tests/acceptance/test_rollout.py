"""The judge in the real service: it moves by itself, stops at once, promotes without a failed request, and can be verified."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from models.data import Flight
from tests.support.service import ROOT, Load, events, replay, rollout_file, start, up

pytestmark = pytest.mark.acceptance


def test_july_is_promoted_broken_is_not_and_both_verify(tmp_path: Path) -> None:
    """A part of July: the candidate goes through every step, the broken one is taken off; the decisions are reached again."""
    for name, candidate, phase in (("good", "flight_candidate", "promoted"), ("broken", "flight_broken", "aborted")):
        file = rollout_file(tmp_path / name, f"models/{candidate}")
        service = start(tmp_path / name, rollout=file, tick_ms="150")
        try:
            service.wait_for(lambda service=service: up(service))
            told = replay(service, "--month", "7", "--limit", "16000" if name == "good" else "3000", "--rate", "1200")
            service.wait_for(lambda service=service, phase=phase: service.rollout()["phase"] == phase)
            assert told["failed"] == 0
            kinds = [e["kind"] for e in events(service)]
            assert kinds == (
                ["started", "advance", "advance", "advance", "finish"] if name == "good" else ["started", "rollback"]
            )
            said = events(service)[-1]["reason"]
            assert "Brier score is" in said, said
        finally:
            service.stop()
        store = f"sqlite:///{tmp_path / name / 'understudy.db'}"
        command = [sys.executable, "-m", "understudy.cli", "verify", str(file), "--store", store, "--json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["agrees"]


@pytest.mark.alone
def test_an_abort_is_obeyed_by_every_worker_within_a_second(tmp_path: Path, july: list[Flight]) -> None:
    """Under load, two workers, half the traffic on the candidate: a second after the abort nobody gets its answer."""
    service = start(tmp_path / "state", workers=2, rollout=rollout_file(tmp_path))
    try:
        service.wait_for(lambda: up(service))
        service.http.post("/rollout/weight", json={"weight": 50})
        with Load(service, july) as load:
            service.wait_for(lambda: load.answered_by("candidate") > 100)
            order = service.http.post("/rollout/abort", json={"reason": "test"})
            acknowledged = time.monotonic()
            service.wait_for(lambda: load.answered_by("primary", since=acknowledged + 1.0) > 100)
        assert order.json()["phase"] == "aborted"
        assert {status for _, status, _ in load.seen} == {200}
        assert load.answered_by("candidate", since=acknowledged + 1.0) == 0
        retry = service.http.post("/rollout/retry", json={"reason": "again"}).json()
        assert (retry["phase"], retry["weight"]) == ("shadow", 0)
        refused = service.http.post("/rollout/undo", json={})
        assert refused.status_code == 409
        assert "not allowed while the rollout is shadow" in refused.json()["detail"]
    finally:
        service.stop()


@pytest.mark.alone
def test_a_promotion_swaps_without_a_failed_request_and_needs_no_candidate_process(
    tmp_path: Path, july: list[Flight]
) -> None:
    """Promoted under load: the candidate answers everything, soon from the answering process itself; undo takes it back."""
    service = start(tmp_path / "state", rollout=rollout_file(tmp_path))
    try:
        service.wait_for(lambda: up(service))
        with Load(service, july) as load:
            service.wait_for(lambda: load.answered_by("primary") > 100)
            assert (
                service.http.post("/rollout/promote", json={"full": True, "reason": "go"}).json()["phase"] == "promoted"
            )
            promoted = time.monotonic()
            service.wait_for(lambda: "the promoted model answers in this worker" in service.log.read_text())
            service.children("Candidate")[0].kill()
            killed = time.monotonic()
            service.wait_for(lambda: load.answered_by("candidate", since=killed) > 200)
            asked = time.monotonic()
            assert service.http.post("/rollout/undo", json={"reason": "back"}).json()["phase"] == "aborted"
            undone = time.monotonic()
            service.wait_for(lambda: load.answered_by("primary", since=undone + 1.0) > 100)
        assert {status for _, status, _ in load.seen} == {200}
        assert load.answered_by("primary", since=promoted) == load.answered_by("primary", since=asked)
        assert load.answered_by("candidate", since=undone + 1.0) == 0
        assert [e["kind"] for e in events(service)] == ["started", "promote_full", "undo"]
    finally:
        service.stop()


def test_the_leader_is_killed_and_the_rollout_goes_on(tmp_path: Path) -> None:
    """`kill -9` of the process that judges, twice, and of a worker, while July is replayed: every transition happens, once."""
    file = rollout_file(tmp_path)
    service = start(tmp_path / "state", workers=2, rollout=file, lease_s="1.0", tick_ms="150")
    try:
        service.wait_for(lambda: up(service))
        killed: list[int] = []

        def killer() -> None:
            for wanted, names in ((2, ("Records", "Understudy")), (3, ("Records",))):
                service.wait_for(lambda wanted=wanted: service.rollout()["revision"] >= wanted)
                for name in names:
                    victim = service.wait_for(
                        lambda name=name: next((c for c in service.children(name) if c.pid not in killed), None)
                    )
                    killed.append(victim.pid)
                    victim.kill()

        thread = threading.Thread(target=killer)
        thread.start()
        command = [
            sys.executable,
            "-m",
            "understudy.cli",
            "replay",
            "--url",
            service.url,
            "--month",
            "7",
            "--rate",
            "1000",
        ]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, cwd=ROOT, **quiet) as replaying:  # a killed worker drops its connections
            try:
                service.wait_for(lambda: service.rollout()["phase"] == "promoted", 90)
            finally:
                replaying.terminate()
        thread.join()
        assert len(killed) == 3
        assert [e["kind"] for e in events(service)] == ["started", "advance", "advance", "advance", "finish"]
        assert [e["revision"] for e in events(service)] == [1, 2, 3, 4, 5]
    finally:
        service.stop()


def test_roles_and_the_neighbours_endpoints(tmp_path: Path, july: list[Flight]) -> None:
    """With tokens: viewers look, operators order, nobody else does either; Argo and Flagger get their answers."""
    tokens = tmp_path / "tokens"
    lines = [
        f"{name} {role} {hashlib.sha256(name.encode()).hexdigest()}"
        for name, role in (("vic", "viewer"), ("olga", "operator"))
    ]
    tokens.write_text("\n".join(lines) + "\n")
    service = start(tmp_path / "state", rollout=rollout_file(tmp_path), tokens_file=str(tokens))
    try:
        assert service.http.get("/rollout").status_code == 401
        assert service.http.post("/rollout/abort", json={}).status_code == 401
        assert service.predict(july[0].row).status_code == 200
        assert service.predict(july[0].row, X_Rollout_Variant="candidate").status_code == 401
        service.http.headers["Authorization"] = "Bearer vic"
        assert service.http.post("/rollout/pause", json={}).status_code == 403
        argo = service.http.get("/rollout/verdict").json()["data"]
        assert (argo["ok"], argo["inconclusive"]) == (False, True)
        assert service.http.post("/rollout/gate", json={"name": "x"}).status_code == 200
        service.http.headers["Authorization"] = "Bearer olga"
        assert service.http.post("/rollout/pause", json={"reason": "lunch"}).json()["phase"] == "paused"
        gate = service.http.post("/rollout/gate", json={"name": "x"})
        assert gate.status_code == 403
        assert "paused" in gate.json()["detail"]
        assert service.http.post("/rollout/abort", json={"reason": "enough"}).json()["phase"] == "aborted"
        argo = service.http.get("/rollout/verdict").json()["data"]
        assert (argo["ok"], argo["inconclusive"]) == (False, False)
        assert [(e["kind"], e["actor"], e["reason"]) for e in events(service)][1:] == [
            ("pause", "olga", "lunch"),
            ("abort", "olga", "enough"),
        ]
    finally:
        service.stop()
