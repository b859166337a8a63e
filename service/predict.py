"""`POST /predict`: a request's rows in, its predictions out.

Most requests are small and come in one read: those are taken directly off the connection (`Predict.direct`). The others, and what
is wrong with a request, go through ASGI (`Predict.__call__`). Both do the same by the same functions.
"""

from collections.abc import Iterator
from typing import Any

import structlog

from service.domain import Plan, Variant
from service.engine import Scores
from service.errors import InvalidInput, UnderstudyError
from service.exchange import Exchange
from service.http import (
    Headers,
    Receive,
    Scope,
    Send,
    Whole,
    answer,
    encode,
    read_body,
    reply_problem,
    require_json,
)
from service.request_path import CANDIDATES_FAULT, RequestPath
from service.wiring import Worker

log = structlog.get_logger(__name__)

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
        self.now = worker.clock.perf

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
        headers, body = self._answer(exchange, scores)
        await answer(send, 200, body, headers)
        exchange.total_seconds = clock.perf() - started
        self._path.hand_over(exchange, plan)

    def direct(self, whole: Whole) -> bool:
        """As a call, for a request that is here whole; see `service.http.Direct`."""
        worker, started = self.worker, self._clock.perf()
        if not (len(whole.body) <= worker.body_limits["max_bytes"] and _plain(whole.scope["headers"])):
            return False
        try:
            request = worker.decoder.decode(whole.body)
            asked = self._path.asked(whole.scope, request.key)
        except UnderstudyError:
            return False  # whoever tells of it finds it again
        exchange, plan = self._path.begin(request.rows, asked)
        _Pending(self, self._path, whole, exchange, plan, started).ask()
        return True

    def reply(self, pending: "_Pending", scores: Scores) -> None:
        """Answer directly, then hand over."""
        exchange = pending.exchange
        headers, body = self._answer(exchange, scores)
        pending.whole.reply(200, [_JSON, *headers], body)
        exchange.total_seconds = self._clock.perf() - pending.started
        self._path.hand_over(exchange, pending.plan)

    def _answer(self, exchange: Exchange, scores: Scores) -> tuple[Headers, bytes]:
        variant = exchange.variant
        predictions = list(self._predictions(exchange, scores, self._classes[variant]))
        body = b"".join((self._heads[variant, exchange.fallback is not None], encode(predictions), b"}"))
        return [self._named[variant], (b"x-prediction-id", predictions[0]["prediction_id"].encode())], body

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


def _plain(headers: Headers) -> bool:
    """Whether a request is plain JSON from a caller who speaks for himself: a proxy's word is weighed by uvicorn's middleware."""
    for name, value in headers:
        if (name == b"content-type" and value != b"application/json") or name.startswith(b"x-forwarded-"):
            return False
    return True


class _Pending:
    """A request that was taken directly and waits for its scores; see `service.engine.batching.Told`."""

    __slots__ = ("_begun", "_path", "_predict", "exchange", "plan", "started", "whole")

    def __init__(
        self, predict: Predict, path: RequestPath, whole: Whole, exchange: Exchange, plan: Plan, started: float
    ) -> None:
        self._predict, self._path, self.whole, self.exchange, self.plan = predict, path, whole, exchange, plan
        self.started = self._begun = started

    def ask(self) -> None:
        """Ask whoever is to answer, in a coroutine only where it takes longer than a turn of the event loop."""
        self._begun = self._predict.now()
        try:
            if not self._path.infer_told(self.exchange, self, alone=self.whole.alone):
                self._predict.worker.spawn(self._infer())
        except UnderstudyError as error:
            self.set_exception(error)

    def done(self) -> bool:
        """A caller who has gone leaves a record all the same."""
        return False

    def set_result(self, scores: Scores, /) -> None:
        """The scores of who was asked. Nothing gets out of here: others wait for the same run."""
        try:
            if self.exchange.variant is Variant.PRIMARY:
                self._predict.reply(self, self._path.answered(self.exchange, scores, self._begun))
            else:
                self._candidate_ended(scores)
        except Exception as error:  # noqa: BLE001
            self._fail(error)

    def set_exception(self, error: Exception, /) -> None:
        """Why there are none."""
        try:
            if self.exchange.variant is Variant.PRIMARY or not isinstance(error, CANDIDATES_FAULT):
                self._fail(error)
            else:
                self._candidate_ended(error)
        except Exception as ours:  # noqa: BLE001
            self._fail(ours)

    def _candidate_ended(self, found: Scores | Exception) -> None:
        scores = self._path.candidate_ended(self.exchange, found, self._begun)
        if scores is not None:
            self._predict.reply(self, scores)
        else:
            self.ask()  # the primary: it is a fallback now

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, UnderstudyError):
            log.error("a bug: please report it", exc_info=error)
            error = UnderstudyError("an unexpected error; the log has the details")
        self._path.failed(self.exchange, self.plan, error, self.started)
        reply_problem(self.whole, error)

    async def _infer(self) -> None:
        try:
            scores = await self._path.infer(self.exchange, self.started)
            self._predict.reply(self, scores)
        except Exception as error:  # noqa: BLE001
            self._fail(error)
