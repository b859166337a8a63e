"""The rollout's state, as `GET /rollout` returns it."""

from typing import Annotated, Any, TypeAlias

from msgspec import UNSET, Meta, UnsetType

from understudy.documents.base import Document
from understudy.documents.history import DriftAlarm
from understudy.domain import Phase
from understudy.rollout.documents import MetricDocument, VerdictDocument
from understudy.rollout.funnel import FunnelStage
from understudy.rollout.reading import StandingDocument

Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class ModelStatus(Document):
    """A model that takes part in the rollout.

    Attributes:
        up: whether it can answer now.
        reason: why the candidate cannot answer; null if it can, absent for the primary.
    """

    name: str
    version: str
    digest: str
    up: bool
    reason: Annotated[str | None, Meta(description="why the candidate cannot answer; null if it can")] | UnsetType = (
        UNSET
    )


class LabelFigures(Document):
    """Labels that were joined with a prediction."""

    matched: int
    coverage: Annotated[float | None, Meta(description="share of the recorded rows that have a label")]
    delay_p50_s: Annotated[float | None, Meta(description="median time from prediction to label, seconds")]
    funnel: Annotated[list[FunnelStage], Meta(description="received, matched, counted; with the reasons for the rest")]
    oldest_waiting_s: Annotated[float | None, Meta(description="age of the oldest label that has no prediction yet")]


class RehearsalCounts(Document):
    """What became of the rehearsals."""

    sent: int
    compared: int
    dropped: int
    failed: int
    late: int


class LabelChange(Document):
    """Rows that the primary labelled one way and the candidate another."""

    primary: Any
    candidate: Any
    rows: int


class LabelComparison(Document):
    """How often the two models predicted another label."""

    rows: int
    flips: Annotated[int, Meta(description="rows with another label")]
    share: Share
    ways: list[LabelChange]


class ProbabilityComparison(Document):
    """Total variation distance between the two models' probabilities."""

    rows: int
    mean: Share
    equal: Annotated[float, Meta(ge=0, le=1, description="share of rows at or below the noise floor")]
    p50: Share | None
    p95: Share | None
    p99: Share | None
    max: Share | UnsetType = UNSET


class OutputComparison(Document):
    """Differences of one output. `outside` counts elements beyond the tolerance of the rollout file."""

    rows: int
    rows_outside: int
    elements: int
    outside: int
    not_finite: int
    misshapen: int
    share: Annotated[float, Meta(ge=0, le=1, description="share of rows with an element outside the tolerance")]
    mean_abs: float | None
    max_abs: float | UnsetType = UNSET
    max_rel: float | UnsetType = UNSET


class Comparison(Document):
    """What both models answered for the same rows, with or without labels. A part is absent if there is nothing to compare."""

    rows: Annotated[int, Meta(description="rows that both models answered")]
    labels: LabelComparison | UnsetType = UNSET
    probabilities: ProbabilityComparison | UnsetType = UNSET
    outputs: dict[str, OutputComparison] | UnsetType = UNSET


class DriftSummary(Document):
    """Drift as the rollout's state shows it."""

    alarms: list[DriftAlarm]


class FileChange(Document):
    """A file that is no longer the one that the service was started from."""

    role: str
    file: str
    problem: str


class Rollout(Document):
    """The rollout's state."""

    model: str
    phase: Phase
    step: Annotated[int, Meta(description="index into the steps of the rollout file; -1 if the weight was set by hand")]
    weight: Annotated[float, Meta(ge=0, le=100, description="the candidate's share of live answers, percent")]
    shadow_share: Annotated[float, Meta(ge=0, le=100, description="share of requests that are rehearsed, percent")]
    primary: ModelStatus
    candidate: ModelStatus | None
    headline: Annotated[str, Meta(description="where the rollout stands and what it waits for, in one sentence")]
    verdict: Annotated[VerdictDocument, Meta(description="the judge's last verdict, with its reason and its evidence")]
    metrics: Annotated[list[MetricDocument], Meta(description="each metric as the judge sees it")]
    variants: Annotated[
        dict[str, dict[str, float | None]],
        Meta(description="requests, latency and mean losses of each variant"),
    ]
    labels: LabelFigures
    funnel: Annotated[
        list[FunnelStage],
        Meta(description="where the prediction rows are, from answered to counted, with the reasons for the rest"),
    ]
    progress: Annotated[
        StandingDocument | None,
        Meta(
            description="labels, what the current step has seen, doubts about the split, and label coverage where only one of "
            "the models predicts the positive class"
        ),
    ]
    shadow: RehearsalCounts
    comparison: Comparison
    fallbacks: Annotated[dict[str, int], Meta(description="fallbacks by cause")]
    allowed: Annotated[list[str], Meta(description="orders that the phase allows")]
    drift: DriftSummary
    trial: int
    revision: int
    updated_at: Annotated[float, Meta(description="when the plan was saved, Unix seconds")]
    files: list[FileChange] | UnsetType = UNSET
