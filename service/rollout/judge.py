"""The verdict: advance, hold, or roll back, each with a sentence that can be read aloud. Pure.

Harm is read first: the largest of the metrics' e-values, divided by their number, against the budget for wrong rollbacks, over the
whole rollout. (Their mean would be a little stronger, but they speak of different positions in the stream.)
Then the gates of the step (`until`, `require`), which may only delay. Then advance: the smallest of the metrics' e-values
against the budget for wrong promotions of this step. Everything else is hold, with what is missing and about how long that
takes; missing data is never a pass and never a fail.

The error budget is split in two halves: one for any wrong rollback, one for any wrong advance. Neither is divided by the number
of steps: what is compared is one process over the whole rollout, and asking each step for evidence of its own besides can
only delay.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from service.domain import Phase
from service.rollout.evidence import Coverage, Reading
from service.rollout.policy import CanaryStep, Policy, ShadowStep
from service.rollout.sequential import crossed, labels_needed, log_e_all, threshold, to_blame

Answer = Literal["advance", "hold", "rollback"]

_STANDING = {
    Phase.PROMOTED: "promoted: the old primary goes on rehearsing, and harm would still take the candidate off",
    Phase.PAUSED: "paused by a person; harm would still take the candidate off",
    Phase.WAITING: "waiting for a person; harm would still take the candidate off",
}


@dataclass(frozen=True, slots=True)
class MetricVerdict:
    """What one metric says by itself.

    Attributes:
        line: what the estimate is compared with: the margin, the share of slow answers that is allowed, or the target.
    """

    metric: str
    answer: Answer
    estimate: float
    low: float
    high: float
    n: int
    reason: str
    line: float
    log_e_advance: float | None = None
    log_e_harm: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As `GET /rollout` shows it; numbers that are not finite are null."""
        numbers = {name: _finite(getattr(self, name)) for name in ("estimate", "low", "high", "line")}
        logs = {name: _finite(getattr(self, name)) for name in ("log_e_advance", "log_e_harm")}
        return {"metric": self.metric, "answer": self.answer, **numbers, "n": self.n, "reason": self.reason, **logs}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer for the rollout, with the numbers behind it.

    Attributes:
        alpha_harm: the budget for any wrong rollback; alpha_advance: for any wrong advance.
        log_e_harm: and `log_e_advance`: what was compared with the logarithms of their inverses.
        requires: what the next step requires and does not have, when that is all that is missing.
        labels_left: about how many more labels an advance takes; None when that cannot be said.
    """

    answer: Answer
    reason: str
    metrics: Sequence[MetricVerdict]
    alpha_harm: float
    alpha_advance: float
    log_e_harm: float
    log_e_advance: float
    labels_left: int | None = None
    seconds_left: float | None = None
    requires: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "answer": self.answer, "reason": self.reason, "error_budget": {"harm": self.alpha_harm, "advance": self.alpha_advance},
            "log_e_harm": _finite(self.log_e_harm), "log_e_advance": _finite(self.log_e_advance),
            "labels_left": self.labels_left, "seconds_left": self.seconds_left,
        }  # fmt: skip


def budgets(policy: Policy) -> tuple[float, float]:
    """The error budget's halves: for any wrong rollback, and for any wrong advance."""
    return policy.goals.error_budget / 2, policy.goals.error_budget / 2


def judge(
    policy: Policy,
    phase: Phase,
    step: int,
    readings: Sequence[Reading],
    coverage: Coverage,
    *,
    elapsed_s: float,
    met: frozenset[str] = frozenset(),
) -> Verdict:
    """The verdict at a step.

    Args:
        phase: forward moves are judged in shadow and canary alone, harm everywhere.
        step: index into the policy's steps; -1 when the weight was set by hand, where only harm is judged.
        elapsed_s: event time since the rollout's first request, for the forecast.
        met: requirements that are fulfilled ("loadtest", "approval").
    """
    alpha_harm, alpha_advance = budgets(policy)
    metrics = [_metric(reading, alpha_harm, alpha_advance) for reading in readings]
    harms = {r.metric: r.log_e_harm for r in readings if r.log_e_harm is not None}
    gates = {r.metric: r.log_e_advance for r in readings if r.log_e_advance is not None}
    log_e_harm = max(harms.values()) - math.log(len(harms)) if harms else 0.0
    log_e_advance = log_e_all(gates) if gates else 0.0

    def verdict(answer: Answer, reason: str, **left: Any) -> Verdict:
        return Verdict(answer, reason, metrics, alpha_harm, alpha_advance, log_e_harm, log_e_advance, **left)

    if harms and crossed(log_e_harm, alpha_harm):
        return verdict("rollback", _blame(next(r for r in readings if r.metric == to_blame(harms)), alpha_harm))
    standing = _standing(policy, phase, step) if gates else "no goal is set that an advance could be judged by"
    if standing:
        return verdict("hold", standing)
    if waiting := _unmet(policy, step, readings, elapsed_s):
        return verdict("hold", waiting, **_forecast(readings, alpha_advance, elapsed_s))
    if not crossed(log_e_advance, alpha_advance):
        slow = next(r for r in readings if r.log_e_advance is not None and r.log_e_advance == log_e_advance)
        left = _forecast(readings, alpha_advance, elapsed_s)
        return verdict("hold", _not_yet(slow, coverage, left), **left)
    following = policy.steps[step + 1] if step + 1 < len(policy.steps) else "promote"
    required = sorted(set(following.require) - met) if isinstance(following, ShadowStep | CanaryStep) else []
    if required:
        reason = f"the evidence is there; the next step requires {' and '.join(required)}"
        return verdict("hold", reason, requires=tuple(required))
    proven = ", ".join(_sentence(r) for r in readings if r.log_e_advance is not None)
    risk = f"chance of any wrong advance: {alpha_advance:.2%}"
    return verdict("advance", f"{proven}: every goal of this step is met ({risk})")


def _standing(policy: Policy, phase: Phase, step: int) -> str | None:
    """Why there is nothing to advance to, whatever the evidence."""
    if phase in _STANDING:
        return _STANDING[phase]
    if step < 0:
        return "the weight was set by hand: only harm is judged"
    return "there is no further step" if step >= len(policy.steps) else None


def _metric(reading: Reading, alpha_harm: float, alpha_advance: float) -> MetricVerdict:
    answer: Answer = "hold"
    reason = _sentence(reading)
    if reading.metric == "poc_target":
        where = "is met" if reading.high <= reading.line else "is not decided yet"
        where = "is missed" if reading.low > reading.line else where
        reason = f"the primary's own target of {reading.line:g} {where}: {reading.estimate:.4f}"
    elif reading.log_e_harm is not None and crossed(reading.log_e_harm, alpha_harm):
        answer, reason = "rollback", f"{reason}: worse than allowed"
    elif reading.log_e_advance is not None and crossed(reading.log_e_advance, alpha_advance):
        answer, reason = "advance", f"{reason}: the goal is met"
    else:
        reason = f"{reason}: not decided yet"
    return MetricVerdict(
        reading.metric, answer, reading.estimate, reading.low, reading.high, reading.n, reason, reading.line,
        reading.log_e_advance, reading.log_e_harm,
    )  # fmt: skip


def _sentence(r: Reading) -> str:
    if r.metric == "latency":
        return f"after {r.n:,} requests {r.estimate:.2%} of the candidate's answers are slower than the limit (1 % are allowed)"
    if r.metric == "errors":
        more = "more" if r.estimate >= 0 else "fewer"
        band = f"between {-r.low:.2%} fewer and {r.high:.2%} more"
        rate = f"{abs(r.estimate):.2%} {more} requests ({band}; {r.line:.2%} more are allowed)"
        return f"after {r.n:,} pairs the candidate fails {rate}"
    what = r.metric.replace("_", "-")
    side = "better" if r.estimate < 0 else "worse"
    return (
        f"after {r.n:,} pairs the candidate's {what} is {abs(r.estimate):.4f} {side} ({_between(r.low, r.high)}; "
        f"{r.line:g} worse is allowed)"
    )


def _between(low: float, high: float) -> str:
    """A band in words, better first."""
    if high < 0:
        return f"between {-high:.4f} and {-low:.4f} better"
    if low > 0:
        return f"between {low:.4f} and {high:.4f} worse"
    return f"between {-low:.4f} better and {high:.4f} worse"


def _blame(r: Reading, alpha: float) -> str:
    if r.metric == "latency":
        return f"{_sentence(r)}: too slow (chance of any wrong rollback: {alpha:.2%})"
    return f"{_sentence(r)}: worse than the harm line (chance of any wrong rollback: {alpha:.2%})"


def _unmet(policy: Policy, step: int, readings: Sequence[Reading], elapsed_s: float) -> str | None:
    current = policy.steps[step]
    until = current.until if isinstance(current, ShadowStep | CanaryStep) else None
    quality = policy.goals.quality
    labels = next((r.labelled for r in readings if quality and r.metric == quality.loss), 0)
    if quality is not None and not labels:
        return "no labelled pair yet: nothing can be said about quality, and that is neither good nor bad"
    if until is None:
        return None
    if until.labels is not None and labels < until.labels:
        return f"{labels:,} of the {until.labels:,} labels that this step asks for"
    requests = max((r.n for r in readings), default=0)
    if until.requests is not None and requests < until.requests:
        return f"{requests:,} of the {until.requests:,} requests that this step asks for"
    if until.duration is not None and elapsed_s < until.duration:
        return f"{elapsed_s / 3600:.1f} of the {until.duration / 3600:.1f} hours that this step asks for"
    return None


def _not_yet(r: Reading, coverage: Coverage, left: dict[str, Any]) -> str:
    text = f"{_sentence(r)}: not decided yet"
    if r.pending:
        text += f"; {r.pending:,} pairs wait for their label and count as the worst case until then"
    if coverage.share is not None and coverage.share < 0.995:
        text += f"; {1 - coverage.share:.1%} of the settled pairs never got one"
    if left.get("labels_left") is not None:
        text += f"; about {left['labels_left']:,} more labels"
        if left.get("seconds_left") is not None:
            text += f", {_span(left['seconds_left'])} at the present rate"
    else:
        text += "; at the present estimate it would never be decided"
    return text


def _forecast(readings: Sequence[Reading], alpha: float, elapsed_s: float) -> dict[str, Any]:
    """About how many more pairs, and seconds, until every metric would allow an advance."""
    needed = 0
    seconds = 0.0
    for r in readings:
        if r.log_e_advance is None or r.log_e_advance >= threshold(alpha):
            continue
        forecast = labels_needed(alpha, r.variance, r.gap, max(r.log_e_advance, 0.0)) if r.n else None
        if forecast is None:
            return {"labels_left": None, "seconds_left": None}
        needed = max(needed, forecast.about)
        if r.n and elapsed_s:
            seconds = max(seconds, forecast.about * elapsed_s / r.n)
    return {"labels_left": needed, "seconds_left": seconds or None}


def _span(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
