"""Failures that are not independent: incidents, and the failures of all requests by intervals of time. Pure.

When a process dies, every request that waits for it fails, and a stall makes many answers late: many failures with one
cause. Counted as independent failures, a dozen of them in a second would roll back a candidate that had been good for hours. So:

* **An incident counts once.** After a failure because the process was unavailable (`Status.DOWN`), requests of the next
  `INTERVAL_S` seconds do not count for harm. After a late answer (`Status.TIMEOUT`) they do not count until an answer is in time
  again, for at most `INTERVAL_S`. Whether a row counts is decided before its outcome is known, so the guarantee of the e-values
  holds for the rows that count. A model that raises or returns numbers that are not finite has a fault in that row, which
  counts each time.
* **An outage counts by its duration.** `Intervals` takes the mean difference of failures over all requests of an interval as one
  value: a candidate that stays unavailable, or crashes repeatedly, is worse in each of these intervals. Within an interval the
  requests may depend on each other. A caller who sends most of the requests has most of the weight here, also where the other
  metrics count each `unit` once.

Time is the service's clock at the arrival of the request. A replay may cover an hour of history in a second, and then a restart of
three seconds must not look like an outage of three hours.

For an advance nothing is left out: every failure counts, whatever its cause.
"""

from typing import TypedDict

from understudy.domain import Observation, Status, Variant
from understudy.rollout.scoring import counts
from understudy.rollout.sequential import LateHarm
from understudy.rollout.sequential.base import State
from understudy.rollout.sequential.late_harm import LateHarmTotals

INTERVAL_S = 10.0
"""Length of an interval on the service's clock. An incident lasts at most this long and counts once; requests of one interval count
as one value."""


class IncidentsState(TypedDict):
    """The stored form of `Incidents`."""

    count: int
    away: int
    until: float
    late: bool


class IntervalsState(TypedDict):
    """The stored form of `Intervals`."""

    harm: State[LateHarmTotals]
    total: float
    start: float | None
    sum: int
    n: int


class Incidents:
    """Finds incidents of the candidate, and decides which rows belong to one.

    Attributes:
        count: how many incidents began.
        away: requests that failed because the candidate's process was unavailable, or because it died.
    """

    def __init__(self) -> None:
        self.count = self.away = 0
        self._until = 0.0  # no row before this time counts for harm
        self._late = False  # whether late answers are the incident: it ends with an answer in time

    def see(self, observation: Observation, at: float) -> bool:
        """Whether the row counts for harm. Afterwards its own outcome is taken into account.

        Args:
            at: when it arrived, on the service's clock.
        """
        alone = not at < self._until
        status = observation.candidate.status
        if (status is Status.OK and not self._late) or not counts(observation):
            return alone  # nothing begins or ends here, mostly
        if status is Status.DOWN or status is Status.TIMEOUT:
            self.away += status is Status.DOWN
            if alone:
                self.count += 1
                self._until, self._late = at + INTERVAL_S, status is Status.TIMEOUT
            elif self._late and status is Status.DOWN:
                self._late = False  # the process died: this is no stall
        elif self._late and status is Status.OK:
            self._until, self._late = 0.0, False
        return alone

    def state(self) -> IncidentsState:
        """The stored form, as JSON values."""
        return {"count": self.count, "away": self.away, "until": self._until, "late": self._late}

    def take(self, state: IncidentsState) -> None:
        """Restore a stored state."""
        self.count, self.away = state["count"], state["away"]
        self._until, self._late = state["until"], state["late"]


class Intervals:
    """Evidence of harm by time: how much more often than the primary the candidate failed in each interval.

    Attributes:
        harm: the evidence from complete intervals. The present interval does not count yet.
    """

    def __init__(self, margin: float) -> None:
        self._margin = margin
        self.harm = LateHarm(margin)
        self.total = 0.0
        self._start: float | None = None
        self._sum, self._n = 0, 0

    def see(self, observation: Observation, at: float) -> None:
        """Count a request that both models were asked. A request that is recorded late counts in the present interval."""
        if self._start is None or at >= self._start + INTERVAL_S:
            self._close()
            self._start = at // INTERVAL_S * INTERVAL_S
        self._n += 1
        self._sum += failed(observation, Variant.CANDIDATE) - failed(observation, Variant.PRIMARY)

    def begin_trial(self) -> None:
        """Start new evidence."""
        self.harm, self.total = LateHarm(self._margin), 0.0
        self._start, self._sum, self._n = None, 0, 0

    @property
    def mean(self) -> float:
        """The mean over the complete intervals."""
        return self.total / self.harm.n if self.harm.n else 0.0

    def _close(self) -> None:
        if self._n:
            self.harm.update(self._sum / self._n)
            self.total += self._sum / self._n
        self._sum, self._n = 0, 0

    def state(self) -> IntervalsState:
        """The stored form, as JSON values."""
        return {"harm": self.harm.state(), "total": self.total, "start": self._start, "sum": self._sum, "n": self._n}

    def take(self, state: IntervalsState) -> None:
        """Restore a stored state.

        Raises:
            ValueError: if it was made with another margin.
        """
        self.harm = self.harm.resume(state["harm"])
        self.total, self._start, self._sum, self._n = state["total"], state["start"], state["sum"], state["n"]


def failed(observation: Observation, variant: Variant) -> bool:
    """Whether a variant should have answered this row and did not."""
    return observation.attempt(variant).status is not Status.OK
