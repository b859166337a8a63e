"""LitServe as its documentation shows it: decode, predict, encode."""

import os

import litserve as ls
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from loadtests.peers.feeding import Row, feeds


class Api(ls.LitAPI):
    """Rows in, labels and probabilities out."""

    def setup(self, device: str) -> None:
        """Open the model."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request: dict[str, list[Row]], **_: object) -> list[Row]:
        """The rows of a body."""
        return request["rows"]

    def predict(self, x: list[Row], **_: object) -> "list[npt.NDArray[np.float32]]":
        """Run the model."""
        outputs: list[npt.NDArray[np.float32]] = self.session.run(None, feeds(self.session, x))
        return outputs

    def encode_response(self, output: "list[npt.NDArray[np.float32]]", **_: object) -> dict[str, object]:
        """Plain values."""
        return {"label": output[0].tolist(), "probabilities": output[1].tolist()}


if __name__ == "__main__":
    ls.LitServer(Api(), accelerator="cpu").run(
        port=int(os.environ["PORT"]), generate_client_file=False, num_api_servers=1
    )
