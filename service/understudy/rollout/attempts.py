"""Evidence for the goals for failures and latency, from both models' attempts at the drawn requests. Needs no labels. Pure."""

import math
from typing import TypedDict

from understudy.domain import Attempt, Observation, Status, Variant
from understudy.rollout.drops import Drops, DropsState
from understudy.rollout.incidents import Incidents, IncidentsState, Intervals, IntervalsState, failed
from understudy.rollout.policy import Policy
from understudy.rollout.reading import MetricReading
from understudy.rollout.scoring import TRIED
from understudy.rollout.sentences import SLOW
from understudy.rollout.sequential import PairedGoal, RateEvidence
from understudy.rollout.sequential.base import State
from understudy.rollout.sequential.goal import GoalTotals
from understudy.rollout.sequential.rate import RateTotals
from understudy.rollout.sequential.staged import Staged, StagedState

SLOW_SHARE = 0.01
"""Share of the candidate's answers that may be slower than `latency.p99_ms`."""


class AttemptEvidenceState(TypedDict):
    """The stored form of `AttemptEvidence`."""

    errors: State[GoalTotals] | None
    requests: IntervalsState | None
    latency: StagedState
    slow: State[RateTotals]
    late: dict[str, int]
    lost: list[int]
    incidents: IncidentsState
    drops: dict[str, DropsState]


class AttemptEvidence:
    """Sums up attempts.

    Attributes:
        errors: paired differences of failures; None if the policy has no goal for them.
        requests: failures over all requests by interval, for harm alone.
        latency: how many of the candidate's answers are late, for an advance.
        slow: the same in this trial, for harm.
        late: cause → how many of the candidate's answers count as late.
        lost: dropped rehearsals of the candidate that count as late for an advance: in all, and in the step.
        drops: dropped rehearsals by metric. Each metric leaves out as many as its margin tolerates.
    """

    def __init__(self, policy: Policy) -> None:
        self._errors, self._limit_ms, self._unit = policy.goals.errors, policy.goals.latency.p99_ms, policy.unit or ""
        margin = self._errors.margin if self._errors else 0.0
        self.errors = PairedGoal(margin, margin) if self._errors else None
        self.requests = Intervals(margin) if self._errors else None
        self.latency, self.slow = Staged(RateEvidence), RateEvidence()
        self.late: dict[str, int] = {}
        self.lost = [0, 0]
        self.incidents = Incidents()
        self.drops = {"latency": Drops(SLOW_SHARE)} | ({"errors": Drops(margin)} if self._errors else {})

    def see(self, o: Observation, whose: Variant | None, *, in_step: bool, harm: bool) -> None:
        """Count the attempts at a row that both models were asked.

        Args:
            whose: the variant whose answer is unknown (see `scoring.unknown`), or None.
            in_step: whether the row was routed by the current step's plan.
            harm: whether the row counts for harm: not during an incident, nor in an earlier trial.
        """
        dropped = whose is not None
        if self.errors is not None and self.drops["errors"].counts(dropped=dropped, in_step=in_step):
            # An unknown attempt may have failed or not.
            candidate, primary = (None if v is whose else failed(o, v) for v in (Variant.CANDIDATE, Variant.PRIMARY))
            worst = float(candidate is not False) - float(bool(primary))
            best = float(bool(candidate)) - float(primary is not False)
            self.errors.update(worst, best, in_step=in_step, harm=harm and not dropped)
        if whose is Variant.CANDIDATE:
            if self.drops["latency"].counts(dropped=True, in_step=in_step):
                self.lost = [self.lost[0] + 1, self.lost[1] + in_step]
        elif o.candidate.status in TRIED and (whose is not None or o.primary.status is Status.OK):
            # If the primary did not answer either, the row says nothing about the candidate's speed.
            self.drops["latency"].counts(dropped=False, in_step=in_step)
            self._time(o.candidate, in_step=in_step, harm=harm)

    def _time(self, attempt: Attempt, *, in_step: bool, harm: bool) -> None:
        # A failure counts as late too, under its own cause: failing quickly must not look fast.
        cause = self._late(attempt)
        late = cause is not None
        self.latency.whole.update(late)
        if in_step:
            self.latency.step.update(late)
        if harm:
            self.slow.update(late)
        if cause is not None:
            self.late[cause] = self.late.get(cause, 0) + 1

    def _late(self, attempt: Attempt) -> str | None:
        """Why an attempt does not count as in time; None if it does."""
        if attempt.status is not Status.OK:
            return attempt.status.value
        return SLOW if attempt.seconds * 1000 > self._limit_ms else None

    def begin_step(self) -> None:
        """Start new evidence for a step."""
        if self.errors is not None:
            self.errors.begin_step()
        self.latency.begin_step()
        self.lost[1] = 0
        for drops in self.drops.values():
            drops.begin_step()

    def begin_trial(self) -> None:
        """Start new evidence for harm."""
        if self.errors is not None:
            self.errors.begin_trial()
        if self.requests is not None:
            self.requests.begin_trial()
        self.slow, self.incidents = RateEvidence(), Incidents()

    def readings(self, alpha: float) -> list[MetricReading]:
        """The metrics, with bands at error level `alpha` on each side."""
        readings = []
        if self.errors is not None and self.requests is not None and self._errors is not None:
            whole, margin = self.errors.whole, self._errors.margin
            gap, variance = (margin - whole.mean, whole.variance) if whole.n else (margin, 0.0)
            readings.append(
                MetricReading(
                    "errors",
                    self.errors.estimate,
                    *self.errors.band(alpha),
                    whole.n,
                    0,
                    margin,
                    self.errors.log_e_advance(),
                    self.errors.log_e_harm(),
                    gap,
                    variance,
                    per=self._unit,
                )
            )
            harm, none = self.requests.harm, math.nan
            readings.append(
                MetricReading("request_errors", self.requests.mean, none, none, harm.n, 0, margin, None, harm.log_e())
            )
        slow = self.latency.whole
        rate = slow.mean if slow.n else 0.0
        # Dropped rehearsals count as slow.
        parts = zip((slow, self.latency.step), self.lost, strict=True)
        advance = min(part.assuming(True, lost).log_e_below(SLOW_SHARE) for part, lost in parts)
        readings.append(
            MetricReading(
                "latency",
                rate,
                *slow.band(alpha),
                slow.n,
                0,
                SLOW_SHARE,
                advance,
                self.slow.log_e_above(SLOW_SHARE),
                SLOW_SHARE - rate,
                rate * (1 - rate),
                tuple(self.late.items()),
            )
        )
        return readings

    def state(self) -> AttemptEvidenceState:
        """The stored form, as JSON values."""
        return {
            "errors": self.errors.state() if self.errors else None,
            "requests": self.requests.state() if self.requests else None,
            "latency": self.latency.state(),
            "slow": self.slow.state(),
            "late": self.late,
            "lost": self.lost,
            "incidents": self.incidents.state(),
            "drops": {name: drops.state() for name, drops in self.drops.items()},
        }

    def take(self, state: AttemptEvidenceState) -> None:
        """Restore a stored state.

        Raises:
            ValueError: if it was made with other margins.
        """
        if self.errors is not None and self.requests is not None:
            assert state["errors"] is not None
            assert state["requests"] is not None
            self.errors = self.errors.resume(state["errors"])
            self.requests.take(state["requests"])
        self.latency.take(state["latency"])
        self.slow = self.slow.resume(state["slow"])
        self.late, self.lost = dict(state["late"]), list(state["lost"])
        self.incidents.take(state["incidents"])
        for name, drops in self.drops.items():
            drops.take(state["drops"][name])
