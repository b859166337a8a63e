"""Evidence from failed requests alone: how many of them did the candidate answer?

Only failures are counted, so that an outage of both models, or a failure rate that changes during the day, has no effect.
"""

import math

from understudy.rollout.sequential.base import checked, log_sum_exp
from understudy.rollout.sequential.shares import PerShare

ABOVE = tuple(2.0**j for j in range(-5, 5))
"""Stakes on "the candidate has more than its share of the failures"."""

BELOW = tuple(-0.95 * 2.0**-j for j in range(8))
"""Stakes on "the candidate has less than its share of the failures"."""


def fair_part(share: float, ratio: float) -> float:
    """θ: the chance that a failure is the candidate's if it fails `ratio` times as often as the primary.

    >>> fair_part(0.05, 1.0), round(fair_part(0.05, 2.0), 4)
    (0.05, 0.0952)
    """
    return share * ratio / (share * ratio + 1.0 - share)


class AttributionEvidence(PerShare):
    """Tests which model causes the failures. Call `update` with every failed request.

    Theorem (Lindon & Malek, Anytime-valid inference for multinomial count data, NeurIPS 2022, arXiv 2011.03567): given
    that a request failed, the chance that the candidate had served it is θ(share, ratio); (1 + λx) / (1 + λθ) is then
    a fair bet, and a mixture over fixed λ an e-process. At one constant share the AM-GM argument of `MeanEvidence`
    makes it a statement about the running average; across changing shares the null is "at every failure".

    >>> errors = AttributionEvidence()
    >>> errors.update(candidate=True, share=0.05, times=20)
    >>> errors.update(candidate=False, share=0.05, times=180)
    >>> round(errors.log_e_above(ratio=1.0), 6)
    2.45322
    """

    KIND = "attribution"

    def log_e_above(self, ratio: float) -> float:
        """Log e-value against "the candidate fails at most `ratio` times as often as the primary"."""
        return self._log_e(ABOVE, ratio)

    def log_e_below(self, ratio: float) -> float:
        """Log e-value against "the candidate fails at least `ratio` times as often as the primary"."""
        return self._log_e(BELOW, ratio)

    def _log_e(self, bets: tuple[float, ...], ratio: float) -> float:
        checked("ratio", ratio, 1e-6, 1e6)
        parts = [(ours, ours + theirs, fair_part(share, ratio)) for share, ours, theirs in self.rows()]
        logs = (
            math.fsum(ours * math.log1p(bet) - both * math.log1p(bet * fair) for ours, both, fair in parts)
            for bet in bets
        )
        return log_sum_exp(logs) - math.log(len(bets))
