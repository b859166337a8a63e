"""The service's doors in front of two real models, in one process: `/predict`, V2 as JSON and raw, the candidate's socket."""

import asyncio
import atexit
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.faults.rows import Beside
from understudy import loading
from understudy.api.predict import Predict
from understudy.api.v2.infer import Infer, protocol_error
from understudy.api.v2.metadata import ProtocolV2
from understudy.api.v2.tensors import DATATYPES, Slot, to_bytes
from understudy.domain import Phase, Plan, Variant
from understudy.http.auth import Tokens
from understudy.http.router import AppRouter
from understudy.inference import OutputReader
from understudy.inference.batching import LocalModel
from understudy.inference.decoding import Array, Decoder, Field
from understudy.inference.remote import RemoteModel
from understudy.inference.spread_model import SpreadModel
from understudy.serving.slots import ModelSlots
from understudy.settings import Settings
from understudy.testing import ManualClock, pipeline

PREDICT = "/predict"
INFER = "/v2/models/m/infer"
_RUNNER = asyncio.Runner()
"""Runs all calls: the models belong to one event loop."""
atexit.register(_RUNNER.close)
Answer = tuple[int, Any]
"""Status and JSON."""


class Doors:
    """A worker's doors. The models are those of a rollout file, opened as the service opens them.

    Args:
        file: the rollout file; its `model` is m.
        candidate: whether the candidate answers every request, through its socket's format; otherwise the primary does.
    """

    def __init__(self, file: Path, *, candidate: bool = False) -> None:
        _RUNNER.run(self._open(file, candidate))

    async def _open(self, file: Path, candidate: bool) -> None:
        settings = Settings(rollout_file=file, state_dir=file.parent / "state", batch_max_rows=8)
        self.policy = loading.load_policy(settings)
        self.cards = loading.read_cards(self.policy, settings)
        engines = {
            variant: loading.open_engine(source, settings, self.policy, variant=variant)
            for variant, source in zip(Variant, (self.policy.primary, self.policy.candidate), strict=False)
            if source is not None
        }
        fields = loading.fields_of(self.cards[Variant.PRIMARY], self.cards.get(Variant.CANDIDATE))
        context = [name for name in (self.policy.route_by, self.policy.unit) if name]
        self.decoder = Decoder(fields, context=context, rows_max=20, key_max_chars=50)
        limits: dict[str, Any] = {"max_rows": 9, "queue_max_rows": 9}
        first = LocalModel(
            engines[Variant.PRIMARY],
            loading.inputs_of(self.cards[Variant.PRIMARY], self.decoder.positions),
            None,  # type: ignore[arg-type]  # runs are short
            inline_max_s=10.0,
            **limits,
        )
        self.slots = ModelSlots(first)
        if Variant.CANDIDATE in engines:
            beside: Any = Beside(engines[Variant.CANDIDATE])
            card = self.cards[Variant.CANDIDATE]
            model = RemoteModel(beside, loading.inputs_of(card, self.decoder.positions), OutputReader(card))
            self._tasks = set[asyncio.Task[None]]()

            async def infer(requests: Sequence[Any]) -> Sequence[Any]:
                return await model.infer(requests, 9.0)

            def spawn(coroutine: Any) -> None:
                self._tasks.add(asyncio.get_running_loop().create_task(coroutine))

            self.slots.candidate = SpreadModel(infer, spawn, **limits)
        notes: Any = SimpleNamespace(
            open=lambda exchange: None,
            add=lambda exchange: None,
            failed=lambda exchange, status: None,
            refused=lambda status, problems=(): None,
        )
        clock = ManualClock()
        plan = Plan(Phase.CANARY, 10_000 if candidate else 0, 0, 1, revision=4)
        line = pipeline(notes, plan, self.slots, self.decoder, clock=clock, deadline_s=20.0, candidate_timeout_s=10.0)
        parts: Any = SimpleNamespace(
            policy=self.policy,
            cards=self.cards,
            decoder=self.decoder,
            settings=settings,
            clock=clock,
            body_limits={"max_bytes": 10**7, "timeout_s": 1.0},
            tokens=Tokens(None),
            recorder=notes,
            slots=self.slots,
            pipeline=line,
            offload=None,
        )
        self._router = AppRouter(SimpleNamespace(routes=[]))
        infer_calls = Infer(parts)
        routes = ProtocolV2(parts, lambda: None, infer_calls).routes()
        direct = {infer_calls.path: infer_calls, PREDICT: Predict(parts)}
        self._router.open(routes, direct, error_formats={"/v2": protocol_error})

    def predict(self, *rows: Mapping[str, Any] | bytes) -> Answer:
        """`POST /predict`; a row may be given as JSON text."""
        texts = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        status, _, body = self._call(PREDICT, b'{"rows":[' + b",".join(texts) + b"]}", content_type="application/json")
        return status, json.loads(body)

    def v2(self, **inputs: tuple[str, Sequence[int], Any]) -> Answer:
        """V2 in JSON; inputs by name: datatype, shape and data."""
        listed = [{"name": n, "datatype": d, "shape": list(s), "data": data} for n, (d, s, data) in inputs.items()]
        status, _, body = self._call(INFER, json.dumps({"inputs": listed}).encode())
        return status, json.loads(body)

    def v2_binary(self, **inputs: tuple[str, Array]) -> tuple[int, Any, dict[str, Array]]:
        """V2 in raw tensors; inputs by name: datatype and array. The outputs are arrays."""
        listed, tail = [], b""
        for name, (datatype, array) in inputs.items():
            raw = array if isinstance(array, bytes) else to_bytes(array)
            size = {"binary_data_size": len(raw)}
            listed.append({"name": name, "datatype": datatype, "shape": list(array.shape), "parameters": size})
            tail += raw
        text = json.dumps({"inputs": listed, "parameters": {"binary_data_output": True}}).encode()
        headers = {"content_type": "application/octet-stream", "inference_header_content_length": str(len(text))}
        status, head, body = self._call(INFER, text + tail, **headers)
        length = int(head.get("inference-header-content-length", len(body)))
        said, at = json.loads(body[:length]), length
        arrays: dict[str, Array] = {}
        for output in said.get("outputs", ()):
            size = output["parameters"]["binary_data_size"]
            arrays[output["name"]] = _from_raw(output["datatype"], body[at : at + size], output["shape"])
            at += size
        return status, said, arrays

    def metadata(self) -> Any:
        """`GET /v2/models/m`."""
        return json.loads(self._call("/v2/models/m", None)[2])

    def _call(self, path: str, body: bytes | None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        return _RUNNER.run(self._answer(path, body, headers))

    async def _answer(
        self, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body or b""}

        async def send(message: Any) -> None:
            sent.append(message)

        names = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        method = "GET" if body is None else "POST"
        scope = {"type": "http", "path": path, "method": method, "headers": names, "client": ("127.0.0.1", 1)}
        await self._router(scope, receive, send)
        head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], head, sent[1]["body"]


def _from_raw(datatype: str, raw: bytes, shape: Sequence[int]) -> Array:
    dtype = next(dtype for dtype, name in DATATYPES.items() if name == datatype)
    slot = Slot(Field("output", dtype, tuple(shape[1:]), nullable=True))
    if datatype.startswith("FP"):  # infinities too
        return np.frombuffer(raw, slot.dtype).reshape(shape)
    return slot.from_bytes(memoryview(raw), shape)
