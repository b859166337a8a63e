"""MLServer as its documentation shows it: a custom runtime, Open Inference Protocol in JSON."""

import asyncio
import os

import numpy as np
import onnxruntime as ort
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Peer(MLModel):
    """One float tensor in, labels and probabilities out."""

    async def load(self) -> bool:
        """Open the model."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the model."""
        given = payload.inputs[0]
        x = NumpyCodec.decode_input(given).astype(np.float32)
        label, probabilities = self.session.run(None, {given.name: x})
        outputs = [NumpyCodec.encode_output("label", label), NumpyCodec.encode_output("probabilities", probabilities)]
        return InferenceResponse(model_name=self.name, outputs=outputs)


async def main() -> None:
    """Serve one model in this process."""
    port = int(os.environ["PORT"])
    settings = Settings(
        http_port=port,
        grpc_port=port + 1,
        metrics_port=port + 2,
        parallel_workers=0,
        host="127.0.0.1",
        debug=False,
        use_structured_logging=False,
    )
    server = MLServer(settings)
    await server.start([ModelSettings(name="peer", implementation=Peer)])


if __name__ == "__main__":
    asyncio.run(main())
