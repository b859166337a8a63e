"""JSON documents that the judge and the controller write and that others read: REST calls, the audit log, the report."""

from typing import Literal, Required, TypeAlias, TypedDict

from understudy.domain import JsonObject
from understudy.rollout.funnel import ShownFunnel
from understudy.rollout.reading import StandingDocument

VerdictKind: TypeAlias = Literal["advance", "hold", "rollback"]


class MetricDocument(TypedDict):
    """One metric in `GET /rollout`. Numbers that are not finite are null."""

    metric: str
    answer: VerdictKind
    estimate: float | None
    low: float | None
    high: float | None
    line: float | None
    n: int
    reason: str
    log_e_advance: float | None
    log_e_harm: float | None


class BudgetDocument(TypedDict):
    """The error budget of a trial for any wrong rollback, and of the rollout for any wrong advance."""

    harm: float
    advance: float


class VerdictDocument(TypedDict, total=False):
    """The verdict in `GET /rollout`. Until the judge has looked for the first time, it has no budget and no log e-values."""

    answer: Required[VerdictKind]
    reason: Required[str]
    error_budget: BudgetDocument
    log_e_harm: float | None
    log_e_advance: float | None
    labels_left: int | None
    requests_left: int | None
    seconds_left: float | None
    waits_for: Required[list[str]]


class BandDocument(TypedDict):
    """What a point of the bands over time keeps of one metric."""

    metric: str
    estimate: float | None
    low: float | None
    high: float | None
    n: int
    log_e_advance: float | None
    log_e_harm: float | None


class BandPoint(TypedDict):
    """The bands of all metrics at one moment. `at` is the time of the last request, in Unix seconds."""

    at: float
    revision: int
    metrics: list[BandDocument]


class ShownState(TypedDict):
    """What the controller keeps for display."""

    points: int
    revision: int
    verdict: VerdictDocument
    metrics: list[MetricDocument]
    progress: StandingDocument
    wanted: list[str]
    funnel: ShownFunnel


class Cursors(TypedDict):
    """What the judge looked at for a decision: enough to look at the same rows and labels again.

    Attributes:
        seen, settled, tail_to: sequence numbers up to which rows were seen, settled, and read as the tail.
        known_by: number of batches of labels that were stored.
        marks: number of steps that had begun.
        chain: digest of the settled rows.
        met: the requirements that were met → the event that met them.
        evidence: version of the evidence.
    """

    seen: int
    settled: int
    tail_to: int
    known_by: int
    marks: int
    chain: str
    met: dict[str, int]
    evidence: int


DecisionDetails = TypedDict(
    "DecisionDetails",
    {
        "from": str,
        "to": str,
        "weight": float,
        "step": int,
        "verdict": VerdictDocument,
        "metrics": list[MetricDocument],
        "judged_step": int,
        "followed": JsonObject,
        "seen": int,
        "settled": int,
        "tail_to": int,
        "known_by": int,
        "marks": int,
        "chain": str,
        "met": dict[str, int],
        "evidence": int,
    },
)
"""The details of a decision's event in the audit log: the move, the verdict, and the members of `Cursors`."""
