"""The pairs after the settled prefix, and the evidence at cuts through them. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from understudy.rollout.funnel import Funnel
from understudy.rollout.reading import Clipped
from understudy.rollout.sequential import MeanEvidence, PairedGoal

TAIL_CUTS = 16
"""Number of cuts at which the evidence is computed."""


@dataclass(slots=True)
class Tail:
    """The pairs after the settled prefix, in request order.

    Attributes:
        worst: the worst case of each pair's value for the candidate.
        best: the best case; equal to the worst where the value is known.
        harm: the value of each pair for harm (its best case); None if it does not count for harm.
        in_step: whether each pair was routed by the current step's plan.
        labelled: how many pairs have a label, and `labelled_in_step` of the current step.
        pending: how many wait for a label.
        funnel: the stage of each row.
        complete: whether these are all rows after the prefix that were seen.
        no_loss: labels from which the goal's loss cannot be computed.
        clipped: losses that were cut at the goal's `clip`.
        last: sequence number of the last row.
        wanted: ids of predictions whose label an audit waits for.
    """

    worst: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    harm: list[float | None] = field(default_factory=list)
    in_step: list[bool] = field(default_factory=list)
    labelled: int = 0
    labelled_in_step: int = 0
    pending: int = 0
    funnel: Funnel = field(default_factory=Funnel, compare=False)
    complete: bool = False
    no_loss: int = 0
    clipped: Clipped = field(default_factory=Clipped)
    last: int = 0
    wanted: list[str] = field(default_factory=list)


def views(goal: PairedGoal, tail: Tail, margin: float) -> Iterator[tuple[float, int]]:
    """The log e-value for an advance at some cuts through the tail, with the number of pairs before the cut, shortest first.

    Any prefix may decide: looking at several costs no error level.
    """
    whole, step, start = goal.whole, goal.step, 0
    for cut in sorted({round(len(tail.worst) * part / TAIL_CUTS) for part in range(TAIL_CUTS + 1)}):
        values, own = tail.worst[start:cut], tail.in_step[start:cut]
        whole, step, start = (
            extended(whole, values),
            extended(step, [x for x, o in zip(values, own, strict=True) if o]),
            cut,
        )
        yield min(whole.log_e_below(margin), step.log_e_below(margin)), cut


def extended(evidence: MeanEvidence, values: Iterable[float]) -> MeanEvidence:
    """A copy of some evidence with more values."""
    copy = MeanEvidence.from_state(evidence.state())
    for value in values:
        copy.update(value)
    return copy
