"""BentoML's own endpoint: `@bentoml.api` around the same ONNX session, as its documentation shows it."""

import os
from typing import Any

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(workers=1)
class Peer:
    """The flights POC behind `POST /predict`."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])
        self.kinds = {i.name: np.float32 if i.type == "tensor(float)" else object for i in self.session.get_inputs()}

    @bentoml.api
    def predict(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Rows in, labels and probabilities out."""
        feeds = {name: np.array([[row[name]] for row in rows], dtype=kind) for name, kind in self.kinds.items()}
        label, probabilities = self.session.run(None, feeds)
        return {"label": label.tolist(), "probabilities": probabilities.tolist()}
