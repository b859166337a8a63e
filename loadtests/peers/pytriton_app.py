"""NVIDIA's Triton through its PyTriton wheel: the same ONNX session in the process beside Triton's own HTTP front end."""

import os

import numpy as np
import onnxruntime as ort
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

_options = ort.SessionOptions()
_options.intra_op_num_threads = 1
_session = ort.InferenceSession(os.environ["PEER_MODEL"], _options, providers=["CPUExecutionProvider"])
_columns = _session.get_inputs()[0].shape[1]


@batch
def infer(**inputs: "np.typing.NDArray[np.float32]") -> "dict[str, np.typing.NDArray[np.generic]]":
    """Rows in, labels and probabilities out; Triton batches what arrives together."""
    label, probabilities = _session.run(None, inputs)
    return {"label": label.reshape(-1, 1), "probabilities": probabilities}


if __name__ == "__main__":
    ports = TritonConfig(http_port=int(os.environ["PORT"]), allow_grpc=False, allow_metrics=False)
    with Triton(config=ports) as triton:
        triton.bind(
            model_name="peer",
            infer_func=infer,
            inputs=[Tensor(name="x", dtype=np.float32, shape=(_columns,))],
            outputs=[
                Tensor(name="label", dtype=np.int64, shape=(1,)),
                Tensor(name="probabilities", dtype=np.float32, shape=(2,)),
            ],
            config=ModelConfig(max_batch_size=128),
        )
        triton.serve()
