"""Evidence that requests were not split as planned. Then the other evidence is void; it says nothing about the models."""

import math

from understudy.rollout.sequential.shares import PerShare

STRENGTH = 100.0
"""The weight of the prior: this many requests, split exactly as planned."""


def log_e_split(candidates: int, primaries: int, share: float) -> float:
    """Dirichlet-multinomial against "the candidate was drawn with chance `share`".

    >>> round(log_e_split(400, 9600, 0.05), 6)
    8.928511
    """
    a, b = STRENGTH * share, STRENGTH * (1.0 - share)
    mixture = math.lgamma(STRENGTH) - math.lgamma(STRENGTH + candidates + primaries)
    mixture += math.lgamma(a + candidates) - math.lgamma(a) + math.lgamma(b + primaries) - math.lgamma(b)
    return mixture - candidates * math.log(share) - primaries * math.log1p(-share)


class SplitGuard(PerShare):
    """The sample-ratio test: was the candidate drawn as often as the plan's share says?

    Theorem (Lindon & Malek, NeurIPS 2022, arXiv 2011.03567): the Dirichlet mixture of likelihood ratios is a test
    martingale. One per share, and their product is one again, so a changed weight starts no new guard.

    Use one for routed requests and one for labelled ones. When it crosses its threshold, nothing may advance.

    >>> guard = SplitGuard()
    >>> guard.update(candidate=True, share=0.05, times=400)
    >>> guard.update(candidate=False, share=0.05, times=9600)
    >>> round(guard.log_e(), 6)  # 4 % where 5 % was planned
    8.928511
    """

    KIND = "split-guard"

    def log_e(self) -> float:
        """Log e-value against "every request was drawn with its plan's share"."""
        return math.fsum(log_e_split(ours, theirs, share) for share, ours, theirs in self.rows())
