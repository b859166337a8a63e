"""Requests: the mix of sizes, the same for a seed, as each protocol has them; and what of an answer is wrong."""

import json
from pathlib import Path

import pytest

from understudy.errors import ConfigurationError
from understudy.loadtest.traffic import LABELS_PER_POST, Call, Moment, Traffic, mix_of, rows_in

MOMENTS = [Moment(json.dumps({"x": i, "s": None if i % 2 else "a"}).encode(), label=i % 2) for i in range(10)]


def traffic(mix: str = "1", **more: object) -> Traffic:
    return Traffic(MOMENTS, mix_of(mix), "http://h:1/", seed=1, **more)  # type: ignore[arg-type]


def parts(call: Call) -> tuple[str, dict[str, str], dict[str, object]]:
    head, _, body = call.data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
    assert int(headers["content-length"]) == len(body)
    return first, headers, json.loads(body)


def test_sizes_follow_the_mix_and_the_seed() -> None:
    """One row mostly; the same requests for the same seed; the rows are as many as it says."""
    calls = [traffic("1:8,10:1,100:1").predict() for _ in range(2)]
    assert calls[0] == calls[1]
    made = traffic("1:8,10:1,100:1")
    sizes = [made.predict().rows for _ in range(3_000)]
    assert {size: round(sizes.count(size) / 3_000, 1) for size in set(sizes)} == {1: 0.8, 10: 0.1, 100: 0.1}
    first, headers, body = parts(traffic("3", token="t").predict())
    assert first == "POST /predict HTTP/1.1"
    assert (headers["authorization"], headers["x-rollout-variant"], headers["host"]) == ("Bearer t", "any", "h:1")
    assert len(body["rows"]) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "x", "0", "1:-1", "1:0", "1,,2", "2:y"])
def test_a_mix_that_is_none_is_refused(text: str) -> None:
    """With what it takes."""
    with pytest.raises(ConfigurationError, match="rows per request cannot be"):
        mix_of(text)


def test_v2_requests_are_columns() -> None:
    """One tensor an input, with its datatype and shape; missing is null, and the empty string in text."""
    first, _, body = parts(traffic("2", protocol="v2", tensors={"": "m", "x": "FP32", "s": "BYTES"}).predict())

    assert first == "POST /v2/models/m/infer HTTP/1.1"
    tensors = {t["name"]: t for t in body["inputs"]}  # type: ignore[attr-defined]
    assert tensors["x"]["shape"] == tensors["s"]["shape"] == [2, 1]
    assert set(tensors["s"]["data"]) <= {"", "a"}


def test_answers_are_read_and_checked() -> None:
    """Who answered and whether in the other's place; a status, a missing row, a shape or nonsense is wrong in words."""
    made = traffic()
    call = Call(b"", 1, label=1)
    good = {"variant": "primary", "fallback": True, "predictions": [{"prediction_id": "p-0"}], "model": "m"}
    reply = made.read(call, 200, json.dumps(good).encode())
    assert (reply.variant, reply.fallback, reply.wrong) == ("primary", True, "")
    assert made.read(call, 429, b'{"detail": "full"}').wrong == "429: full"
    assert made.read(call, 502, b"<html>").wrong == "502: <html>"
    assert made.read(call, 200, json.dumps(good | {"predictions": []}).encode()).wrong == "0 predictions for 1 rows"
    assert "cannot be decoded" in made.read(call, 200, b"{}").wrong
    v2 = {
        "parameters": {"variant": "candidate", "fallback": False, "prediction_id": "q"},
        "outputs": [{"shape": [2, 2]}],
    }
    assert made.read(Call(b"", 2, v2=True), 200, json.dumps(v2).encode()).variant == "candidate"
    assert made.read(Call(b"", 1, v2=True), 200, json.dumps(v2).encode()).wrong == "tensors of [2, 2] for 1 rows"


def test_labels_follow_predictions() -> None:
    """Nothing to report before an answer was read; then labels of those that were asked for."""
    made = traffic()
    assert made.feedback() is None
    body = {"variant": "primary", "fallback": False, "predictions": [{"prediction_id": "p-0"}]}
    made.read(Call(b"", 1, label=1), 200, json.dumps(body).encode())
    report = made.feedback()
    assert report is not None
    assert parts(report)[2]["labels"][0] == {"prediction_id": "p-0", "label": 1}  # type: ignore[index]
    assert report.rows == 0
    assert LABELS_PER_POST >= 1


def test_rows_of_one_s_own(tmp_path: Path) -> None:
    """A row a line, with or without a label; a line that is none is named."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"x": 1}\n\n{"row": {"x": 2}, "label": "late"}\n')
    assert rows_in(file) == [Moment(b'{"x":1}'), Moment(b'{"x":2}', "late")]
    file.write_text('{"x": 1}\n[1\n')
    with pytest.raises(ConfigurationError, match="line 2, is not a row"):
        rows_in(file)
    file.write_text("\n")
    with pytest.raises(ConfigurationError, match="has no rows"):
        rows_in(file)
