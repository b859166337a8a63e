"""Evidence from who answered: the split, failures, latency, and quality where pairs cannot show it. Pure.

Chance decided who answers these requests, with the share that each row carries, and that is all that is assumed. A key keeps
its caller on one variant, so only its first request was drawn by chance: the others count for latency, which is the
system's and not the caller's, and for nothing else. What was served outside a canary (no share, or all of it) is not here.
"""

import math
from collections.abc import Mapping
from typing import Any

from understudy.domain import SHARE_ONE, Observation, Status, Variant
from understudy.rollout.policy import Policy
from understudy.rollout.reading import MetricReading
from understudy.rollout.returning import Returning
from understudy.rollout.scoring import AWAY, OWED, Pair, counts
from understudy.rollout.sequential import AttributionEvidence, IpwDifference, LatencyEvidence, SplitGuard, crossed
from understudy.rollout.sequential.staged import Staged
from understudy.rollout.unit_dedup import Firsts

SPLIT_ALPHA = 0.001
"""A split that is wrong holds the rollout for good, so it takes more to say so than the usual one in twenty."""

LATENCY_LOWEST_S = 0.001
"""Faster answers count as this fast: ratios are compared from 1 ms up, so two models that are faster are equally fast."""


class Served:
    """The fold over rows that chance drew."""

    def __init__(self, policy: Policy) -> None:
        goals = policy.goals
        self._ratios = goals.latency.ratio.levels() if goals.latency.ratio else {}
        self._errors_ratio = goals.errors.ratio if goals.errors else None
        self.split, self.labelled = SplitGuard(), SplitGuard()
        self.failures = AttributionEvidence()
        self.latency, self.slower = (
            Staged(LatencyEvidence),
            LatencyEvidence(),
        )  # for advancing, and for harm in this trial
        self._policy = policy
        self._line = goals.quality
        served = goals.quality is not None and goals.quality.evidence == "served"
        # What is missing is the worst for advancing and the best for harm: two streams, each with a centre of its own.
        self.worst = Staged(lambda: IpwDifference(policy.smallest_share)) if served else None
        self.best = IpwDifference(policy.smallest_share) if served else None
        self.harm = IpwDifference(policy.smallest_share) if served else None  # as `best`, of this trial alone
        self.failed_again = Returning(AttributionEvidence) if self._errors_ratio is not None else None
        self.worse_again = Returning(lambda: IpwDifference(policy.smallest_share)) if served else None
        self._keys, self._keys_settled = Firsts(), Firsts()

    def see(self, o: Observation, *, in_step: bool, harm: bool = True) -> None:
        """Count a row as it comes: who was drawn, whether it failed, and how long it took.

        Args:
            harm: whether it counts for harm: not in an incident that is counted already, nor in an earlier trial.
        """
        if o.point is None or not counts(o):
            return
        drawn = o.drawn
        answer, share, candidate = o.attempt(drawn), o.share / SHARE_ONE, drawn is Variant.CANDIDATE
        if answer.status in OWED:
            # No answer was not a fast one. Below the histogram's first edge nothing is told apart, so there all count alike.
            seconds = max(answer.seconds, LATENCY_LOWEST_S) if answer.status is Status.OK else math.inf
            for evidence in self.latency.parts(in_step=in_step):
                evidence.update(candidate=seconds) if candidate else evidence.update(primary=seconds)
            if harm:
                self.slower.update(candidate=seconds) if candidate else self.slower.update(primary=seconds)
        first = self._keys.first_ever(o.point)
        if first:
            self.split.update(candidate=candidate, share=share)
        if not harm:
            return
        again = list(self.failed_again.first(o.point, o.at)) if self.failed_again is not None else []
        if answer.status in OWED and answer.status is not Status.OK:
            for failures in [*again, *([self.failures] if first else [])]:
                failures.update(candidate=candidate, share=share)

    def settle(self, o: Observation, pair: Pair, *, in_step: bool, harm: bool = True) -> None:
        """Count a settled row: whether its label came, and its loss where quality is judged by what was served.

        Args:
            harm: whether it counts for harm: not where an earlier trial routed it.
        """
        if o.point is None:
            return
        candidate, share, first = (
            o.drawn is Variant.CANDIDATE,
            o.share / SHARE_ONE,
            self._keys_settled.first_ever(o.point),
        )
        if first and (pair.labelled or pair.lost):
            self.labelled.update(candidate=candidate, share=share)
        if (
            self.worst is None
            or self.best is None
            or self.harm is None
            or self.worse_again is None
            or pair.kind == AWAY
        ):
            return
        if min(share, 1.0 - share) < self._policy.smallest_share:
            return  # a weight set by hand below every step: known before the request, so leaving it out is fair
        best = list(self.worse_again.first(o.point, o.at)) if harm else []
        if first:
            for evidence in self.worst.parts(in_step=in_step):
                evidence.update(candidate, pair.worst, share)
            best += [self.best, self.harm] if harm else [self.best]
        for evidence in best:
            evidence.update(candidate, pair.best, share)

    def begin_step(self) -> None:
        """The plan has moved on."""
        self.latency.begin_step()
        if self.worst is not None:
            self.worst.begin_step()

    def begin_trial(self) -> None:
        """Begin the evidence for harm anew; what serves for advancing goes on."""
        share = self._policy.smallest_share
        self.slower, self.failures = LatencyEvidence(), AttributionEvidence()
        if self.failed_again is not None:
            self.failed_again = Returning(AttributionEvidence)
        if self.harm is not None:
            self.harm, self.worse_again = IpwDifference(share), Returning(lambda: IpwDifference(share))

    def doubts(self) -> tuple[str, ...]:
        """Why what was served is no evidence; nobody is proven bad by it."""
        found = []
        for guard, what in ((self.split, "callers"), (self.labelled, "labelled callers")):
            if guard.n and crossed(guard.log_e(), SPLIT_ALPHA):
                planned = sum(share * (ours + theirs) for share, ours, theirs in guard.rows()) / guard.n
                found.append(
                    f"{guard.hits / guard.n:.2%} of {guard.n:,} {what} were the candidate's where {planned:.2%} were planned"
                )
        return tuple(found)

    def readings(self, alpha: float, *, serving: bool) -> list[MetricReading]:
        """The metrics that the policy asks for. They gate an advance only where the candidate answers (`serving`)."""
        found = []
        if self.worst is not None and self.best is not None and self._line is not None:
            found.append(self._quality(self.worst, self.best, alpha, serving=serving))
        if self._errors_ratio is not None:
            found.append(self._failures(self._errors_ratio))
        for name, level, ratio in ((n, q, r) for n, (q, r) in self._ratios.items()):
            found.append(self._latency(name, level, ratio, serving=serving))
        return found

    def _quality(
        self, worst: "Staged[IpwDifference]", best: IpwDifference, alpha: float, *, serving: bool
    ) -> MetricReading:
        assert self._line is not None
        scale, whole = self._line.scale, worst.whole
        margin = scale.bounded(self._line.margin)
        mean = max(-1.0, min(1.0, whole.mean)) if whole.n else 0.0
        advance = worst.least(lambda e: e.log_e_below(margin)) if serving else None
        assert self.harm is not None
        assert self.worse_again is not None
        line = scale.bounded(self._line.harm_line)
        harm = self.worse_again.log_e(self.harm.log_e_above(line), lambda e: e.log_e_above(line))
        return MetricReading(
            self._line.loss,
            mean,
            best.band(alpha)[0],
            whole.band(alpha)[1],
            whole.n,
            0,
            margin,
            advance,
            harm,
            margin - mean,
            whole.variance if whole.n else 0.0,
            largest=1.0 / self._policy.smallest_share,
        ).in_units_of(scale, self._line.margin)

    def _failures(self, ratio: float) -> MetricReading:
        n, hits, harm = self.failures.n, self.failures.hits, self.failures.log_e_above(ratio)
        if self.failed_again is not None:
            harm = self.failed_again.log_e(harm, lambda e: e.log_e_above(ratio))
        return MetricReading(
            "serving_errors",
            hits / n if n else 0.0,
            math.nan,
            math.nan,
            n,
            0,
            ratio,
            None,
            harm,
        )

    def _latency(self, name: str, level: float, ratio: float, *, serving: bool) -> MetricReading:
        whole = self.latency.whole
        steps, (primary, candidate) = whole.steps_within(ratio), whole.quantiles(level)
        estimate = candidate / primary if min(whole.n) else math.nan
        advance = self.latency.least(lambda e: e.log_e_within(level, steps)) if serving else None
        return MetricReading(
            f"latency_{name}",
            estimate,
            math.nan,
            math.nan,
            min(whole.n),
            0,
            ratio,
            advance,
            self.slower.log_e_slower(level, steps),
        )

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        kept: dict[str, Any] = {
            "split": self.split,
            "labelled": self.labelled,
            "failures": self.failures,
            "latency": self.latency,
            "slower": self.slower,
            "keys": self._keys,
            "keys_settled": self._keys_settled,
            "worst": self.worst,
            "best": self.best,
            "harm": self.harm,
            "failed_again": self.failed_again,
            "worse_again": self.worse_again,
        }
        return {name: None if part is None else part.state() for name, part in kept.items()}

    def take(self, state: Mapping[str, Any]) -> None:
        """Take over a stored state."""
        self.split, self.labelled = self.split.resume(state["split"]), self.labelled.resume(state["labelled"])
        self.failures = self.failures.resume(state["failures"])
        self.latency.take(state["latency"])
        self.slower = self.slower.resume(state["slower"])
        if self.worst is not None and self.best is not None:
            self.worst.take(state["worst"])
            self.best = self.best.resume(state["best"])
        if self.harm is not None and self.worse_again is not None:
            self.harm = self.harm.resume(state["harm"])
            self.worse_again.take(state["worse_again"])
        if self.failed_again is not None:
            self.failed_again.take(state["failed_again"])
        self._keys.take(state["keys"])
        self._keys_settled.take(state["keys_settled"])
