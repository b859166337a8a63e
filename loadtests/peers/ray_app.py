"""Ray Serve as its documentation shows it: one deployment, one replica."""

import os
import signal

import onnxruntime as ort
import ray
from ray import serve
from starlette.requests import Request

from loadtests.peers.feeding import feeds


@serve.deployment(num_replicas=1, max_ongoing_requests=100)
class Peer:
    """Rows in, labels and probabilities out."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])

    async def __call__(self, request: Request) -> dict[str, object]:
        """One request."""
        body = await request.json() if request.method == "POST" else {"rows": []}
        if not body["rows"]:
            return {}
        label, probabilities = self.session.run(None, feeds(self.session, body["rows"]))
        return {"label": label.tolist(), "probabilities": probabilities.tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Peer.bind(), route_prefix="/")  # type: ignore[attr-defined]
    signal.pause()
