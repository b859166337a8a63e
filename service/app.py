"""The BentoML services and the front door: the request path.

`Understudy` answers callers; `Candidate` runs the model on trial in a process of its own, on a Unix socket. A BentoML
service class may give its own ASGI application: the front door here answers the paths of the contract itself and hands
every other path to BentoML's application behind it, which costs a request some twenty-five times as much.
"""

import asyncio
import gc
import math
import os
from collections.abc import Awaitable, Callable
from typing import Any

import bentoml
import structlog
from _bentoml_sdk import Service

from service import openapi, route, wiring
from service.domain import LabelReport, Mode, Status, Variant
from service.engine import Scores, wire
from service.engine.onnx import OnnxEngine
from service.errors import (
    DeadlineExceeded,
    InferenceError,
    InvalidInput,
    MalformedRequest,
    NotFound,
    NotReady,
    Overloaded,
    UnderstudyError,
    WrongMethod,
)
from service.feedback import FeedbackDecoder
from service.http import (
    ASGIApp,
    ClientGone,
    Receive,
    Scope,
    Send,
    answer,
    encode,
    header,
    json_object,
    problem,
    read_body,
    require_json,
)
from service.record import Exchange
from service.settings import Settings

log = structlog.get_logger(__name__)
settings = Settings()
policy = wiring.load_policy(settings)
wiring.private_metrics_dir(settings)

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class FrontDoor:
    """Answers the contract's paths; everything that BentoML knows goes on to it; the rest is 404."""

    def __init__(self, bento: Any) -> None:
        self._bento: ASGIApp = bento
        self._known = {getattr(r, "path", "") for r in bento.routes}
        self._mounts = tuple(path + "/" for path in self._known if path)
        self._routes: dict[str, dict[str, Handler]] = {}

    def open(self, routes: dict[str, dict[str, Handler]]) -> None:
        """Begin to answer: path → method → handler."""
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or BentoML's own lifespan."""
        if scope["type"] != "http":
            await self._bento(scope, receive, send)
            return
        path = scope["path"]
        methods = self._routes.get(path)
        if methods is None:
            if path in self._known or path.startswith(self._mounts):
                await self._bento(scope, receive, send)
            else:
                await problem(send, NotFound(f"nothing is at {path[:200]!r}; / is the API page"))
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
            await problem(send, error)
        except Exception:
            log.exception("a bug: please report it", path=path)
            await problem(send, UnderstudyError("an unexpected error; the log has the details"))


class UnderstudyDoor:
    """The handlers of the answering process."""

    def __init__(self, worker: wiring.Worker, ready: Callable[[], bool]) -> None:
        self.worker, self._ready = worker, ready
        self._feedback = FeedbackDecoder(worker.cards[Variant.PRIMARY], settings.labels_max)
        classes = {v: [str(c) for c in card.classes] for v, card in worker.cards.items()}
        self._classes = classes
        self._heads = {
            (variant, fallback): encode(
                {"model": worker.policy.model, "variant": variant, "version": card.version, "fallback": fallback}
            )[:-1]
            + b',"predictions":'
            for variant, card in worker.cards.items()
            for fallback in (False, True)
        }
        self._clock = worker.clock
        self._body_limits: dict[str, Any] = {"max_bytes": settings.body_max_bytes, "timeout_s": settings.body_timeout_s}

    def routes(self) -> dict[str, dict[str, Handler]]:
        """Path → method → handler."""
        return {
            "/predict": {"POST": self.predict},
            "/feedback": {"POST": self.feedback},
            "/rollout": {"GET": self.rollout},
            "/rollout/events": {"GET": self.events},
            "/rollout/evidence": {"GET": self.evidence},
            "/rollout/weight": {"POST": self.weight},
            "/livez": {"GET": self.alive},
            "/healthz": {"GET": self.alive},
            "/readyz": {"GET": self.ready},
            "/docs.json": {"GET": self.docs},
        }

    async def predict(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /predict`: decode, route, infer, answer; then hand over to the record and the rehearsal."""
        worker, clock = self.worker, self._clock
        started = clock.perf()
        try:
            require_json(scope)
            request = worker.decoder.decode(await read_body(scope, receive, **self._body_limits))
            pin, at = self._pin(scope), self._at(scope)
        except UnderstudyError as error:
            worker.recorder.refused(int(error.status), error.errors if isinstance(error, InvalidInput) else ())
            raise
        plan, rows = worker.control.plan, request.rows
        first = worker.next_id
        worker.next_id = first + len(rows)
        key = header(scope, b"x-rollout-key") or request.key or worker.decoder.value(rows[0], worker.policy.route_by)
        chosen = pin or route.variant(plan, key or f"{worker.id_prefix}-{first}")
        mode = Mode.PINNED if pin else Mode.LIVE
        exchange = Exchange(worker.id_prefix, first, rows, at, plan.revision, plan.weight, chosen, mode)
        worker.recorder.open(exchange)
        try:
            scores = await self._infer(exchange, started)
        except UnderstudyError as error:
            worker.recorder.failed(exchange, int(error.status))
            raise
        variant = exchange.variant
        name = exchange.prediction_id(0).encode()
        head = self._heads[variant, exchange.fallback is not None]
        body = b"".join((head, encode(self._predictions(exchange, scores, variant)), b"}"))
        await answer(send, 200, body, [(b"x-rollout-variant", variant.encode()), (b"x-prediction-id", name)])
        exchange.total_seconds = clock.perf() - started
        self._hand_over(exchange, plan)

    async def _infer(self, exchange: Exchange, started: float) -> Scores:
        """The chosen variant's scores; the primary's, marked as fallback, where the candidate does not give any in time."""
        worker = self.worker
        if exchange.variant is Variant.CANDIDATE:
            cause: Status
            begun = self._clock.perf()
            try:
                if worker.candidate is None:
                    raise InferenceError("no candidate is running")
                scores = await worker.candidate.infer(exchange.rows)
                cause = Status.OK if scores.finite else Status.INVALID
            except TimeoutError:
                cause = Status.TIMEOUT
            except (InferenceError, InvalidInput, Overloaded):
                cause = Status.FAILED
            seconds = self._clock.perf() - begun
            exchange.settle(Variant.CANDIDATE, cause, scores if cause is Status.OK else None, seconds)
            if cause is Status.OK:
                return scores
            if exchange.mode is Mode.PINNED:
                raise InferenceError(f"the candidate was asked for by name, and it {_ENDED[cause]}")
            exchange.variant, exchange.fallback = Variant.PRIMARY, cause.value
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
        exchange.settle(Variant.PRIMARY, Status.OK, scores, self._clock.perf() - begun)
        if not scores.finite:
            raise InferenceError("the model answered with a value that is not a finite number")
        return scores

    def _hand_over(self, exchange: Exchange, plan: Any) -> None:
        """After the answer has left: let the other model rehearse, or record at once."""
        other = exchange.variant.other
        rehearsal = self.worker.rehearsals.get(other)
        asked_already = exchange.statuses[other] is not Status.NONE
        if (
            rehearsal is None
            or asked_already
            or exchange.mode is Mode.PINNED
            or not route.rehearses(plan, exchange.prediction_id(0))
        ):
            self.worker.recorder.add(exchange)
        else:
            rehearsal.offer(exchange)

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

    def _pin(self, scope: Scope) -> Variant | None:
        wanted = header(scope, b"x-rollout-variant")
        if wanted is None:
            return None
        if wanted not in ("primary", "candidate"):
            raise MalformedRequest(f"X-Rollout-Variant is {wanted!r}; it pins to `primary` or `candidate`")
        self.worker.tokens.operator(header(scope, b"authorization"), _peer(scope))
        if wanted == "candidate" and self.worker.candidate is None:
            raise NotReady("the rollout file names no candidate")
        return Variant(wanted)

    def _at(self, scope: Scope) -> float:
        """When the request happened: now, or what an operator who replays history says."""
        said = header(scope, b"x-rollout-at")
        if said is None:
            return self._clock.now()
        self.worker.tokens.operator(header(scope, b"authorization"), _peer(scope))
        try:
            at = float(said)
        except ValueError:
            at = math.nan
        if not math.isfinite(at):
            raise MalformedRequest(f"X-Rollout-At is {said!r}; it takes Unix seconds")
        return at

    async def feedback(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /feedback`: labels. They are on disk when this answers."""
        require_json(scope)
        body = await read_body(scope, receive, **self._body_limits)
        now = self._clock.now()
        reports: list[LabelReport] = self._feedback.decode(body, now)
        receipt = await self.worker.recorder.labels(reports, now)
        counts = {name: getattr(receipt, name) for name in ("matched", "duplicate", "conflict", "pending")}
        await answer(send, 200, encode(counts))

    async def rollout(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """`GET /rollout`."""
        self._viewer(scope)
        remote = self.worker.remote
        state = await self.worker.control.state(candidate_up=remote is not None and remote.up)
        etag = (b"etag", f'"{state["revision"]}"'.encode())
        await answer(send, 200, encode(state), [etag])

    async def events(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """`GET /rollout/events?after=&limit=`."""
        self._viewer(scope)
        query = dict(part.partition("=")[::2] for part in scope["query_string"].decode("latin-1").split("&") if part)
        try:
            after, limit = int(query.get("after", 0)), int(query.get("limit", 100))
        except ValueError:
            raise MalformedRequest("`after` and `limit` are whole numbers") from None
        await answer(send, 200, encode(await self.worker.control.events(after, max(1, min(limit, 1000)))))

    async def evidence(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """`GET /rollout/evidence`."""
        self._viewer(scope)
        await answer(send, 200, encode(await self.worker.control.evidence()))

    async def weight(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`POST /rollout/weight`: an operator's order."""
        actor = self.worker.tokens.operator(header(scope, b"authorization"), _peer(scope))
        require_json(scope)
        order = json_object(await read_body(scope, receive, **self._body_limits))
        if unknown := order.keys() - {"weight", "reason"}:
            raise InvalidInput([{"row": None, "field": n, "problem": "unknown; it takes `weight` and `reason`"} for n in unknown])
        if "weight" not in order:
            raise InvalidInput([{"row": None, "field": "weight", "problem": "is missing; it takes a number of percent, 0 to 100"}])
        await self.worker.control.order_weight(
            order["weight"], actor=actor.name, reason=str(order.get("reason", ""))[:2000],
            expected_revision=_if_match(scope),
        )  # fmt: skip
        await self.rollout(scope, receive, send)

    async def alive(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """`GET /livez`, `GET /healthz`: the event loop turns."""
        await answer(send, 200, b"\n", content_type=b"text/plain; charset=utf-8")

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """`GET /readyz`: every worker has loaded and warmed the primary. The candidate is never asked."""
        if not self._ready():
            raise NotReady("a worker is still loading")
        await answer(send, 200, b"\n", content_type=b"text/plain; charset=utf-8")

    async def docs(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """`GET /docs.json`: OpenAPI of the front door's calls and of BentoML's own."""
        base = Understudy.openapi_spec.asdict()
        await answer(send, 200, encode(openapi.document(base, self.worker.policy, self.worker.fields, self.worker.cards)))

    def _viewer(self, scope: Scope) -> None:
        tokens = self.worker.tokens
        if tokens.configured:
            tokens.actor(header(scope, b"authorization"), _peer(scope))


class CandidateDoor:
    """The candidate's process: columns in, arrays out, over its own socket."""

    def __init__(self) -> None:
        self._engine: OnnxEngine | None = None
        self._why = "the candidate is still loading"

    def load(self) -> None:
        """Load and warm the model. A model that does not load leaves a process that says why."""
        try:
            assert policy.candidate is not None
            self._engine = wiring.open_engine(policy.candidate, settings, policy)
        except UnderstudyError as error:
            self._why = error.detail
            log.error("the candidate does not load", reason=error.detail)  # noqa: TRY400 - the reason says it all

    def routes(self) -> dict[str, dict[str, Handler]]:
        """Path → method → handler."""
        return {"/infer": {"POST": self.infer}, "/probe": {"POST": self.probe}}

    async def infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the model on packed columns."""
        body = await read_body(scope, receive, max_bytes=settings.body_max_bytes * 4, timeout_s=settings.body_timeout_s)
        engine = self._ready()
        try:
            columns = wire.unpack(body)
        except ValueError as error:
            raise MalformedRequest(str(error)) from error
        rows = len(next(iter(columns.values())))
        if engine.seconds(rows) > settings.inline_max_ms / 1000:
            outputs = await asyncio.to_thread(engine.run, columns)
        else:
            outputs = engine.run(columns)
        await answer(send, 200, wire.pack(outputs), content_type=wire.MEDIA_TYPE.encode())

    async def probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say whether the model can be asked."""
        await read_body(scope, receive, max_bytes=1024, timeout_s=settings.body_timeout_s)
        self._ready()
        await answer(send, 200, b"{}")

    def _ready(self) -> OnnxEngine:
        if self._engine is None:
            raise NotReady(self._why)
        return self._engine


class FrontDoorService(Service[Any]):
    """A BentoML service whose application stands behind a front door."""

    door: FrontDoor

    def to_asgi(self, is_main: bool = True) -> Any:
        """See `Service.to_asgi`."""
        self.door = FrontDoor(super().to_asgi(is_main))
        return self.door


@bentoml.service(service_class=FrontDoorService, workers=1, metrics={"enabled": True}, logging={"access": {"enabled": False}})
class Candidate:
    """Runs the model on trial, in a process of its own, so that it can crash, hang or leak by itself."""

    @bentoml.on_startup
    def load(self) -> None:
        """Load and warm the model before the socket is listened to."""
        door = CandidateDoor()
        door.load()
        Candidate.door.open(door.routes())
        gc.collect()
        gc.freeze()


@bentoml.service(
    service_class=FrontDoorService,
    workers=settings.workers or policy.workers,
    http={"host": "0.0.0.0" if settings.tokens_file else "127.0.0.1"},  # noqa: S104 - with tokens, that is what a container needs
    metrics={"enabled": True},
    logging={"access": {"enabled": False}},
)
class Understudy:
    """Serves the proof of concept over REST, rehearses and canaries its successor, and records the evidence."""

    if policy.candidate is not None:
        candidate = bentoml.depends(Candidate)

    @bentoml.on_deployment
    @staticmethod
    def preflight() -> None:
        """Once, before any worker starts: whatever keeps the service from starting is said here, in one line."""
        try:
            for line in wiring.preflight(settings):
                log.info(line)
        except UnderstudyError as error:
            raise SystemExit(f"understudy does not start: {error.detail}") from error

    @bentoml.on_startup
    async def start(self) -> None:
        """Load, warm, and begin to answer."""
        self._worker = wiring.Worker(settings, candidate_url=Candidate.url)
        await self._worker.start()
        marks = wiring.run_dir(settings) / "ready"
        marks.mkdir(parents=True, exist_ok=True)
        (marks / str(bentoml.server_context.worker_index)).touch()
        wanted = settings.workers or policy.workers
        ready = False

        def all_ready() -> bool:
            nonlocal ready
            ready = ready or len(os.listdir(marks)) >= wanted
            return ready

        Understudy.door.open(UnderstudyDoor(self._worker, all_ready).routes())
        gc.collect()
        gc.freeze()  # what is here now stays: the collector need not look at it again

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Write what has gathered, then let go."""
        await self._worker.close()


_ENDED = {Status.TIMEOUT: "did not answer in time", Status.FAILED: "failed", Status.INVALID: "answered with non-finite numbers"}


def _peer(scope: Scope) -> str | None:
    client = scope.get("client")
    return client[0] if client and client[0] else None


def _if_match(scope: Scope) -> int | None:
    value = header(scope, b"if-match")
    if value is None or value == "*":
        return None
    try:
        return int(value.removeprefix("W/").strip('"'))
    except ValueError:
        raise MalformedRequest(f"If-Match is {value!r}; it takes the revision that GET /rollout showed") from None
