"""`POST /v2/models/{model}[/versions/{version}]/infer`: routed, recorded and rehearsed as `POST /predict`; a version pins it."""

import functools
from collections.abc import Callable, Iterable, Mapping

import structlog

from understudy.api.answers import is_large, may_be_large
from understudy.api.parts import ApiParts
from understudy.api.v2.codec import InferenceRequest, Signature
from understudy.domain import Mode, Variant
from understudy.errors import (
    InvalidInput,
    MalformedRequest,
    NotFound,
    UnderstudyError,
    WrongMediaType,
    unexpected_error,
)
from understudy.http.asgi import (
    BufferedRequest,
    CompleteRequest,
    Headers,
    Receive,
    Reply,
    Scope,
    Send,
    check_size,
    encode,
    header,
    peer,
    read_body,
)
from understudy.inference import Scores
from understudy.inference.cards import Card
from understudy.records.exchange import Exchange
from understudy.serving.pending import Pending
from understudy.serving.pipeline import RequestOptions

log = structlog.get_logger(__name__)

_MEDIA_TYPES = frozenset({None, "application/json", "application/octet-stream"})


def protocol_error(error: UnderstudyError) -> Reply:
    """An error as the protocol has it: `{"error": …}`. Tensors that do not fit are 400 here."""
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return _status(error), [(b"content-type", b"application/json"), *headers], encode({"error": error.detail})


def reply_error(request: CompleteRequest, error: UnderstudyError) -> None:
    """Reply with an error as the protocol has it."""
    request.reply(*protocol_error(error))


class Infer:
    """Handles inference requests, straight from the connection (`take`) or through ASGI (`__call__`).

    Attributes:
        path: the path of the routed model.
    """

    def __init__(self, parts: ApiParts) -> None:
        self._parts, self._pipeline, self._clock = parts, parts.pipeline, parts.clock
        self._max_bytes = parts.settings.body_max_bytes
        self._routed = Signature(parts.decoder, parts.cards)
        self._pinned = {v: Signature(parts.decoder, {v: card}) for v, card in parts.cards.items()}
        self._offload, self._large_from = parts.offload, parts.settings.large_from_bytes
        self._may_be_large = {v: may_be_large(card, parts.settings.rows_max) for v, card in parts.cards.items()}
        self._any_large = parts.offload is not None and any(self._may_be_large.values())
        self.path = f"/v2/models/{parts.policy.model}/infer"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, then proceed as `take` does."""
        started = self._clock.perf()
        try:
            variants_named(self._parts, scope.get("path_params"))  # before waiting for the body
            request = BufferedRequest(scope, await read_body(scope, receive, **self._parts.body_limits))
        except UnderstudyError as error:
            self._parts.recorder.refused(_status(error), ())
            raise
        self.take(request, started)
        await request.respond(send)

    def take(self, complete: CompleteRequest, started: float | None = None) -> None:
        """Decode, route, infer, reply; then hand over to recorder and rehearsal."""
        scope = complete.scope
        started = self._clock.perf() if started is None else started
        try:
            check_size(complete.body, self._max_bytes)
            options = self._options(scope)
            signature = self.signature(options.pin)
            length = _header_length(scope)
            if len(complete.body) >= self._large_from and self._offload is not None:
                self._offload.run(
                    len(complete.body),
                    lambda: signature.decode(complete.body, length, in_pieces=True),
                    lambda result: self._decoded(complete, options, signature, result, started),
                )
                return
            self._begin(complete, options, signature, signature.decode(complete.body, length), started)
        except UnderstudyError as error:
            self._refuse(complete, error)

    def _begin(
        self,
        complete: CompleteRequest,
        options: RequestOptions,
        signature: Signature,
        request: InferenceRequest,
        started: float,
    ) -> None:
        """Route a decoded request, and ask a model."""
        exchange, plan = self._pipeline.begin(request.rows, options)
        response = functools.partial(self._response, signature, request)
        aside = functools.partial(self._encode_large, signature, request) if self._any_large else None
        Pending(self._pipeline, complete, exchange, plan, started, response, reply_error, aside).ask()

    def _decoded(
        self,
        complete: CompleteRequest,
        options: RequestOptions,
        signature: Signature,
        result: InferenceRequest | Exception,
        started: float,
    ) -> None:
        """Proceed with a large request. Raises nothing."""
        try:
            if isinstance(result, Exception):
                raise result
            self._begin(complete, options, signature, result, started)
        except UnderstudyError as error:
            self._refuse(complete, error)
        except Exception as error:  # a bug: the caller needs an answer nevertheless
            log.error("a bug: please report it", exc_info=error)
            reply_error(complete, unexpected_error())

    def _refuse(self, complete: CompleteRequest, error: UnderstudyError) -> None:
        self._parts.recorder.refused(_status(error), error.errors if isinstance(error, InvalidInput) else ())
        reply_error(complete, error)

    def _encode_large(
        self,
        signature: Signature,
        request: InferenceRequest,
        exchange: Exchange,
        scores: Scores,
        done: Callable[[tuple[Headers, bytes] | Exception], None],
    ) -> bool:
        """Encode an answer in the thread if it is large."""
        if not self._may_be_large[exchange.variant] or not is_large(scores):
            return False
        assert self._offload is not None
        self._offload.run(0, lambda: self._response(signature, request, exchange, scores, in_pieces=True), done)
        return True

    def signature(self, pin: Variant | None) -> Signature:
        """Inputs and outputs of one variant, or of the routed model."""
        return self._routed if pin is None else self._pinned[pin]

    def _response(
        self,
        signature: Signature,
        request: InferenceRequest,
        exchange: Exchange,
        scores: Scores,
        *,
        in_pieces: bool = False,
    ) -> tuple[Headers, bytes]:
        parts, variant, prediction_id = self._parts, exchange.variant, exchange.prediction_id(0)
        head = {
            "model_name": parts.policy.model,
            "model_version": parts.cards[variant].version,
            "parameters": {
                "variant": variant,
                "fallback": exchange.fallback is not None,
                "prediction_id": prediction_id,
            },
        }
        body, json_length = signature.encode(head, request, scores, variant, in_pieces=in_pieces)
        headers: Headers = [(b"x-rollout-variant", variant.encode()), (b"x-prediction-id", prediction_id.encode())]
        if json_length is None:
            return [(b"content-type", b"application/json"), *headers], body
        length = (b"inference-header-content-length", str(json_length).encode())
        return [(b"content-type", b"application/octet-stream"), *headers, length], body

    def _options(self, scope: Scope) -> RequestOptions:
        """The options in the headers. A version in the path pins, as `X-Rollout-Variant` does.

        If both models have the same version, it means the primary's unless the header says otherwise.
        """
        variants, options = variants_named(self._parts, scope.get("path_params")), self._pipeline.options(scope)
        if not variants:
            return options
        self._parts.tokens.operator(header(scope, b"authorization"), peer(scope))
        if options.pin is not None and options.pin not in variants:
            raise MalformedRequest(f"X-Rollout-Variant is {options.pin}; the path's version is the {variants[0]}'s")
        options.pin, options.mode = options.pin or variants[0], Mode.PINNED
        return options


def variants_named(parts: ApiParts, path_params: Mapping[str, str] | None) -> list[Variant]:
    """The variants that have the version in the path, usually one; none if the path has no version.

    Args:
        path_params: None for a request whose path is that of the routed model.

    Raises:
        NotFound: no such model, or no such version of it.
    """
    if path_params is None:
        return []
    model, version = path_params["model"], path_params.get("version")
    if model != parts.policy.model:
        raise NotFound(f"there is no model {model[:100]!r} here, only {parts.policy.model!r}")
    if version is None:
        return []
    variants = [variant for variant, card in parts.cards.items() if card.version == version]
    if not variants:
        raise NotFound(f"there is no version {version[:100]!r} here, only {_versions(parts.cards.values())}")
    return variants


def _header_length(scope: Scope) -> int | None:
    """Length of the JSON in front of the raw tensors, or None if the body is nothing but JSON.

    Raises:
        MalformedRequest: the header is no number.
        WrongMediaType: the body has another content type, or is compressed.
    """
    content_type = header(scope, b"content-type")
    media_type = content_type.partition(";")[0].strip().lower() if content_type else None
    if media_type not in _MEDIA_TYPES:
        raise WrongMediaType(
            f"the content type is {content_type!r}; send application/json, or application/octet-stream for raw tensors"
        )
    coding = header(scope, b"content-encoding")
    if coding not in {None, "identity"}:
        raise WrongMediaType(f"the body is encoded as {coding!r}; send it uncompressed")
    length = header(scope, b"inference-header-content-length")
    if length is None:
        return None
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise MalformedRequest(f"Inference-Header-Content-Length is {length[:40]!r}; it takes a number of bytes")
    return int(length)


def _status(error: UnderstudyError) -> int:
    return 400 if isinstance(error, InvalidInput) else int(error.status)


def _versions(cards: Iterable[Card]) -> str:
    return ", ".join(repr(card.version) for card in cards)
