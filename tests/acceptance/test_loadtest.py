"""The load test in the real service: what it must be of, the gate that it opens, and that its traffic is no evidence."""

from pathlib import Path
from typing import Any

import pytest

from models.data import Flight
from tests.acceptance.conftest import Running, start
from tests.unit.rollout.test_loadtest import GOOD

pytestmark = pytest.mark.acceptance


def record_for(service: Running, **setup: Any) -> dict[str, Any]:
    """A record that passed, of what the service says it is, or of something else."""
    found = service.http.get("/rollout/loadtest").json()
    measured = GOOD | {"offered_rps": 500, "achieved_rps": 499.0, "cost_per_million": 0.01}
    return {
        "at": 1.0, "model": found["model"], "verdict": "pass", "reasons": [], "setup": found["setup"] | setup,
        "rollout_file": None, "goals": found["goals"], "measured": measured, "findings": [],
    }  # fmt: skip


def test_a_step_that_requires_a_load_test_waits_for_the_right_one(tmp_path: Path) -> None:
    """Nothing, then a record for other digests: refused with the reason. The right one, and it goes on; all of it is logged."""
    service = start(tmp_path / "state")
    try:
        found = service.http.get("/rollout/loadtest").json()
        assert (found["required"], found["met"]) == (True, False)
        names = {each["name"] for each in found["usage"]["processes"].values()}
        assert {"supervisor", "understudy", "candidate"} <= names
        assert found["setup"]["machine"]["cores"] > 0

        for expected in (5, 25):
            assert service.http.post("/rollout/promote", json={}).json()["weight"] == expected
        for path, body in (("promote", {}), ("promote", {"full": True}), ("weight", {"weight": 30})):
            refused = service.http.post(f"/rollout/{path}", json=body)
            assert refused.status_code == 409
            assert "no load test has been recorded; `understudy loadtest` makes one" in refused.json()["detail"]

        wrong = service.http.post("/rollout/loadtest", json=record_for(service, candidate="sha256:other")).json()
        assert not wrong["met"]
        refused = service.http.post("/rollout/promote", json={})
        assert refused.status_code == 409
        assert "candidate is sha256:other, not sha256:" in refused.json()["detail"]
        assert service.rollout()["weight"] == 25

        right = service.http.post("/rollout/loadtest", json=record_for(service)).json()
        assert right["met"], right
        assert service.http.post("/rollout/promote", json={"reason": "tested"}).json()["weight"] == 50
        told = service.http.get("/rollout/events?limit=100").json()["events"]
        assert [e["kind"] for e in told] == ["started", "promote", "promote", "loadtest", "loadtest", "promote"]
        assert told[4]["details"]["verdict"] == "pass"
        assert told[4]["reason"].startswith("pass: 499 of 500 requests/s")
    finally:
        service.stop()


def test_a_record_that_is_none_is_refused_by_field(shared: Running) -> None:
    """422 with the field, 413 with the limit; nothing is logged."""
    before = len(service_events(shared))
    bad = shared.http.post("/rollout/loadtest", json=record_for(shared) | {"verdict": "splendid"})
    assert bad.status_code == 422
    assert bad.json()["errors"][0]["field"] == "verdict"
    huge = shared.http.post("/rollout/loadtest", json=record_for(shared) | {"reasons": ["x" * 200_000]})
    assert huge.status_code == 413
    assert "UNDERSTUDY_LOADTEST_MAX_BYTES" in huge.json()["detail"]
    assert len(service_events(shared)) == before


def test_load_is_routed_and_rehearsed_and_is_no_evidence(shared: Running, july: list[Flight]) -> None:
    """Counted by its own mode; the variants' figures and the labels' coverage do not hear of it."""
    answers = [shared.predict(flight.row, X_Rollout_Variant="any").json() for flight in july[:20]]
    labels = [{"prediction_id": a["predictions"][0]["prediction_id"], "label": 0} for a in answers]

    assert shared.http.post("/feedback", json={"labels": labels}).status_code == 200
    shared.wait_for(lambda: counters(shared).get("labels/load") == 20)
    found = counters(shared)
    assert found["requests/primary/load/200"] == 20
    assert found["shadow/sent"] >= 20
    state = shared.rollout()
    assert state["variants"]["primary"]["requests"] == state["labels"]["matched"] == 0
    assert not any(key.startswith(("loss_", "outcome/")) for key in found)
    silly = shared.predict(july[0].row, X_Rollout_Variant="whoever")
    assert silly.status_code == 400


def service_events(service: Running) -> list[dict[str, Any]]:
    return list(service.http.get("/rollout/events?limit=1000").json()["events"])


def counters(service: Running) -> dict[str, float]:
    return dict(service.http.get("/rollout/evidence").json()["counters"])
