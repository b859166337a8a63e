"""B1: whatever a request contains, others are answered: 8 MiB of JSON, and millions of numbers in an answer.

Decoding or encoding them at once keeps the interpreter for up to a second. They are done in a thread, piece by piece.
"""

import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import helper

from tests.faults.models import pair_rollout
from tests.support import service
from tests.support.graphs import FLOAT, save
from tests.support.liveness import watched

ACROSS = 2_000_000


def widened(path: Path, number: int) -> Path:
    """`total` is the sum of a row of any length; `wide` is the row."""
    del number
    nodes = [
        helper.make_node("ReduceSum", ["x", "axis"], ["total"], keepdims=1),
        helper.make_node("Unsqueeze", ["x", "axis"], ["wide"]),
    ]
    axis = helper.make_tensor("axis", 7, [1], [1])
    return save(
        path, nodes, [("x", FLOAT, ["n", "t"])], [("total", FLOAT, ["n", 1]), ("wide", FLOAT, ["n", 1, "t"])], [axis]
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("wide")
    started = service.start(
        folder / "state", rollout=pair_rollout(folder, widened, 30_000), body_max_bytes=str(16 * 2**20)
    )
    yield started
    started.stop()


def while_asked(url: str, path: str, body: bytes) -> tuple[httpx.Response, Any]:
    """The answer to a large request, and what `/livez` took meanwhile."""
    with watched(url) as livez:
        answer: list[httpx.Response] = []
        caller = threading.Thread(target=lambda: answer.append(httpx.post(url + path, content=body, timeout=60)))
        caller.start()
        caller.join()
    return answer[0], livez


BODIES = {
    "numbers": b'{"rows":[{"x":[' + b",".join([b"1"] * ACROSS) + b"]}]}",
    "lists": b'{"rows":[{"x":' + b",".join([b"[1]"] * ACROSS) + b"}]}",
    "rows": b'{"rows":[' + b",".join([b"{}"] * ACROSS) + b"]}",
    "a text": b'{"rows":[{"x":["' + b"}]," * ACROSS + b'"]}]}',
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_large_body_holds_nobody(running: service.Running, kind: str) -> None:
    """Right or wrong, and its answer of as many numbers too."""
    answer, livez = while_asked(running.url, "/predict", BODIES[kind])

    assert livez.undisturbed(max(answer.elapsed.total_seconds(), 0.5)), (max(livez.before), max(livez.during))
    if kind == "numbers":
        assert answer.status_code == 200, answer.text[:300]
        [prediction] = answer.json()["predictions"]
        assert prediction["value"] == ACROSS
        assert prediction["outputs"]["wide"] == [[1.0] * ACROSS]
    else:
        assert answer.status_code in {400, 413, 422}, answer.text[:300]


def test_large_tensors_of_the_v2_protocol_too(running: service.Running) -> None:
    """As JSON in, and as JSON out."""
    data = b",".join([b"1"] * ACROSS)
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,%d],"data":[%s]}]}' % (ACROSS, data)
    answer, livez = while_asked(running.url, "/v2/models/pair/infer", body)

    assert livez.undisturbed(max(answer.elapsed.total_seconds(), 0.5)), (max(livez.before), max(livez.during))
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    assert outputs["total"]["data"] == [ACROSS]
    assert outputs["wide"]["shape"] == [1, 1, ACROSS]
    assert np.array_equal(outputs["wide"]["data"], np.ones(ACROSS))
