"""The Open Inference Protocol as Triton's own client speaks it, against the real service."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from loadtests import matrix
from models.data import Flight
from tests.support.service import ROOT, Running, start

pytestmark = pytest.mark.acceptance
MODEL = "flight-delay"


@pytest.fixture(scope="module")
def client(shared: Running) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(shared.url.removeprefix("http://"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service of the matrix models, one FP32 input of 16 columns, with the canary at 50 %."""
    folder = tmp_path_factory.mktemp("matrix")
    matrix.logistic(folder / "logistic.onnx")
    matrix.boosted(folder / "boosted.onnx")
    (folder / "rollout.yaml").write_text(
        "model: matrix\ntask: binary-classification\nprimary: logistic.onnx\ncandidate: boosted.onnx\n"
        "steps: [{shadow: 100}, {canary: 50}, promote]\n",
        encoding="utf-8",
    )
    running = start(folder / "state", rollout=folder / "rollout.yaml")
    yield running
    running.stop()


def columns(client: triton.InferenceServerClient, flights: list[Flight], *, binary: bool) -> list[triton.InferInput]:
    """Every input that the metadata of the flights model names."""
    found = []
    for spec in client.get_model_metadata(MODEL)["inputs"]:
        values = [flight.row.get(spec["name"]) for flight in flights]
        text = spec["datatype"] == "BYTES"
        array = np.array(values, dtype=object if text else np.float32)  # what is missing is NaN
        array = array.reshape([len(flights) if size == -1 else size for size in spec["shape"]])
        tensor = triton.InferInput(spec["name"], list(array.shape), spec["datatype"])
        if binary or text or not np.isnan(array).any():
            tensor.set_data_from_numpy(array, binary_data=binary)
        else:  # this client writes NaN into JSON, which has no such word
            tensor.set_data_from_numpy(np.zeros_like(array), binary_data=False)
            tensor._data = [None if math.isnan(value) else float(value) for value in array.flat]
        found.append(tensor)
    return found


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    """The client's own questions."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1.0.0")
    assert not client.is_model_ready(MODEL, "9")
    assert not client.is_model_ready("another")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    told = client.get_model_metadata(MODEL)
    kinds = {spec["name"]: spec["datatype"] for spec in told["inputs"]}
    assert told["versions"] == ["1.0.0", "2.0.0"]
    assert (kinds["temp"], kinds["carrier"], kinds["tailnum"]) == ("FP32", "BYTES", "BYTES")


@pytest.mark.parametrize("binary", [True, False])
def test_answers_are_those_of_predict(
    shared: Running, client: triton.InferenceServerClient, july: list[Flight], binary: bool
) -> None:
    """JSON and raw tensors, strings and missing values, to the last bit."""
    flights = july[:300]
    result = client.infer(MODEL, columns(client, flights, binary=binary), request_id="42")
    said = shared.http.post("/predict", json={"rows": [flight.row for flight in flights]}).json()["predictions"]

    assert result.get_response()["id"] == "42"
    assert result.as_numpy("label").tolist() == [one["label"] for one in said]
    wanted = np.array([list(one["probabilities"].values()) for one in said], np.float32)
    assert np.array_equal(result.as_numpy("probabilities"), wanted)


def test_only_the_outputs_that_are_asked_for(client: triton.InferenceServerClient, july: list[Flight]) -> None:
    """Each as JSON or as raw bytes, as the request says."""
    asked = [triton.InferRequestedOutput("probabilities", binary_data=False)]
    result = client.infer(MODEL, columns(client, july[:2], binary=True), outputs=asked)
    [output] = result.get_response()["outputs"]

    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [2, 2])
    assert len(output["data"]) == 4
    assert result.as_numpy("label") is None


def test_predictions_are_recorded_rehearsed_and_labelled(
    shared: Running, client: triton.InferenceServerClient, july: list[Flight]
) -> None:
    """As those of /predict: the ids count up from the one that the answer has, and /feedback knows them."""
    before = shared.rollout()["shadow"]["compared"]
    result = client.infer(MODEL, columns(client, july[:3], binary=True), headers={"X-Rollout-Key": "N1"})
    told = result.get_response()["parameters"]
    prefix, _, number = told["prediction_id"].rpartition("-")
    labels = [{"prediction_id": f"{prefix}-{int(number) + i}", "label": i % 2} for i in range(3)]

    assert (told["variant"], told["fallback"]) == ("primary", False)
    assert shared.http.post("/feedback", json={"labels": labels}).json()["matched"] == 3
    shared.wait_for(lambda: shared.rollout()["shadow"]["compared"] > before)


def test_a_version_pins_and_is_no_evidence(
    shared: Running, client: triton.InferenceServerClient, july: list[Flight]
) -> None:
    """The candidate's version is answered by the candidate, and neither rehearsed nor counted as live."""
    inputs = columns(client, july[:1], binary=True)
    shared.wait_for(lambda: client.is_model_ready(MODEL, "2.0.0"))

    def counted() -> dict[str, float]:
        return dict(shared.http.get("/rollout/evidence").json()["counters"])

    before = counted()
    response = client.infer(MODEL, inputs, model_version="2.0.0").get_response()
    assert (response["model_version"], response["parameters"]["variant"]) == ("2.0.0", "candidate")
    shared.wait_for(lambda: counted().get("rows/pinned", 0) == before.get("rows/pinned", 0) + 1)
    assert counted()["rows/live"] == before["rows/live"]
    with pytest.raises(InferenceServerException, match="no version '3' here") as caught:
        client.infer(MODEL, inputs, model_version="3")
    assert caught.value.status() == "404"


def test_errors_are_the_protocol_s_and_the_service_goes_on(
    shared: Running, client: triton.InferenceServerClient, july: list[Flight]
) -> None:
    """A status, and `{"error": …}` that names the input."""
    good = columns(client, july[:1], binary=True)
    bad = triton.InferInput("temp", [1, 1], "FP64")
    bad.set_data_from_numpy(np.zeros((1, 1)))
    swapped = [bad if tensor.name() == "temp" else tensor for tensor in good]
    for inputs, says in ((swapped, "'temp': its datatype is 'FP64'"), (good[1:], "'month': is missing")):
        with pytest.raises(InferenceServerException, match=re.escape(says)) as caught:
            client.infer(MODEL, inputs)
        assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="output 'nope' is unknown"):
        client.infer(MODEL, good, outputs=[triton.InferRequestedOutput("nope")])
    url = f"/v2/models/{MODEL}/infer"
    for response, status in (
        (shared.http.post(url, content=b"{"), 400),
        (shared.http.post(url, content=b"{}", headers={"inference-header-content-length": "-1"}), 400),
        (shared.http.post(url, content=b"{}", headers={"content-encoding": "gzip"}), 415),
        (shared.http.post(url, content=b"{}", headers={"content-type": "text/csv"}), 415),
        (shared.http.post(url, content=b" " * (9 * 2**20)), 413),
        (shared.http.get(url), 405),
        (shared.http.get("/v2/models/another"), 404),
        (shared.http.get("/v2/nothing"), 404),
    ):
        assert response.status_code == status
        assert response.headers["content-type"] == "application/json"
        assert list(response.json()) == ["error"]
    assert client.infer(MODEL, good).as_numpy("label").shape == (1,)


def test_a_thousand_rows_of_floats_whoever_answers(floats: Running) -> None:
    """Both variants answer in the primary's names and types, and each as the bare model does."""
    client = triton.InferenceServerClient(floats.url.removeprefix("http://"))
    floats.wait_for(lambda: client.is_model_ready("matrix", "0"))
    floats.wait_for(lambda: floats.rollout()["candidate"].get("up", True))
    assert floats.http.post("/rollout/weight", json={"weight": 50}).status_code == 200
    rows = matrix.rows(1_000)
    tensor = triton.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    found: dict[str, Any] = {}

    def ask() -> bool:
        key = str(len(found) + np.random.default_rng().integers(1_000_000))
        result = client.infer("matrix", [tensor], headers={"X-Rollout-Key": key})
        found[result.get_response()["parameters"]["variant"]] = result.as_numpy("probabilities")
        return len(found) == 2

    floats.wait_for(ask)
    for variant, array in found.items():
        pinned = client.infer("matrix", [tensor], headers={"X-Rollout-Variant": variant})
        assert array.shape == (1_000, 2)
        assert array.dtype == np.float32
        assert np.array_equal(array, pinned.as_numpy("probabilities"))
    assert not np.array_equal(found["primary"], found["candidate"])


def test_the_example_of_the_page_works(shared: Running, tmp_path: Path) -> None:
    """As it stands there, only to the port of this test."""
    text = (ROOT / "docs" / "how-to" / "v2-protocol.md").read_text(encoding="utf-8")
    [code] = [part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "tritonclient" in part]
    script = tmp_path / "example.py"
    script.write_text(code.replace("localhost:3000", shared.url.removeprefix("http://")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1].replace("'", '"'))["matched"] == 1
