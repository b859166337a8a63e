"""The same evidence twice: over the whole rollout, and over the current step alone."""

from collections.abc import Callable
from typing import Any, Generic, TypedDict, TypeVar

from understudy.rollout.sequential.base import AnyState, SequentialEvidence

E = TypeVar("E", bound=SequentialEvidence[Any])


class StagedState(TypedDict):
    """The stored states of both."""

    whole: AnyState
    step: AnyState


class Staged(Generic[E]):
    """Evidence for an advance: both parts must agree, so that a candidate that was good before must also be good now.

    Taking the smaller of two e-values for one claim costs no error level. Harm is judged by `whole`, through all steps.

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
        """The evidence in which a value counts: always `whole`, and `step` if the value belongs to it."""
        return (self.whole, self.step) if in_step else (self.whole,)

    def begin_step(self) -> None:
        """Start new evidence for the next step."""
        self.step = self._fresh()

    def least(self, log_e: Callable[[E], float]) -> float:
        """The smaller of the two log e-values."""
        return min(log_e(self.whole), log_e(self.step))

    def state(self) -> StagedState:
        """The stored form, as JSON values."""
        return {"whole": self.whole.state(), "step": self.step.state()}

    def take(self, state: StagedState) -> None:
        """Restore a stored state.

        Raises:
            ValueError: if it was made with other settings.
        """
        self.whole, self.step = self._fresh().resume(state["whole"]), self._fresh().resume(state["step"])
