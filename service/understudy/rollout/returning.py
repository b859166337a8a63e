"""Callers who come back: evidence of harm that goes on after everybody has been counted once. Pure.

A caller stays with the model that its key drew, so only its first request was drawn by chance, and a test over the whole rollout
counts each caller once. A candidate that breaks when most callers are known would be watched by nobody. So each hour, and each
day, is a test of its own besides: it starts from nothing and counts every caller who comes in it once, known or not. Within one
window the draw of a caller is as good as new. The windows of one rollout share their draws, so their e-values are not
multiplied: window k (from 1) must reach 1/α divided by its weight, and the weights add up to 1 at most (union bound, which holds
under any dependence).

One assumption is left: who comes back must not depend on which model answered before. It is true where the candidate does no harm.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from understudy.rollout.sequential.base import SequentialEvidence
from understudy.rollout.sequential.late_harm import kept_back
from understudy.rollout.unit_dedup import Firsts

WINDOWS_S = (3_600.0, 86_400.0)
"""Of request time. An hour is found soon where callers are many, a day where they are few."""

E = TypeVar("E", bound=SequentialEvidence)


class Returning(Generic[E]):
    """One evidence for each present window.

    Windows that are over are forgotten: what had shown harm would have been acted on.
    """

    def __init__(self, fresh: Callable[[], E]) -> None:
        self._fresh = fresh
        self._places, self._counts = [-1] * len(WINDOWS_S), [0] * len(WINDOWS_S)
        self._keys, self._evidence = [Firsts() for _ in WINDOWS_S], [fresh() for _ in WINDOWS_S]

    def first(self, point: int, at: float) -> Iterator[E]:
        """The evidence of each present window in which this caller comes for the first time."""
        for i, size in enumerate(WINDOWS_S):
            place = int(at // size)
            if place > self._places[i]:  # a request that is recorded late counts in the present window
                self._places[i], self._counts[i] = place, self._counts[i] + 1
                self._keys[i], self._evidence[i] = Firsts(), self._fresh()
            if self._keys[i].first_ever(point):
                yield self._evidence[i]

    def log_e(self, whole: float, log_e: Callable[[E], float]) -> float:
        """The log e-value with that over the `whole` rollout: half of the error level is for that, half for the windows.

        Args:
            log_e: reads one window's.
        """
        windows = (
            log_e(evidence) + math.log((kept_back(k - 1) - kept_back(k)) / len(WINDOWS_S))
            for k, evidence in zip(self._counts, self._evidence, strict=True)
            if k
        )
        return max(whole, *windows, -math.inf) - math.log(2.0)

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "places": list(self._places),
            "counts": list(self._counts),
            "keys": [keys.state() for keys in self._keys],
            "evidence": [evidence.state() for evidence in self._evidence],
        }

    def take(self, state: Mapping[str, Any]) -> None:
        """Take over a stored state.

        Raises:
            ValueError: when it was made with other settings.
        """
        self._places, self._counts = list(state["places"]), list(state["counts"])
        for keys, kept in zip(self._keys, state["keys"], strict=True):
            keys.take(kept)
        self._evidence = [self._fresh().resume(kept) for kept in state["evidence"]]
