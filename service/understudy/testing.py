"""Fakes and builders for tests: an engine without a model, a clock that is set by hand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from understudy.clock import Clock
from understudy.domain import Attempt, Mode, Observation, Plan, Status, Variant
from understudy.errors import InferenceError
from understudy.http.auth import Tokens
from understudy.inference import Engine
from understudy.inference.cards import Card, InputSpec, OutputSpec
from understudy.inference.decoding import Array, Decoder
from understudy.serving.pipeline import Pipeline, PipelineParts, RequestRecorder
from understudy.serving.shadow import Rehearsal
from understudy.serving.slots import ModelSlots
from understudy.times import TimeLimits


def card(name: str = "fake", **changes: Any) -> Card:
    """A binary classifier's card with one float input `x` and one string input `s`."""
    fields: dict[str, Any] = {
        "name": name,
        "version": "1",
        "task": "binary-classification",
        "classes": [0, 1],
        "positive": 1,
        "digest": "sha256:0",
        "inputs": [
            InputSpec(name="x", dtype="float32", shape=[None, 1], nullable=True),
            InputSpec(name="s", dtype="string", shape=[None, 1]),
        ],
        "outputs": [
            OutputSpec(name="label", dtype="int64", shape=[None], role="label"),
            OutputSpec(name="probabilities", dtype="float32", shape=[None, 2], role="probabilities"),
        ],
    }
    return Card(**(fields | changes))


class FakeEngine(Engine):
    """An engine whose probability of class 1 is `x` itself; it fails on `x` = 13 and answers NaN where `x` is missing.

    Attributes:
        runs: the number of rows of each run, in order.
        cost_s: what `seconds` says of a run, however many rows it has; no time is spent.
    """

    def __init__(
        self, own: Card | None = None, *, cost_s: float = 0.0, before: Callable[[int], None] = lambda rows: None
    ) -> None:
        self.card = own or card()
        self.cost_s, self._before = cost_s, before
        self.runs: list[int] = []
        self.closed = False

    def run(self, columns: Mapping[str, Array]) -> dict[str, Array]:
        """See `Engine.run`."""
        x = columns["x"].reshape(-1)
        self.runs.append(len(x))
        self._before(len(x))
        if (x == 13).any():
            raise InferenceError("13 is an unlucky number")
        return {"label": (x > 0.5).astype(np.int64), "probabilities": np.stack([1 - x, x], axis=1)}

    @override
    def seconds(self, rows: int) -> float:
        return self.cost_s

    def close(self) -> None:
        """See `Engine.close`."""
        self.closed = True


class ManualClock:
    """A clock that stands until it is moved."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.time = now

    def now(self) -> float:
        """See `Clock.now`."""
        return self.time

    def perf(self) -> float:
        """See `Clock.perf`."""
        return self.time

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.time += seconds


def observation(
    name: str = "p-0", *, primary: float | None = 0.2, candidate: float | None = 0.3, **changes: Any
) -> Observation:
    """An observation of a binary classifier; a score of None is an attempt that failed."""

    def answer(score: float | None) -> Attempt:
        return Attempt(Status.FAILED) if score is None else Attempt(Status.OK, int(score > 0.5), score, None, 0.001)

    fields: dict[str, Any] = {
        "prediction_id": name,
        "request_id": name,
        "at": 1_000_000.0,
        "revision": 1,
        "variant": Variant.PRIMARY,
        "mode": Mode.LIVE,
        "share": 0,
        "primary": answer(primary),
        "candidate": answer(candidate),
    }
    return Observation(**(fields | changes))


def pipeline(
    recorder: RequestRecorder,
    plan: Plan,
    slots: ModelSlots,
    decoder: Decoder,
    *,
    clock: Clock | None = None,
    rehearsals: Mapping[Variant, Rehearsal] | None = None,
    tokens: Tokens | None = None,
    route_by: str | None = None,
    deadline_s: float = 5.0,
    candidate_timeout_s: float = 4.0,
) -> Pipeline:
    """A pipeline whose plan stays as it is; its prediction ids begin with `p-`."""
    return Pipeline(
        PipelineParts(
            clock=clock or ManualClock(),
            decoder=decoder,
            tokens=tokens or Tokens(None),
            time_limits=TimeLimits(),
            route_by=route_by,
            id_prefix="p",
            deadline_s=deadline_s,
            candidate_timeout_s=candidate_timeout_s,
            control=FixedPlan(plan),
            recorder=recorder,
            slots=slots,
            rehearsals=rehearsals or {},
        )
    )


@dataclass
class FixedPlan:
    """Where a pipeline finds a plan that never changes by itself."""

    plan: Plan
