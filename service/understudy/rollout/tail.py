"""The pairs behind the settled prefix, and the evidence at cuts through them. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from understudy.rollout.funnel import Funnel
from understudy.rollout.reading import Clipped
from understudy.rollout.sequential import MeanEvidence, PairedGoal

TAIL_CUTS = 16


@dataclass(slots=True)
class Tail:
    """The pairs behind the settled prefix, in request order: what each may be at worst and at best (equal where it is known).

    Attributes:
        harm: what each says about harm at best; None where it does not count for that.
        in_step: whether each was routed by the present step's plan. wanted: predictions that an audit waits for.
        funnel: where each of these rows is. complete: whether these are all rows behind the prefix that were seen.
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
    """The evidence for an advance at some cuts through the tail, nearest first: any prefix may decide, at no extra risk."""
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
    """A copy of some evidence with more values in it."""
    copy = MeanEvidence.from_state(evidence.state())
    for value in values:
        copy.update(value)
    return copy
