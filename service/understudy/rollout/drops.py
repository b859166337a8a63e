"""Rehearsals that the draw chose and that were dropped because too much waited: when they are left out, and when not. Pure.

Whether a rehearsal is dropped depends on the load, and hard requests may come with the load. Leaving out a share q of the rows
moves an average of values in [-1, 1] by at most q·(1 + margin) towards the margin. So drops are left out only while they are
fewer than `TOLERATED` of the margin, as a share of the rehearsals that were drawn, in the whole rollout and in the present step.
Then the margin is held to within a tenth of itself. Every further one counts at its worst against an advance.

For harm they are left out: the drop came before the answer, so the rows that were rehearsed speak for themselves.
"""

from collections.abc import Mapping
from typing import Any

TOLERATED = 0.1
"""Of the margin: drops up to this share of the drawn rehearsals are left out."""


class Drops:
    """Counts the drawn and the dropped rehearsals, and says which of the dropped ones count at their worst.

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
        """Count a drawn rehearsal; False where it is left out."""
        parts = (0, 1) if in_step else (0,)
        for part in parts:
            self.drawn[part] += 1
            self.dropped[part] += dropped
        if not dropped or any(self.left_out[part] + 1 > self._tolerated * self.drawn[part] for part in parts):
            return True
        for part in parts:
            self.left_out[part] += 1
        return False

    def begin_step(self) -> None:
        """The plan has moved on."""
        self.drawn[1] = self.dropped[1] = self.left_out[1] = 0

    def copy(self) -> "Drops":
        """One that has counted the same and goes its own way."""
        other = Drops(0.0)
        other._tolerated = self._tolerated
        other.take(self.state())
        return other

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"drawn": list(self.drawn), "dropped": list(self.dropped), "left_out": list(self.left_out)}

    def take(self, state: Mapping[str, Any]) -> None:
        """Take over a stored state."""
        self.drawn, self.dropped, self.left_out = (list(state[name]) for name in ("drawn", "dropped", "left_out"))
