"""The steps of every prediction, whatever the protocol: route, ask a model, and what is done when the answer has left."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from understudy.clock import Clock
from understudy.domain import Mode, Plan, Status, Variant
from understudy.errors import (
    CandidateAway,
    DeadlineExceeded,
    InferenceError,
    InvalidInput,
    MalformedRequest,
    NotFinite,
    NotReady,
    Overloaded,
    UnderstudyError,
    WrongShape,
)
from understudy.http.asgi import Scope, header, headers_under, peer, text_of
from understudy.http.auth import Tokens
from understudy.inference import Scores, ended
from understudy.inference.batching import LocalModel, ScoresCallback, SpreadModel
from understudy.inference.decoding import Decoder, Rows
from understudy.records.exchange import Exchange
from understudy.rollout import routing
from understudy.serving.shadow import Rehearsal
from understudy.serving.slots import ModelSlots, Released
from understudy.times import TimeLimits

_ENDED = {
    Status.TIMEOUT: "did not answer in time",
    Status.FAILED: "failed",
    Status.INVALID: "answered with numbers that are not finite, or of another shape than its card promises",
    Status.DOWN: "is down",
    Status.NONE: "is still starting",
}
_ITS_OWN_FAULT = frozenset({Status.FAILED, Status.INVALID, Status.TIMEOUT})
_REPLAY = re.compile(r"[A-Za-z0-9._:-]{1,64}")
"""What a replay may be called."""
_CAUSES = {Status.NONE: "starting"}
"""What a fallback's cause is called, where it is not the status itself."""
_FAILURES = {
    InferenceError: Status.FAILED,
    NotFinite: Status.INVALID,
    WrongShape: Status.INVALID,
    DeadlineExceeded: Status.TIMEOUT,
}
"""What an error says about the model that was asked; the others are not its fault."""


CANDIDATES_FAULT = (TimeoutError, CandidateAway, InferenceError, InvalidInput, Overloaded)
"""What makes a fallback of a request; anything else is a bug of ours."""


class RequestOptions(msgspec.Struct, gc=False):
    """What a request asks for beside its rows.

    Attributes:
        key: what to route by.
        pin: the variant it names; mode: why the model is run then. Both take an operator.
        at: when it happened, in Unix seconds: now, or what an operator who replays history says.
        replay: the id of that replay, "" if it has none; None where `at` is the clock's.
    """

    key: str | None
    pin: Variant | None
    mode: Mode
    at: float
    replay: str | None = None


class HasPlan(Protocol):
    """Knows the plan in force."""

    @property
    def plan(self) -> Plan:
        """The plan in force; it is replaced as a whole."""
        ...


class RequestRecorder(Protocol):
    """Takes note of requests; `understudy.records.recorder` does."""

    def open(self, exchange: Exchange) -> None:
        """A request has been routed."""

    def add(self, exchange: Exchange) -> None:
        """A request is complete: its answer and its rehearsal, if it has one."""

    def failed(self, exchange: Exchange, status: int) -> None:
        """A request ended with an error that says nothing about a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineParts:
    """What a pipeline is made of.

    Attributes:
        route_by: the field to route by, where a request has no key of its own.
        id_prefix: the start of this process's prediction ids.
        deadline_s: how long a caller waits; candidate_timeout_s: how much of it the candidate has.
        rehearsals: by the model that rehearses.
    """

    clock: Clock
    decoder: Decoder
    tokens: Tokens
    time_limits: TimeLimits
    route_by: str | None
    id_prefix: str
    deadline_s: float
    candidate_timeout_s: float
    control: HasPlan
    recorder: RequestRecorder
    slots: ModelSlots
    rehearsals: Mapping[Variant, Rehearsal]


class Pipeline:
    """What every protocol's request goes through between its decoding and its answer, and after that.

    Attributes:
        now: reads the performance clock.
        next_id: the number of the next prediction.
        draining: the service is being stopped.
    """

    def __init__(self, parts: PipelineParts) -> None:
        self._parts, self._clock, self.now = parts, parts.clock, parts.clock.perf
        self._control, self._recorder, self._slots = parts.control, parts.recorder, parts.slots
        self.next_id, self.draining = 0, False

    def begin(self, rows: Rows, asked: RequestOptions) -> tuple[Exchange, Plan]:
        """Route: the request's exchange names who is to answer. The key is the caller's, or the `route_by` field's, or its id."""
        parts, plan, first = self._parts, self._control.plan, self.next_id
        self.next_id = first + len(rows)
        key = asked.key or parts.decoder.first(rows, parts.route_by)
        chosen = asked.pin or routing.variant(plan, key or f"{parts.id_prefix}-{first}")
        exchange = Exchange(parts.id_prefix, first, rows, asked.at, plan.revision, plan.weight, chosen, asked.mode)
        exchange.key = key
        if asked.replay is not None:
            exchange.replay, exchange.received_at = asked.replay, self._clock.now()
        self._recorder.open(exchange)
        return exchange, plan

    def ask(self, exchange: Exchange, told: ScoresCallback, *, alone: bool = False) -> bool:
        """Ask the model that is to answer; False where its run needs a deadline: then nothing has happened (see `ask_by`).

        The run of a model in this process is short enough for none; the candidate's process has its own. Where the request is
        `alone`, or fills a batch, a run waits for no others.

        Raises:
            CandidateAway: there is no candidate.
            NotReady: the old primary was released.
            Overloaded: too much waits for it.
        """
        model = self._model(exchange)
        if isinstance(model, SpreadModel):
            model.enqueue(exchange.rows, told)
            return True
        if not model.inline(exchange.count):
            return False
        (model.enqueue_alone if alone or model.fills(exchange.count) else model.enqueue)(exchange.rows, told)
        return True

    def ask_by(self, exchange: Exchange, deadline: ScoresCallback) -> None:
        """As `ask`, for a run that takes long, or that others have to end before."""
        self._model(exchange).enqueue(exchange.rows, deadline)

    def left_s(self, exchange: Exchange, started: float) -> float:
        """Seconds that a model in this process has to answer: a candidate leaves some to the primary, where there is one."""
        shared = exchange.variant is Variant.CANDIDATE and not isinstance(self._slots.primary, Released)
        whole_s = self._parts.candidate_timeout_s if shared else self._parts.deadline_s
        return max(0.0, whole_s - (self.now() - started))

    def past_deadline(self) -> DeadlineExceeded:
        """What the caller is told whose answer did not come in time."""
        return DeadlineExceeded(f"no answer within {self._parts.deadline_s * 1000:g} ms")

    def _model(self, exchange: Exchange) -> LocalModel | SpreadModel:
        model = self._slots.primary if exchange.variant is Variant.PRIMARY else self._slots.candidate
        if model is None:
            raise CandidateAway(ever_up=False)
        if isinstance(model, Released):
            raise model.refusal()
        return model

    def answered(self, exchange: Exchange, scores: Scores, begun: float) -> Scores:
        """Note the primary's answer, which it was asked for at `begun`.

        Raises:
            NotFinite: it is none.
        """
        if not scores.finite:
            exchange.settle(Variant.PRIMARY, *ended(scores), self._clock.perf() - begun)
            raise NotFinite(scores.bad_rows, scores.rows)
        exchange.settle(Variant.PRIMARY, Status.OK, scores, self._clock.perf() - begun)
        return scores

    def candidate_ended(self, exchange: Exchange, found: Scores | Exception, begun: float) -> Scores | None:
        """Note how the candidate's attempt ended, which began at `begun`: its scores, or None: the exchange is a fallback now.

        Raises:
            InferenceError: there are none, and nobody else's are wanted, or there is nobody else: the old primary was released.
        """
        cause, scores = _ended(found)
        if self.draining and cause in {Status.DOWN, Status.FAILED}:
            cause = Status.NONE  # it is being stopped as well, which says nothing about it
        exchange.settle(Variant.CANDIDATE, cause, scores, self._clock.perf() - begun)
        if cause is Status.OK:
            return scores
        if exchange.mode is Mode.PINNED:
            raise InferenceError(f"the candidate was asked for by name, and it {_ENDED[cause]}")
        if isinstance(self._slots.primary, Released) and cause in _ITS_OWN_FAULT:
            raise self.past_deadline() if isinstance(found, TimeoutError) else _error_of(found)
        exchange.variant, exchange.fallback = Variant.PRIMARY, _CAUSES.get(cause, cause.value)
        return None

    def failed(self, exchange: Exchange, plan: Plan, error: UnderstudyError, started: float) -> None:
        """The primary's own failure is an outcome like any other: the candidate rehearses on it, and it is recorded."""
        exchange.total_seconds = self._clock.perf() - started
        status = _FAILURES.get(type(error))
        if status is None or exchange.mode is Mode.PINNED:
            self._recorder.failed(exchange, int(error.status))
            return
        exchange.http = int(error.status)
        if exchange.attempt(exchange.variant).status is Status.NONE:
            exchange.settle(exchange.variant, status, None, exchange.total_seconds)
        self.hand_over(exchange, plan)

    def hand_over(self, exchange: Exchange, plan: Plan) -> None:
        """After the answer has left: let the other model rehearse, or record at once."""
        other = exchange.variant.other
        rehearsal = self._parts.rehearsals.get(other)
        if (
            rehearsal is None
            or self.draining
            or exchange.mode is Mode.PINNED
            or not routing.rehearses(plan, exchange.prediction_id(0))
        ):
            # No pair, even where both models were asked: a fallback must not be likelier to be one than a good answer.
            exchange.sampled = False
            self._recorder.add(exchange)
        elif exchange.attempt(other).status is not Status.NONE:
            self._recorder.add(exchange)  # a fallback: both were asked already
        else:
            rehearsal.offer(exchange)

    def asked(self, scope: Scope, key: str | None = None) -> RequestOptions:
        """What the request's `X-Rollout-` headers say; `key` is the body's own routing key.

        Raises:
            MalformedRequest: a header that says nothing that is known.
            UnderstudyError: only an operator may say that.
        """
        headers = headers_under(scope, b"x-rollout-")
        if not headers:
            return RequestOptions(key, None, Mode.LIVE, self._clock.now())
        pin, mode = self._pin(scope, headers.get(b"x-rollout-variant"))
        at, replay = self._at(scope, headers.get(b"x-rollout-at"), headers.get(b"x-rollout-replay"))
        return RequestOptions(text_of(headers.get(b"x-rollout-key", "")) or key, pin, mode, at, replay)

    def _pin(self, scope: Scope, wanted: str | None) -> tuple[Variant | None, Mode]:
        if wanted is None:
            return None, Mode.LIVE
        if wanted not in ("primary", "candidate", "any"):
            raise MalformedRequest(
                f"X-Rollout-Variant is {wanted!r}; it pins to `primary` or `candidate`, or is `any`: routed, and no evidence"
            )
        self._parts.tokens.operator(header(scope, b"authorization"), peer(scope))
        if wanted == "candidate" and self._slots.candidate is None:
            raise NotReady("the rollout file names no candidate")
        return (None, Mode.LOAD) if wanted == "any" else (Variant(wanted), Mode.PINNED)

    def _at(self, scope: Scope, said: str | None, replay: str | None) -> tuple[float, str | None]:
        """When the request happened, and the id of the replay that says so; None where it happens now."""
        if said is None:
            if replay is not None:
                raise MalformedRequest("X-Rollout-Replay goes with X-Rollout-At, which says when the request happened")
            return self._clock.now(), None
        self._parts.tokens.operator(header(scope, b"authorization"), peer(scope))
        try:
            at = float(said)
        except ValueError:
            at = math.nan
        if not math.isfinite(at):
            raise MalformedRequest(f"X-Rollout-At is {said[:64]!r}; it takes Unix seconds")
        if problem := self._parts.time_limits.problem(at, self._clock.now()):
            raise MalformedRequest(f"X-Rollout-At {problem}")
        if replay is not None and not _REPLAY.fullmatch(replay):
            raise MalformedRequest(
                f"X-Rollout-Replay is {replay[:64]!r}; it takes up to 64 letters, digits, `.`, `_`, `:` and `-`"
            )
        return at, replay or ""


def _ended(found: Scores | Exception) -> tuple[Status, Scores | None]:
    """How an attempt of the candidate ended, and what is to be recorded of its scores."""
    if isinstance(found, CandidateAway):
        # While it starts it is not charged; the rehearsal will ask it when it is there.
        return (Status.DOWN if found.ever_up else Status.NONE), None
    return ended(found)


def _error_of(found: Scores | Exception) -> Exception:
    """What the caller of a model is told that answered badly."""
    return NotFinite(found.bad_rows, found.rows) if isinstance(found, Scores) else found
