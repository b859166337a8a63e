"""Builds a pipeline whose plan does not change."""

from collections.abc import Mapping

from understudy.clock import Clock
from understudy.domain import Plan, Variant
from understudy.http.auth import Tokens
from understudy.inference.decoding import Decoder
from understudy.serving.pipeline import Pipeline, PipelineParts, RequestRecorder
from understudy.serving.shadow import Rehearsal
from understudy.serving.slots import ModelSlots
from understudy.testing.fakes import FixedPlan, ManualClock
from understudy.times import TimeLimits


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
    """A pipeline whose plan does not change; its prediction ids begin with `p-`."""
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
