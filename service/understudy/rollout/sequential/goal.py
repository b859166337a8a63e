"""One paired metric against its goal over the whole rollout: evidence for a rollback and for an advance."""

from collections.abc import Iterable, Mapping
from typing import TypedDict

from understudy.rollout.sequential.base import SequentialEvidence, Settings, checked
from understudy.rollout.sequential.late_harm import LateHarm, LateHarmTotals
from understudy.rollout.sequential.mean import MeanEvidence, MeanTotals


class GoalTotals(TypedDict):
    """The totals of the parts; `known` are the number and the sum of the values without doubt."""

    whole: MeanTotals
    best: MeanTotals
    step: MeanTotals
    late: LateHarmTotals
    known: list[float]


class PairedGoal(SequentialEvidence[GoalTotals]):
    """Differences of losses, candidate minus primary, with a margin ("not worse than") and a harm line.

    Harm is one test through all steps, with one error level. An advance needs two tests to agree: one over the whole
    rollout and one over this step alone, so that a candidate that was good in shadow must also be good now. Both are
    `MeanEvidence` (see there for the theorem). The smaller e-value counts, which costs no error level.

    Attributes:
        margin: ε, in units of the clipped loss.
        harm_line: h, usually 0 or the margin.

    >>> goal = PairedGoal(margin=0.02)
    >>> for d, times in ((0.0, 1703), (1.0, 94), (-1.0, 94)):
    ...     for _ in range(times):
    ...         goal.update(d)
    >>> round(goal.log_e_advance(), 6), goal.log_e_harm() < 3.0
    (2.080612, True)
    >>> goal.begin_step()
    >>> goal.log_e_advance(), goal.n
    (0.0, 1891)
    """

    KIND = "paired-goal"

    def __init__(
        self, margin: float, harm_line: float = 0.0, lo: float = -1.0, hi: float = 1.0, base: float = 0.0
    ) -> None:
        self._margin = checked("margin", margin, lo, hi)
        self._late = LateHarm(harm_line, lo, hi, base)
        self._whole = MeanEvidence(lo, hi, base)
        self._best = MeanEvidence(lo, hi, base)
        self._known = [0.0, 0.0]  # number and sum of the values without doubt, for the estimate
        self._step = MeanEvidence(lo, hi, base)

    def update(self, x: float, least: float | None = None, *, in_step: bool = True, harm: bool = True) -> None:
        """Count the next pair, in order.

        Args:
            x: the pair's value. For a pair whose label never came: the largest possible value, which counts against an advance.
            least: for such a pair the smallest possible value, which counts for harm. None: the value is known.
            in_step: whether the pair was routed since the step began.
            harm: whether it counts for harm. This must be decided before the pair's outcome is known.
        """
        best = x if least is None else checked("least", least, self._whole.settings()["lo"], x)
        self._whole.update(x)
        self._best.update(best)
        if best == x:
            self._known[0] += 1.0
            self._known[1] += x
        if in_step:
            self._step.update(x)
        if harm:
            self._late.update(best)

    def begin_trial(self) -> None:
        """Start new evidence for harm. The evidence for an advance is kept."""
        self._late = LateHarm(**self._late.settings())

    def begin_step(self) -> None:
        """Start new evidence for this step. The evidence for harm is kept."""
        self._step = MeanEvidence(**self._whole.settings())

    def log_e_harm(self, tail: Iterable[float | None] = ()) -> float:
        """Log e-value against "never worse than the harm line", with a `tail`; see `harm_peak`."""
        return self.harm_peak(tail)[0]

    def harm_peak(self, tail: Iterable[float | None] = ()) -> tuple[float, int]:
        """The largest log e-value for harm over the values so far and every prefix of the tail, and the length of that prefix.

        Each of these e-values is a lower bound of the one that the complete data give at that point, and Ville's inequality
        covers all of them at once. So pairs that still wait for a label do not weaken the evidence before them.

        Args:
            tail: values that come next in order but are not settled: a pending one as the best case, None where it does not
                count for harm. They are not counted.
        """
        late, largest, at = self._late, self._late.log_e(), 0
        for number, x in enumerate(tail, 1):
            if x is None:
                continue
            if late is self._late:
                late = LateHarm.from_state(late.state())
            late.update(x)
            if late.log_e() > largest:
                largest, at = late.log_e(), number
        return largest, at

    def log_e_advance(self, pending: Mapping[float, int] | None = None) -> float:
        """Log e-value against "worse than the margin on average", over the rollout and over this step.

        Args:
            pending: value → how many pairs are not known yet and have this value as their worst case.
        """
        return min(self._below(self._whole, pending), self._below(self._step, pending))

    def _below(self, evidence: MeanEvidence, pending: Mapping[float, int] | None) -> float:
        for worst, times in (pending or {}).items():
            evidence = evidence.assuming(worst, times)
        return evidence.log_e_below(self._margin)

    def band(self, alpha: float) -> tuple[float, float]:
        """The band of the whole rollout, with error level `alpha` on each side.

        The upper edge counts every unknown value as the worst case, the lower edge as the best case. So the band is valid
        however many values are unknown, and for whatever reason.
        """
        return self._best.band(alpha)[0], self._whole.band(alpha)[1]

    @property
    def estimate(self) -> float:
        """The mean of the known values, limited to the range that the unknown values allow."""
        count, total = self._known
        mean = total / count if count else (self._best.mean + self._whole.mean) / 2
        return min(max(mean, self._best.mean), self._whole.mean)

    def with_tail(self, worst: Iterable[float], best: Iterable[float]) -> "PairedGoal":
        """A copy with more values, each between its best and its worst case. For display; harm is not counted."""
        copy = PairedGoal.from_state(self.state())
        for x, least in zip(worst, best, strict=True):
            copy.update(x, least, in_step=False, harm=False)
        return copy

    @property
    def whole(self) -> MeanEvidence:
        """Evidence over the whole rollout."""
        return self._whole

    @property
    def step(self) -> MeanEvidence:
        """Evidence since the current step began."""
        return self._step

    @property
    def n(self) -> int:
        """The number of pairs."""
        return self._whole.n

    def settings(self) -> Settings:
        """The margin, the harm line and the bounds."""
        return {"margin": self._margin, **self._late.settings()}

    def totals(self) -> GoalTotals:
        """The totals of the parts."""
        return {
            "whole": self._whole.totals(),
            "best": self._best.totals(),
            "step": self._step.totals(),
            "late": self._late.totals(),
            "known": list(self._known),
        }

    def take(self, totals: GoalTotals) -> None:
        """Restore stored totals."""
        self._whole.take(totals["whole"])
        self._best.take(totals["best"])
        self._step.take(totals["step"])
        self._late.take(totals["late"])
        self._known = [held + float(more) for held, more in zip(self._known, totals["known"], strict=True)]
