"""One paired metric against its goal, through the whole rollout: what rolls back, and what lets it advance."""

from collections.abc import Iterable, Mapping
from typing import Any

from understudy.rollout.sequential.base import SequentialEvidence, checked
from understudy.rollout.sequential.late_harm import LateHarm
from understudy.rollout.sequential.mean import MeanEvidence


class PairedGoal(SequentialEvidence):
    """Differences of losses, candidate minus primary, with a margin ("not worse than") and a harm line.

    Harm runs through all steps on one error level. Advancing asks two questions at once: about everything seen in this
    rollout, and about this step alone, so that a candidate which was good in shadow cannot live on it. Both are
    `MeanEvidence` (see there for the theorem); the smaller one counts, which costs no error level.

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
        self._known = [0.0, 0.0]  # how many values had no doubt, and their sum: for the estimate alone
        self._step = MeanEvidence(lo, hi, base)

    def update(self, x: float, least: float | None = None, *, in_step: bool = True, harm: bool = True) -> None:
        """Count the next pair, in order.

        A pair whose label never came has no value, only bounds: the worst that it could have been speaks against
        advancing (`x`), and the best that it could have been (`least`) is all that may speak for harm.

        Args:
            in_step: whether it was routed since the step began.
            harm: whether it counts for harm. What decides that must be known before the pair's outcome.
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
        """Begin the evidence for harm anew. The evidence for advancing goes on."""
        self._late = LateHarm(**self._late.settings())

    def begin_step(self) -> None:
        """The plan has moved on: the next advance needs evidence of its own. Harm goes on as if nothing happened."""
        self._step = MeanEvidence(**self._whole.settings())

    def log_e_harm(self, tail: Iterable[float | None] = ()) -> float:
        """Log e-value against "never worse than the harm line", with a `tail`; see `harm_peak`."""
        return self.harm_peak(tail)[0]

    def harm_peak(self, tail: Iterable[float | None] = ()) -> tuple[float, int]:
        """The largest log e-value for harm from here on, and after how many values of the `tail` it is reached.

        `tail` are values that come next in order but are not settled: known ones as they are, pending ones as the best
        that they may become; None does not count for harm. They are looked at, not
        counted. Each e-value on the way is a lower bound of the one that the
        whole data give there, and Ville's inequality speaks of all of them at once. So pairs that wait at the end of the
        tail take nothing away from what came before them.
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

        `pending` counts values that are not known yet, each as the worst it may become.
        """
        return min(self._below(self._whole, pending), self._below(self._step, pending))

    def _below(self, evidence: MeanEvidence, pending: Mapping[float, int] | None) -> float:
        for worst, times in (pending or {}).items():
            evidence = evidence.assuming(worst, times)
        return evidence.log_e_below(self._margin)

    def band(self, alpha: float) -> tuple[float, float]:
        """The band of the whole rollout: each edge from its own worst case.

        The upper edge takes every unknown value at its worst, the lower edge at its best. Both are bands of the same running
        average, `alpha` on each side, so what they enclose is right however many values are unknown and why.
        """
        return self._best.band(alpha)[0], self._whole.band(alpha)[1]

    @property
    def estimate(self) -> float:
        """The mean of the known values, inside what the unknown ones leave possible."""
        count, total = self._known
        mean = total / count if count else (self._best.mean + self._whole.mean) / 2
        return min(max(mean, self._best.mean), self._whole.mean)

    def with_tail(self, worst: Iterable[float], best: Iterable[float]) -> "PairedGoal":
        """A copy that counts more values, each between its best and its worst. For what is shown, not for harm."""
        copy = PairedGoal.from_state(self.state())
        for x, least in zip(worst, best, strict=True):
            copy.update(x, least, in_step=False, harm=False)
        return copy

    @property
    def whole(self) -> MeanEvidence:
        """Everything in this rollout."""
        return self._whole

    @property
    def step(self) -> MeanEvidence:
        """Since the current step began."""
        return self._step

    @property
    def n(self) -> int:
        """How many pairs in all."""
        return self._whole.n

    def settings(self) -> dict[str, Any]:
        """The margin, the harm line and the bounds."""
        return {"margin": self._margin, **self._late.settings()}

    def totals(self) -> dict[str, Any]:
        """The totals of its parts."""
        parts = {"whole": self._whole, "best": self._best, "step": self._step, "late": self._late}
        return {name: part.totals() for name, part in parts.items()} | {"known": list(self._known)}

    def take(self, totals: Mapping[str, Any]) -> None:
        """Take over stored totals."""
        self._whole.take(totals["whole"])
        self._best.take(totals["best"])
        self._step.take(totals["step"])
        self._late.take(totals["late"])
        self._known = [held + float(more) for held, more in zip(self._known, totals["known"], strict=True)]
