"""The same evidence twice: over the whole rollout, and of the present step alone."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from understudy.rollout.sequential.base import SequentialEvidence

E = TypeVar("E", bound=SequentialEvidence)


class Staged(Generic[E]):
    """What advancing asks for: that both say so, so that a candidate which was good before cannot live on it.

    The smaller of two e-values for one claim costs no error level. Harm reads `whole`, and goes on through all steps.

    >>> from understudy.rollout.sequential.rate import RateEvidence
    >>> slow = Staged(RateEvidence)
    >>> for evidence in slow.parts(in_step=True):
    ...     evidence.update(False, times=1_000)
    >>> slow.begin_step()
    >>> slow.whole.n, slow.step.n, slow.least(lambda evidence: evidence.log_e_below(0.01))
    (1000, 0, 0.0)
    """

    def __init__(self, fresh: Callable[[], E]) -> None:
        self._fresh = fresh
        self.whole, self.step = fresh(), fresh()

    def parts(self, *, in_step: bool) -> tuple[E, ...]:
        """What a value is counted in: always the whole, and the step where it belongs to it."""
        return (self.whole, self.step) if in_step else (self.whole,)

    def begin_step(self) -> None:
        """The plan has moved on: the next advance needs evidence of its own."""
        self.step = self._fresh()

    def least(self, log_e: Callable[[E], float]) -> float:
        """The smaller of both log e-values."""
        return min(log_e(self.whole), log_e(self.step))

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"whole": self.whole.state(), "step": self.step.state()}

    def take(self, state: Mapping[str, Any]) -> None:
        """Take over a stored state.

        Raises:
            ValueError: when its settings were others.
        """
        self.whole, self.step = (self._fresh().resume(state[name]) for name in ("whole", "step"))
