"""Thirty-odd kinds of bad input: each gets its 4xx problem that names what is wrong, and the service still answers."""

import json
import math
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from models.data import Flight
from tests.support.service import Running, start

JSON = {"content-type": "application/json"}


def rows(*row: Any, **more: Any) -> bytes:
    return json.dumps({"rows": list(row), **more}).encode()


def cases(good: dict[str, Any]) -> dict[str, tuple[bytes, int, str]]:
    """Name → body, status, and what the answer must say."""
    without = {k: v for k, v in good.items() if k != "temp"}
    return {
        "empty body": (b"", 400, "JSON"),
        "not JSON": (b"month=7&day=1", 400, "JSON"),
        "cut off": (rows(good)[:-10], 400, "JSON"),
        "trailing comma": (rows(good)[:-1] + b",}", 400, "JSON"),
        "single quotes": (b"{'rows': []}", 400, "JSON"),
        "NaN text": (rows(good).replace(b'"distance": 529', b'"distance": NaN'), 400, "JSON"),
        "Infinity text": (rows(good).replace(b'"distance": 529', b'"distance": Infinity'), 400, "JSON"),
        "bad UTF-8": (rows(good).replace(b'"UA"', b'"\xff\xfe"').replace(b'"US"', b'"\xff\xfe"'), 400, "UTF-8"),
        "a byte order mark": (b"\xef\xbb\xbf" + rows(good), 400, "JSON"),
        "null byte": (b"\x00" * 10, 400, "JSON"),
        "deep nesting": (b'{"rows":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "nested"),
        "deep nesting in a field": (rows(good).replace(b"529", b"[" * 50_000 + b"]" * 50_000), 400, "nested"),
        "a list": (b"[1, 2]", 400, "object"),
        "a string": (b'"rows"', 400, "object"),
        "null": (b"null", 400, "object"),
        "no rows": (b"{}", 422, "rows"),
        "rows misspelled": (json.dumps({"row": [good]}).encode(), 422, "row"),
        "rows empty": (rows(), 422, "at least one row"),
        "rows an object": (json.dumps({"rows": good}).encode(), 422, "rows"),
        "a row of numbers": (rows([1, 2, 3]), 422, "row 0"),
        "missing field": (rows(without), 422, "'temp': is missing"),
        "unknown field": (rows(good | {"temprature": 70}), 422, "temprature"),
        "null where no value may be missing": (rows(good | {"carrier": None}), 422, "carrier"),
        "string for a number": (rows(good | {"temp": "73.9"}), 422, "'temp'"),
        "number for a string": (rows(good | {"carrier": 7}), 422, "'carrier'"),
        "true for a number": (rows(good | {"distance": True}), 422, "'distance'"),
        "list for a number": (rows(good | {"distance": [529]}), 422, "'distance'"),
        "object for a string": (rows(good | {"dest": {"code": "CLT"}}), 422, "'dest'"),
        "number beyond float32": (rows(good | {"distance": 1e39}), 422, "'distance'"),
        "number beyond everything": (rows(good).replace(b"529", b"1e999"), 422, "distance"),
        "second row bad": (rows(good, good | {"temp": "hot"}), 422, "row 1, field 'temp'"),
        "key of the wrong type": (rows(good, key=[1]), 422, "'key'"),
        "key too long": (rows(good, key="k" * 10_000), 422, "256"),
        "unknown key beside rows": (rows(good, model="v2"), 422, "model"),
        "10,000 rows": (rows(*[good] * 10_000), 413, "5000"),
        "huge body": (rows(good) + b" " * (9 * 2**20), 413, "bytes"),
    }


NAMES = list(cases({"temp": 1, "carrier": "US", "distance": 529, "dest": "CLT"}))


@pytest.fixture(scope="module")
def good(july: list[Flight]) -> dict[str, Any]:
    return july[0].row


@pytest.mark.acceptance
@pytest.mark.parametrize("name", NAMES)
def test_bad_body_is_a_problem_that_says_what_is_wrong(shared: Running, good: dict[str, Any], name: str) -> None:
    """A 4xx with the five members, and the next good request is answered."""
    body, status, says = cases(good)[name]
    response = shared.http.post("/predict", content=body, headers=JSON)
    told = response.json()

    assert response.status_code == status, told
    assert response.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail"} <= told.keys()
    assert told["status"] == status
    assert says in json.dumps(told), told
    assert shared.predict(good).status_code == 200


@pytest.mark.acceptance
def test_wrong_media_type_method_path_and_headers(shared: Running, good: dict[str, Any]) -> None:
    """What is wrong outside the body."""
    http = shared.http
    answers = {
        415: http.post("/predict", content=rows(good), headers={"content-type": "text/csv"}),
        405: http.get("/predict"),
        404: http.post("/predict/", content=rows(good), headers=JSON),
        400: http.post("/predict", content=rows(good), headers=JSON | {"x-rollout-variant": "champion"}),
    }
    for status, response in answers.items():
        assert (response.status_code, response.json()["status"]) == (status, status)
        assert response.headers["content-type"] == "application/problem+json"
    assert answers[405].headers["allow"] == "POST"
    assert (
        http.post(
            "/predict", content=rows(good), headers={"content-type": "application/json; charset=utf-8"}
        ).status_code
        == 200
    )


@pytest.mark.acceptance
def test_a_caller_that_hangs_up_or_dawdles_harms_nobody(shared: Running, good: dict[str, Any]) -> None:
    """Half a request, then silence or goodbye."""
    host, port = shared.url.removeprefix("http://").split(":")
    for sent in (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /predict HTTP/1.1\r\n",
        b"\x16\x03\x01garbage\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as sock:
            sock.sendall(sent)
    assert shared.predict(good).status_code == 200


@pytest.mark.acceptance
def test_a_body_that_does_not_come_is_answered_408(tmp_path: Path, good: dict[str, Any]) -> None:
    """Headers and then silence, or half a body: the connection is given up after `UNDERSTUDY_BODY_TIMEOUT_S`."""
    running = start(tmp_path / "state", body_timeout_s="0.3")
    try:
        host, port = running.url.removeprefix("http://").split(":")
        for sent in (b"", b'{"rows":'):
            with socket.create_connection((host, int(port)), timeout=10) as sock:
                began = time.monotonic()
                sock.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + sent)
                said = sock.recv(65536)
            assert said.startswith(b"HTTP/1.1 408 "), said
            assert 0.25 < time.monotonic() - began < 5
        assert running.predict(good).status_code == 200
    finally:
        running.stop()


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "JSON"),
        (b'{"labels": []}', 422, "length >= 1"),
        (b'{"labels": [{"prediction_id": "a"}]}', 422, "label"),
        (b'{"labels": [{"prediction_id": "a", "label": 7}]}', 422, "classes are [0, 1]"),
        (b'{"labels": [{"prediction_id": "a", "label": "1"}]}', 422, "classes are [0, 1]"),
        (b'{"labels": [{"prediction_id": "a", "label": 1, "at": "yesterday"}]}', 422, "RFC 3339"),
        (b'{"labels": [{"prediction_id": "a", "label": 1, "at": "2013-07-01T12:00:00"}]}', 422, "time zone"),
        (b'{"labels": [{"prediction_id": "", "label": 1}]}', 422, "length >= 1"),
        (json.dumps({"labels": [{"prediction_id": "a", "label": 1}] * 10_001}).encode(), 413, "10000"),
    ],
)
def test_bad_feedback_is_a_problem(shared: Running, body: bytes, status: int, says: str) -> None:
    """Nothing of a refused batch is stored."""
    response = shared.http.post("/feedback", content=body, headers=JSON)

    assert response.status_code == status
    assert says in json.dumps(response.json())


@pytest.mark.acceptance
def test_bad_input_is_counted_and_is_no_evidence(shared: Running, good: dict[str, Any]) -> None:
    """It never reaches a model: the counters of rows and rehearsals stand still."""
    before = shared.wait_for(lambda: (c := shared.http.get("/rollout/evidence").json()["counters"]) and c)
    for _ in range(5):
        shared.http.post("/predict", content=rows(good | {"temp": "hot"}), headers=JSON)
    shared.wait_for(
        lambda: 'understudy_input_problems_total{feature="temp",problem="value"}' in shared.http.get("/metrics").text
    )
    after = shared.http.get("/rollout/evidence").json()["counters"]

    assert math.isclose(before.get("rows/live", 0), after.get("rows/live", 0))
