"""Served evidence: the split, failures, latency, and quality where pairs cannot be used. Pure.

The only assumption is that chance decided which variant answers each request, with the share that the row carries. A key keeps
its caller on one variant, so only its first request was drawn by chance. Later requests count for latency, which belongs to the
system and not to the caller, and for nothing else. Requests outside a canary (a share of 0 or 100 %) do not count here.
"""

import math
from typing import TypedDict

from understudy.domain import SHARE_ONE, Observation, Status, Variant
from understudy.rollout.policy import Policy
from understudy.rollout.reading import MetricReading
from understudy.rollout.returning import ReturningCallers, ReturningState
from understudy.rollout.scoring import AWAY, OWED, Pair, counts
from understudy.rollout.sequential import AttributionEvidence, IpwDifference, LatencyEvidence, SplitGuard, crossed
from understudy.rollout.sequential.base import State
from understudy.rollout.sequential.ipw import IpwTotals
from understudy.rollout.sequential.latency import LatencyTotals
from understudy.rollout.sequential.shares import ShareTotals
from understudy.rollout.sequential.staged import Staged, StagedState
from understudy.rollout.unit_dedup import FirstRequests

SPLIT_ALPHA = 0.001
"""Error level of the split guards. A wrong split holds the rollout until an operator acts, so the level is lower than 5 %."""

LATENCY_LOWEST_S = 0.001
"""Faster answers count as this fast: ratios are compared from 1 ms up, so two models that are both faster count as equal."""


class ServedState(TypedDict):
    """The stored form of `ServedEvidence`."""

    split: State[ShareTotals]
    labelled: State[ShareTotals]
    failures: State[ShareTotals]
    latency: StagedState
    slower: State[LatencyTotals]
    keys: dict[str, str]
    keys_settled: dict[str, str]
    worst: StagedState | None
    best: State[IpwTotals] | None
    harm: State[IpwTotals] | None
    failed_again: ReturningState | None
    worse_again: ReturningState | None


class ServedEvidence:
    """Sums up rows whose variant was drawn by chance."""

    def __init__(self, policy: Policy) -> None:
        goals = policy.goals
        self._ratios = goals.latency.ratio.levels() if goals.latency.ratio else {}
        self._errors_ratio = goals.errors.ratio if goals.errors else None
        self.split, self.labelled = SplitGuard(), SplitGuard()
        self.failures = AttributionEvidence()
        self.latency = Staged(LatencyEvidence)  # for an advance
        self.slower = LatencyEvidence()  # for harm in this trial
        self._policy = policy
        self._line = goals.quality
        served = goals.quality is not None and goals.quality.evidence == "served"
        # A missing label counts as the worst case for an advance and as the best for harm: two streams, each with its own centre.
        self.worst = Staged(lambda: IpwDifference(policy.smallest_share)) if served else None
        self.best = IpwDifference(policy.smallest_share) if served else None
        self.harm = IpwDifference(policy.smallest_share) if served else None  # as `best`, in this trial alone
        self.failed_again = ReturningCallers(AttributionEvidence) if self._errors_ratio is not None else None
        self.worse_again = ReturningCallers(lambda: IpwDifference(policy.smallest_share)) if served else None
        self._keys, self._keys_settled = FirstRequests(), FirstRequests()

    def see(self, o: Observation, at: float, *, in_step: bool, harm: bool = True) -> None:
        """Count a row when it is read: its variant, whether it failed, and how long it took.

        Args:
            at: when it happened, on the one clock of all time bases (`TimeBases.lived`).
            in_step: whether the row was routed by the current step's plan.
            harm: whether it counts for harm: not during an incident, nor in an earlier trial.
        """
        if o.point is None or not counts(o):
            return
        drawn = o.drawn
        attempt, share, candidate = o.attempt(drawn), o.share / SHARE_ONE, drawn is Variant.CANDIDATE
        if self._ratios and attempt.status in OWED:
            # A failure counts as infinitely slow. The histogram does not resolve times below its first edge.
            seconds = max(attempt.seconds, LATENCY_LOWEST_S) if attempt.status is Status.OK else math.inf
            for evidence in self.latency.parts(in_step=in_step):
                evidence.update(candidate=seconds) if candidate else evidence.update(primary=seconds)
            if harm:
                self.slower.update(candidate=seconds) if candidate else self.slower.update(primary=seconds)
        first = self._keys.first_ever(o.point)
        if first:
            self.split.update(candidate=candidate, share=share)
        if not harm:
            return
        again = list(self.failed_again.first(o.point, at)) if self.failed_again is not None else []
        if attempt.status in OWED and attempt.status is not Status.OK:
            for failures in [*again, *([self.failures] if first else [])]:
                failures.update(candidate=candidate, share=share)

    def settle(self, o: Observation, pair: Pair, at: float, *, in_step: bool, harm: bool = True) -> None:
        """Count a settled row: whether its label came, and its loss if quality is judged by served evidence.

        Args:
            at: as in `see`.
            in_step: whether the row was routed by the current step's plan.
            harm: whether it counts for harm: not in an earlier trial.
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
            return  # a weight set by hand below every step; known before the request, so leaving it out is no bias
        best = list(self.worse_again.first(o.point, at)) if harm else []
        if first:
            for evidence in self.worst.parts(in_step=in_step):
                evidence.update(candidate, pair.worst, share)
            best += [self.best, self.harm] if harm else [self.best]
        for evidence in best:
            evidence.update(candidate, pair.best, share)

    def begin_step(self) -> None:
        """Start new evidence for a step."""
        self.latency.begin_step()
        if self.worst is not None:
            self.worst.begin_step()

    def begin_trial(self) -> None:
        """Start new evidence for harm. The evidence for an advance is kept."""
        share = self._policy.smallest_share
        self.slower, self.failures = LatencyEvidence(), AttributionEvidence()
        if self.failed_again is not None:
            self.failed_again = ReturningCallers(AttributionEvidence)
        if self.harm is not None:
            self.harm, self.worse_again = IpwDifference(share), ReturningCallers(lambda: IpwDifference(share))

    def doubts(self) -> tuple[str, ...]:
        """Why served evidence cannot be trusted. It says nothing about the models."""
        doubts = []
        for guard, what in ((self.split, "callers"), (self.labelled, "labelled callers")):
            if guard.n and crossed(guard.log_e(), SPLIT_ALPHA):
                planned = sum(share * (ours + theirs) for share, ours, theirs in guard.rows()) / guard.n
                doubts.append(
                    f"{guard.hits / guard.n:.2%} of {guard.n:,} {what} were routed to the candidate, but {planned:.2%} were planned"
                )
        return tuple(doubts)

    def readings(self, alpha: float, *, serving: bool) -> list[MetricReading]:
        """The metrics that the policy asks for. An advance depends on them only if the candidate answers callers (`serving`)."""
        readings = []
        if self.worst is not None and self.best is not None and self._line is not None:
            readings.append(self._quality(self.worst, self.best, alpha, serving=serving))
        if self._errors_ratio is not None:
            readings.append(self._failures(self._errors_ratio))
        for name, level, ratio in ((n, q, r) for n, (q, r) in self._ratios.items()):
            readings.append(self._latency(name, level, ratio, serving=serving))
        return readings

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

    def state(self) -> ServedState:
        """The stored form, as JSON values."""
        return {
            "split": self.split.state(),
            "labelled": self.labelled.state(),
            "failures": self.failures.state(),
            "latency": self.latency.state(),
            "slower": self.slower.state(),
            "keys": self._keys.state(),
            "keys_settled": self._keys_settled.state(),
            "worst": self.worst.state() if self.worst else None,
            "best": self.best.state() if self.best else None,
            "harm": self.harm.state() if self.harm else None,
            "failed_again": self.failed_again.state() if self.failed_again else None,
            "worse_again": self.worse_again.state() if self.worse_again else None,
        }

    def take(self, state: ServedState) -> None:
        """Restore a stored state."""
        self.split, self.labelled = self.split.resume(state["split"]), self.labelled.resume(state["labelled"])
        self.failures = self.failures.resume(state["failures"])
        self.latency.take(state["latency"])
        self.slower = self.slower.resume(state["slower"])
        if self.worst is not None and self.best is not None:
            assert state["worst"] is not None
            assert state["best"] is not None
            self.worst.take(state["worst"])
            self.best = self.best.resume(state["best"])
        if self.harm is not None and self.worse_again is not None:
            assert state["harm"] is not None
            assert state["worse_again"] is not None
            self.harm = self.harm.resume(state["harm"])
            self.worse_again.take(state["worse_again"])
        if self.failed_again is not None:
            assert state["failed_again"] is not None
            self.failed_again.take(state["failed_again"])
        self._keys.take(state["keys"])
        self._keys_settled.take(state["keys_settled"])
