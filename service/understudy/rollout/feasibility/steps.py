"""Steps that would never end, or end too soon, and requirements that are never asked for. Pure."""

from collections.abc import Iterator

from understudy.domain import SHARE_ONE
from understudy.rollout.feasibility import needs
from understudy.rollout.feasibility.problems import Problem
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep, Until

DAY_S = 86_400.0
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def named(policy: Policy, number: int) -> str:
    """A step in words: the second step (`canary: 5`)."""
    step = policy.steps[number]
    place = ORDINALS[number] if number < len(ORDINALS) else f"{number + 1}th"
    if isinstance(step, ShadowStep):
        return f"the {place} step (`shadow: {step.shadow * 100 / SHARE_ONE:g}`)"
    return f"the {place} step (`canary: {step.canary * 100 / SHARE_ONE:g}`)" if isinstance(step, CanaryStep) else step


def step(policy: Policy, number: int, step: ShadowStep | CanaryStep) -> Iterator[Problem]:
    """What one step waits for in vain."""
    where, name, until = f"steps.{number}", named(policy, number), step.until or Until()
    if not needs.pair_share(step):
        key = "shadow" if isinstance(step, ShadowStep) else "rehearse"
        yield Problem(
            f"{where}.{key}",
            f"{name} has `{key}: 0`, so the two models never answer the same request, and nothing can be compared there: the step "
            f"would never end. Write `{key}: 1` or more",
        )
    if number == 0 and step.require:
        yield Problem(
            f"{where}.require",
            f"{name} starts with the service, so what it requires would never be asked for: move "
            f"`require: [{', '.join(step.require)}]` to a later step",
        )
    drawn, quality = needs.drawn_share(step), policy.goals.quality
    served = quality is not None and quality.evidence == "served"
    if until.labels is not None and quality is None:
        yield Problem(
            f"{where}.until.labels",
            f"{name} waits for {until.labels:,} labels, and there is no goal that counts any: write `goals.quality`, or "
            f"`until: {{requests: {until.labels}}}`",
        )
    if until.labels is not None and served and not drawn:
        yield Problem(
            f"{where}.until.labels",
            f"{name} waits for {until.labels:,} labels, and with `evidence: served` a label counts only where chance decides which "
            "model answers: write `until: {requests: …}`, or move it to a canary step of more than 0 and less than 100",
        )
    if isinstance(step, CanaryStep) and not drawn and (served or policy.goals.latency.ratio is not None):
        what = "goals.quality.evidence: served" if served else "goals.latency.ratio"
        yield Problem(
            f"{where}.canary",
            f"`{what}` compares what each model answered to callers, and in {name} one of them answers none: the step would "
            "never end. Write a share of more than 0 and less than 100",
        )


def order(policy: Policy) -> Iterator[Problem]:
    """What the steps make of the rollout as a whole."""
    steps = [step for step in policy.steps if isinstance(step, ShadowStep | CanaryStep)]
    if not policy.steps:
        says = "there are no `steps`: the candidate only rehearses, and nothing is ever promoted"
        yield Problem("steps", says, refused=False)
        return
    if not any(isinstance(step, CanaryStep) and step.canary for step in steps):
        says = "no `canary` step: the candidate goes from rehearsing to answering every request at once"
        yield Problem("steps", says, refused=False)
    if "promote" not in policy.steps:
        says = "after the last step the candidate is promoted, as if `- promote` stood there: write it, so that readers see it"
        yield Problem(f"steps.{len(policy.steps) - 1}", says, refused=False)
    seen = False
    for number, step in enumerate(policy.steps):
        if isinstance(step, ShadowStep) and seen:
            says = f"{named(policy, number)} takes the callers of the canary back to the primary"
            yield Problem(f"steps.{number}", says, refused=False)
        seen = seen or (isinstance(step, CanaryStep) and step.canary > 0)
    short = [n for n, step in enumerate(policy.steps) if _short(step)]
    if short:
        which = "every step" if len(short) == len(steps) else ", ".join(named(policy, n) for n in short)
        yield Problem(
            f"steps.{short[0]}",
            f"{which} may end within a day, so a candidate that is good by night and bad by day can pass in one night: where "
            "requests differ by the hour, write `until: {duration: 24h}`",
            refused=False,
        )


def _short(step: object) -> bool:
    until = step.until if isinstance(step, ShadowStep | CanaryStep) else Until(duration=DAY_S)
    return until is None or until.duration is None or until.duration < DAY_S


def load(policy: Policy) -> Iterator[Problem]:
    """Goals that only a load test holds, and load tests without a rate."""
    goals, required = policy.goals, [n for n, step in enumerate(policy.steps) if _requires_load(step)]
    if required:
        if goals.throughput_rps is None:
            says = "the load test that this step requires has no rate: write `goals.throughput_rps`, or give the command `--rate`"
            yield Problem(f"steps.{required[0]}.require", says, refused=False)
        return
    latency, defaults = goals.latency, type(goals)().load
    for key, is_set in (
        ("goals.throughput_rps", goals.throughput_rps is not None),
        ("goals.cost", goals.cost is not None),
        ("goals.latency.p50_ms", latency.p50_ms is not None),
        ("goals.latency.p95_ms", latency.p95_ms is not None),
        ("goals.load", goals.load != defaults),
    ):
        if is_set and policy.steps:
            says = (
                f"only a load test holds `{key}`, and no step requires one: add `require: [loadtest]` to a canary step"
            )
            yield Problem(key, says, refused=False)


def _requires_load(step: object) -> bool:
    return isinstance(step, ShadowStep | CanaryStep) and "loadtest" in step.require
