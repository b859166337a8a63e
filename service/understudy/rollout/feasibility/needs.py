"""How much evidence each goal takes: pairs, labels and requests for one step, about, and under which assumption. Pure.

For people who plan, never for the verdict itself. The numbers assume two equal models, so half of all rollouts of equal models take
fewer. A candidate that is better takes less, and one that is nearly as bad as the margin allows takes much more.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from understudy.domain import SHARE_ONE
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep
from understudy.rollout.sequential import LatencyEvidence, crossed, labels_needed, split_variance

FAILURES = 0.001
"""Assumed share of requests that each model fails, independently of the other."""
SLOW = 0.002
"""Assumed share of the candidate's answers that are slower than the p99 limit; 1 % are allowed."""
SLOW_ALLOWED = 0.01
SPREAD = {
    "zero_one": 0.10,
    "brier": 0.04,
    "log_loss": 0.04,
    "absolute_error": 0.04,
    "squared_error": 0.04,
    "hamming": 0.04,
}
"""Assumed variance of a pair's difference, as a share of the largest loss squared: for `zero_one`, models that disagree on 10 % of
the rows; for the others, a standard deviation of a fifth of the largest loss."""
DIFFERENT = 0.5
"""Assumed share of rows whose answers differ, as a part of the allowed one, for `disagreement`."""
SPREAD_OTHER = 1.0
"""Of any other loss: the largest that there is, where each row is won or lost."""
ALIKE = 0.01
"""Two models may be so alike that the variance is this part of the assumed one; what takes for ever then as well is refused."""
LATENCY_SPREAD = 0.5
"""Assumed standard deviation of the logarithm of a latency."""
LATENCY_MOST = 2**27
"""More answers of each model than this never come."""


@dataclass(frozen=True, slots=True)
class Amount:
    """What one goal takes at one step; a number is None where it would take for ever.

    Attributes:
        labels: that count, None also where the goal needs none. requests: that arrive in the step.
        never: whether the goal cannot be decided at this step even by models that are much more alike than assumed.
    """

    labels: int | None
    requests: int | None
    never: bool = False


NEVER = Amount(None, None, never=True)


def pair_share(step: object) -> float:
    """Of a step's requests, the share that both models score."""
    if isinstance(step, ShadowStep):
        return step.shadow / SHARE_ONE
    return step.rehearse / SHARE_ONE if isinstance(step, CanaryStep) else 1.0


def drawn_share(step: object) -> float:
    """The smaller of the two models' shares of the answers where chance decides who answers; 0 elsewhere."""
    weight = step.canary / SHARE_ONE if isinstance(step, CanaryStep) else 0.0
    return min(weight, 1.0 - weight)


def quality(policy: Policy, step: object) -> Amount:
    """What the quality goal takes at a step."""
    goal = policy.goals.quality
    assert goal is not None
    alpha, margin = policy.goals.error_budget / 2, goal.margin / goal.scale.most
    variance, alike = (SPREAD[goal.loss], ALIKE) if goal.loss in SPREAD else (SPREAD_OTHER, 1.0)
    if goal.evidence == "served":
        if not drawn_share(step):
            return NEVER
        # The values are losses divided by a share, and no larger than 1 divided by the smallest of all steps.
        found = _pairs(
            alpha, split_variance(min(0.5, variance), drawn_share(step)), margin, alike, 1 / policy.smallest_share
        )
        return found if found.requests is None else Amount(found.requests, found.requests)
    if not goal.scale.loss.labelled:
        rate = DIFFERENT * margin
        return _of_pairs(policy, step, rate * (1 - rate), margin - rate)
    audit = 1.0 if policy.labels.audit is None else policy.labels.audit / SHARE_ONE
    # A sampled pair carries the weight of its chance.
    found = _pairs(alpha, variance / audit, margin, alike, 1 / audit)
    if found.requests is None or not pair_share(step):
        return found if pair_share(step) else NEVER
    return Amount(math.ceil(found.requests * audit), math.ceil(found.requests / pair_share(step)))


def errors(policy: Policy, step: object) -> Amount:
    """What the errors goal takes at a step."""
    assert policy.goals.errors is not None
    return _of_pairs(policy, step, 2 * FAILURES, policy.goals.errors.margin)


def latency(policy: Policy, step: object) -> Amount:
    """What the limit on p99 takes at a step."""
    return _of_pairs(policy, step, SLOW * (1 - SLOW), SLOW_ALLOWED - SLOW)


def _of_pairs(policy: Policy, step: object, variance: float, gap: float) -> Amount:
    found = _pairs(policy.goals.error_budget / 2, variance, gap, ALIKE, 1.0)
    if not pair_share(step):
        return NEVER
    return found if found.requests is None else Amount(None, math.ceil(found.requests / pair_share(step)))


def _pairs(alpha: float, variance: float, gap: float, alike: float, largest: float) -> Amount:
    """Pairs that tell a mean of 0 from a line, as `requests`; `never` where a variance smaller by `alike` is no way out either."""
    if (found := labels_needed(alpha, variance, gap, largest=largest)) is not None:
        return Amount(None, found.about)
    return Amount(None, None, never=labels_needed(alpha, variance * alike, gap, largest=largest) is None)


def ratio(policy: Policy, step: object) -> Amount:
    """What the ratios of `latency.ratio` take at a step, the slowest of them."""
    assert policy.goals.latency.ratio is not None
    share, alpha = drawn_share(step), policy.goals.error_budget / 2
    needed = [_answers(level, times, alpha) for level, times in policy.goals.latency.ratio.levels().values()]
    if not share or None in needed:
        return NEVER
    return Amount(None, math.ceil(max((n for n in needed if n is not None), default=0) / share))


@lru_cache(maxsize=64)
def _answers(level: float, times: float, alpha: float) -> int | None:
    """Answers of each model until equal latencies are known to be within a ratio, in powers of two; None for never."""
    n = 256
    while n <= LATENCY_MOST:
        seconds = LatencyEvidence()
        for latency_s, count in _latencies(n):
            seconds.update(primary=latency_s, candidate=latency_s, times=count)
        if crossed(seconds.log_e_within(level, seconds.steps_within(times)), alpha):
            return n
        n *= 2
    return None


def _latencies(n: int) -> list[tuple[float, int]]:
    """`n` latencies around 10 ms, log-normal: seconds, and how many."""
    growth, found, before = 0.02, [], 0
    for number in range(1, 201):
        z = -4.0 + 8.0 * number / 200
        below = round(n * (0.5 + 0.5 * math.erf(z / math.sqrt(2.0)))) if number < 200 else n
        if below > before:
            found.append((0.010 * math.exp(LATENCY_SPREAD * (z - growth)), below - before))
            before = below
    return found
