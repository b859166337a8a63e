"""LitServe as its documentation shows it: decode, predict, encode."""

import os
from typing import Any

import litserve as ls
import numpy as np
import onnxruntime as ort

from loadtests.peers.feeding import feeds


class Api(ls.LitAPI):
    """Rows in, labels and probabilities out."""

    def setup(self, device: str) -> None:
        """Open the model."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict[str, Any], **_: Any) -> list[dict[str, Any]]:
        """The rows of a body."""
        rows: list[dict[str, Any]] = request["rows"]
        return rows

    def predict(self, x: list[dict[str, Any]], **_: Any) -> Any:
        """Run the model."""
        return self.session.run(None, feeds(np, self.session, x))

    def encode_response(self, output: Any, **_: Any) -> dict[str, Any]:
        """Plain values."""
        return {"label": output[0].tolist(), "probabilities": output[1].tolist()}


if __name__ == "__main__":
    ls.LitServer(Api(), accelerator="cpu").run(
        port=int(os.environ["PORT"]), generate_client_file=False, num_api_servers=1
    )
