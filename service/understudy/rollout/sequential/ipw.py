"""Evidence about a difference of means when each request is served by one of the two models, with a known chance."""

from collections.abc import Mapping
from typing import Any

from understudy.rollout.sequential.base import Mergeable, checked, counted
from understudy.rollout.sequential.mean import MeanEvidence


def weighted(candidate: bool, loss: float, share: float, centre: float) -> float:
    """φ: a value whose expectation is loss(candidate) - loss(primary), for any centre fixed before the request.

    >>> round(0.05 * weighted(True, 0.9, 0.05, 0.3) + 0.95 * weighted(False, 0.2, 0.05, 0.3), 9)
    0.7
    """
    return (loss - centre) / share if candidate else (centre - loss) / (1.0 - share)


class IpwDifference(Mergeable):
    """Inverse propensity weighting with a predictable centre, judged by `MeanEvidence`.

    Theorem (Waudby-Smith et al., Anytime-valid off-policy inference, arXiv 2210.10768): E[φ | past] is the true
    difference at this request for every centre that depends on the past alone, so the promise of `MeanEvidence` holds
    for its running average, whatever the share does meanwhile, as long as the share was fixed before the request and
    the model was drawn with it. The centre here is the average of all earlier losses: less noise, and robust where
    the true share is a little off the recorded one.

    Use it only for what pairs cannot show: it takes 4 times (50/50) to 20 times (5/95) the requests.

    Attributes:
        smallest_share: the smallest share that either model has anywhere in the whole plan; it fixes the bounds.

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
        """One served request: who served it, its loss in [0, 1], and the candidate's share when it was routed."""
        checked("loss", loss, 0.0, 1.0)
        if not self._smallest <= min(share, 1.0 - share) * (1.0 + 1e-9):
            raise ValueError(
                f"share is {share!r}; this plan promised at least {self._smallest!r} for either model: "
                "a smaller share has wider bounds and needs new evidence"
            )
        value = weighted(candidate, loss, share, self.centre)
        bound = 1.0 / self._smallest
        self._engine.update(min(bound, max(-bound, value)))  # the last digit may be over; never the value itself
        self._losses += loss

    @property
    def centre(self) -> float:
        """The average of all losses so far (½ before the first): known before the next request."""
        return self._losses / self._engine.n if self._engine.n else 0.5

    @property
    def n(self) -> int:
        """How many requests, of both models together."""
        return self._engine.n

    @property
    def mean(self) -> float:
        """The estimated difference, candidate minus primary."""
        return self._engine.mean

    @property
    def variance(self) -> float:
        """For forecasts."""
        return self._engine.variance

    def log_e_above(self, m: float) -> float:
        """Log e-value against "the average difference is at most m"."""
        return self._engine.log_e_above(m)

    def log_e_below(self, m: float) -> float:
        """Log e-value against "the average difference is at least m"."""
        return self._engine.log_e_below(m)

    def band(self, alpha: float) -> tuple[float, float]:
        """(L, U), `alpha` on each side, cut to the [-1, 1] that a difference of losses can have."""
        low, high = self._engine.band(alpha)
        return max(-1.0, low), min(1.0, high)

    def settings(self) -> dict[str, Any]:
        """The smallest share of the plan."""
        return {"smallest_share": self._smallest}

    def totals(self) -> dict[str, Any]:
        """The engine's totals and the sum of the losses."""
        return {"losses": self._losses, "engine": self._engine.totals()}

    def take(self, totals: Mapping[str, Any]) -> None:
        """Count what these totals have counted. Each worker's centre was fixed by its own past, which is enough."""
        losses = checked("losses", totals["losses"], 0.0, counted("n", totals["engine"]["n"]))
        self._engine.take(totals["engine"])
        self._losses += losses
