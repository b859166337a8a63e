"""KServe's SDK as its documentation shows it: a `Model` behind its `ModelServer`, Open Inference Protocol in JSON."""

import os

import numpy as np
import onnxruntime as ort
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Peer(Model):
    """One float tensor in, labels and probabilities out."""

    def __init__(self) -> None:
        super().__init__("peer")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])
        self.ready = True

    def predict(self, payload: InferRequest, headers: object = None, response_headers: object = None) -> InferResponse:
        """Run the model."""
        given = payload.inputs[0]
        label, probabilities = self.session.run(None, {given.name: given.as_numpy().astype(np.float32)})
        outputs = []
        for name, kind, array in (("label", "INT64", label), ("probabilities", "FP32", probabilities)):
            output = InferOutput(name, list(array.shape), kind)
            output.set_data_from_numpy(array, binary_data=False)
            outputs.append(output)
        return InferResponse(payload.id or "0", self.name, outputs)


if __name__ == "__main__":
    ModelServer(http_port=int(os.environ["PORT"]), workers=1, enable_grpc=False).start([Peer()])
