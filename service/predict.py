"""`POST /predict`: a request's rows in, its predictions out.

Most requests are whole within milliseconds: those are taken directly off the connection (`Predict.direct`). The others, and what
is wrong with a request, go through ASGI (`Predict.__call__`). Both do the same by the same functions.
"""

from collections.abc import Iterator
from typing import Any

from service.domain import Variant
from service.engine import Scores
from service.errors import InvalidInput, UnderstudyError
from service.exchange import Exchange
from service.http import (
    Headers,
    Receive,
    Scope,
    Send,
    Whole,
    encode,
    read_body,
    reply_problem,
    require_json,
    respond,
)
from service.pending import Pending
from service.request_path import RequestPath
from service.wiring import Worker

_JSON = (b"content-type", b"application/json")


class Predict:
    """`POST /predict`."""

    def __init__(self, worker: Worker, path: RequestPath) -> None:
        self.worker, self._path = worker, path
        self._classes = {v: [str(c) for c in card.classes] for v, card in worker.cards.items()}
        self._heads = {
            (variant, fallback): encode(
                {"model": worker.policy.model, "variant": variant, "version": card.version, "fallback": fallback}
            )[:-1]
            + b',"predictions":'
            for variant, card in worker.cards.items()
            for fallback in (False, True)
        }
        self._named = {variant: (b"x-rollout-variant", variant.encode()) for variant in Variant}
        self._clock = worker.clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Decode, route, infer, answer; then hand over to the record and the rehearsal."""
        worker, clock = self.worker, self._clock
        started = clock.perf()
        try:
            require_json(scope)
            request = worker.decoder.decode(await read_body(scope, receive, **worker.body_limits))
            asked = self._path.asked(scope, request.key)
        except UnderstudyError as error:
            worker.recorder.refused(int(error.status), error.errors if isinstance(error, InvalidInput) else ())
            raise
        exchange, scores, plan = await self._path.run(request.rows, asked, started)
        await respond(send, 200, *self._answer(exchange, scores))
        exchange.total_seconds = clock.perf() - started
        self._path.hand_over(exchange, plan)

    def direct(self, whole: Whole) -> bool:
        """As a call, for a request that is here whole; see `service.http.Direct`."""
        worker, scope, started = self.worker, whole.scope, self._clock.perf()
        if len(whole.body) > worker.body_limits["max_bytes"]:
            return False
        try:
            require_json(scope)
            request = worker.decoder.decode(whole.body)
            asked = self._path.asked(scope, request.key)
        except UnderstudyError:
            return False  # whoever tells of it finds it again
        exchange, plan = self._path.begin(request.rows, asked)
        Pending(self._path, whole, exchange, plan, started, self._answer, reply_problem).ask()
        return True

    def _answer(self, exchange: Exchange, scores: Scores) -> tuple[Headers, bytes]:
        variant = exchange.variant
        predictions = list(self._predictions(exchange, scores, self._classes[variant]))
        body = b"".join((self._heads[variant, exchange.fallback is not None], encode(predictions), b"}"))
        return [_JSON, self._named[variant], (b"x-prediction-id", predictions[0]["prediction_id"].encode())], body

    def _predictions(self, exchange: Exchange, scores: Scores, classes: list[str]) -> Iterator[dict[str, Any]]:
        # From the lists of the whole run, by position: slices of them for each request took as long as the rest.
        run, start, prefix, first = scores.run.lists, scores.start, exchange.prefix, exchange.first_id
        labels, probabilities, values, others = run.labels, run.probabilities, run.values, scores.run.others
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
            yield item
