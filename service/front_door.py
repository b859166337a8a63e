"""The front door: which handler answers a path, and the request path itself.

`FrontDoor` answers the paths of the contract and hands every other one to BentoML's application behind it, which costs a
request some twenty-five times as much. `RequestPath` is the way of every prediction: route, infer; what can be done after the
answer has left is done then. `Predict` reads and answers `POST /predict`.
"""

import asyncio
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import structlog

from service import route
from service.domain import Mode, Plan, Status, Variant
from service.engine import Scores
from service.errors import (
    CandidateAway,
    DeadlineExceeded,
    InferenceError,
    InvalidInput,
    MalformedRequest,
    NotFinite,
    NotFound,
    NotReady,
    Overloaded,
    UnderstudyError,
    WrongMethod,
)
from service.http import (
    ASGIApp,
    ClientGone,
    Handler,
    Receive,
    Routes,
    Scope,
    Send,
    Teller,
    answer,
    encode,
    header,
    peer,
    problem,
    read_body,
    require_json,
)
from service.inputs import Rows
from service.record import Exchange
from service.wiring import Worker

log = structlog.get_logger(__name__)

PATHS_MAX = 1_024
"""Paths whose pattern is remembered."""
_ENDED = {
    Status.TIMEOUT: "did not answer in time",
    Status.FAILED: "failed",
    Status.INVALID: "answered with non-finite numbers",
    Status.DOWN: "is down",
    Status.NONE: "is still starting",
}
_CAUSES = {Status.NONE: "starting"}
"""What a fallback's cause is called, where it is not the status itself."""
_FAILURES = {InferenceError: Status.FAILED, NotFinite: Status.INVALID, DeadlineExceeded: Status.TIMEOUT}
"""What an error says about the model that was asked; the others are not its fault."""


class FrontDoor:
    """Answers the contract's paths; everything that BentoML knows goes on to it; the rest is 404."""

    def __init__(self, bento: Any) -> None:
        self._bento: ASGIApp = bento
        self._known = {getattr(r, "path", "") for r in bento.routes}
        self._mounts = tuple(path + "/" for path in self._known if path)
        self._routes: Routes = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Handler]]] = []
        self._match = functools.lru_cache(PATHS_MAX)(self._search)
        self._tellers: dict[str, Teller] = {}
        self.draining = False

    def drain(self) -> None:
        """From now on every answer closes its connection, so that none is left when the process goes."""
        self.draining = True

    def open(self, routes: Routes, tellers: Mapping[str, Teller] | None = None) -> None:
        """Begin to answer.

        Args:
            routes: path → method → handler. `{name}` in a path is any one part of it, and goes into `scope["path_params"]`.
            tellers: who tells of errors under a prefix, where that is not as problem details.
        """
        self._routes = {path: methods for path, methods in routes.items() if "{" not in path}
        self._patterns = [
            (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), methods) for path, methods in routes.items() if "{" in path
        ]  # fmt: skip
        self._tellers = dict(tellers or {})
        self._match.cache_clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or BentoML's own lifespan."""
        if scope["type"] != "http":
            await self._bento(scope, receive, send)
            return
        if self.draining:
            send = _last(send)
        path = scope["path"]
        methods = self._routes.get(path) or self._matched(scope, path)
        if methods is None:
            if path in self._known or path.startswith(self._mounts):
                await self._bento(scope, receive, send)
            else:
                await self._tell(send, path, NotFound(f"nothing is at {path[:200]!r}; / is the API page"))
            return
        handler = methods.get(scope["method"])
        try:
            if handler is None:
                allow = ", ".join(methods)
                raise WrongMethod(f"{path} takes {allow}", headers={"Allow": allow})
            await handler(scope, receive, send)
        except ClientGone:
            return
        except UnderstudyError as error:
            await self._tell(send, path, error)
        except Exception:
            log.exception("a bug: please report it", path=path)
            await self._tell(send, path, UnderstudyError("an unexpected error; the log has the details"))

    def _matched(self, scope: Scope, path: str) -> dict[str, Handler] | None:
        found = self._match(path)
        if found is None:
            return None
        scope["path_params"], methods = found
        return methods

    def _search(self, path: str) -> tuple[dict[str, str], dict[str, Handler]] | None:
        for pattern, methods in self._patterns:
            if found := pattern.fullmatch(path):
                return found.groupdict(), methods
        return None

    async def _tell(self, send: Send, path: str, error: UnderstudyError) -> None:
        prefix = "/" + path.split("/", 2)[1] if path.startswith("/") else path
        await self._tellers.get(prefix, problem)(send, error)


def _last(send: Send) -> Send:
    """Answers go out as ever, and say that they are the last on their connection."""

    async def closing(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return closing


class RequestPath:
    """What every protocol's request goes through between its decoding and its answer, and after that."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self._clock = worker, worker.clock

    async def run(
        self, rows: Rows, key: str | None, pin: Variant | None, mode: Mode, at: float, started: float
    ) -> tuple[Exchange, Scores, Plan]:
        """Route, and infer.

        Args:
            key: the routing key that the caller gave; else it is the `route_by` field's, else the request's own id.
            pin: and `mode`: see `pin`.
            at: Unix seconds of the request; started: when its handling began, on the performance clock.

        Raises:
            UnderstudyError: no variant could answer; the exchange has been seen to.
        """
        worker, clock = self.worker, self._clock
        plan = worker.control.plan
        first = worker.next_id
        worker.next_id = first + len(rows)
        key = key or worker.decoder.first(rows, worker.policy.route_by)
        chosen = pin or route.variant(plan, key or f"{worker.id_prefix}-{first}")
        exchange = Exchange(worker.id_prefix, first, rows, at, plan.revision, plan.weight, chosen, mode)
        exchange.key = key
        worker.recorder.open(exchange)
        try:
            return exchange, await self._infer(exchange, started), plan
        except UnderstudyError as error:
            exchange.total_seconds = clock.perf() - started
            self._failed(exchange, plan, error)
            raise

    async def _infer(self, exchange: Exchange, started: float) -> Scores:
        """The chosen variant's scores; the primary's, marked as fallback, where the candidate does not give any in time."""
        worker = self.worker
        if exchange.variant is Variant.CANDIDATE:
            scores = await self._ask_candidate(exchange)
            if scores is not None:
                return scores
        begun = self._clock.perf()
        future = worker.primary.infer(exchange.rows)
        if worker.primary.inline(len(exchange.rows)):
            scores = await future
        else:
            try:
                async with asyncio.timeout(max(0.0, worker.deadline_s - (begun - started))):
                    scores = await future
            except TimeoutError:
                raise DeadlineExceeded(f"no answer within {worker.deadline_s * 1000:g} ms") from None
        if not scores.finite:
            raise NotFinite("the model answered with a value that is not a finite number")
        exchange.settle(Variant.PRIMARY, Status.OK, scores, self._clock.perf() - begun)
        return scores

    async def _ask_candidate(self, exchange: Exchange) -> Scores | None:
        """The candidate's scores, or None after the exchange has been turned into a fallback."""
        candidate = self.worker.candidate
        begun = self._clock.perf()
        scores: Scores | None = None
        try:
            if candidate is None:
                raise CandidateAway(ever_up=False)
            scores = await candidate.infer(exchange.rows)
            cause = Status.OK if scores.finite else Status.INVALID
        except TimeoutError:
            cause = Status.TIMEOUT
        except CandidateAway as away:
            # While it starts it is not charged; the rehearsal will ask it when it is there.
            cause = Status.DOWN if away.ever_up else Status.NONE
        except (InferenceError, InvalidInput, Overloaded):
            cause = Status.FAILED
        if self.worker.draining and cause in {Status.DOWN, Status.FAILED}:
            cause = Status.NONE  # it is being stopped as well, which says nothing about it
        seconds = self._clock.perf() - begun
        exchange.settle(Variant.CANDIDATE, cause, scores if cause is Status.OK else None, seconds)
        if cause is Status.OK:
            return scores
        if exchange.mode is Mode.PINNED:
            raise InferenceError(f"the candidate was asked for by name, and it {_ENDED[cause]}")
        exchange.variant, exchange.fallback = Variant.PRIMARY, _CAUSES.get(cause, cause.value)
        return None

    def _failed(self, exchange: Exchange, plan: Plan, error: UnderstudyError) -> None:
        """The primary's own failure is an outcome like any other: the candidate rehearses on it, and it is recorded."""
        status = _FAILURES.get(type(error))
        if status is None or exchange.mode is Mode.PINNED:
            self.worker.recorder.failed(exchange, int(error.status))
            return
        exchange.http = int(error.status)
        exchange.settle(Variant.PRIMARY, status, None, exchange.total_seconds)
        self.hand_over(exchange, plan)

    def hand_over(self, exchange: Exchange, plan: Plan) -> None:
        """After the answer has left: let the other model rehearse, or record at once."""
        other = exchange.variant.other
        rehearsal = self.worker.rehearsals.get(other)
        asked_already = exchange.attempt(other).status is not Status.NONE
        if (
            rehearsal is None
            or self.worker.draining
            or asked_already
            or exchange.mode is Mode.PINNED
            or not route.rehearses(plan, exchange.prediction_id(0))
        ):
            self.worker.recorder.add(exchange)
        else:
            rehearsal.offer(exchange)

    def pin(self, scope: Scope) -> tuple[Variant | None, Mode]:
        """The variant that `X-Rollout-Variant` asks for by name, and why the model is run then: both take an operator."""
        wanted = header(scope, b"x-rollout-variant")
        if wanted is None:
            return None, Mode.LIVE
        if wanted not in ("primary", "candidate", "any"):
            raise MalformedRequest(
                f"X-Rollout-Variant is {wanted!r}; it pins to `primary` or `candidate`, or is `any`: routed, and no evidence"
            )
        self.worker.tokens.operator(header(scope, b"authorization"), peer(scope))
        if wanted == "candidate" and self.worker.candidate is None:
            raise NotReady("the rollout file names no candidate")
        return (None, Mode.LOAD) if wanted == "any" else (Variant(wanted), Mode.PINNED)

    def at(self, scope: Scope) -> float:
        """When the request happened: now, or what an operator who replays history says."""
        said = header(scope, b"x-rollout-at")
        if said is None:
            return self._clock.now()
        self.worker.tokens.operator(header(scope, b"authorization"), peer(scope))
        try:
            at = float(said)
        except ValueError:
            at = math.nan
        if not math.isfinite(at):
            raise MalformedRequest(f"X-Rollout-At is {said!r}; it takes Unix seconds")
        return at


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
        self._clock = worker.clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Decode, route, infer, answer; then hand over to the record and the rehearsal."""
        worker, clock = self.worker, self._clock
        started = clock.perf()
        try:
            require_json(scope)
            request = worker.decoder.decode(await read_body(scope, receive, **worker.body_limits))
            (pin, mode), at = self._path.pin(scope), self._path.at(scope)
        except UnderstudyError as error:
            worker.recorder.refused(int(error.status), error.errors if isinstance(error, InvalidInput) else ())
            raise
        key = header(scope, b"x-rollout-key") or request.key
        exchange, scores, plan = await self._path.run(request.rows, key, pin, mode, at, started)
        variant = exchange.variant
        name = exchange.prediction_id(0).encode()
        head = self._heads[variant, exchange.fallback is not None]
        body = b"".join((head, encode(self._predictions(exchange, scores, variant)), b"}"))
        await answer(send, 200, body, [(b"x-rollout-variant", variant.encode()), (b"x-prediction-id", name)])
        exchange.total_seconds = clock.perf() - started
        self._path.hand_over(exchange, plan)

    def _predictions(self, exchange: Exchange, scores: Scores, variant: Variant) -> list[dict[str, Any]]:
        prefix, first = exchange.prefix, exchange.first_id
        found: list[dict[str, Any]] = [{"prediction_id": f"{prefix}-{first + i}"} for i in range(exchange.count)]
        if scores.labels is not None:
            for item, label in zip(found, scores.labels, strict=True):
                item["label"] = label
        if scores.probabilities is not None:
            names = self._classes[variant]
            for item, row in zip(found, scores.probabilities, strict=True):
                item["probabilities"] = dict(zip(names, row, strict=True)) if names else row
        if scores.values is not None:
            for item, value in zip(found, scores.values, strict=True):
                item["value"] = value
        if scores.others:
            for i, item in enumerate(found):
                item["outputs"] = {name: values[i] for name, values in scores.others.items()}
        return found
