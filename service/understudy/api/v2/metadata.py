"""The protocol's calls that predict nothing: server and model metadata, liveness and readiness."""

from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from understudy import __version__
from understudy.api.parts import ApiParts
from understudy.api.v2.documents import V2Health, V2Model, V2Ready, V2Server
from understudy.api.v2.infer import Infer, variants_named
from understudy.domain import Variant
from understudy.errors import NotReady
from understudy.http.responses import json_response
from understudy.http.router import route

PLATFORM = "onnxruntime_onnx"
PATHS = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
EXTENSIONS = ("binary_tensor_data",)


class ProtocolV2:
    """The calls under `/v2`.

    Args:
        check_ready: raises `NotReady` unless every worker is ready.
        infer: handles inference requests.
    """

    def __init__(self, parts: ApiParts, check_ready: Callable[[], None], infer: Infer) -> None:
        self._parts, self._check_ready, self._infer = parts, check_ready, infer

    def routes(self) -> Sequence[Route]:
        """Starlette's routes."""
        return [
            route("/v2", self.server, "GET"),
            route("/v2/health/live", self.live, "GET"),
            route("/v2/health/ready", self.ready, "GET"),
            *(route(path, self.model, "GET") for path in PATHS),
            *(route(f"{path}/ready", self.model_ready, "GET") for path in PATHS),
            *(route(f"{path}/infer", self._infer, "POST") for path in PATHS),
        ]

    async def server(self, _request: Request) -> Response:
        """`GET /v2`."""
        return json_response(V2Server(name="understudy", version=__version__, extensions=[*EXTENSIONS]))

    async def live(self, _request: Request) -> Response:
        """`GET /v2/health/live`."""
        return json_response(V2Health(live=True))

    async def ready(self, _request: Request) -> Response:
        """`GET /v2/health/ready`."""
        self._check_ready()
        return json_response(V2Health(live=True, ready=True))

    async def model(self, request: Request) -> Response:
        """`GET /v2/models/{model}[/versions/{version}]`."""
        variants = variants_named(self._parts, request.path_params)
        signature = self._infer.signature(variants[0] if variants else None)
        versions = list(dict.fromkeys(card.version for card in self._parts.cards.values()))
        inputs, outputs = signature.metadata()
        return json_response(V2Model(self._parts.policy.model, versions, PLATFORM, inputs, outputs))

    async def model_ready(self, request: Request) -> Response:
        """`GET /v2/models/{model}[/versions/{version}]/ready`. Without a version the candidate does not matter."""
        self._check_ready()
        variants = variants_named(self._parts, request.path_params)
        if variants and not any(self._can_answer(variant) for variant in variants):
            raise NotReady("the process of this version does not answer; it is probed until it does")
        return json_response(V2Ready(name=self._parts.policy.model, ready=True))

    def _can_answer(self, variant: Variant) -> bool:
        return variant is Variant.PRIMARY or self._parts.slots.candidate_answers
