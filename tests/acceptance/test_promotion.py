"""The end of a rollout, and what comes before it when labels are missing: audit, promotion, bake, release, undo."""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml
from onnx import TensorProto, helper

from models.data import Flight
from tests.support.graphs import save
from tests.support.service import ROOT, Load, Running, counters, events, rollout_file, start, up

pytestmark = pytest.mark.acceptance

BAKE_S = 60.0


def pinned(service: Running, flight: Flight, at: float) -> httpx.Response:
    """A request to the primary by name, on a connection of its own, so that any worker may get it."""
    headers = {"X-Rollout-Variant": "primary", "X-Rollout-At": str(at)}  # any row that is recorded moves the time
    return httpx.post(f"{service.url}/predict", json={"rows": [flight.row]}, headers=headers, timeout=10)


def audited(service: Running, flights: list[Flight]) -> None:
    """Half of the predictions are asked for their label; the list of them shrinks as they get it, in any order."""
    made = {}
    for flight in flights:
        answer = service.predict(flight.row, X_Rollout_At=str(flight.scheduled_at)).json()
        name = answer["predictions"][0]["prediction_id"]
        made[name] = {"prediction_id": name, "label": flight.label, "at": flight.scheduled_at + 3600}

    def wanted() -> list[str]:
        found = service.http.get("/rollout/audit").json()
        assert (found["share"], found["wait_s"]) == (50.0, 72 * 3600.0)
        return list(found["wanted"])

    def all_read() -> bool:
        lost = {each["reason"] for each in service.http.get("/rollout").json()["funnel"][0]["lost"]}
        return counters(service).get("rows/live") == len(made) and "not read yet" not in lost

    service.wait_for(all_read)  # the judge keeps the list: it is complete once the judge has read every row
    sample = wanted()
    assert len(sample) > len(flights) // 5
    assert set(sample) < set(made)
    first, second = sample[: len(sample) // 2], sample[len(sample) // 2 :]
    for some, left in (([name for name in made if name not in sample], sample), (second, first), (first, [])):
        told = service.http.post("/feedback", json={"labels": [made[name] for name in some]}).json()
        assert told["matched"] == len(some)
        service.wait_for(lambda left=left: wanted() == left)


def test_an_audit_then_a_promotion_that_bakes_is_released_and_is_undone(tmp_path: Path, july: list[Flight]) -> None:
    """Two workers under load: the old primary goes a minute of event time after the promotion, and comes back; nobody notices."""
    file = rollout_file(tmp_path)
    data = yaml.safe_load(file.read_text()) | {"bake": f"{BAKE_S:g}s", "labels": {"wait": "72h", "audit": 50}}
    data["goals"]["latency"] = {"p99_ms": 1_000, "deadline_ms": 2_000}  # this machine may be busy with other tests
    file.write_text(yaml.safe_dump(data))
    service = start(tmp_path / "state", workers=2, rollout=file)
    try:
        service.wait_for(lambda: up(service))
        audited(service, [flight for flight in july[:60] if flight.label is not None])
        with Load(service, july, callers=2, at=july[60].scheduled_at) as load:
            service.wait_for(lambda: load.answered_by("primary") > 100)
            assert (
                service.http.post("/rollout/promote", json={"full": True, "reason": "go"}).json()["phase"] == "promoted"
            )
            promoted = time.monotonic()
            service.wait_for(lambda: service.log.read_text().count("the promoted model answers in this worker") == 2)
            # The bake begins when whoever leads has seen the promotion.
            service.wait_for(lambda: service.rollout()["verdict"]["reason"].startswith("promoted"))
            load.at += BAKE_S - 1
            service.wait_for(lambda: load.answered_by("candidate", since=promoted) > 200)
            service.wait_for(lambda: service.rollout()["progress"]["step_seconds"] == BAKE_S - 1)
            assert [e["kind"] for e in events(service)] == ["started", "promote_full"]
            assert pinned(service, july[0], load.at).status_code == 200

            load.at += 1 + BAKE_S
            service.wait_for(lambda: events(service)[-1]["kind"] == "release")
            service.wait_for(lambda: all(pinned(service, july[0], load.at).status_code == 503 for _ in range(8)))
            refused = pinned(service, july[0], load.at).json()
            assert "was released at the end of the bake; `understudy undo` loads it again" in refused["detail"]
            assert service.rollout()["phase"] == "promoted"

            released = time.monotonic()
            service.wait_for(lambda: load.answered_by("candidate", since=released) > 100)
            undo = service.http.post("/rollout/undo", json={"reason": "back"})
            assert undo.json()["phase"] == "aborted"
            undone = time.monotonic()
            service.wait_for(lambda: load.answered_by("primary", since=undone) > 200)
        assert {status for _, status, _ in load.seen} == {200}
        assert load.answered_by("candidate", since=undone + 1.0) == 0
        service.wait_for(lambda: all(pinned(service, july[0], load.at).status_code == 200 for _ in range(8)))
        assert [e["kind"] for e in events(service)] == ["started", "promote_full", "release", "undo"]
        assert events(service)[2]["actor"] == "judge"
    finally:
        service.stop()
    command = [sys.executable, "-m", "understudy.cli", "verify", str(file), "--json"]
    command += ["--store", f"sqlite:///{tmp_path / 'state' / 'understudy.db'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["agrees"]


def test_a_primary_that_answers_no_finite_number_is_a_500_is_recorded_and_rehearsed(tmp_path: Path) -> None:
    """The logarithm of a negative number beside its absolute value."""
    signature = [("x", TensorProto.FLOAT, ["n", 1])], [("y", TensorProto.FLOAT, ["n", 1])]
    for name, operation in (("log", "Log"), ("abs", "Abs")):
        save(tmp_path / f"{name}.onnx", [helper.make_node(operation, ["x"], ["y"])], *signature)
    file = tmp_path / "rollout.yaml"
    file.write_text(
        "model: numbers\ntask: regression\nprimary: log.onnx\ncandidate: abs.onnx\ngoals: {errors: {margin: 0.01}}\n"
        "steps: [{shadow: 100}, promote]\n"
    )
    service = start(tmp_path / "state", rollout=file)
    try:
        service.wait_for(lambda: up(service))
        assert service.predict({"x": 1.0}).json()["predictions"][0]["value"] == pytest.approx(0.0)
        for _ in range(3):
            told = service.predict({"x": -1.0})
            assert told.status_code == 500
            assert told.headers["content-type"] == "application/problem+json"
            assert told.json()["type"].endswith("not-finite")
            assert "not finite" in told.json()["detail"]
        found = service.wait_for(
            lambda: c if (c := counters(service)).get("requests/candidate/shadow/200") == 4 else None
        )
        assert (found["requests/primary/live/500"], found["requests/primary/live/200"]) == (3, 1)
        metrics = service.wait_for(lambda: {m["metric"]: m for m in service.rollout()["metrics"] if m["n"] == 4})
        assert metrics["errors"]["estimate"] == -0.75  # of four requests the primary failed on three
    finally:
        service.stop()
