"""The main job, end to end on real flights: answer, rehearse, canary, record, count; through crashes and restarts."""

import concurrent.futures
import http.client
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from models.data import Flight
from tests.support.service import ROOT, Running, counters, example, metric, replay, start
from understudy.inference.decoding import Columns, Field
from understudy.inference.onnx import OnnxEngine
from understudy.loading import fields_of

pytestmark = pytest.mark.acceptance


def offline(folder: str, flights: list[Flight]) -> np.ndarray[Any, Any]:
    """A model's probability of a delay for each flight, with no service between."""
    engine = OnnxEngine(ROOT / "models" / folder, device="cpu", warm_max_rows=1)
    fields = fields_of(engine.card, None)
    rows = [tuple(f.row[field.name] for field in fields) for f in flights]
    columns = Columns(
        [Field(f.name, f.dtype, f.shape, f.nullable) for f in fields], {f.name: i for i, f in enumerate(fields)}
    ).build(rows)
    probabilities = engine.run(columns)["probabilities"][:, 1]
    engine.close()
    return probabilities


def offline_brier(folder: str, flights: list[Flight]) -> float:
    """The mean Brier score of a model over labelled flights."""
    known = [f for f in flights if f.label is not None]
    return float(np.mean((offline(folder, known) - np.array([f.label for f in known])) ** 2))


def test_a_flight_is_answered_and_its_label_is_joined_once(service: Running, july: list[Flight]) -> None:
    """200 with label and probabilities; the same label twice is `matched`, then `duplicate`; another one is a conflict."""
    response = service.predict(july[0].row)
    body = response.json()
    prediction = body["predictions"][0]

    assert response.status_code == 200
    assert (body["model"], body["variant"], body["version"], body["fallback"]) == (
        "flight-delay",
        "primary",
        "1.0.0",
        False,
    )
    assert prediction["label"] in (0, 1)
    assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert response.headers["x-prediction-id"] == prediction["prediction_id"]
    assert response.headers["x-rollout-variant"] == "primary"

    def feedback(label: int) -> dict[str, int]:
        posted = service.http.post(
            "/feedback", json={"labels": [{"prediction_id": prediction["prediction_id"], "label": label}]}
        )
        assert posted.status_code == 200
        return dict(posted.json())

    assert feedback(1) == {"matched": 1, "duplicate": 0, "conflict": 0, "pending": 0, "corrected": 0}
    assert feedback(1) == {"matched": 0, "duplicate": 1, "conflict": 0, "pending": 0, "corrected": 0}
    assert feedback(0) == {"matched": 0, "duplicate": 0, "conflict": 1, "pending": 0, "corrected": 0}


def test_replay_in_shadow_equals_the_offline_figures(service: Running, july: list[Flight]) -> None:
    """Brier of both variants to 1e-3; every request sent is compared or dropped, none failed; store and /metrics agree."""
    told = replay(service, "--month", "7", "--limit", "2500")
    shadow = told["shadow"]

    assert (told["sent"], told["failed"], told["differences"]) == (2500, 0, [])
    assert shadow["sent"] == 2500
    assert shadow["compared"] + shadow.get("dropped", 0) == 2500
    for variant, folder in (("primary", "flight_poc"), ("candidate", "flight_candidate")):
        assert told["variants"][variant]["brier"] == pytest.approx(offline_brier(folder, july[:2500]), abs=1e-3)
        assert told["variants"][variant]["labelled"] == sum(f.label is not None for f in july[:2500])
    compared = service.rollout()["comparison"]
    assert compared["rows"] == shadow["compared"]
    if shadow["compared"] == 2500:
        poc, candidate = offline("flight_poc", july[:2500]), offline("flight_candidate", july[:2500])
        assert compared["labels"]["flips"] == np.sum((poc > 0.5) != (candidate > 0.5))
        assert compared["probabilities"]["mean"] == pytest.approx(np.mean(np.abs(poc - candidate)), abs=1e-6)
    delays = sorted(f.label_at - f.scheduled_at for f in july[:2500] if f.label_at)
    assert told["label_figures"]["delay_p50_s"] == pytest.approx(delays[len(delays) // 2], rel=0.5)


@pytest.mark.slow
def test_replay_of_all_july_equals_the_cards(service: Running) -> None:
    """The whole month against the held-out figures on the cards."""
    told = replay(service, "--month", "7")

    assert told["failed"] == 0
    for variant, folder in (("primary", "flight_poc"), ("candidate", "flight_candidate")):
        card = json.loads((ROOT / "models" / folder / "card.json").read_text())
        expected = next(m for m in card["held_out"] if m["month"].endswith("07"))
        assert told["variants"][variant]["brier"] == pytest.approx(expected["brier"], abs=1e-3)


def test_two_workers_and_a_restart_route_every_key_alike(tmp_path: Path, july: list[Flight]) -> None:
    """The weight reaches every worker, survives a restart, and nobody changes sides at 5 → 25 → 50 %."""
    row = july[0].row

    def sides(service: Running) -> dict[str, str]:
        def one(key: str) -> tuple[str, str]:
            http_ = http.client.HTTPConnection(
                service.url.removeprefix("http://")
            )  # one each, so that both workers are asked
            http_.request(
                "POST",
                "/predict",
                json.dumps({"rows": [row]}),
                {"X-Rollout-Key": key, "Content-Type": "application/json"},
            )
            try:
                return key, http_.getresponse().headers["x-rollout-variant"]
            finally:
                http_.close()

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return dict(pool.map(one, [f"key-{i}" for i in range(400)]))

    def canary(found: dict[str, str]) -> set[str]:
        return {key for key, side in found.items() if side == "candidate"}

    service = start(tmp_path / "state", workers=2)
    try:
        service.wait_for(lambda: service.rollout()["candidate"]["up"])
        shares: list[set[str]] = [set()]

        def agreed() -> set[str] | None:
            """Who is answered by the candidate, once all workers say so and the last weight is no longer in force."""
            first, second = canary(sides(service)), canary(sides(service))
            return first if first == second != shares[-1] else None

        for weight in (5, 25, 50):
            assert (
                service.http.post(
                    "/rollout/weight", json={"weight": weight, "reason": "test", "force": True}
                ).status_code
                == 200
            )
            shares.append(service.wait_for(agreed))
        assert shares[1] < shares[2] < shares[3]
        assert len(service.children("Understudy")) == 2
    finally:
        service.stop()
    service = start(tmp_path / "state", workers=1)
    try:
        service.wait_for(lambda: service.rollout()["candidate"]["up"])
        assert canary(sides(service)) == shares[3]
        assert service.rollout()["weight"] == 50
    finally:
        service.stop()


@pytest.fixture
def lenient(tmp_path: Path) -> Iterator[Running]:
    """A service whose rollout file sets no goal for errors: with one, the judge would take a candidate that died off."""
    data = example()
    del data["goals"]["errors"]
    (tmp_path / "rollout.yaml").write_text(yaml.safe_dump(data))
    running = start(tmp_path / "state", rollout=tmp_path / "rollout.yaml")
    yield running
    running.stop()


@pytest.mark.alone
def test_a_killed_candidate_costs_no_request_and_comes_back(lenient: Running, july: list[Flight]) -> None:
    """`kill -9` at 50 % canary under load: every answer is a 200, fallbacks are counted, and the new process is used."""
    service = lenient
    service.http.post("/rollout/weight", json={"weight": 50, "reason": "test", "force": True})
    before = service.wait_for(lambda: service.children("Candidate"))[0]
    statuses: list[int] = []
    variants: list[str] = []
    slowest = 0.0
    stop = threading.Event()

    def load(start_at: int) -> None:
        nonlocal slowest
        with httpx.Client(base_url=service.url, timeout=10) as caller:
            for flight in july[start_at : start_at + 20_000]:
                if stop.is_set():
                    return
                begun = time.monotonic()
                response = caller.post("/predict", json={"rows": [flight.row]})
                slowest = max(slowest, time.monotonic() - begun)
                statuses.append(response.status_code)
                variants.append(response.headers.get("x-rollout-variant", ""))

    threads = [threading.Thread(target=load, args=(i * 1000,)) for i in range(4)]
    for thread in threads:
        thread.start()
    # Enough answers that the few which die with the process do not weigh more than the goals allow.
    service.wait_for(lambda: variants.count("candidate") > 1_500)
    before.send_signal(signal.SIGKILL)
    after = service.wait_for(
        lambda: [c for c in service.children("Candidate") if c.pid != before.pid and c.is_running()], 30
    )
    mark = len(variants)
    service.wait_for(lambda: variants[mark:].count("candidate") > 50)
    stop.set()
    for thread in threads:
        thread.join()

    assert after[0].pid != before.pid
    assert set(statuses) == {200}
    assert slowest < 2.0
    fallbacks = service.wait_for(lambda: service.rollout()["fallbacks"])
    assert sum(fallbacks.values()) >= 1
    service.wait_for(lambda: metric(service, "understudy_fallbacks_total") >= 1)
    assert "candidate" in variants[mark:]


def test_metrics_are_right_across_workers_and_after_one_dies(tmp_path: Path, july: list[Flight]) -> None:
    """Two workers, one of them killed: requests, outcomes and losses add up to the store's figures."""
    service = start(tmp_path / "state", workers=2)
    try:
        replay(service, "--month", "7", "--limit", "600", "--connections", "8")
        service.children("Understudy")[0].kill()
        service.wait_for(
            lambda: len(service.children("Understudy")) == 2 and service.http.get("/readyz").status_code == 200
        )
        told = replay(service, "--month", "7", "--limit", "600", "--connections", "8")

        assert told["differences"] == []
        now = counters(service)
        assert metric(service, "understudy_requests_total", variant="primary", mode="live", status="200") == 1200
        assert now["requests/primary/live/200"] == 1200
        assert (
            metric(service, "understudy_loss_count", variant="candidate", loss="brier")
            == now["loss_count/candidate/brier"]
        )
        assert metric(service, "understudy_rollout_phase", phase="shadow") == 1
    finally:
        service.stop()


def test_what_was_acknowledged_survives_a_crash_of_everything(tmp_path: Path, july: list[Flight]) -> None:
    """`kill -9` of all processes: labels and orders are there, and lost predictions are within the named limit."""
    service = start(tmp_path / "state")
    answered = [service.predict(f.row).json()["predictions"][0]["prediction_id"] for f in july[:200]]
    labels = [
        {"prediction_id": name, "label": f.label}
        for name, f in zip(answered, july, strict=False)
        if f.label is not None
    ]
    receipt = service.http.post("/feedback", json={"labels": labels[:100]}).json()
    service.http.post("/rollout/weight", json={"weight": 12.34, "reason": "before the crash"})
    last = [service.predict(f.row).json()["predictions"][0]["prediction_id"] for f in july[200:210]]
    service.kill()

    service = start(tmp_path / "state")
    try:
        assert receipt["matched"] == 100
        assert counters(service)["labels/matched"] == 100
        assert service.http.post("/feedback", json={"labels": labels[:100]}).json()["duplicate"] == 100
        assert service.rollout()["weight"] == 12.34
        told = service.http.get("/rollout/events").json()["events"]
        events = [e for e in told if e["kind"] != "drift"]  # July is unlike January: that is another test's
        assert [e["kind"] for e in events] == ["started", "weight"]
        assert events[1]["reason"] == "before the crash"
        # What a label was acknowledged for is stored; of the last ten, made within a flush interval, some may be gone.
        late = service.http.post(
            "/feedback", json={"labels": [{"prediction_id": name, "label": 0} for name in last]}
        ).json()
        assert late["matched"] + late["pending"] == 10
    finally:
        service.stop()


@pytest.mark.alone
def test_a_killed_records_process_loses_nothing(tmp_path: Path, july: list[Flight]) -> None:
    """`kill -9` under load: every answered request is in the store once, metrics agree, and answers and labels go on meanwhile."""
    service = start(tmp_path / "state", workers=2)
    try:
        replay(service, "--month", "7", "--limit", "300", "--connections", "8")
        labelled = counters(service)["labels/matched"]
        (victim,) = service.children("Records")
        supervisor = victim.parent()
        supervisor.suspend()  # so that no new process comes before it has been seen that none is needed
        victim.kill()
        slowest, names = 0.0, []
        for flight in july[:100]:
            began = time.monotonic()
            answer = service.predict(flight.row)
            assert answer.status_code == 200
            names.append(answer.json()["predictions"][0]["prediction_id"])
            slowest = max(slowest, time.monotonic() - began)
            if len(names) == 10:  # nobody keeps records now: whoever took the request stores its labels itself
                early = [{"prediction_id": name, "label": 1} for name in names]
                away = service.http.post("/feedback", json={"labels": early}).json()
                supervisor.resume()
                assert away == {"matched": 0, "duplicate": 0, "conflict": 0, "pending": 10, "corrected": 0}
        assert slowest < 2.0
        labels = [{"prediction_id": name, "label": 1} for name in names]
        service.wait_for(lambda: counters(service)["requests/primary/live/200"] == 400)
        service.wait_for(lambda: counters(service)["labels/matched"] == labelled + 10)
        back = service.http.post("/feedback", json={"labels": labels}).json()
        assert back == {"matched": 90, "duplicate": 10, "conflict": 0, "pending": 0, "corrected": 0}
        told = replay(service, "--month", "7", "--limit", "300", "--connections", "8")

        assert told["differences"] == []
        assert counters(service)["requests/primary/live/200"] == 700
        assert counters(service)["rows/live"] == 700
        assert metric(service, "understudy_requests_total", variant="primary", mode="live", status="200") == 700
        assert [c.pid for c in service.children("Records")] != [victim.pid]
    finally:
        service.stop()


def test_a_clean_stop_loses_nothing(tmp_path: Path, july: list[Flight]) -> None:
    """SIGTERM right after the last answer: every prediction is in the store."""
    service = start(tmp_path / "state")
    for flight in july[:50]:
        assert service.predict(flight.row).status_code == 200
    assert service.stop() == 0
    service = start(tmp_path / "state")
    try:
        assert counters(service)["requests/primary/live/200"] == 50
        assert counters(service)["shadow/sent"] == 50
        assert sum(counters(service).get(f"shadow/{end}", 0) for end in ("compared", "dropped", "failed", "late")) == 50
    finally:
        service.stop()


def test_pins_orders_and_revisions(service: Running, july: list[Flight]) -> None:
    """A pin is answered by the named variant and is no evidence; an order with an old revision is refused."""
    service.wait_for(lambda: service.rollout()["candidate"]["up"])
    pinned = service.predict(july[0].row, X_Rollout_Variant="candidate").json()
    revision = service.rollout()["revision"]
    order = service.http.post("/rollout/weight", json={"weight": 1}, headers={"If-Match": str(revision)})
    stale = service.http.post("/rollout/weight", json={"weight": 2}, headers={"If-Match": str(revision)})
    silly = service.http.post("/rollout/weight", json={"weight": 101})

    assert (pinned["variant"], pinned["version"]) == ("candidate", "2.0.0")
    assert (order.status_code, stale.status_code, silly.status_code) == (200, 409, 422)
    assert service.rollout()["weight"] == 1
    service.wait_for(lambda: counters(service).get("rows/pinned") == 1)
    assert "shadow/sent" not in counters(service)


def test_what_has_not_changed_is_not_sent_again(service: Running, july: list[Flight]) -> None:
    """Idle, the calls that a page makes again and again are answered 304; after a request each answers anew."""
    service.wait_for(lambda: service.rollout()["candidate"]["up"])
    calls = ("/rollout", "/rollout/evidence", "/rollout/drift", "/rollout/traffic")

    def recorded() -> tuple[float, float]:
        """Rows that are stored, and rehearsals that are compared."""
        now = counters(service)
        return now.get("rows/live", 0), now.get("shadow/compared", 0)

    for sent in (0, 1):
        service.wait_for(lambda sent=sent: recorded() == (sent, sent))

        def unchanged() -> dict[str, httpx.Response] | None:
            """The answers, if none of them has changed since: on a busy machine the judge may still be at work."""
            first = {call: service.http.get(call) for call in calls}
            again = {
                call: service.http.get(call, headers={"If-None-Match": answer.headers["etag"]})
                for call, answer in first.items()
            }
            return first if all((a.status_code, a.content) == (304, b"") for a in again.values()) else None

        first = service.wait_for(unchanged)
        known = {call: {"If-None-Match": answer.headers["etag"]} for call, answer in first.items()}
        assert service.predict(july[0].row).status_code == 200
        for call in ("/rollout", "/rollout/evidence"):
            new = service.wait_for(
                lambda call=call, tag=known[call]: (a := service.http.get(call, headers=tag)).status_code == 200 and a
            )
            assert new.json() != first[call].json()
    tag = service.http.get("/rollout").headers["etag"]
    order = service.http.post("/rollout/pause", json={"reason": "x"}, headers={"If-Match": tag})
    stale = service.http.post("/rollout/resume", json={"reason": "x"}, headers={"If-Match": tag})
    assert (order.status_code, stale.status_code) == (200, 409)
    assert service.http.get("/rollout/traffic?span=week").status_code == 400
    assert service.http.get("/rollout/traffic?after=noon").status_code == 400


def test_the_openapi_page_lists_what_is_answered(shared: Running) -> None:
    """Every GET of the document answers, and every schema it refers to is in it."""
    document = shared.http.get("/docs.json").json()
    paths = document["paths"]

    assert {
        "/predict",
        "/feedback",
        "/rollout",
        "/rollout/weight",
        "/metrics",
        "/livez",
        "/readyz",
        "/healthz",
    } <= paths.keys()
    for path, item in paths.items():
        if "get" in item and "{" not in path:
            assert shared.http.get(path).status_code == 200, path
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"], name
    assert set(document["components"]["schemas"]["Row"]["required"]) == {f.name for f in fields_of(_card(), None)}


def _card() -> Any:
    from understudy.inference.cards import read_card

    return read_card(ROOT / "models" / "flight_poc")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"device": "cuda"}, "The library missing is onnxruntime-gpu"),
        pytest.param({"device": "tensorrt"}, "The library missing is onnxruntime-gpu", marks=pytest.mark.slow),
        pytest.param({"primary": "models/nowhere"}, "is missing", marks=pytest.mark.slow),
        pytest.param({"task": "regression"}, "binary-classification", marks=pytest.mark.slow),
        ({"stepz": []}, "stepz"),
        ({"candidate": "{folder}"}, "its digest is"),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_start(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    """The process ends with a line that says what to change, and does not listen."""
    broken = tmp_path / "broken"
    shutil.copytree(ROOT / "models" / "flight_candidate", broken)
    (broken / "model.onnx").write_bytes((broken / "model.onnx").read_bytes() + b"\0")
    example = yaml.safe_load((ROOT / "rollout.yaml").read_text())
    change = {k: v.format(folder=broken) if isinstance(v, str) else v for k, v in change.items()}
    (tmp_path / "rollout.yaml").write_text(yaml.safe_dump(example | change))
    service = start(tmp_path / "state", rollout=tmp_path / "rollout.yaml", wait=False)
    try:
        assert service.process.wait(60) != 0
    finally:
        service.kill()

    assert says in service.log.read_text()
    assert "Traceback" not in service.log.read_text()
