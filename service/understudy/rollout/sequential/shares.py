"""Counts of "the candidate's" and "the primary's", kept apart by the share that the plan had when it routed."""

from collections.abc import Mapping
from typing import Any

from understudy.rollout.sequential.base import Mergeable, counted


class PerShare(Mergeable):
    """Two whole numbers per share. A plan's shares are hundredths of a percent: 9,999 at most, usually one per step."""

    def __init__(self) -> None:
        self._counts: dict[float, list[int]] = {}

    def update(self, candidate: bool, share: float, times: int = 1) -> None:
        """One event, or `times` equal ones: whose it was, and the candidate's share in the plan that routed it."""
        if not 0.0 < share < 1.0:
            raise ValueError(f"share is {share!r}; only shares above 0 and below 1 are drawn by chance")
        cell = self._counts.setdefault(float(share), [0, 0])
        cell[0 if candidate else 1] += counted("times", times)

    @property
    def n(self) -> int:
        """How many events."""
        return sum(map(sum, self._counts.values()))

    @property
    def hits(self) -> int:
        """How many of them were the candidate's."""
        return sum(candidates for candidates, _ in self._counts.values())

    def rows(self) -> list[tuple[float, int, int]]:
        """(share, the candidate's, the primary's), sorted: the same counts give the same digits in every order."""
        return [(share, candidates, primaries) for share, (candidates, primaries) in sorted(self._counts.items())]

    def settings(self) -> dict[str, Any]:
        """Nothing but the grid is frozen here; ratios are frozen in the policy."""
        return {}

    def totals(self) -> dict[str, Any]:
        """The rows."""
        return {"counts": [list(row) for row in self.rows()]}

    def take(self, totals: Mapping[str, Any]) -> None:
        """Count what these totals have counted."""
        for share, candidates, primaries in totals["counts"]:
            self.update(candidate=True, share=share, times=candidates)
            self.update(candidate=False, share=share, times=primaries)
