"""The stored form of the evidence, as JSON values."""

from typing import TypedDict

from understudy.rollout.attempts import AttemptEvidenceState
from understudy.rollout.digest_chain import ChainState
from understudy.rollout.drops import DropsState
from understudy.rollout.funnel import FunnelState
from understudy.rollout.reading import ClippedDocument
from understudy.rollout.sequential.base import State
from understudy.rollout.sequential.goal import GoalTotals
from understudy.rollout.sequential.mean import MeanTotals
from understudy.rollout.serving_evidence import ServedState
from understudy.rollout.timebase import TimeBasesState

VERSION = 7
"""Version of the stored state and its meaning. Evidence of another version is computed again from the rows in the store."""


class EvidenceState(TypedDict):
    """The stored form of `Evidence`."""

    version: int
    quality: State[GoalTotals] | None
    attempts: AttemptEvidenceState
    drops: DropsState
    served: ServedState
    poc: State[MeanTotals]
    coverage: dict[str, int]
    clipped: ClippedDocument
    funnel: FunnelState
    marks: list[tuple[int, int, int, int, int]]
    chain: ChainState
    bases: TimeBasesState
    bases_settled: TimeBasesState
    step_from: list[tuple[str | None, float]]
    baking: list[tuple[str | None, float]]
    missing: list[tuple[int, int]]
    firsts_seen: dict[str, str]
    firsts_settled: dict[str, str]
    seen: int
    settled: int
    step_requests: int
    step_labels: int
    labels: int
    no_loss: int
    step: int
    revision: int
    trial: int
    trial_revision: int
    latest_at: float
    promoted: int | None


class StoredEvidence(TypedDict):
    """What the controller keeps between ticks."""

    evidence: EvidenceState
