"""BentoML's own endpoint: `@bentoml.api` around the same ONNX session, as its documentation shows it."""

import os
from typing import Any

import bentoml
import numpy as np
import onnxruntime as ort

from loadtests.peers.feeding import feeds


@bentoml.service(workers=1)
class Peer:
    """The flights POC behind `POST /predict`."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api
    def predict(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Rows in, labels and probabilities out."""
        label, probabilities = self.session.run(None, feeds(np, self.session, rows))
        return {"label": label.tolist(), "probabilities": probabilities.tolist()}
