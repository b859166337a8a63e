"""Models whose rows are not simply on the first axis, in a real service: every door gives what `session.run` gives for a row."""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton

from tests.support import layouts
from tests.support.service import Running, start
from understudy.inference.decoding import Array

pytestmark = pytest.mark.acceptance
CHANCE = np.random.default_rng(5)
Row = Mapping[str, Array]


def texts() -> list[Row]:
    lengths = (3, 7, 3, 1, 12, 7, 5, 3)
    return [{"input_ids": CHANCE.integers(0, 50, n), "attention_mask": np.ones(n, np.int64)} for n in lengths]


def images() -> list[Row]:
    return [{"image": CHANCE.normal(size=(1, h, 6)).astype(np.float32)} for h in (8, 3, 8, 1, 5, 8, 2, 3)]


def limits() -> list[Row]:
    given = zip(CHANCE.normal(size=(8, 4)), (0.0, 1.0, 0.0, -1.0, 2.0, 1.0, 0.5, 0.0), strict=True)
    return [{"x": x.astype(np.float32), "threshold": np.array(t, np.float32)} for x, t in given]


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[], list[Row]]]] = {
    "texts": (lambda path: layouts.text(path, per_token=True), texts),
    "boxes": (layouts.detector, images),
    "threshold": (layouts.threshold, limits),
}
NO_BATCH = {"threshold", "used", "boxes", "scores", "count"}
"""Inputs and outputs of these models that have no batch axis; the others have theirs first."""


class Served:
    """A service of two copies of one of the models, its rows, and what the runtime answers to each row alone."""

    def __init__(self, folder: Path, kind: str) -> None:
        made, rows = KINDS[kind]
        path = made(folder / "poc.onnx")
        (folder / "better.onnx").write_bytes(path.read_bytes())
        (folder / "rollout.yaml").write_text(
            "model: m\ntask: agreement\nprimary: poc.onnx\ncandidate: better.onnx\n"
            "goals: {latency: {p99_ms: 10000, deadline_ms: 20000}, quality: {loss: disagreement, margin: 0.01}}\n"
            "steps: [{shadow: 100}, {canary: 50}, promote]\n",
            encoding="utf-8",
        )
        self.rows, session = rows(), ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        self.expected: list[dict[str, Array]] = []
        for row in self.rows:
            feed = {name: value if name in NO_BATCH else value[np.newaxis] for name, value in row.items()}
            found = zip(names, session.run(None, feed), strict=True)
            self.expected.append({name: array if name in NO_BATCH else array[0] for name, array in found})
        self.running: Running = start(folder / "state", rollout=folder / "rollout.yaml")

    def predicted(self, rows: list[Row], **headers: str) -> list[dict[str, Any]]:
        body = {"rows": [{name: value.tolist() for name, value in row.items()} for row in rows]}
        response = self.running.http.post(
            "/predict", json=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        assert response.status_code == 200, response.text
        answer = response.json()
        assert (len(answer["predictions"]), answer["fallback"]) == (len(rows), False)
        assert answer["variant"] == headers.get("X_Rollout_Variant", answer["variant"])
        return [prediction["outputs"] for prediction in answer["predictions"]]

    def check(self, outputs: Mapping[str, Any], row: int) -> None:
        """The answer to a row is the runtime's, element by element."""
        assert outputs.keys() == self.expected[row].keys()
        for name, expected in self.expected[row].items():
            mine = np.asarray(outputs[name]).reshape(expected.shape) if not expected.size else np.asarray(outputs[name])
            assert mine.shape == expected.shape, name
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module", params=list(KINDS))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp(request.param), request.param)
    yield made
    made.running.stop()


@pytest.mark.parametrize("variant", ["primary", "candidate"])
def test_rows_of_one_request_get_their_own_answers(served: Served, variant: str) -> None:
    """In the worker, and over the candidate's socket."""
    for row, outputs in enumerate(served.predicted(served.rows, X_Rollout_Variant=variant)):
        served.check(outputs, row)


@pytest.mark.parametrize("variant", ["primary", "candidate"])
def test_callers_at_the_same_time_get_their_own_answers(served: Served, variant: str) -> None:
    """Their requests share batches."""
    order = [*range(len(served.rows))] * 12
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda row: served.predicted([served.rows[row]], X_Rollout_Variant=variant), order)
        for row, [outputs] in zip(order, answers, strict=True):
            served.check(outputs, row)


@pytest.mark.parametrize("binary", [False, True])
def test_the_open_inference_protocol_gives_the_same(served: Served, *, binary: bool) -> None:
    """By Triton's client, in the shapes that the metadata state."""
    client = triton.InferenceServerClient(served.running.url.removeprefix("http://"))
    told = client.get_model_metadata("m")
    kinds = {tensor["name"]: tensor["datatype"] for tensor in told["inputs"]}
    for number, row in enumerate(served.rows):
        tensors = []
        for name, value in row.items():
            tensors.append(triton.InferInput(name, [1, *value.shape], kinds[name]))
            tensors[-1].set_data_from_numpy(value[np.newaxis], binary_data=binary)
        wanted = [triton.InferRequestedOutput(tensor["name"], binary_data=binary) for tensor in told["outputs"]]
        answer = client.infer("m", tensors, outputs=wanted)
        served.check({tensor["name"]: answer.as_numpy(tensor["name"])[0] for tensor in told["outputs"]}, number)
        for tensor in told["outputs"]:
            shape = answer.as_numpy(tensor["name"]).shape
            assert len(shape) == len(tensor["shape"])
            assert all(said in {-1, size} for said, size in zip(tensor["shape"], shape, strict=True))
    client.close()


def test_the_candidate_rehearses_on_every_row_and_agrees(served: Served) -> None:
    """All outputs of all rows are compared."""
    served.predicted(served.rows)

    def compared() -> Any:
        found = served.running.rollout().get("comparison") or {}
        return found if found.get("rows", 0) >= len(served.rows) else None

    found = served.running.wait_for(compared)
    assert set(found["outputs"]) == set(served.expected[0])
    for name, counts in found["outputs"].items():
        assert (counts["rows"], counts["rows_outside"], counts["misshapen"]) == (found["rows"], 0, 0), json.dumps(name)
