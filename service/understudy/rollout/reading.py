"""One metric as it stands, and what a verdict needs to know besides. Plain values; pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from understudy.domain import Variant
from understudy.rollout.loss_table import LossScale

CLIPPED_MAX = 0.05
"""The largest share of labelled rows whose loss may be cut, of either model. Rows that are cut all count alike: with more of
them the comparison says little about the models."""


@dataclass(frozen=True, slots=True)
class MetricReading:
    """One metric as it stands. A loss is in raw units, as people read it.

    Attributes:
        estimate: candidate minus primary, a rate, or a ratio; `low` and `high` its band at half the error budget on each
            side (NaN where there is none).
        n: pairs (or requests) counted; `pending`: pairs that wait for a label.
        line: the margin that the estimate is held against.
        log_e_advance: evidence that the goal is met; None where this metric does not gate promotion, or not at this step.
        log_e_harm: evidence of harm; None where this metric cannot roll back.
        gap: how far the estimate is on the right side of the margin; variance: of one value; largest: the largest value that
            there can be. For the forecast, and all in the unit of the statistics, where a loss is in [0, 1].
        causes: of `latency`: how many of the `n` did not count as in time, by cause (see `sentences.CAUSES`).
        words: what a sentence calls it; digits: how many decimals it shows.
        per: the policy's `unit`, where each of its values counts once a day; empty where every request counts.
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
        """This reading of a loss in [0, 1], in the loss's raw unit; `line` is in that already, as the rollout file says it."""
        estimate, low, high = (scale.raw(value) for value in (self.estimate, self.low, self.high))
        return replace(self, estimate=estimate, low=low, high=high, line=line, words=scale.words, digits=scale.digits)

    @property
    def unit(self) -> str:
        """What the metric counts, and so what it waits for: `requests` (failures, latency, disagreement) or `labels` (losses)."""
        unlabelled = self.metric in {"errors", "disagreement"} or self.metric.startswith("latency")
        return "requests" if unlabelled else "labels"


@dataclass(slots=True)
class Coverage:
    """How many labels of the settled pairs came, and on which side of a disagreement."""

    settled: int = 0
    labelled: int = 0
    only_candidate: int = 0  # only the candidate says "positive"
    only_candidate_labelled: int = 0
    only_primary: int = 0
    only_primary_labelled: int = 0

    def add(self, *, labelled: bool, primary: bool, candidate: bool) -> None:
        """Count one settled pair: whether its label came, and which of the models says "positive"."""
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
        """Labelled among settled."""
        return self.labelled / self.settled if self.settled else None

    def as_dict(self) -> dict[str, int]:
        """As JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Clipped:
    """How many labelled losses of each variant were cut at the goal's `clip`."""

    labelled: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Variant, 0))
    cut: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Variant, 0))

    def add(self, variants: Iterable[Variant], clipped: Collection[Variant]) -> None:
        """Count a labelled row of some variants, and which of them had their loss cut."""
        for variant in variants:
            self.labelled[variant] += 1
            self.cut[variant] += variant in clipped

    def plus(self, other: "Clipped") -> "Clipped":
        """Both together."""
        return Clipped(
            {v: self.labelled[v] + other.labelled[v] for v in Variant}, {v: self.cut[v] + other.cut[v] for v in Variant}
        )

    def share(self, variant: Variant) -> float | None:
        """Cut among labelled; None where there is nothing to cut yet, or the loss is bounded by itself."""
        return self.cut[variant] / self.labelled[variant] if self.labelled[variant] else None

    @property
    def too_many(self) -> list[Variant]:
        """The variants of which too much is cut to compare them."""
        return [variant for variant in Variant if (self.share(variant) or 0.0) > CLIPPED_MAX]

    def as_dict(self) -> dict[str, dict[str, int]]:
        """As JSON."""
        return {
            "labelled": {v.value: self.labelled[v] for v in Variant},
            "cut": {v.value: self.cut[v] for v in Variant},
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a rollout and its present step have come.

    Attributes:
        elapsed_s: since the rollout's first request, on the service's clock, also for replays; step_s: event time since the step
            began.
        labels: of pairs that count, in this rollout; step_labels and step_requests: in this step.
        doubts: why what was served is no evidence, in sentences; empty where nothing speaks against it.
        labels_by_use: labels that came, by the reason why they do not count, empty for those that do: see `funnel`.
        met: requirements that are fulfilled ("loadtest", "approval").
        clipped: how many losses were cut at the goal's `clip`.
        no_loss: labels that came and that the goal's loss cannot be computed from; their rows count as the worst.
        trial: 1, and one more with each `retry`.
        drawn: rehearsals that the draw chose in this step, and `dropped` those of them that were dropped.
        incidents: of the candidate in this trial (see `understudy.rollout.incidents`); away: requests that found it away.
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

    def as_dict(self) -> dict[str, Any]:
        """As JSON, for `GET /rollout`."""
        return {
            "labels": self.labels,
            "step_labels": self.step_labels,
            "step_requests": self.step_requests,
            "step_seconds": self.step_s,
            "doubts": list(self.doubts),
            **self.coverage.as_dict(),
            "clipped": {v.value: self.clipped.share(v) for v in Variant},
            "no_loss": self.no_loss,
            "trial": self.trial,
            "drawn": self.drawn,
            "dropped": self.dropped,
            "incidents": self.incidents,
            "away": self.away,
        }
