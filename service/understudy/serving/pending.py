"""One prediction, from its routing to its answer, for every protocol."""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import structlog

from understudy.domain import Plan, Variant
from understudy.errors import ExpectedLate, UnderstudyError
from understudy.http.asgi import CompleteRequest, Headers
from understudy.inference import Scores
from understudy.records.exchange import Exchange
from understudy.serving.pipeline import CANDIDATES_FAULT, Pipeline

log = structlog.get_logger(__name__)

Answer: TypeAlias = tuple[Headers, bytes]
"""The headers and the body of a response."""


class Pending:
    """Receives the scores of one request, replies, and hands the exchange over to be recorded and rehearsed.

    It is a `ScoresCallback` instead of a coroutine, because a task and a future cost two event-loop iterations, as much as a
    small model.

    Args:
        whole: the complete request.
        started: when the handling of the request began, on the performance clock.
        answer: returns the headers and the body of the response for an exchange and its scores.
        refuse: replies with an error.
        aside: encodes a large answer in a thread and passes it on; returns False for an answer that is not large. None: none is.
    """

    __slots__ = ("_answer", "_aside", "_begun", "_exchange", "_pipeline", "_plan", "_refuse", "_started", "_whole")

    def __init__(
        self,
        pipeline: Pipeline,
        whole: CompleteRequest,
        exchange: Exchange,
        plan: Plan,
        started: float,
        answer: Callable[[Exchange, Scores], Answer],
        refuse: Callable[[CompleteRequest, UnderstudyError], None],
        aside: Callable[[Exchange, Scores, Callable[[Answer | Exception], None]], bool] | None = None,
    ) -> None:
        self._pipeline, self._whole, self._exchange, self._plan = pipeline, whole, exchange, plan
        self._started = self._begun = started
        self._answer, self._refuse, self._aside = answer, refuse, aside

    def ask(self) -> None:
        """Queue the request at its model. A long run gets a deadline; the candidate's process has its own."""
        self._begun = self._pipeline.now()
        try:
            if not self._pipeline.ask(self._exchange, self, alone=self._whole.alone):
                left_s = self._pipeline.left_s(self._exchange, self._started)
                deadline = Deadline(self, left_s)
                try:
                    self._pipeline.ask_by(self._exchange, deadline, left_s)
                except UnderstudyError:
                    deadline.cancel()
                    raise
        except CANDIDATES_FAULT as error:
            self.set_exception(error)
        except UnderstudyError as error:
            self._fail(error)

    def done(self) -> bool:
        """Always False: the request is recorded even if the caller has disconnected."""
        return False

    def set_result(self, scores: Scores, /) -> None:
        """Receive the scores. Raises nothing, because other requests wait for the same run."""
        try:
            if self._exchange.variant is Variant.PRIMARY:
                self._reply(self._pipeline.answered(self._exchange, scores, self._begun))
            else:
                self._candidate_ended(scores)
        except Exception as error:
            self._fail(error)

    def set_exception(self, error: Exception, /) -> None:
        """Receive the error."""
        try:
            if self._exchange.variant is Variant.PRIMARY or not isinstance(error, CANDIDATES_FAULT):
                late = isinstance(error, TimeoutError) and not isinstance(error, ExpectedLate)
                self._fail(self._pipeline.past_deadline() if late else error)
            else:
                self._candidate_ended(error)
        except Exception as bug:
            self._fail(bug)

    def _candidate_ended(self, result: Scores | Exception) -> None:
        scores = self._pipeline.candidate_ended(self._exchange, result, self._begun)
        if scores is not None:
            self._reply(scores)
        else:
            self.ask()  # a fallback: the exchange's variant is the primary now

    def _reply(self, scores: Scores) -> None:
        if self._aside is None or not self._aside(self._exchange, scores, self._encoded):
            self._send(self._answer(self._exchange, scores))

    def _encoded(self, answer: Answer | Exception) -> None:
        """Receive a large answer. Raises nothing."""
        try:
            if isinstance(answer, Exception):
                self._fail(answer)
            else:
                self._send(answer)
        except Exception as bug:
            self._fail(bug)

    def _send(self, answer: Answer) -> None:
        exchange, (headers, body) = self._exchange, answer
        self._whole.reply(200, headers, body)
        exchange.total_seconds = self._pipeline.now() - self._started
        self._pipeline.hand_over(exchange, self._plan)

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, UnderstudyError):
            log.error("a bug: please report it", exc_info=error)
            error = UnderstudyError("an unexpected error; the log has the details")
        self._pipeline.failed(self._exchange, self._plan, error, self._started)
        self._refuse(self._whole, error)


class Deadline:
    """Passes a result on if it comes in time, and a `TimeoutError` otherwise; later results are dropped."""

    __slots__ = ("_pending", "_timer")

    def __init__(self, pending: Pending, seconds: float) -> None:
        self._pending = pending
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(seconds, self._passed)

    def done(self) -> bool:
        """Whether a result or the timeout has been passed on."""
        return self._timer is None

    def set_result(self, scores: Scores, /) -> None:
        """Pass the scores on."""
        self.cancel()
        self._pending.set_result(scores)

    def set_exception(self, error: Exception, /) -> None:
        """Pass the error on."""
        self.cancel()
        self._pending.set_exception(error)

    def cancel(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _passed(self) -> None:
        self._timer = None
        self._pending.set_exception(TimeoutError())
