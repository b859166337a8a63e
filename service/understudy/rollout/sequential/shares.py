"""Counts of events of the candidate and of the primary, separately for each share that a plan routed with."""

from collections.abc import Sequence
from typing import TypedDict

from understudy.rollout.sequential.base import Mergeable, Settings, counted


class ShareTotals(TypedDict):
    """Share, the candidate's count and the primary's count, for each share."""

    counts: Sequence[Sequence[float]]


class PerShare(Mergeable[ShareTotals]):
    """Two counts per share. A plan's shares are hundredths of a percent, so there are at most 9,999; usually one per step."""

    def __init__(self) -> None:
        self._counts: dict[float, list[int]] = {}

    def update(self, candidate: bool, share: float, times: int = 1) -> None:
        """Count `times` events of one variant; `share` is the candidate's share in the plan that routed the request."""
        if not 0.0 < share < 1.0:
            raise ValueError(f"share is {share!r}; only shares above 0 and below 1 are drawn by chance")
        cell = self._counts.setdefault(float(share), [0, 0])
        cell[0 if candidate else 1] += counted("times", times)

    @property
    def n(self) -> int:
        """The number of events."""
        return sum(map(sum, self._counts.values()))

    @property
    def hits(self) -> int:
        """The number of the candidate's events."""
        return sum(candidates for candidates, _ in self._counts.values())

    def rows(self) -> list[tuple[float, int, int]]:
        """(share, the candidate's count, the primary's count), sorted, so that results do not depend on the order of events."""
        return [(share, candidates, primaries) for share, (candidates, primaries) in sorted(self._counts.items())]

    def settings(self) -> Settings:
        """Empty: only the bets are frozen here, and ratios are frozen in the policy."""
        return {}

    def totals(self) -> ShareTotals:
        """See `rows`."""
        return {"counts": [list(row) for row in self.rows()]}

    def take(self, totals: ShareTotals) -> None:
        """Add stored totals."""
        for share, candidates, primaries in totals["counts"]:
            self.update(candidate=True, share=share, times=counted("counts", candidates))
            self.update(candidate=False, share=share, times=counted("counts", primaries))
