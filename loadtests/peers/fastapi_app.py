"""FastAPI as its documentation shows it: a pydantic model in, a dictionary out."""

import os

import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel

from loadtests.peers.feeding import Row, feeds

_options = ort.SessionOptions()
_options.intra_op_num_threads = 1
_session = ort.InferenceSession(os.environ["PEER_MODEL"], _options, providers=["CPUExecutionProvider"])
app = FastAPI()


class Body(BaseModel):
    """The body of a request."""

    rows: list[Row]


@app.post("/predict")
async def predict(body: Body) -> dict[str, object]:
    """Rows in, labels and probabilities out."""
    label, probabilities = _session.run(None, feeds(_session, body.rows))
    return {"label": label.tolist(), "probabilities": probabilities.tolist()}
