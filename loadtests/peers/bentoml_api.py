"""BentoML's own endpoint: `@bentoml.api` around the same ONNX session, as its documentation shows it."""

import os

import bentoml
import onnxruntime as ort

from loadtests.peers.feeding import Row, feeds


@bentoml.service(workers=1)
class Peer:
    """The flights POC behind `POST /predict`."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api
    def predict(self, rows: list[Row]) -> dict[str, object]:
        """Rows in, labels and probabilities out."""
        label, probabilities = self.session.run(None, feeds(self.session, rows))
        return {"label": label.tolist(), "probabilities": probabilities.tolist()}
