"""Fakes: an engine without a model, a clock that is set by hand, and a plan that does not change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from understudy.clock import Clock
from understudy.domain import Plan
from understudy.errors import InferenceError
from understudy.inference import Cancellation, Engine
from understudy.inference.cards import Card
from understudy.inference.cost import Costs
from understudy.inference.decoding import Array
from understudy.testing.builders import card


class FixedCosts(Costs):
    """Costs by rows that a test states; nothing is learned.

    Attributes:
        runs: what `took` was told: seconds, rows, and whether the run ended.
    """

    free = text = ()
    foreseeable = True

    def __init__(self, stated: Callable[[int], float]) -> None:
        self._stated = stated
        self.runs: list[tuple[float, int, bool]] = []

    @override
    def seconds(self, rows: int, elements: int = 0) -> float:
        return self._stated(rows)

    @override
    def least(self, rows: int, elements: int = 0) -> float:
        return 0.0

    @override
    def measured(self, rows: int, elements: int = 0) -> bool:
        return True

    @override
    def took(self, seconds: float, rows: int, elements: int = 0, *, ended: bool = True) -> None:
        self.runs.append((seconds, rows, ended))


class FakeEngine(Engine):
    """An engine whose probability of class 1 is `x`. It fails on `x` = 13 and answers NaN if `x` is missing.

    Attributes:
        runs: the number of rows of each run, in order.
        cost_s: what `seconds` returns for any number of rows; no time is spent.
    """

    def __init__(
        self, own: Card | None = None, *, cost_s: float = 0.0, before: Callable[[int], None] = lambda rows: None
    ) -> None:
        self.card = own or card()
        self.costs = FixedCosts(lambda rows: self.seconds(rows))
        self.cost_s, self._before = cost_s, before
        self.runs: list[int] = []
        self.closed = False

    @override
    def run(self, columns: Mapping[str, Array], cancellation: Cancellation | None = None) -> dict[str, Array]:
        x = columns["x"].reshape(-1)
        self.runs.append(len(x))
        self._before(len(x))
        if (x == 13).any():
            raise InferenceError("13 is an unlucky number")
        return {"label": (x > 0.5).astype(np.int64), "probabilities": np.stack([1 - x, x], axis=1)}

    @override
    def seconds(self, rows: int) -> float:
        return self.cost_s

    @override
    def close(self) -> None:
        self.closed = True


class ManualClock(Clock):
    """A clock that only moves when `advance` is called."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.time = now

    @override
    def now(self) -> float:
        return self.time

    @override
    def perf(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.time += seconds


@dataclass
class FixedPlan:
    """The `control` of a pipeline: a plan that does not change."""

    plan: Plan
