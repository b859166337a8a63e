"""Evidence about a difference of means when each request is answered by one of the two models, with a known chance."""

from typing import TypedDict

from understudy.rollout.sequential.base import Mergeable, Settings, checked, counted
from understudy.rollout.sequential.mean import MeanEvidence, MeanTotals


def weighted(candidate: bool, loss: float, share: float, centre: float) -> float:
    """A value φ whose expectation is loss(candidate) - loss(primary), for any centre that is fixed before the request.

    >>> round(0.05 * weighted(True, 0.9, 0.05, 0.3) + 0.95 * weighted(False, 0.2, 0.05, 0.3), 9)
    0.7
    """
    return (loss - centre) / share if candidate else (centre - loss) / (1.0 - share)


class IpwTotals(TypedDict):
    """The sum of the losses, and the totals of the weighted values."""

    losses: float
    engine: MeanTotals


class IpwDifference(Mergeable[IpwTotals]):
    """Inverse propensity weighting with a predictable centre, judged by `MeanEvidence`.

    Theorem (Waudby-Smith et al., Anytime-valid off-policy inference, arXiv 2210.10768): E[φ | past] is the true
    difference at this request for every centre that depends on the past alone, so the guarantee of `MeanEvidence` holds
    for its running average, whatever the share does meanwhile, as long as the share was fixed before the request and
    the model was drawn with it. The centre here is the average of all earlier losses: less noise, and robust where
    the true share is a little off the recorded one.

    Use it only where pairs cannot be used: it needs 4 times (50/50) to 20 times (5/95) the requests.

    Attributes:
        smallest_share: the smallest share that either model has at any step of the rollout; it determines the bounds.

    >>> evidence = IpwDifference(smallest_share=0.05)
    >>> evidence.update(candidate=True, loss=1.0, share=0.05)
    >>> evidence.update(candidate=False, loss=0.0, share=0.05)
    >>> evidence.n, round(evidence.mean, 3)
    (2, 5.526)
    """

    KIND = "ipw-difference"

    def __init__(self, smallest_share: float) -> None:
        if not 0.0 < smallest_share <= 0.5:
            raise ValueError(f"smallest_share is {smallest_share!r}; it must be above 0 and at most 0.5")
        self._smallest = float(smallest_share)
        self._engine = MeanEvidence(-1.0 / self._smallest, 1.0 / self._smallest, 0.0)
        self._losses = 0.0

    def update(self, candidate: bool, loss: float, share: float) -> None:
        """Count one request: which model answered, its loss in [0, 1], and the candidate's share when it was routed."""
        checked("loss", loss, 0.0, 1.0)
        if not self._smallest <= min(share, 1.0 - share) * (1.0 + 1e-9):
            raise ValueError(
                f"share is {share!r}; this plan promised at least {self._smallest!r} for either model: "
                "a smaller share has wider bounds and needs new evidence"
            )
        value = weighted(candidate, loss, share, self.centre)
        bound = 1.0 / self._smallest
        self._engine.update(min(bound, max(-bound, value)))  # rounding may exceed the bound in the last digit
        self._losses += loss

    @property
    def centre(self) -> float:
        """The average of all losses so far, ½ before the first. It is known before the next request."""
        return self._losses / self._engine.n if self._engine.n else 0.5

    @property
    def n(self) -> int:
        """The number of requests of both models together."""
        return self._engine.n

    @property
    def mean(self) -> float:
        """The estimated difference, candidate minus primary."""
        return self._engine.mean

    @property
    def variance(self) -> float:
        """The variance of one weighted value. For forecasts."""
        return self._engine.variance

    def log_e_above(self, m: float) -> float:
        """Log e-value against "the average difference is at most m"."""
        return self._engine.log_e_above(m)

    def log_e_below(self, m: float) -> float:
        """Log e-value against "the average difference is at least m"."""
        return self._engine.log_e_below(m)

    def band(self, alpha: float) -> tuple[float, float]:
        """(L, U), with error level `alpha` on each side, cut to [-1, 1], the range of a difference of losses."""
        low, high = self._engine.band(alpha)
        return max(-1.0, low), min(1.0, high)

    def settings(self) -> Settings:
        """The smallest share."""
        return {"smallest_share": self._smallest}

    def totals(self) -> IpwTotals:
        """The sum of the losses, and the totals of the weighted values."""
        return {"losses": self._losses, "engine": self._engine.totals()}

    def take(self, totals: IpwTotals) -> None:
        """Add stored totals. Merging is valid although each worker has its own centre: each depends on that worker's past alone."""
        losses = checked("losses", totals["losses"], 0.0, counted("n", totals["engine"]["n"]))
        self._engine.take(totals["engine"])
        self._losses += losses
