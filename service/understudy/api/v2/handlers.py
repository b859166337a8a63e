"""The protocol's calls. A prediction is routed, recorded and rehearsed as one of `POST /predict`; a version pins it."""

import functools
from collections.abc import Callable, Mapping

from understudy import __version__
from understudy.api.parts import ApiParts
from understudy.api.v2.codec import Question, Signature
from understudy.domain import Mode, Variant
from understudy.errors import InvalidInput, MalformedRequest, NotFound, NotReady, UnderstudyError, WrongMediaType
from understudy.http.asgi import (
    Arrived,
    CompleteRequest,
    Direct,
    Headers,
    Receive,
    Routes,
    Scope,
    Send,
    answer,
    check_size,
    encode,
    header,
    peer,
    read_body,
    respond,
)
from understudy.inference import Scores
from understudy.inference.cards import Card
from understudy.records.exchange import Exchange
from understudy.serving.pending import Pending
from understudy.serving.pipeline import RequestOptions

PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ("binary_tensor_data",)
_MEDIA_TYPES = frozenset({None, "application/json", "application/octet-stream"})


async def tell(send: Send, error: UnderstudyError) -> None:
    """Answer with an error as the protocol has it: `{"error": …}`. Tensors that do not fit are 400 here."""
    await respond(send, _status(error), *_error(error))


def reply_error(whole: CompleteRequest, error: UnderstudyError) -> None:
    """As `tell`."""
    whole.reply(_status(error), *_error(error))


def _error(error: UnderstudyError) -> tuple[Headers, bytes]:
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return [(b"content-type", b"application/json"), *headers], encode({"error": error.detail})


class ProtocolV2:
    """The handlers under `/v2`.

    Args:
        ready: raises `NotReady` unless every worker is ready.
    """

    def __init__(self, parts: ApiParts, ready: Callable[[], None]) -> None:
        self._parts, self._pipeline, self._ready, self._clock = parts, parts.pipeline, ready, parts.clock
        self._max_bytes = parts.settings.body_max_bytes
        self._routed = Signature(parts.decoder, parts.cards)
        self._pinned = {v: Signature(parts.decoder, {v: card}) for v, card in parts.cards.items()}

    def routes(self) -> Routes:
        """Path → method → handler."""
        found: Routes = {
            "/v2": {"GET": self.server},
            "/v2/health/live": {"GET": self.live},
            "/v2/health/ready": {"GET": self.ready},
        }
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            found |= {
                path: {"GET": self.model},
                f"{path}/ready": {"GET": self.model_ready},
                f"{path}/infer": {"POST": self.infer},
            }
        return found

    async def server(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /v2`."""
        await answer(send, 200, encode({"name": "understudy", "version": __version__, "extensions": EXTENSIONS}))

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /v2/health/live`."""
        await answer(send, 200, b'{"live":true}')

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /v2/health/ready`."""
        self._ready()
        await answer(send, 200, b'{"live":true,"ready":true}')

    async def model(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /v2/models/{model}[/versions/{version}]`."""
        variants = self._named(scope)
        signature = self._pinned[variants[0]] if variants else self._routed
        versions = list(dict.fromkeys(card.version for card in self._parts.cards.values()))
        said = {"name": self._parts.policy.model, "versions": versions, "platform": PLATFORM, **signature.metadata()}
        await answer(send, 200, encode(said))

    async def model_ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /v2/models/{model}[/versions/{version}]/ready`. Without a version the candidate is never asked."""
        self._ready()
        if (variants := self._named(scope)) and not any(self._answers(variant) for variant in variants):
            raise NotReady("this version's process is away; it is being probed")
        await answer(send, 200, encode({"name": self._parts.policy.model, "ready": True}))

    async def infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /v2/models/{model}[/versions/{version}]/infer`: read the body, then as `take`."""
        started = self._clock.perf()
        try:
            self._named(scope)  # before its body is waited for
            request = Arrived(scope, await read_body(scope, receive, **self._parts.body_limits))
        except UnderstudyError as error:
            self._parts.recorder.refused(_status(error), ())
            raise
        self.take(request, started)
        await request.respond(send)

    def direct(self) -> Mapping[str, Direct]:
        """Who takes requests directly, by path: the routed model's inference."""
        return {f"/v2/models/{self._parts.policy.model}/infer": self.take}

    def take(self, whole: CompleteRequest, started: float | None = None) -> None:
        """Decode, route, infer, answer; then hand over to the record and the rehearsal."""
        parts, scope = self._parts, whole.scope
        started = self._clock.perf() if started is None else started
        try:
            check_size(whole.body, self._max_bytes)
            asked = self._asked(scope)
            signature = self._pinned[asked.pin] if asked.pin else self._routed
            question = signature.decode(whole.body, _header_length(scope))
        except UnderstudyError as error:
            parts.recorder.refused(_status(error), error.errors if isinstance(error, InvalidInput) else ())
            reply_error(whole, error)
            return
        exchange, plan = self._pipeline.begin(question.rows, asked)
        answer_ = functools.partial(self._answer, signature, question)
        Pending(self._pipeline, whole, exchange, plan, started, answer_, reply_error).ask()

    def _answer(
        self, signature: Signature, question: Question, exchange: Exchange, scores: Scores
    ) -> tuple[Headers, bytes]:
        parts, variant, name = self._parts, exchange.variant, exchange.prediction_id(0)
        head = {
            "model_name": parts.policy.model,
            "model_version": parts.cards[variant].version,
            "parameters": {"variant": variant, "fallback": exchange.fallback is not None, "prediction_id": name},
        }
        body, json_length = signature.encode(head, question, scores, variant)
        headers: Headers = [(b"x-rollout-variant", variant.encode()), (b"x-prediction-id", name.encode())]
        if json_length is None:
            return [(b"content-type", b"application/json"), *headers], body
        length = (b"inference-header-content-length", str(json_length).encode())
        return [(b"content-type", b"application/octet-stream"), *headers, length], body

    def _named(self, scope: Scope) -> list[Variant]:
        """The variants of the version that the path names, most often one; none where it names no version.

        Raises:
            NotFound: no such model, or no such version of it.
        """
        named, cards = scope.get("path_params"), self._parts.cards
        if named is None:  # directly from the connection: it named the routed model
            return []
        if named["model"] != self._parts.policy.model:
            raise NotFound(f"model {named['model'][:100]!r} is not here; {self._parts.policy.model!r} is")
        version = named.get("version")
        if version is None:
            return []
        found = [variant for variant, card in cards.items() if card.version == version]
        if not found:
            raise NotFound(f"version {version[:100]!r} is not here; there are {_listed(list(cards.values()))}")
        return found

    def _asked(self, scope: Scope) -> RequestOptions:
        """As `Pipeline.asked`; a version in the path pins, as `X-Rollout-Variant` does.

        Where both models have the same version, it is the primary's, unless the header says otherwise.
        """
        variants, asked = self._named(scope), self._pipeline.asked(scope)
        if not variants:
            return asked
        self._parts.tokens.operator(header(scope, b"authorization"), peer(scope))
        if asked.pin is not None and asked.pin not in variants:
            raise MalformedRequest(f"X-Rollout-Variant is {asked.pin}; the path's version is the {variants[0]}'s")
        asked.pin, asked.mode = asked.pin or variants[0], Mode.PINNED
        return asked

    def _answers(self, variant: Variant) -> bool:
        """Whether a variant can answer now."""
        if variant is Variant.PRIMARY:
            return True
        return self._parts.slots.candidate_answers


def _header_length(scope: Scope) -> int | None:
    """Where a body's JSON ends, or None when it is nothing but JSON.

    Raises:
        MalformedRequest: the header is no number.
        WrongMediaType: the body says that it is something else, or is compressed.
    """
    said = header(scope, b"content-type")
    kind = said.partition(";")[0].strip().lower() if said else None
    if kind not in _MEDIA_TYPES:
        raise WrongMediaType(
            f"the content type is {said!r}; send application/json, or application/octet-stream for raw tensors"
        )
    coding = header(scope, b"content-encoding")
    if coding not in {None, "identity"}:
        raise WrongMediaType(f"the body is {coding!r}; send it uncompressed")
    length = header(scope, b"inference-header-content-length")
    if length is None:
        return None
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise MalformedRequest(f"Inference-Header-Content-Length is {length[:40]!r}; it takes a number of bytes")
    return int(length)


def _status(error: UnderstudyError) -> int:
    return 400 if isinstance(error, InvalidInput) else int(error.status)


def _listed(cards: list[Card]) -> str:
    return ", ".join(repr(card.version) for card in cards)
