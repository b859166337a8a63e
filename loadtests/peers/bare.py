"""The limit: uvicorn, orjson and ONNX Runtime with a hand-written ASGI handler, one request at a time, nothing checked."""

import os
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
import orjson

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_options = ort.SessionOptions()
_options.intra_op_num_threads = 1
_session = ort.InferenceSession(os.environ["PEER_MODEL"], _options, providers=["CPUExecutionProvider"])
_kinds = {i.name: np.float32 if i.type == "tensor(float)" else object for i in _session.get_inputs()}
_vectors = {i.name for i in _session.get_inputs() if i.shape[1] != 1}
_HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}


async def app(scope: "Scope", receive: "Receive", send: "Send") -> None:
    """Rows in, labels and probabilities out."""
    if scope["type"] != "http":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    rows = orjson.loads(body)["rows"] if body else []
    if rows:
        feeds = {n: np.array([r[n] if n in _vectors else [r[n]] for r in rows], dtype=k) for n, k in _kinds.items()}
        label, probabilities = _session.run(None, feeds)
        answer = orjson.dumps({"label": label.tolist(), "probabilities": probabilities.tolist()})
    else:
        answer = b"{}"
    await send(_HEAD)
    await send({"type": "http.response.body", "body": answer})
