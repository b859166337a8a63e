"""The goals that gate an advance, what each takes at each step, and which of them take for ever. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from understudy.rollout.feasibility import needs
from understudy.rollout.feasibility.needs import Amount
from understudy.rollout.feasibility.problems import Problem
from understudy.rollout.policy import Policy

REQUESTS_MANY = 10_000_000
"""A step that takes more requests than this is warned about."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A goal that gates an advance: its key, what is to be shown, and what that takes at each step where it can be judged."""

    key: str
    says: str
    at: Mapping[int, Amount]

    @property
    def most(self) -> Amount:
        """What it takes at the step that takes most."""
        amounts = list(self.at.values())
        if not amounts or any(amount.requests is None for amount in amounts):
            return needs.NEVER
        return max(amounts, key=lambda amount: amount.requests or 0)


def asked(policy: Policy) -> Iterator[Asked]:
    """The goals that gate an advance. A candidate that only rehearses is asked about at that one step."""
    steps: dict[int, object] = {n: step for n, step in enumerate(policy.steps or ["promote"]) if needs.pair_share(step)}
    if len(steps) > 1:
        steps = {n: step for n, step in steps.items() if step != "promote"}
    drawn = {n: step for n, step in steps.items() if needs.drawn_share(step)}
    goals, quality = policy.goals, policy.goals.quality
    if quality is not None:
        where = drawn if quality.evidence == "served" else steps
        says = f"that {quality.loss} is at most {quality.margin:g}" + (" worse" if quality.scale.loss.labelled else "")
        yield Asked("goals.quality.margin", says, {n: needs.quality(policy, step) for n, step in where.items()})
    if goals.errors is not None:
        says = f"that at most {goals.errors.margin:.4%} more requests fail"
        yield Asked("goals.errors.margin", says, {n: needs.errors(policy, step) for n, step in steps.items()})
    says = f"that 99 % of the answers come within {goals.latency.p99_ms:g} ms"
    yield Asked("goals.latency.p99_ms", says, {n: needs.latency(policy, step) for n, step in steps.items()})
    if goals.latency.ratio is not None:
        at = {n: needs.ratio(policy, step) for n, step in drawn.items()}
        yield Asked("goals.latency.ratio", "that `latency.ratio` is kept", at)


def amounts(policy: Policy) -> Iterator[Problem]:
    """Goals that take for ever at the stated margin, and those that take very long."""
    for goal in asked(policy):
        larger = "ratio, of 1.05 at least" if goal.key.endswith("ratio") else "margin"
        if any(amount.never for amount in goal.at.values()):
            yield Problem(goal.key, f"no number of labels or requests can show {goal.says}: write a larger {larger}")
        elif any(amount.requests is None for amount in goal.at.values()):
            says = f"no number of labels or requests can show {goal.says}, unless the two models are far more alike than usual: "
            yield Problem(goal.key, f"{says}write a larger margin", refused=False)
        elif (goal.most.requests or 0) > REQUESTS_MANY:
            larger = larger.partition(",")[0]
            says = f"to show {goal.says} takes about {goal.most.requests:,} requests in one step: with a larger {larger}, or where "
            says += "more requests are rehearsed, it takes fewer"
            yield Problem(goal.key, says, refused=False)
