"""The verdict: advance, hold, or roll back, each with a reason in a sentence. Pure.

Harm is judged first: the largest of the metrics' e-values, divided by their number, is compared with the budget for wrong
rollbacks, over the whole rollout. (Their mean would be a little stronger, but they belong to different positions in the stream.)
Then come the conditions of the step (`until`, `require`, and whether requests were split as planned), which can only delay. Then
advance: the smallest of the metrics' e-values is compared with the budget for wrong promotions. Everything else is hold, with
what is missing and a forecast of how long that takes. Missing data never passes a goal and never fails one.

The error budget is split into two halves: one for any wrong rollback, one for any wrong advance. Neither is divided by the number
of steps: one process is tested over the whole rollout, and requiring new evidence at each step as well can only delay. Goals
that need live answers (`latency.ratio`, `quality.evidence: served`) are required at the steps that serve.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from understudy.domain import Phase
from understudy.rollout.documents import MetricDocument, VerdictDocument, VerdictKind
from understudy.rollout.funnel import why_unused
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep, Until
from understudy.rollout.reading import MetricReading, Standing
from understudy.rollout.sentences import blame, saturated, sentence, span
from understudy.rollout.sequential import crossed, labels_needed, log_e_all, threshold, to_blame

_PROMOTED_UNWATCHED = (
    "promoted: the old primary keeps rehearsing, and failures or slow answers still roll the candidate back; quality is no longer "
    "judged, since all callers get the candidate's answer and there is nothing to compare their labels with"
)
DROPS_SHOWN = 0.001
"""A reason mentions dropped rehearsals if they are more than this share of a step's rehearsals."""

OPERATOR, LABELS, REQUESTS, TIME = "operator", "labels", "requests", "time"
LOADTEST, APPROVAL = "loadtest", "approval"
"""What a hold may wait for. The last two are what a step may require (`policy.Require`)."""

_STANDING: Mapping[Phase, tuple[str, tuple[str, ...]]] = {
    Phase.PROMOTED: ("promoted: the old primary keeps rehearsing", ()),
    Phase.PAUSED: ("paused by an operator", (OPERATOR,)),
    Phase.WAITING: ("the evidence is sufficient; the next step waits for approval by an operator", (APPROVAL,)),
}
_NEEDS = {LOADTEST: "a load test", APPROVAL: "approval by an operator"}


@dataclass(frozen=True, slots=True)
class MetricVerdict:
    """The verdict on one metric by itself.

    Attributes:
        line: what the estimate is compared with: the margin, the allowed share of slow answers, or the target.
    """

    metric: str
    answer: VerdictKind
    estimate: float
    low: float
    high: float
    n: int
    reason: str
    line: float
    log_e_advance: float | None = None
    log_e_harm: float | None = None

    def as_dict(self) -> MetricDocument:
        """The metric as JSON values."""
        return {
            "metric": self.metric,
            "answer": self.answer,
            "estimate": _finite(self.estimate),
            "low": _finite(self.low),
            "high": _finite(self.high),
            "line": _finite(self.line),
            "n": self.n,
            "reason": self.reason,
            "log_e_advance": _finite(self.log_e_advance),
            "log_e_harm": _finite(self.log_e_harm),
        }


class Remaining(NamedTuple):
    """About how many more labels, requests and seconds an advance needs; None where that is unknown."""

    labels: int | None = None
    requests: int | None = None
    seconds: float | None = None

    def of(self, unit: str) -> int | None:
        """The remaining number of `labels` or `requests`."""
        return self.labels if unit == LABELS else self.requests


_UNKNOWN = Remaining()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on the rollout, with the numbers behind it.

    Attributes:
        alpha_harm: this trial's part of the budget for any wrong rollback.
        alpha_advance: the budget for any wrong advance.
        log_e_harm: the log e-value that was compared with log 1/alpha_harm.
        log_e_advance: the log e-value that was compared with log 1/alpha_advance.
        left: about how much more an advance needs.
        requires: requirements of the next step that are not met, if nothing else is missing.
        waits_for: the next things that an advance waits for: `labels`, `requests`, `time`, `loadtest`, `approval` or `operator`.
    """

    answer: VerdictKind
    reason: str
    metrics: Sequence[MetricVerdict]
    alpha_harm: float
    alpha_advance: float
    log_e_harm: float
    log_e_advance: float
    left: Remaining = _UNKNOWN
    requires: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()

    def as_dict(self) -> VerdictDocument:
        """The verdict as JSON values."""
        return {
            "answer": self.answer,
            "reason": self.reason,
            "error_budget": {"harm": self.alpha_harm, "advance": self.alpha_advance},
            "log_e_harm": _finite(self.log_e_harm),
            "log_e_advance": _finite(self.log_e_advance),
            "labels_left": self.left.labels,
            "requests_left": self.left.requests,
            "seconds_left": self.left.seconds,
            "waits_for": list(self.waits_for),
        }


def trial_budget(policy: Policy, trial: int) -> float:
    r"""The part of the harm budget for a trial: half of the budget for the first trial, and half of the last part for each retry.

    The sum is at most the harm budget, however often an operator retries.

    >>> from understudy.rollout.policy import parse
    >>> own = parse("model: m\ntask: binary-classification\nprimary: a\ncandidate: b\n")
    >>> [trial_budget(own, trial) for trial in (1, 2, 3)]
    [0.0125, 0.00625, 0.003125]
    """
    return budgets(policy)[0] * 2.0**-trial


def budgets(policy: Policy) -> tuple[float, float]:
    """The two halves of the error budget: for any wrong rollback, and for any wrong advance."""
    return policy.goals.error_budget / 2, policy.goals.error_budget / 2


def judge(
    policy: Policy,
    phase: Phase,
    step: int,
    readings: Sequence[MetricReading],
    standing: Standing,
) -> Verdict:
    """The verdict at a step.

    Args:
        phase: an advance is judged in shadow and canary alone, harm in every phase.
        step: index into the policy's steps; -1 if the weight was set by hand, and then only harm is judged.
        readings: every metric.
        standing: the progress of the rollout.
    """
    alpha_harm, alpha_advance = trial_budget(policy, standing.trial), budgets(policy)[1]
    metrics = [_metric(reading, alpha_harm, alpha_advance) for reading in readings]
    harms = {r.metric: r.log_e_harm for r in readings if r.log_e_harm is not None}
    advances = {r.metric: r.log_e_advance for r in readings if r.log_e_advance is not None}
    log_e_harm = max(harms.values()) - math.log(len(harms)) if harms else 0.0
    log_e_advance = log_e_all(advances) if advances else 0.0

    def verdict(kind: VerdictKind, reason: str, waits_for: tuple[str, ...] = (), left: Remaining = _UNKNOWN) -> Verdict:
        return Verdict(
            kind, reason, metrics, alpha_harm, alpha_advance, log_e_harm, log_e_advance, left, waits_for=waits_for
        )

    if harms and crossed(log_e_harm, alpha_harm):
        return verdict("rollback", blame(next(r for r in readings if r.metric == to_blame(harms)), budgets(policy)[0]))
    reason, waits_for = (
        _settled(policy, phase, step)
        if advances
        else ("no goal is set by which an advance could be judged: add one to the rollout file", ())
    )
    if reason:
        return verdict("hold", reason, waits_for)
    left = _forecast(readings, alpha_advance, standing.elapsed_s)
    if unmet := _unmet(policy, step, standing):
        return verdict("hold", unmet[0], (unmet[1],), left)
    if not crossed(log_e_advance, alpha_advance):
        slow = next(r for r in readings if r.log_e_advance is not None and r.log_e_advance == log_e_advance)
        return verdict("hold", _not_yet(slow, standing, left), _short(readings, alpha_advance), left)
    following = policy.steps[step + 1] if step + 1 < len(policy.steps) else "promote"
    required = (
        tuple(sorted(set(following.require) - standing.met)) if isinstance(following, ShadowStep | CanaryStep) else ()
    )
    if required:
        needs = " and ".join(_NEEDS[each] for each in required)
        reason = f"the evidence is sufficient; the next step waits for {needs}"
        return replace(verdict("hold", reason, required), requires=required)
    proven = ", ".join(sentence(r) for r in readings if r.log_e_advance is not None)
    risk = f"chance of any wrong advance: {alpha_advance:.2%}"
    return verdict("advance", f"{proven}: every goal of this step is met ({risk})")


def serving(policy: Policy, step: int) -> bool:
    """Whether the candidate answers callers at a step."""
    return 0 <= step < len(policy.steps) and isinstance(policy.steps[step], CanaryStep)


def _settled(policy: Policy, phase: Phase, step: int) -> tuple[str | None, tuple[str, ...]]:
    """Why the rollout cannot advance, whatever the evidence, and what it waits for."""
    if phase is Phase.PROMOTED and policy.goals.quality is not None and policy.goals.quality.evidence == "served":
        return _PROMOTED_UNWATCHED, ()
    if phase in _STANDING:
        return _STANDING[phase]
    if step < 0:
        return "the weight was set by hand: only harm is judged until an operator promotes", (OPERATOR,)
    return ("there is no further step" if step >= len(policy.steps) else None), ()


def _metric(reading: MetricReading, alpha_harm: float, alpha_advance: float) -> MetricVerdict:
    kind: VerdictKind = "hold"
    reason = sentence(reading)
    if reading.metric == "poc_target":
        where = "is met" if reading.high <= reading.line else "is not decided yet"
        where = "is missed" if reading.low > reading.line else where
        mean = f"its mean {reading.words or 'loss'} is {reading.estimate:,.{reading.digits}f}"
        reason = f"the primary's own target of {reading.line:,.10g} {where}: {mean}"
    elif reading.log_e_harm is not None and crossed(reading.log_e_harm, alpha_harm):
        kind, reason = "rollback", f"{reason}: worse than allowed"
    elif reading.log_e_advance is not None and crossed(reading.log_e_advance, alpha_advance):
        kind, reason = "advance", f"{reason}: the goal is met"
    elif reading.log_e_advance is None and reading.log_e_harm is not None:
        reason = f"{reason}: no harm found so far" if reading.n else reason
    else:
        reason = f"{reason}: not decided yet"
    return MetricVerdict(
        reading.metric,
        kind,
        reading.estimate,
        reading.low,
        reading.high,
        reading.n,
        reason,
        reading.line,
        reading.log_e_advance,
        reading.log_e_harm,
    )


def _unmet(policy: Policy, step: int, standing: Standing) -> tuple[str, str] | None:
    """The first condition of the step that is not met, in a sentence, and what it waits for."""
    if standing.doubts and serving(policy, step):
        return (
            f"{'; '.join(standing.doubts)}: find the cause first; until then served evidence cannot be trusted",
            OPERATOR,
        )
    current = policy.steps[step]
    until = (current.until if isinstance(current, ShadowStep | CanaryStep) else None) or Until()
    quality = policy.goals.quality
    asked = (
        quality is not None and quality.scale.loss.labelled and (quality.evidence == "paired" or serving(policy, step))
    )
    unused = why_unused(standing.labels_by_use, standing.step_labels)
    if asked and not standing.labels:
        return (
            "no labelled pair yet, so quality cannot be judged" + unused,
            LABELS,
        )
    if asked and quality is not None and (cut := standing.clipped.too_many):
        return saturated(cut[0], standing.clipped, quality.scale), OPERATOR
    for have, wanted, size, what in (
        (standing.step_labels, until.labels, 1, LABELS),
        (standing.step_requests, until.requests, 1, REQUESTS),
        (standing.step_s, until.duration, 3600, TIME),
    ):
        if wanted is not None and have < wanted:
            numbers = f"{have:,} of the {wanted:,}" if size == 1 else f"{have / size:.1f} of the {wanted / size:.1f}"
            return (
                f"{numbers} {'hours' if what == TIME else what} that this step needs{unused if what == LABELS else ''}",
                what,
            )
    return None


def _short(readings: Sequence[MetricReading], alpha: float) -> tuple[str, ...]:
    """What the metrics that do not allow an advance yet wait for."""
    return tuple(
        dict.fromkeys(r.unit for r in readings if r.log_e_advance is not None and not crossed(r.log_e_advance, alpha))
    )


def _not_yet(r: MetricReading, standing: Standing, left: Remaining) -> str:
    text = f"{sentence(r)}: not decided yet"
    if r.pending:
        text += f"; {r.pending:,} pairs wait for their label and count as the worst case until then"
    if standing.dropped > DROPS_SHOWN * standing.drawn:
        text += (
            f"; {standing.dropped / standing.drawn:.1%} of this step's rehearsals were dropped because too many waited, and count "
            "as the worst case: rehearse fewer requests, or give the candidate more capacity"
        )
    share = standing.coverage.share
    if r.unit == LABELS and share is not None and share < 0.995:
        text += f"; {1 - share:.1%} of the settled pairs never got a label"
    if left.labels is None:
        return text + (
            "; at the present estimate it would never be decided" if r.n else f"; no {r.unit} have counted yet"
        )
    more = [f"{count:,} more {unit}" for unit in (LABELS, REQUESTS) if (count := left.of(unit))]
    if more:
        text += f"; about {' and '.join(more)}"
        if left.seconds is not None:
            text += f", {span(left.seconds)} at the present rate"
    return text


def _forecast(readings: Sequence[MetricReading], alpha: float, elapsed_s: float) -> Remaining:
    """About how many more labels, requests and seconds until every metric would allow an advance."""
    needed = {LABELS: 0, REQUESTS: 0}
    seconds = 0.0
    for r in readings:
        if r.log_e_advance is None or r.log_e_advance >= threshold(alpha):
            continue
        log_e = max(r.log_e_advance, 0.0)
        forecast = labels_needed(alpha, r.variance, r.gap, log_e, largest=r.largest) if r.n else None
        if forecast is None:
            return _UNKNOWN
        needed[r.unit] = max(needed[r.unit], forecast.about)
        if r.n and elapsed_s:
            seconds = max(seconds, forecast.about * elapsed_s / r.n)
    return Remaining(needed[LABELS], needed[REQUESTS], seconds or None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
