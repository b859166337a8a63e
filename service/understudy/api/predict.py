"""`POST /predict`: decodes a request's rows, and encodes its predictions.

Most requests are complete within milliseconds and come straight from the connection. The others come through ASGI, which
reads their bodies first; from then on there is no difference.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from understudy.api import answers
from understudy.api.parts import ApiParts
from understudy.domain import Variant
from understudy.errors import InvalidInput, UnderstudyError, unexpected_error
from understudy.http.asgi import (
    BufferedRequest,
    CompleteRequest,
    Headers,
    Receive,
    Scope,
    Send,
    check_size,
    encode,
    read_body,
    reply_problem,
    require_json,
)
from understudy.inference import Scores
from understudy.inference.decoding import InferenceRequest
from understudy.inference.pieces import LargeDecoder
from understudy.records.exchange import Exchange
from understudy.serving.pending import Pending

log = structlog.get_logger(__name__)

_JSON = (b"content-type", b"application/json")


class Predict:
    """Handles `POST /predict`, straight from the connection (`take`) or through ASGI (`__call__`)."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts, self._pipeline = parts, parts.pipeline
        self._classes = {v: [str(c) for c in card.classes] for v, card in parts.cards.items()}
        self._heads = {
            (variant, fallback): encode(
                {"model": parts.policy.model, "variant": variant, "version": card.version, "fallback": fallback}
            )[:-1]
            + b',"predictions":'
            for variant, card in parts.cards.items()
            for fallback in (False, True)
        }
        self._named = {variant: (b"x-rollout-variant", variant.encode()) for variant in Variant}
        self._clock, self._max_bytes = parts.clock, parts.settings.body_max_bytes
        self._offload, self._large_from = parts.offload, parts.settings.large_from_bytes
        self._large_decoder = LargeDecoder(parts.decoder)
        self._may_be_large = {v: answers.may_be_large(card, parts.settings.rows_max) for v, card in parts.cards.items()}
        large = parts.offload is not None and any(self._may_be_large.values())
        self._aside = self._encode_large if large else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a body that arrives in pieces, then proceed as `take` does."""
        started = self._clock.perf()
        try:
            require_json(scope)
            request = BufferedRequest(scope, await read_body(scope, receive, **self._parts.body_limits))
        except UnderstudyError as error:
            self._parts.recorder.refused(int(error.status), ())
            raise
        self.take(request, started)
        await request.respond(send)

    def take(self, complete: CompleteRequest, started: float | None = None) -> None:
        """Decode, route, infer, reply; then hand over to recorder and rehearsal."""
        parts, scope = self._parts, complete.scope
        started = self._clock.perf() if started is None else started
        try:
            check_size(complete.body, self._max_bytes)
            require_json(scope)
            if len(complete.body) >= self._large_from and self._offload is not None:
                self._offload.run(
                    len(complete.body),
                    lambda: self._large_decoder.decode(complete.body),
                    lambda result: self._decoded(complete, result, started),
                )
                return
            request = parts.decoder.decode(complete.body)
            self._begin(complete, request, started)
        except UnderstudyError as error:
            self._refuse(complete, error)

    def _begin(self, complete: CompleteRequest, request: InferenceRequest, started: float) -> None:
        """Route a decoded request, and ask a model.

        Raises:
            UnderstudyError: a header is invalid.
        """
        options = self._pipeline.options(complete.scope, request.key)
        exchange, plan = self._pipeline.begin(request.rows, options)
        Pending(self._pipeline, complete, exchange, plan, started, self._response, reply_problem, self._aside).ask()

    def _decoded(self, complete: CompleteRequest, result: InferenceRequest | Exception, started: float) -> None:
        """Proceed with a large request. Raises nothing."""
        try:
            if isinstance(result, Exception):
                raise result
            self._begin(complete, result, started)
        except UnderstudyError as error:
            self._refuse(complete, error)
        except Exception as error:  # a bug: the caller needs an answer nevertheless
            log.error("a bug: please report it", exc_info=error)
            reply_problem(complete, unexpected_error())

    def _refuse(self, complete: CompleteRequest, error: UnderstudyError) -> None:
        problems = error.errors if isinstance(error, InvalidInput) else ()
        self._parts.recorder.refused(int(error.status), problems)
        reply_problem(complete, error)

    def _encode_large(
        self, exchange: Exchange, scores: Scores, done: Callable[[tuple[Headers, bytes] | Exception], None]
    ) -> bool:
        """Encode an answer in the thread if it is large."""
        if not self._may_be_large[exchange.variant] or not answers.is_large(scores):
            return False
        assert self._offload is not None
        self._offload.run(0, lambda: self._large_response(exchange, scores), done)
        return True

    def _large_response(self, exchange: Exchange, scores: Scores) -> tuple[Headers, bytes]:
        """Like `_response`, in pieces."""
        variant, others = exchange.variant, scores.run.other_arrays
        parts = []
        for at, item in enumerate(self._predictions(exchange, scores, self._classes[variant], {}), scores.start):
            for name in ("value", "probabilities"):
                if isinstance(item.get(name), list):
                    item[name] = answers.numbers(item[name])
            if others:
                item["outputs"] = answers.row_of(others, at)
            parts.append(encode(item))
        body = b"".join((self._heads[variant, exchange.fallback is not None], b"[", b",".join(parts), b"]}"))
        return [_JSON, self._named[variant], (b"x-prediction-id", exchange.prediction_id(0).encode())], body

    def _response(self, exchange: Exchange, scores: Scores) -> tuple[Headers, bytes]:
        variant = exchange.variant
        predictions = self._predictions(exchange, scores, self._classes[variant], scores.run.others)
        body = b"".join((self._heads[variant, exchange.fallback is not None], encode(predictions), b"}"))
        return [_JSON, self._named[variant], (b"x-prediction-id", predictions[0]["prediction_id"].encode())], body

    def _predictions(
        self, exchange: Exchange, scores: Scores, classes: list[str], others: Mapping[str, Sequence[object]]
    ) -> list[dict[str, Any]]:
        # By position in the lists of the whole run: slicing them for each request took as long as all the rest.
        run, start, prefix, first = scores.run.lists, scores.start, exchange.prefix, exchange.first_id
        labels, probabilities, values = run.labels, run.probabilities, run.values
        predictions = []
        for i in range(scores.rows):
            item: dict[str, Any] = {"prediction_id": f"{prefix}-{first + i}"}
            at = start + i
            if labels is not None:
                item["label"] = labels[at]
            if probabilities is not None:
                row = probabilities[at]
                item["probabilities"] = dict(zip(classes, row, strict=True)) if classes else row
            if values is not None:
                item["value"] = values[at]
            if others:
                item["outputs"] = {name: each[at] for name, each in others.items()}
            predictions.append(item)
        return predictions
