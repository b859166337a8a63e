"""One metric as it stands, and what a verdict needs to know besides. Plain values; pure."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric as it stands.

    Attributes:
        estimate: candidate minus primary, a rate, or a ratio; `low` and `high` its band at half the error budget on each
            side (NaN where there is none).
        n: pairs (or requests) counted; `pending`: pairs that wait for a label.
        line: the margin that the estimate is held against.
        log_e_advance: evidence that the goal is met; None where this metric does not gate promotion, or not at this step.
        log_e_harm: evidence of harm; None where this metric cannot roll back.
        gap: how far the estimate is on the right side of the margin; variance: of one value; largest: the largest value that
            there can be. For the forecast.
        causes: of `latency`: how many of the `n` did not count as in time, by cause (see `sentences.CAUSES`).
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


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a rollout and its present step have come.

    Attributes:
        elapsed_s: event time since the rollout's first request; step_s: since the step began.
        labels: of pairs that count, in this rollout; step_labels and step_requests: in this step.
        doubts: why what was served is no evidence, in sentences; empty where nothing speaks against it.
        met: requirements that are fulfilled ("loadtest", "approval").
    """

    coverage: Coverage = field(default_factory=Coverage)
    elapsed_s: float = 0.0
    step_s: float = 0.0
    labels: int = 0
    step_labels: int = 0
    step_requests: int = 0
    doubts: tuple[str, ...] = ()
    met: frozenset[str] = frozenset()

    def as_dict(self) -> dict[str, Any]:
        """As JSON, for `GET /rollout`."""
        return {
            "labels": self.labels, "step_labels": self.step_labels, "step_requests": self.step_requests,
            "step_seconds": self.step_s, "doubts": list(self.doubts), **self.coverage.as_dict(),
        }  # fmt: skip
