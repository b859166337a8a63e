"""Dropped rehearsals: which of them are left out of the evidence, and which count as the worst case. Pure.

A rehearsal is dropped because too many wait. That depends on the load, and difficult requests may come with the load. Leaving
out a share q of the rows moves an average of values in [-1, 1] by at most q·(1 + margin) towards the margin. So dropped
rehearsals are left out only while they are fewer than `TOLERATED` times the margin, as a share of the rehearsals that were
drawn, in the whole rollout and in the present step. Then the margin holds to within a tenth of itself. Every further one
counts as the worst case against an advance.

For harm they are all left out: a drop is decided before the answer, so the rows that were rehearsed remain a fair sample.
"""

from typing import TypedDict

TOLERATED = 0.1
"""Dropped rehearsals are left out up to this fraction of the margin, as a share of the drawn ones."""


class DropsState(TypedDict):
    """The stored form: each count in the whole rollout and in the step."""

    drawn: list[int]
    dropped: list[int]
    left_out: list[int]


class Drops:
    """Counts drawn and dropped rehearsals, and decides which of the dropped ones are left out.

    >>> drops = Drops(margin=0.02)
    >>> sum(drops.counts(dropped=number % 100 == 0, in_step=True) for number in range(1, 1_001))
    998
    >>> drops.drawn, drops.dropped, drops.left_out
    ([1000, 1000], [10, 10], [2, 2])
    """

    def __init__(self, margin: float) -> None:
        self._tolerated = margin * TOLERATED
        self.drawn, self.dropped, self.left_out = [0, 0], [0, 0], [0, 0]  # in the whole rollout, in the step

    def counts(self, *, dropped: bool, in_step: bool) -> bool:
        """Count a drawn rehearsal. Returns False if it is to be left out of the evidence."""
        if not dropped:  # nearly always
            self.drawn[0] += 1
            self.drawn[1] += in_step
            return True
        parts = (0, 1) if in_step else (0,)
        for part in parts:
            self.drawn[part] += 1
            self.dropped[part] += 1
        if any(self.left_out[part] + 1 > self._tolerated * self.drawn[part] for part in parts):
            return True
        for part in parts:
            self.left_out[part] += 1
        return False

    def begin_step(self) -> None:
        """Start counting for a new step."""
        self.drawn[1] = self.dropped[1] = self.left_out[1] = 0

    def copy(self) -> "Drops":
        """An independent copy."""
        other = Drops(0.0)
        other._tolerated = self._tolerated
        other.take(self.state())
        return other

    def state(self) -> DropsState:
        """The stored form, as JSON values."""
        return {"drawn": list(self.drawn), "dropped": list(self.dropped), "left_out": list(self.left_out)}

    def take(self, state: DropsState) -> None:
        """Restore a stored state."""
        self.drawn, self.dropped = list(state["drawn"]), list(state["dropped"])
        self.left_out = list(state["left_out"])
