"""`POST /predict`: decodes a request's rows, and encodes its predictions.

Most requests are complete within milliseconds and come straight from the connection. The others come through ASGI, which
reads their bodies first; from then on there is no difference.
"""

from typing import Any

from understudy.api.parts import ApiParts
from understudy.domain import Variant
from understudy.errors import InvalidInput, UnderstudyError
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
from understudy.records.exchange import Exchange
from understudy.serving.pending import Pending

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
            request = parts.decoder.decode(complete.body)
            options = self._pipeline.options(scope, request.key)
        except UnderstudyError as error:
            parts.recorder.refused(int(error.status), error.errors if isinstance(error, InvalidInput) else ())
            reply_problem(complete, error)
            return
        exchange, plan = self._pipeline.begin(request.rows, options)
        Pending(self._pipeline, complete, exchange, plan, started, self._response, reply_problem).ask()

    def _response(self, exchange: Exchange, scores: Scores) -> tuple[Headers, bytes]:
        variant = exchange.variant
        predictions = self._predictions(exchange, scores, self._classes[variant])
        body = b"".join((self._heads[variant, exchange.fallback is not None], encode(predictions), b"}"))
        return [_JSON, self._named[variant], (b"x-prediction-id", predictions[0]["prediction_id"].encode())], body

    def _predictions(self, exchange: Exchange, scores: Scores, classes: list[str]) -> list[dict[str, Any]]:
        # By position in the lists of the whole run: slicing them for each request took as long as all the rest.
        run, start, prefix, first = scores.run.lists, scores.start, exchange.prefix, exchange.first_id
        labels, probabilities, values, others = run.labels, run.probabilities, run.values, scores.run.others
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
