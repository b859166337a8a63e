"""The steps of every prediction: route it, ask a model, and hand it over when the answer is sent."""

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
    ExpectedLate,
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
from understudy.inference.batching import LocalModel, ScoresCallback
from understudy.inference.decoding import Decoder, Rows
from understudy.inference.spread_model import SpreadModel
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
"""The form of a replay's id."""
_CAUSES = {Status.NONE: "starting"}
"""Names of the causes of a fallback that differ from the status."""
_FAILURES = {
    InferenceError: Status.FAILED,
    NotFinite: Status.INVALID,
    WrongShape: Status.INVALID,
    DeadlineExceeded: Status.TIMEOUT,
    ExpectedLate: Status.TIMEOUT,
}
"""The status of a model's attempt, by the error; other errors are not the model's fault."""


CANDIDATES_FAULT = (TimeoutError, CandidateAway, InferenceError, InvalidInput, Overloaded)
"""Errors of the candidate that lead to a fallback; any other error is a bug."""


class RequestOptions(msgspec.Struct, gc=False):
    """The options of a request.

    Attributes:
        key: the routing key.
        pin: the variant that the request names; only operators may.
        mode: whether the request is live, pinned or of a load test.
        at: when the request happened, in Unix seconds: now, or the time in a replay of history.
        replay: the id of the replay, "" if it has none; None if `at` is the clock's time.
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
        """The plan in force. It is replaced, never changed."""
        ...


class RequestRecorder(Protocol):
    """Records requests; implemented by `understudy.records.recorder`."""

    def open(self, exchange: Exchange) -> None:
        """A request has been routed."""

    def add(self, exchange: Exchange) -> None:
        """A request is complete: it was answered, and rehearsed if it was drawn."""

    def failed(self, exchange: Exchange, status: int) -> None:
        """A request failed, through no fault of a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineParts:
    """The collaborators and settings of a pipeline.

    Attributes:
        route_by: the field to route by if a request has no routing key.
        id_prefix: the start of this process's prediction ids.
        deadline_s: the time within which a caller gets an answer.
        candidate_timeout_s: the candidate's part of that time.
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
    """Takes a decoded request to its answer, its rehearsal and its record, for every protocol.

    Attributes:
        now: reads the performance clock.
        next_id: the number of the next prediction.
        draining: whether the service is stopping.
    """

    def __init__(self, parts: PipelineParts) -> None:
        self._parts, self._clock, self.now = parts, parts.clock, parts.clock.perf
        self._control, self._recorder, self._slots = parts.control, parts.recorder, parts.slots
        self.next_id, self.draining = 0, False

    def begin(self, rows: Rows, options: RequestOptions) -> tuple[Exchange, Plan]:
        """Route a request. The routing key is the request's, else the `route_by` field's value, else the prediction id."""
        parts, plan, first = self._parts, self._control.plan, self.next_id
        self.next_id = first + len(rows)
        key = options.key or parts.decoder.first(rows, parts.route_by)
        chosen = options.pin or routing.variant(plan, key or f"{parts.id_prefix}-{first}")
        exchange = Exchange(parts.id_prefix, first, rows, options.at, plan.revision, plan.weight, chosen, options.mode)
        exchange.key = key
        if options.replay is not None:
            exchange.replay, exchange.received_at = options.replay, self._clock.now()
        self._recorder.open(exchange)
        return exchange, plan

    def ask(self, exchange: Exchange, callback: ScoresCallback, *, alone: bool = False) -> bool:
        """Queue a request at its model. Returns False, without queueing, if the run needs a deadline: call `ask_by` then.

        Short runs in this process need none, and the candidate's process has its own.

        Args:
            alone: no other request is at hand, so the run need not wait for others.

        Raises:
            CandidateAway: there is no candidate.
            NotReady: the old primary was released.
            Overloaded: too many rows are waiting for the model.
        """
        model = self._model(exchange)
        if isinstance(model, SpreadModel):
            model.enqueue(exchange.rows, callback)
            return True
        if not model.inline(exchange.count):
            return False
        (model.enqueue_alone if alone or model.fills(exchange.count) else model.enqueue)(exchange.rows, callback)
        return True

    def ask_by(self, exchange: Exchange, deadline: ScoresCallback, left_s: float) -> None:
        """Like `ask`, for a run that is long or has to wait for another run.

        Args:
            left_s: the seconds within which `deadline` needs the result.

        Raises:
            ExpectedLate: its run takes longer.
            Overloaded: so much waits before it that it would take longer.
        """
        model = self._model(exchange)
        assert isinstance(model, LocalModel)
        model.enqueue_by(exchange.rows, deadline, left_s)

    def left_s(self, exchange: Exchange, started: float) -> float:
        """Seconds that a model in this process has to answer: a candidate leaves some to the primary, where there is one."""
        shared = exchange.variant is Variant.CANDIDATE and not isinstance(self._slots.primary, Released)
        whole_s = self._parts.candidate_timeout_s if shared else self._parts.deadline_s
        return max(0.0, whole_s - (self.now() - started))

    def past_deadline(self) -> DeadlineExceeded:
        """The error for a caller whose answer did not come in time."""
        return DeadlineExceeded(f"no answer within {self._parts.deadline_s * 1000:g} ms")

    def _model(self, exchange: Exchange) -> LocalModel | SpreadModel:
        model = self._slots.primary if exchange.variant is Variant.PRIMARY else self._slots.candidate
        if model is None:
            raise CandidateAway(ever_up=False)
        if isinstance(model, Released):
            raise model.refusal()
        return model

    def answered(self, exchange: Exchange, scores: Scores, begun: float) -> Scores:
        """Settle the primary's attempt, which began at `begun`.

        Raises:
            NotFinite: the answer has a number that is not finite.
        """
        if not scores.finite:
            exchange.settle(Variant.PRIMARY, *ended(scores), self._clock.perf() - begun)
            raise NotFinite(scores.bad_rows, scores.rows)
        exchange.settle(Variant.PRIMARY, Status.OK, scores, self._clock.perf() - begun)
        return scores

    def candidate_ended(self, exchange: Exchange, result: Scores | Exception, begun: float) -> Scores | None:
        """Settle the candidate's attempt, which began at `begun`. Returns its scores, or None after a fallback to the primary.

        Raises:
            InferenceError: the candidate failed and there is no fallback: the request is pinned, or the old primary was released.
        """
        cause, scores = _ended(result)
        if self.draining and cause in {Status.DOWN, Status.FAILED}:
            cause = Status.NONE  # the candidate's process is stopping too, which is no evidence against it
        exchange.settle(Variant.CANDIDATE, cause, scores, self._clock.perf() - begun)
        if cause is Status.OK:
            return scores
        if exchange.mode is Mode.PINNED:
            raise InferenceError(f"the candidate was asked for by name, and it {_ENDED[cause]}")
        if isinstance(self._slots.primary, Released) and cause in _ITS_OWN_FAULT:
            raise self.past_deadline() if isinstance(result, TimeoutError) else _error_of(result)
        exchange.variant, exchange.fallback = Variant.PRIMARY, _CAUSES.get(cause, cause.value)
        return None

    def failed(self, exchange: Exchange, plan: Plan, error: UnderstudyError, started: float) -> None:
        """Settle a request that ends with an error. If the model failed, the other model rehearses and the request is recorded."""
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
        """After the answer is sent, queue the rehearsal of the other model, or record the exchange at once."""
        other = exchange.variant.other
        rehearsal = self._parts.rehearsals.get(other)
        if (
            rehearsal is None
            or self.draining
            or exchange.mode is Mode.PINNED
            or not routing.rehearses(plan, exchange.prediction_id(0))
        ):
            # Not a pair, even if both models answered: otherwise fallbacks would become pairs more often than good answers.
            exchange.sampled = False
            self._recorder.add(exchange)
        elif exchange.attempt(other).status is not Status.NONE:
            self._recorder.add(exchange)  # a fallback: both models have been asked
        else:
            rehearsal.offer(exchange)

    def options(self, scope: Scope, key: str | None = None) -> RequestOptions:
        """Read the options of a request from its `X-Rollout-` headers.

        Args:
            scope: the request's ASGI scope.
            key: the routing key in the body.

        Raises:
            MalformedRequest: a header has an unknown value.
            UnderstudyError: a header is reserved for operators.
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

    def _at(self, scope: Scope, text: str | None, replay: str | None) -> tuple[float, str | None]:
        """When the request happened, and the id of its replay; None if it happens now."""
        if text is None:
            if replay is not None:
                raise MalformedRequest("X-Rollout-Replay goes with X-Rollout-At, which says when the request happened")
            return self._clock.now(), None
        self._parts.tokens.operator(header(scope, b"authorization"), peer(scope))
        try:
            at = float(text)
        except ValueError:
            at = math.nan
        if not math.isfinite(at):
            raise MalformedRequest(f"X-Rollout-At is {text[:64]!r}; it takes Unix seconds")
        if problem := self._parts.time_limits.problem(at, self._clock.now()):
            raise MalformedRequest(f"X-Rollout-At {problem}")
        if replay is not None and not _REPLAY.fullmatch(replay):
            raise MalformedRequest(
                f"X-Rollout-Replay is {replay[:64]!r}; it takes up to 64 letters, digits, `.`, `_`, `:` and `-`"
            )
        return at, replay or ""


def _ended(result: Scores | Exception) -> tuple[Status, Scores | None]:
    """The status of the candidate's attempt, and the scores to record."""
    if isinstance(result, CandidateAway):
        # No failure while the process starts: the rehearsal waits until it is up.
        return (Status.DOWN if result.ever_up else Status.NONE), None
    return ended(result)


def _error_of(result: Scores | Exception) -> Exception:
    """The error for the caller of a model whose answer is invalid."""
    return NotFinite(result.bad_rows, result.rows) if isinstance(result, Scores) else result
