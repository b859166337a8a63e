"""The load test in the real service: what it must be of, the gate that it opens, and that its traffic is no evidence."""

import contextlib
import csv
import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import psutil
import pytest
import yaml

from models.data import Flight
from tests.support.loadtests import GOOD
from tests.support.service import ROOT, Running, start
from understudy.loadtest.tally import Tally, merged
from understudy.runtime.ports import free_port

pytestmark = pytest.mark.acceptance


def record_for(service: Running, **setup: Any) -> dict[str, Any]:
    """A record that passed, of what the service says it is, or of something else."""
    found = service.http.get("/rollout/loadtest").json()
    measured = GOOD | {"offered_rps": 500, "achieved_rps": 499.0}
    measured["cost_per_million"] = 0.10 / (499.0 * measured["rows_per_request"] * 3600) * 1e6
    return {
        "at": 1.0,
        "model": found["model"],
        "verdict": "pass",
        "reasons": [],
        "setup": found["setup"] | setup,
        "rollout_file": None,
        "goals": found["goals"],
        "measured": measured,
        "findings": [],
    }


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
            assert "no load test has been recorded; run `understudy loadtest`" in refused.json()["detail"]

        wrong = service.http.post("/rollout/loadtest", json=record_for(service, candidate="sha256:other")).json()
        assert not wrong["met"]
        refused = service.http.post("/rollout/promote", json={})
        assert refused.status_code == 409
        assert "candidate is sha256:other, not sha256:" in refused.json()["detail"]
        assert service.rollout()["weight"] == 25

        record = record_for(service)
        right = service.http.post("/rollout/loadtest", json=record).json()
        assert right["met"], right
        costs_are_those_of(record, service, tmp_path / "launch.html", goal=500)
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


def load_file(folder: Path, **goals: Any) -> Path:
    """The example with goals that a small, short test is judged by."""
    data = yaml.safe_load((ROOT / "rollout.yaml").read_text())
    data["goals"] |= {"throughput_rps": 360, "latency": {"p99_ms": 60, "deadline_ms": 1000}} | goals
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "rollout.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def loadtest(
    service: Running, file: Path, folder: Path, *options: str, prefix: tuple[str, ...] = ()
) -> tuple[int, Any]:
    """`understudy loadtest --json` against a service: its exit code and what it said."""
    command = [
        *prefix,
        sys.executable,
        "-m",
        "understudy.cli",
        "loadtest",
        str(file),
        "--url",
        service.url,
        "--json",
        "-o",
        str(folder),
        "--duration",
        "6",
        "--warm-up",
        "1",
        "--rows",
        "1",
        *options,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def unless_busy(record: dict[str, Any]) -> dict[str, Any]:
    """The record; or a skip, where the load test itself says that this machine does something else at the same time."""
    if record["verdict"] == "invalid" and any("busy" in r or "something else" in r for r in record["reasons"]):
        pytest.skip(f"this machine is busy with something else: {record['reasons']}")
    return record


@pytest.mark.alone
def test_a_load_test_passes_and_opens_the_gate(tmp_path: Path) -> None:
    """The whole way with the real generator: measured, judged, filed, and the step that waited for it goes on."""
    file = load_file(tmp_path)
    service = start(tmp_path / "state", rollout=file)
    try:
        service.wait_for(lambda: service.rollout()["candidate"]["up"])
        for _ in range(2):
            service.http.post("/rollout/promote", json={})
        assert service.http.post("/rollout/promote", json={}).status_code == 409
        code, told = loadtest(service, file, tmp_path / "out", "--protocol", "both")
        record = unless_busy(told["record"])
        assert (code, record["verdict"], record["reasons"]) == (0, "pass", [])
        assert told["filed"]["met"]
        assert service.http.post("/rollout/promote", json={}).json()["weight"] == 50
        assert record["measured"]["offered_rps"] == 360
        assert record["measured"]["variants"]["primary"]["requests"] > 1_000
        assert record["measured"]["variants"]["candidate"]["requests"] > 100
        assert record["service"]["cores"]["understudy"] > 0
        assert record["generator"]["feedback"] == {"posts": 216, "errors": 0} | {"p99_ms": ANY}
        assert service.rollout()["variants"]["primary"]["requests"] == 0
        for name in ("report.html", "junit.xml", "record.json"):
            assert Path(told["files"][name]).stat().st_size > 500
        costs_are_those_of(record, service, tmp_path / "launch.html")
    finally:
        service.stop()


def costs_are_those_of(
    record: dict[str, Any], service: Running, page: Path, *, goal: int = 360, traffic: float = 1_000.0
) -> None:
    """The launch report of the record that was filed: throughput, a million predictions, a month at a traffic, worked out here."""
    command = [
        sys.executable,
        "-m",
        "understudy.cli",
        "report",
        "--url",
        service.url,
        "--traffic",
        str(traffic),
        "-o",
        str(page),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = " ".join(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")).split())
    measured, hourly = record["measured"], 0.10
    rate = measured["achieved_rps"] * measured["rows_per_request"]
    machines = math.ceil(traffic / (0.7 * rate))
    month_s = 730 * 3600

    assert f"Proven throughput {rate:,.0f} predictions a second on one machine at 0.1 an hour" in said
    assert f"{measured['cost_per_million']:.3g} (at most 1.0 is allowed)" in said
    assert f"A month at {traffic:,.0f} predictions a second {machines * hourly * 730:.2f} : {machines} machines" in said
    assert f"{traffic * month_s / 1e6:,.0f} million predictions" in said
    assert f"{machines * hourly * 730 / (traffic * month_s) * 1e6:.3g} a million" in said
    assert f"{measured['achieved_rps']:,.0f} of {goal} requests a second" in said
    assert re.search(rf"Throughput at least {goal} requests a second [\d,]+ a second ✓ met", said)
    assert re.search(r"Cost at most 1 for a million predictions [\d.]+ a million ✓ met", said)


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """The generators that this process has started get three fifths of a CPU, as a limiter gives it to them."""
    done = threading.Event()

    def limit() -> None:
        while not done.wait(0.1):
            with contextlib.suppress(psutil.NoSuchProcess):
                found = [p for p in psutil.Process().children(recursive=True) if "locust" in p.cmdline()]
                for process in found:
                    process.suspend()
                time.sleep(0.06)
                for process in found:
                    process.resume()

    thread = threading.Thread(target=limit)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def stalling(service: Running, seconds: float = 0.08, every: float = 1.0) -> Iterator[None]:
    """The answering process stands still for a moment, again and again."""
    worker, done = service.children("Understudy")[0], threading.Event()

    def stall() -> None:
        while not done.wait(every - seconds):
            worker.suspend()
            time.sleep(seconds)
            worker.resume()

    thread = threading.Thread(target=stall)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        worker.resume()


def closed_loop_p99_ms(service: Running, folder: Path) -> float:
    """What locust says of a closed loop in its own file."""
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        "loadtests/closed.py",
        "--host",
        service.url,
        "--headless",
        "-u",
        "1",
        "-t",
        "8s",
        "--mix",
        "1",
        "--only-summary",
        "--csv",
        str(folder / "closed"),
    ]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60)
    with (folder / "closed_stats.csv").open() as lines:
        return float(next(row for row in csv.DictReader(lines) if row["Name"] == "Aggregated")["99%"])


@pytest.mark.alone
def test_a_stall_fails_the_p99_goal_that_a_closed_loop_would_not_show(tmp_path: Path) -> None:
    """80 ms once a second: eight callers in a hundred meet it. Locust's own users wait it out, and send one request into each."""
    file = load_file(tmp_path, latency={"p99_ms": 40, "deadline_ms": 1000})
    service = start(tmp_path / "state", rollout=file)
    try:
        with stalling(service):
            closed = closed_loop_p99_ms(service, tmp_path)
            code, told = loadtest(service, file, tmp_path / "out")
        record = unless_busy(told["record"])
        p99 = record["measured"]["latency"]["p99_ms"]
        assert (code, record["verdict"]) == (1, "fail")
        assert any(reason.startswith("p99 is") for reason in record["reasons"])
        assert 60 < p99 < 200
        assert closed < 40 < p99
        assert not told["filed"]["met"]
    finally:
        service.stop()


@pytest.mark.alone
def test_a_starved_generator_is_invalid(tmp_path: Path) -> None:
    """Stopped for 60 ms of every 160: what it measured is its own."""
    file = load_file(tmp_path)
    service = start(tmp_path / "state", rollout=file)
    try:
        with limited():
            code, told = loadtest(service, file, tmp_path / "out")
        assert (code, told["record"]["verdict"]) == (2, "invalid")
        assert any("the generator was the limit" in reason for reason in told["record"]["reasons"])

    finally:
        service.stop()


def test_two_workers_add_up_exactly(tmp_path: Path) -> None:
    """Locust's own master and workers, the same locustfile: what the master has is the sum of what each has kept."""
    service = start(tmp_path / "state")
    try:
        parts, result = tmp_path / "parts", tmp_path / "result.json"
        parts.mkdir()
        port = str(free_port())
        base = [
            sys.executable,
            "-m",
            "locust",
            "-f",
            "service/understudy/loadtest/users.py",
            "--host",
            service.url,
            "--headless",
            "--only-summary",
        ]
        master = [
            *base,
            "-u",
            "2",
            "--master",
            "--master-bind-port",
            port,
            "--expect-workers",
            "2",
            "--expect-workers-max-wait",
            "120",
            "--rate",
            "150",
            "--seconds",
            "4",
            "--warm-up",
            "1",
            "--mix",
            "1",
            "--generators",
            "2",
            "--parts",
            str(parts),
            "--result",
            str(result),
        ]
        log = tmp_path / "workers.log"
        with log.open("w") as said:
            worker = [*base, "--worker", "--master-port", port]
            workers = [subprocess.Popen(worker, cwd=ROOT, stdout=said, stderr=said) for _ in range(2)]
            try:
                done = subprocess.run(master, cwd=ROOT, stdout=said, stderr=said, check=False, timeout=240)
                assert done.returncode == 0, log.read_text()
                for process in workers:
                    process.wait(60)
            finally:  # a worker whose master is gone waits for the next one, for ever
                for process in workers:
                    process.kill()
                    process.wait()
        told = json.loads(result.read_text())
        total, own = Tally.of(told["tally"]), [Tally.of(json.loads(part.read_text())) for part in parts.iterdir()]
        assert (told["lost"], len(own), total.due) == (0, 2, 600), log.read_text()
        assert {one.due for one in own} == {300}
        assert own[0].latency.counts != own[1].latency.counts
        assert total.latency.counts == merged(own).latency.counts
        assert total.latency.n == sum(one.latency.n for one in own)
        assert total.as_json()["intervals"] == merged(own).as_json()["intervals"]
    finally:
        service.stop()
