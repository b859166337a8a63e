"""Returning callers: evidence of harm that continues after every caller has been counted once. Pure.

A caller stays with the model that its key drew, so only its first request was drawn by chance, and a test over the whole rollout
counts each caller once. If the candidate breaks when most callers are known, that test has nothing new to count. So each hour
and each day is also a test of its own: it starts empty and counts every caller once, known or not. Within one window the draw
of a caller is as good as a new one. The windows of a rollout share their draws, so their e-values are not multiplied: window k
(from 1) must reach 1/α divided by its weight, and the weights add up to at most 1 (union bound, which holds under any dependence).

This assumes that whether a caller returns does not depend on which model answered before. That is true if the candidate does no
harm.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypedDict, TypeVar

from understudy.rollout.sequential.base import AnyState, SequentialEvidence
from understudy.rollout.sequential.late_harm import kept_back
from understudy.rollout.unit_dedup import FirstRequests

WINDOWS_S = (3_600.0, 86_400.0)
"""Lengths of the windows, in request time. With many callers an hour is enough to find harm, with few it takes a day."""

E = TypeVar("E", bound=SequentialEvidence[Any])


class ReturningState(TypedDict):
    """The stored form: for each window length its present window, how many there were, the callers and the evidence."""

    places: list[int]
    counts: list[int]
    keys: list[dict[str, str]]
    evidence: list[AnyState]


class ReturningCallers(Generic[E]):
    """One object of evidence for each present window.

    Past windows are forgotten: harm that they had shown would have been acted on.
    """

    def __init__(self, fresh: Callable[[], E]) -> None:
        self._fresh = fresh
        self._places, self._counts = [-1] * len(WINDOWS_S), [0] * len(WINDOWS_S)
        self._keys, self._evidence = [FirstRequests() for _ in WINDOWS_S], [fresh() for _ in WINDOWS_S]

    def first(self, point: int, at: float) -> Iterator[E]:
        """The evidence of each present window in which this is the caller's first request."""
        for i, size in enumerate(WINDOWS_S):
            place = int(at // size)
            if place > self._places[i]:  # a request that is recorded late counts in the present window
                self._places[i], self._counts[i] = place, self._counts[i] + 1
                self._keys[i], self._evidence[i] = FirstRequests(), self._fresh()
            if self._keys[i].first_ever(point):
                yield self._evidence[i]

    def log_e(self, whole: float, log_e: Callable[[E], float]) -> float:
        """The log e-value of the rollout and its windows together. Each of the two gets half of the error level.

        Args:
            whole: the log e-value over the whole rollout.
            log_e: computes the log e-value of one window.
        """
        windows = (
            log_e(evidence) + math.log((kept_back(k - 1) - kept_back(k)) / len(WINDOWS_S))
            for k, evidence in zip(self._counts, self._evidence, strict=True)
            if k
        )
        return max(whole, *windows, -math.inf) - math.log(2.0)

    def state(self) -> ReturningState:
        """The stored form, as JSON values."""
        return {
            "places": list(self._places),
            "counts": list(self._counts),
            "keys": [keys.state() for keys in self._keys],
            "evidence": [evidence.state() for evidence in self._evidence],
        }

    def take(self, state: ReturningState) -> None:
        """Restore a stored state.

        Raises:
            ValueError: if it was made with other settings.
        """
        self._places, self._counts = list(state["places"]), list(state["counts"])
        for keys, kept in zip(self._keys, state["keys"], strict=True):
            keys.take(kept)
        self._evidence = [self._fresh().resume(kept) for kept in state["evidence"]]
