"""How the attempts of both models at the drawn requests ended: the goals for failures and for latency. No label is needed. Pure."""

import math
from collections.abc import Mapping
from typing import Any

from understudy.domain import Attempt, Observation, Status, Variant
from understudy.rollout.drops import Drops
from understudy.rollout.incidents import Incidents, Intervals, failed
from understudy.rollout.policy import Policy
from understudy.rollout.reading import MetricReading
from understudy.rollout.scoring import TRIED
from understudy.rollout.sentences import SLOW
from understudy.rollout.sequential import PairedGoal, RateEvidence
from understudy.rollout.sequential.staged import Staged

SLOW_SHARE = 0.01
"""Of the candidate's answers that may be slower than `latency.p99_ms`."""


class Attempts:
    """The fold over the attempts.

    Attributes:
        errors: paired differences of failures; None where the policy has no goal for them.
        requests: failures over all requests, interval by interval, for harm alone.
        latency: of the candidate's answers how many are late, for advancing; slow: the same in this trial, for harm.
        late: of those that `latency` counts against the candidate: how many, by cause.
        lost: dropped rehearsals of the candidate that count as late for advancing: in all, and in the step.
        drops: by metric, since each leaves out as many as its own margin tolerates.
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
        """Count the attempts at a row that both models had their chance at.

        Args:
            whose: the variant whose answer is unknown (see `scoring.unknown`), or None.
            harm: whether the row counts for harm: not in an incident that is counted already, nor in an earlier trial.
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
            # A row to which the primary gave no answer either says nothing about how fast the candidate is.
            self.drops["latency"].counts(dropped=False, in_step=in_step)
            self._timed(o.candidate, in_step=in_step, harm=harm)

    def _timed(self, answer: Attempt, *, in_step: bool, harm: bool) -> None:
        # What gave no answer was not fast, however soon it failed: it is charged here too, under its own cause.
        cause = self._late(answer)
        for evidence in self.latency.parts(in_step=in_step):
            evidence.update(cause is not None)
        if harm:
            self.slow.update(cause is not None)
        if cause is not None:
            self.late[cause] = self.late.get(cause, 0) + 1

    def _late(self, answer: Attempt) -> str | None:
        """Why an answer does not count as in time; None where it does."""
        if answer.status is not Status.OK:
            return answer.status.value
        return SLOW if answer.seconds * 1000 > self._limit_ms else None

    def begin_step(self) -> None:
        """The plan has moved on."""
        if self.errors is not None:
            self.errors.begin_step()
        self.latency.begin_step()
        self.lost[1] = 0
        for drops in self.drops.values():
            drops.begin_step()

    def begin_trial(self) -> None:
        """Begin the evidence for harm anew."""
        if self.errors is not None:
            self.errors.begin_trial()
        if self.requests is not None:
            self.requests.begin_trial()
        self.slow, self.incidents = RateEvidence(), Incidents()

    def readings(self, alpha: float) -> list[MetricReading]:
        """The metrics, with bands at `alpha` on each side."""
        found = []
        if self.errors is not None and self.requests is not None and self._errors is not None:
            whole, margin = self.errors.whole, self._errors.margin
            gap, variance = (margin - whole.mean, whole.variance) if whole.n else (margin, 0.0)
            found.append(
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
            found.append(
                MetricReading("request_errors", self.requests.mean, none, none, harm.n, 0, margin, None, harm.log_e())
            )
        slow = self.latency.whole
        rate = slow.mean if slow.n else 0.0
        # Rehearsals that were dropped may all have been slow.
        parts = zip((slow, self.latency.step), self.lost, strict=True)
        advance = min(part.assuming(True, lost).log_e_below(SLOW_SHARE) for part, lost in parts)
        found.append(
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
        return found

    def state(self) -> dict[str, Any]:
        """As JSON."""
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

    def take(self, state: Mapping[str, Any]) -> None:
        """Take over a stored state.

        Raises:
            ValueError: when it was made with other margins.
        """
        if self.errors is not None and self.requests is not None:
            self.errors = self.errors.resume(state["errors"])
            self.requests.take(state["requests"])
        self.latency.take(state["latency"])
        self.slow = self.slow.resume(state["slow"])
        self.late, self.lost = dict(state["late"]), list(state["lost"])
        self.incidents.take(state["incidents"])
        for name, drops in self.drops.items():
            drops.take(state["drops"][name])
