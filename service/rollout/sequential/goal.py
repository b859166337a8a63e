"""One paired metric against its goal, through the whole rollout: what rolls back, and what lets it advance."""

from collections.abc import Iterable, Mapping
from typing import Any

from service.rollout.sequential.base import Evidence, checked
from service.rollout.sequential.late_harm import LateHarm
from service.rollout.sequential.mean import MeanEvidence


class PairedGoal(Evidence):
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
        self._step = MeanEvidence(lo, hi, base)

    def update(self, x: float, least: float | None = None, *, in_step: bool = True) -> None:
        """The next pair, in order; `in_step` is whether it was served since the step began.

        A pair whose label never came has no value, only bounds: the worst that it could have been speaks against
        advancing (`x`), and the best that it could have been (`least`) is all that may speak for harm.
        """
        if least is not None:
            checked("least", least, self._whole.settings()["lo"], x)
        self._whole.update(x)
        if in_step:
            self._step.update(x)
        self._late.update(x if least is None else least)

    def begin_step(self) -> None:
        """The plan has moved on: the next advance needs evidence of its own. Harm goes on as if nothing happened."""
        self._step = MeanEvidence(**self._whole.settings())

    def log_e_harm(self, tail: Iterable[float] = ()) -> float:
        """Log e-value against "never worse than the harm line", with a `tail`; see `harm_peak`."""
        return self.harm_peak(tail)[0]

    def harm_peak(self, tail: Iterable[float] = ()) -> tuple[float, int]:
        """The largest log e-value for harm from here on, and after how many values of the `tail` it is reached.

        `tail` are values that come next in order but are not settled: known ones as they are, pending ones as the best
        that they may become. They are looked at, not counted. Each e-value on the way is a lower bound of the one that the
        whole data give there, and Ville's inequality speaks of all of them at once. So pairs that wait at the end of the
        tail take nothing away from what came before them.
        """
        late, largest, at = self._late, self._late.log_e(), 0
        for number, x in enumerate(tail, 1):
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
        """The band of the whole rollout."""
        return self._whole.band(alpha)

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
        """The totals of the three."""
        return {"whole": self._whole.totals(), "step": self._step.totals(), "late": self._late.totals()}

    def take(self, totals: Mapping[str, Any]) -> None:
        """Take over stored totals."""
        self._whole.take(totals["whole"])
        self._step.take(totals["step"])
        self._late.take(totals["late"])
