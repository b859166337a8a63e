"""One metric as the judge sees it, and the progress of the rollout. Plain values; pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict

from understudy.domain import Variant
from understudy.rollout.loss_table import LossScale

CLIPPED_MAX = 0.05
"""The largest share of labelled rows whose loss may be cut, for either model. All rows that are cut count the same, so with more
of them the comparison says little about the models."""


@dataclass(frozen=True, slots=True)
class MetricReading:
    """One metric as the judge sees it. A loss is in raw units.

    Attributes:
        estimate: candidate minus primary, a rate, or a ratio.
        low, high: its band, with half the error budget on each side; NaN if there is no band.
        n: pairs or requests that count.
        pending: pairs that wait for a label.
        line: the margin that the estimate is compared with.
        log_e_advance: evidence that the goal is met; None if an advance does not depend on this metric, or not at this step.
        log_e_harm: evidence of harm; None if this metric cannot roll back.
        gap: how far the estimate is on the right side of the margin. This and the next two are for the forecast, in the unit of
            the statistics, where a loss is in [0, 1].
        variance: the variance of one value.
        largest: the largest possible value.
        causes: for `latency`: cause → how many of the `n` did not count as in time (see `sentences.CAUSES`).
        words: the metric's name in a sentence.
        digits: the number of decimals in a sentence.
        per: the policy's `unit`, if each of its values counts once a day; empty if every request counts.
    """

    metric: str
    estimate: float
    low: float
    high: float
    n: int
    pending: int
    line: float
    log_e_advance: float | None
    log_e_harm: float | None
    gap: float = 0.0
    variance: float = 0.0
    causes: tuple[tuple[str, int], ...] = ()
    largest: float = 1.0
    words: str = ""
    digits: int = 4
    per: str = ""

    def in_units_of(self, scale: LossScale, line: float) -> "MetricReading":
        """This reading of a loss in [0, 1], converted to the loss's raw unit. `line` is in the raw unit, as in the rollout file."""
        estimate, low, high = (scale.raw(value) for value in (self.estimate, self.low, self.high))
        return replace(self, estimate=estimate, low=low, high=high, line=line, words=scale.words, digits=scale.digits)

    @property
    def unit(self) -> str:
        """What the metric counts and waits for: `requests` (failures, latency, disagreement) or `labels` (losses)."""
        unlabelled = self.metric in {"errors", "disagreement"} or self.metric.startswith("latency")
        return "requests" if unlabelled else "labels"


class ClippedDocument(TypedDict):
    """The stored form of `Clipped`, by variant."""

    labelled: dict[str, int]
    cut: dict[str, int]


class StandingDocument(TypedDict):
    """The member `progress` of `GET /rollout`."""

    labels: int
    step_labels: int
    step_requests: int
    step_seconds: float
    doubts: list[str]
    settled: int
    labelled: int
    only_candidate: int
    only_candidate_labelled: int
    only_primary: int
    only_primary_labelled: int
    clipped: dict[str, float | None]
    no_loss: int
    trial: int
    drawn: int
    dropped: int
    incidents: int
    away: int


@dataclass(slots=True)
class Coverage:
    """How many of the settled pairs got a label, in all and by which model alone predicts the positive class."""

    settled: int = 0
    labelled: int = 0
    only_candidate: int = 0  # only the candidate predicts the positive class
    only_candidate_labelled: int = 0
    only_primary: int = 0
    only_primary_labelled: int = 0

    def add(self, *, labelled: bool, primary: bool, candidate: bool) -> None:
        """Count a settled pair: whether its label came, and which models predict the positive class."""
        self.settled += 1
        self.labelled += labelled
        if candidate and not primary:
            self.only_candidate += 1
            self.only_candidate_labelled += labelled
        elif primary and not candidate:
            self.only_primary += 1
            self.only_primary_labelled += labelled

    @property
    def share(self) -> float | None:
        """The share of settled pairs with a label."""
        return self.labelled / self.settled if self.settled else None

    def as_dict(self) -> dict[str, int]:
        """The counts as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Clipped:
    """How many labelled losses of each variant were cut at the goal's `clip`."""

    labelled: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Variant, 0))
    cut: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Variant, 0))

    def add(self, variants: Iterable[Variant], clipped: Collection[Variant]) -> None:
        """Count a labelled row for some variants, and which of them had their loss cut."""
        for variant in variants:
            self.labelled[variant] += 1
            self.cut[variant] += variant in clipped

    def plus(self, other: "Clipped") -> "Clipped":
        """The sum of both."""
        return Clipped(
            {v: self.labelled[v] + other.labelled[v] for v in Variant}, {v: self.cut[v] + other.cut[v] for v in Variant}
        )

    def share(self, variant: Variant) -> float | None:
        """The share of labelled rows whose loss was cut; None if there are none, or if the loss has a largest value by itself."""
        return self.cut[variant] / self.labelled[variant] if self.labelled[variant] else None

    @property
    def too_many(self) -> list[Variant]:
        """The variants with too many cut losses to be compared."""
        return [variant for variant in Variant if (self.share(variant) or 0.0) > CLIPPED_MAX]

    def as_dict(self) -> ClippedDocument:
        """The counts as JSON values."""
        return {
            "labelled": {v.value: self.labelled[v] for v in Variant},
            "cut": {v.value: self.cut[v] for v in Variant},
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """The progress of a rollout and of its current step.

    Attributes:
        coverage: how many settled pairs got a label.
        elapsed_s: seconds since the rollout's first request, on the service's clock, also for replays.
        step_s: seconds of request time since the step began.
        labels: labels of pairs that count, in this rollout.
        step_labels: the same in this step.
        step_requests: requests that count, in this step.
        doubts: why served evidence cannot be trusted, in sentences; empty if it can.
        met: requirements that are met ("loadtest", "approval").
        labels_by_use: labels that came, by the reason why they do not count; the empty reason is for those that do. See `funnel`.
        clipped: how many losses were cut at the goal's `clip`.
        no_loss: labels from which the goal's loss cannot be computed. Their rows count as the worst case.
        trial: 1, and one more after each `retry`.
        drawn: rehearsals that the draw chose in this step.
        dropped: those of them that were dropped.
        incidents: incidents of the candidate in this trial (see `understudy.rollout.incidents`).
        away: requests that failed because the candidate was unavailable.
    """

    coverage: Coverage = field(default_factory=Coverage)
    elapsed_s: float = 0.0
    step_s: float = 0.0
    labels: int = 0
    step_labels: int = 0
    step_requests: int = 0
    doubts: tuple[str, ...] = ()
    met: frozenset[str] = frozenset()
    labels_by_use: Mapping[str, int] = field(default_factory=dict)
    clipped: Clipped = field(default_factory=Clipped)
    no_loss: int = 0
    trial: int = 1
    drawn: int = 0
    dropped: int = 0
    incidents: int = 0
    away: int = 0

    def as_dict(self) -> StandingDocument:
        """The member `progress` of `GET /rollout`."""
        return {
            "labels": self.labels,
            "step_labels": self.step_labels,
            "step_requests": self.step_requests,
            "step_seconds": self.step_s,
            "doubts": list(self.doubts),
            "settled": self.coverage.settled,
            "labelled": self.coverage.labelled,
            "only_candidate": self.coverage.only_candidate,
            "only_candidate_labelled": self.coverage.only_candidate_labelled,
            "only_primary": self.coverage.only_primary,
            "only_primary_labelled": self.coverage.only_primary_labelled,
            "clipped": {v.value: self.clipped.share(v) for v in Variant},
            "no_loss": self.no_loss,
            "trial": self.trial,
            "drawn": self.drawn,
            "dropped": self.dropped,
            "incidents": self.incidents,
            "away": self.away,
        }
