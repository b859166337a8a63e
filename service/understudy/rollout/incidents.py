"""Failures that are not independent: incidents, and the failures of all requests by intervals of time. Pure.

A process that dies takes everything that waits for it along, and a stall makes a row of answers late: many failures with one
cause. Read as independent failures, a dozen of them in a second would roll back a candidate that had been fine for hours. So:

* **An incident counts once.** After a failure because the process was away (`Status.DOWN`) the next `INTERVAL_S` seconds of
  requests say nothing about harm; after a late answer (`Status.TIMEOUT`) nothing does until an answer is in time again, for
  `INTERVAL_S` at most. Whether a row counts is known before its outcome is, so the promise of the e-values holds for the rows
  that count. What raises, or answers with numbers that are not finite, is a fault of that row and counts each time.
* **Time away counts by time.** `Intervals` takes the mean difference of failures over all requests of an interval as one value:
  a candidate that stays away, or that crashes again and again, is worse in interval after interval. Interval by interval the
  requests may be as dependent as they like, and a customer who sends most of the requests counts as such, also where the
  other metrics count each `unit` once.

The time is that of the machine on which the models run: how far the service's clock has moved on when the request arrived. A replay
of history may go through an hour in a second, and a restart of three seconds is not an outage of three hours.

For advancing nothing is left out: there every failure counts, whatever its cause.
"""

from collections.abc import Mapping
from typing import Any

from understudy.domain import Observation, Status, Variant
from understudy.rollout.scoring import counts
from understudy.rollout.sequential import LateHarm

INTERVAL_S = 10.0
"""Of the service's clock: failures of one incident count once in so long, and requests of one interval count as one value."""


class Incidents:
    """Whether a row counts by itself, or belongs to an incident of the candidate that is under way.

    Attributes:
        count: how many incidents began.
        away: requests that found the candidate's process away, or were under way when it died.
    """

    def __init__(self) -> None:
        self.count = self.away = 0
        self._until = 0.0  # no row before this time counts for harm
        self._late = False  # the incident is one of late answers: it ends with an answer in time

    def see(self, observation: Observation, at: float) -> bool:
        """Whether the row counts for harm; then take its outcome into account. `at`: on the machine's clock, see the module."""
        alone = not at < self._until
        status = observation.candidate.status
        if not counts(observation):
            return alone
        if status is Status.DOWN or status is Status.TIMEOUT:
            self.away += status is Status.DOWN
            if alone:
                self.count += 1
                self._until, self._late = at + INTERVAL_S, status is Status.TIMEOUT
            elif self._late and status is Status.DOWN:
                self._late = False  # not a stall: the process is gone
        elif self._late and status is Status.OK:
            self._until, self._late = 0.0, False
        return alone

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"count": self.count, "away": self.away, "until": self._until, "late": self._late}

    def take(self, state: Mapping[str, Any]) -> None:
        """Take over a stored state."""
        self.count, self.away = state["count"], state["away"]
        self._until, self._late = state["until"], state["late"]


class Intervals:
    """Harm by time: in each interval, how much more often than the primary the candidate failed, over all of its requests.

    Attributes:
        harm: the evidence of the intervals that are over; the present one is not looked at.
    """

    def __init__(self, margin: float) -> None:
        self._margin = margin
        self.harm = LateHarm(margin)
        self.total = 0.0
        self._start: float | None = None
        self._sum, self._n = 0, 0

    def see(self, observation: Observation, at: float) -> None:
        """Count a request that both models had their chance at. Requests that are recorded late count where they are found."""
        if self._start is None or at >= self._start + INTERVAL_S:
            self._close()
            self._start = at // INTERVAL_S * INTERVAL_S
        self._n += 1
        self._sum += failed(observation, Variant.CANDIDATE) - failed(observation, Variant.PRIMARY)

    def begin_trial(self) -> None:
        """Begin anew."""
        self.harm, self.total = LateHarm(self._margin), 0.0
        self._start, self._sum, self._n = None, 0, 0

    @property
    def mean(self) -> float:
        """The mean of the intervals that are over."""
        return self.total / self.harm.n if self.harm.n else 0.0

    def _close(self) -> None:
        if self._n:
            self.harm.update(self._sum / self._n)
            self.total += self._sum / self._n
        self._sum, self._n = 0, 0

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"harm": self.harm.state(), "total": self.total, "start": self._start, "sum": self._sum, "n": self._n}

    def take(self, state: Mapping[str, Any]) -> None:
        """Take over a stored state.

        Raises:
            ValueError: when it was made with another margin.
        """
        self.harm = self.harm.resume(state["harm"])
        self.total, self._start, self._sum, self._n = state["total"], state["start"], state["sum"], state["n"]


def failed(observation: Observation, variant: Variant) -> bool:
    """Whether a variant owed this row an answer and gave none."""
    return observation.attempt(variant).status is not Status.OK
