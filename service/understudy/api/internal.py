"""The calls that the processes of a service make to each other, over sockets of their own."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from understudy.domain import Fate
from understudy.errors import MalformedRequest, NotReady, UnderstudyError
from understudy.http.asgi import Receive, Scope, Send, header, read_body, respond
from understudy.http.responses import json_response
from understudy.http.router import AppRouter, route
from understudy.inference import Engine, wire
from understudy.inference.timed_calls import TimedCalls
from understudy.records.client import LabelBatch, pack_fates, unpack_labels
from understudy.settings import Settings

log = structlog.get_logger(__name__)

DIGEST_HEADER = wire.DIGEST_HEADER.lower().encode()
TIMEOUT_HEADER = wire.TIMEOUT_HEADER.lower().encode()
BATCH_MAX_BYTES = 2**30
"""The senders have narrower limits: `flush_max_rows`, `batch_max_rows`, `shadow_batch_max_rows`, and `rows_max` per request."""


class CandidateCalls:
    """The calls of the candidate's process, over its own socket: a model's input columns in, its output arrays out."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._calls: TimedCalls | None = None
        self._reason = "the candidate is still loading"
        self._draining: Callable[[], bool] = lambda: False

    def load(self, engine: Callable[[], Engine]) -> None:
        """Load and warm the model. If it does not load, the process stays and answers every call with the reason."""
        try:
            self._calls = TimedCalls(engine(), self._settings.inline_max_ms / 1000)
        except UnderstudyError as error:
            self._reason = error.detail
            log.error("the candidate does not load", reason=error.detail)

    def open(self, router: AppRouter) -> None:
        """Start to answer."""
        self._draining = lambda: router.draining
        router.open(
            [route("/probe", self.probe, "POST"), route("/readyz", self.ready, "GET")],
            predictions={"/infer": self.infer},
        )

    async def infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the model on the packed rows of several requests."""
        body = await read_body(scope, receive, max_bytes=BATCH_MAX_BYTES, timeout_s=self._settings.body_timeout_s)
        calls = self._ready(scope)
        try:
            columns, sizes = wire.unpack_call(body)
        except ValueError as error:
            raise MalformedRequest(str(error)) from error
        reply = await calls.answer(columns, sizes, _timeout_s(scope))
        await respond(send, 200, [(b"content-type", wire.MEDIA_TYPE.encode())], reply)

    async def probe(self, request: Request) -> Response:
        """`POST /probe`: whether the model can answer."""
        await read_body(request.scope, request.receive, max_bytes=1024, timeout_s=self._settings.body_timeout_s)
        self._ready(request.scope)
        return json_response({})

    async def ready(self, request: Request) -> Response:
        """`GET /readyz`: whether this process takes new connections. Only probed if the candidate is served alone."""
        self._ready(request.scope)
        if self._draining():
            raise NotReady("the candidate's process is being stopped")
        return PlainTextResponse("\n")

    def _ready(self, scope: Scope) -> TimedCalls:
        if self._calls is None:
            raise NotReady(self._reason)
        expected, digest = header(scope, DIGEST_HEADER), self._calls.engine.card.digest
        if expected is not None and expected != digest:
            raise NotReady(
                f"the candidate's process has model {digest}, but the service expects {expected}: start both with the same model"
            )
        return self._calls


def _timeout_s(scope: Scope) -> float:
    """How long the caller waits; for ever if it does not say."""
    text = header(scope, TIMEOUT_HEADER)
    return int(text) / 1000 if text is not None and text.isascii() and text.isdigit() else math.inf


class RecordWriter(Protocol):
    """The part of `understudy.wiring.RecordsParts` that the calls below use."""

    async def write(self, packed: bytes) -> None:
        """Write a batch of exchanges."""

    async def labels(self, batch: LabelBatch) -> Sequence[Fate]:
        """Write labels."""


class RecordsCalls:
    """The calls of the records process, over its own socket: batches of exchanges, and labels."""

    def __init__(self, records: RecordWriter, body_timeout_s: float) -> None:
        self._records, self._body_timeout_s = records, body_timeout_s

    def open(self, router: AppRouter) -> None:
        """Start to answer."""
        router.open([route("/batch", self.batch, "POST"), route("/labels", self.labels, "POST")])

    async def batch(self, request: Request) -> Response:
        """`POST /batch`: write a batch. It is stored when this answers."""
        body = await self._body(request)
        try:
            await self._records.write(body)
        except ValueError as error:
            raise MalformedRequest(str(error)) from error
        return json_response({})

    async def labels(self, request: Request) -> Response:
        """`POST /labels`: write labels. The response has the fate of each."""
        body = await self._body(request)
        try:
            fates = await self._records.labels(unpack_labels(body))
        except ValueError as error:
            raise MalformedRequest(str(error)) from error
        return Response(pack_fates(fates), media_type=wire.MEDIA_TYPE)

    async def _body(self, request: Request) -> bytes:
        return await read_body(
            request.scope, request.receive, max_bytes=BATCH_MAX_BYTES, timeout_s=self._body_timeout_s
        )
