"""All calls of the answering process, and those of labels, health and the API document."""

from collections.abc import Callable, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from understudy.api import dashboard, openapi
from understudy.api.access import read
from understudy.api.feedback import FeedbackDecoder
from understudy.api.loadtest import LoadTestCalls
from understudy.api.orders import OrderCalls
from understudy.api.parts import ApiParts
from understudy.api.predict import Predict
from understudy.api.rollout import RolloutCalls
from understudy.api.v2.infer import Infer, protocol_error
from understudy.api.v2.metadata import ProtocolV2
from understudy.domain import JsonObject, Variant
from understudy.errors import InvalidInput, NotReady
from understudy.http.asgi import DirectHandler, ErrorFormat, require_json
from understudy.http.responses import json_response
from understudy.http.router import route

ERROR_FORMATS: Mapping[str, ErrorFormat] = {"/v2": protocol_error}
"""By the first segment of a path, how its errors look where they are not problem details."""


class Rest:
    """The handlers of the answering process.

    Args:
        ready: whether every worker is ready.
        base_document: BentoML's own OpenAPI document.
    """

    def __init__(self, parts: ApiParts, ready: Callable[[], bool], base_document: Callable[[], JsonObject]) -> None:
        self._parts, self._ready, self._base_document = parts, ready, base_document
        self._feedback = FeedbackDecoder(
            parts.cards[Variant.PRIMARY],
            parts.settings.labels_max,
            parts.cards.get(Variant.CANDIDATE),
            parts.policy.task,
            parts.settings.time_limits(),
        )
        self._predict, self._infer = Predict(parts), Infer(parts)

    def direct(self) -> Mapping[str, DirectHandler]:
        """Path → handler of complete requests straight from the connection."""
        return {"/predict": self._predict.take, self._infer.path: self._infer.take}

    def predictions(self) -> Mapping[str, ASGIApp]:
        """Path → handler of predictions whose bodies arrive in pieces."""
        return {"/predict": self._predict, self._infer.path: self._infer}

    def routes(self) -> Sequence[Route]:
        """Starlette's routes: every call. Those of the predictions answer other methods, and V2 requests by version."""
        parts = self._parts
        rollout = RolloutCalls(parts)
        return [
            *ProtocolV2(parts, self._check_ready, self._infer).routes(),
            route("/predict", self._predict, "POST"),
            route("/feedback", self.feedback, "POST"),
            *rollout.routes(),
            *OrderCalls(parts, rollout.state).routes(),
            *LoadTestCalls(parts).routes(),
            route("/livez", self.live, "GET"),
            route("/healthz", self.live, "GET"),
            route("/readyz", self.ready, "GET"),
            route("/docs.json", self.docs, "GET"),
            *dashboard.routes(),
        ]

    async def feedback(self, request: Request) -> Response:
        """`POST /feedback`: labels. They are on disk when this answers."""
        parts = self._parts
        require_json(request.scope)
        body = await read(parts, request)
        try:
            reports = self._feedback.decode(body, parts.clock.now())
        except InvalidInput as error:
            parts.metrics.labels.labels(result="invalid").inc(len(error.errors))
            raise
        return json_response((await parts.add_labels(reports)).counts)

    async def live(self, _request: Request) -> Response:
        """`GET /livez`, `GET /healthz`: the event loop is running."""
        return PlainTextResponse("\n")

    async def ready(self, _request: Request) -> Response:
        """`GET /readyz`: every worker has the primary, and the store is the one it opened. The candidate is not called."""
        self._check_ready()
        return PlainTextResponse("\n")

    async def docs(self, _request: Request) -> Response:
        """`GET /docs.json`: OpenAPI of our calls and of BentoML's own."""
        parts = self._parts
        return json_response(openapi.document(self._base_document(), parts.policy, parts.fields, parts.cards))

    def _check_ready(self) -> None:
        if not self._ready():
            raise NotReady("a worker is still loading")
        if (lost := self._parts.store_lost()) is not None:
            raise NotReady(lost)
