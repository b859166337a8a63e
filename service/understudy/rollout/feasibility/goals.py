"""Goals that these models, or these labels, can never decide. Pure."""

from collections.abc import Iterator, Mapping

from understudy.domain import Variant
from understudy.rollout import losses
from understudy.rollout.feasibility import needs
from understudy.rollout.feasibility.asked import asked
from understudy.rollout.feasibility.problems import Limits, Problem, Subject
from understudy.rollout.feasibility.steps import named
from understudy.rollout.policy import Policy
from understudy.rollout.unit_dedup import BITS

DAY_S = 86_400.0
CALLERS_FEW = 10
"""Fewer values of `route_by` than this in a variant's share are too few to rely on chance."""
CALLERS_TOLD_APART = int(0.8 * BITS)
"""So many callers are found in the bits that remember them: of more, hardly one is new."""
DAYS_MANY = 30
"""A step that takes more days than this is warned about."""
ROOM = 4
"""A deadline that is proposed is so many times what a model takes."""


def quality(policy: Policy, models: Mapping[Variant, Subject]) -> Iterator[Problem]:
    """A loss that the models do not have, classes that have nothing in common, lines that leave a gap."""
    goal = policy.goals.quality
    if goal is None:
        if policy.labels.audit is not None:
            says = "`labels.audit` asks for labels, and no goal needs any: write `goals.quality`, or leave `audit` out"
            yield Problem("labels.audit", says, refused=False)
        return
    for variant, model in models.items():
        if why := losses.computable(goal.loss, model):
            yield Problem("goals.quality.loss", f"no row of the {variant} could ever be scored: {why}")
    found = [model.classes for model in models.values() if model.classes]
    if len(found) == 2 and set(found[0]) != set(found[1]):
        ours, theirs = (", ".join(map(repr, classes[:6])) + (", …" if len(classes) > 6 else "") for classes in found)
        both = f"the primary's classes are {ours} and the candidate's are {theirs}"
        if not set(found[0]) & set(found[1]):
            says = f"{both}: no label fits both, so one of them would be wrong on every row. Name both models' classes alike"
            yield Problem("candidate", says)
        else:
            for says in losses.class_differences(models[Variant.PRIMARY], models[Variant.CANDIDATE]):
                yield Problem("candidate", says, refused=False)
    if goal.harm != "margin" and goal.harm > goal.margin:
        says = "a candidate whose loss lies between `margin` and `harm` is never promoted and never rolled back"
        yield Problem("goals.quality.harm", says, refused=False)


def labels(policy: Policy, limits: Limits) -> Iterator[Problem]:
    """Labels that are waited for longer than their rows are kept."""
    quality = policy.goals.quality
    if quality is None or not quality.scale.loss.labelled:
        return
    if limits.retention_s is None or policy.labels.wait <= limits.retention_s:
        return
    wait, kept = policy.labels.wait / DAY_S, limits.retention_s / DAY_S
    yield Problem(
        "labels.wait",
        f"labels are waited for {wait:g} days, and rows are removed after {kept:g}: what is removed before its label came would be "
        f"left out of the verdict. Write `wait: {kept:g}d` or less, or raise UNDERSTUDY_RETENTION_DAYS",
    )


def served(policy: Policy, models: Mapping[Variant, Subject]) -> Iterator[Problem]:
    """Goals that only serving shows, and callers that are too few for them."""
    drawn = [needs.drawn_share(step) for step in policy.steps]
    goals = {"goals.latency.ratio": policy.goals.latency.ratio, "goals.errors.ratio": _errors_ratio(policy)}
    for key, goal in goals.items():
        if goal is not None and policy.steps and not any(drawn):
            yield Problem(
                key,
                f"`{key.removeprefix('goals.')}` compares what each model answered to callers, and no step lets both answer: add a "
                "step `- canary: N` of more than 0 and less than 100, or leave the goal out",
            )
    yield from _units(policy, models)
    yield from _callers(policy, models)


def _callers(policy: Policy, models: Mapping[Variant, Subject]) -> Iterator[Problem]:
    """Callers that are too few, or too many to be distinguished, if a caller counts once."""
    quality, drawn = policy.goals.quality, [needs.drawn_share(step) for step in policy.steps]
    served = quality is not None and quality.evidence == "served"
    amounts = [needs.quality(policy, step).labels or 0 for step in policy.steps if served and needs.drawn_share(step)]
    if sum(amounts) > CALLERS_TOLD_APART:
        yield Problem(
            "goals.quality.margin",
            f"with `evidence: served` each caller counts once, and the service tells some {CALLERS_TOLD_APART:,} of them apart; "
            f"the canary steps take about {sum(amounts):,}: write a larger margin, or larger canary shares",
        )
    if policy.route_by is None:
        return
    known = _values(policy.route_by, models)
    few = [n for n, share in enumerate(drawn) if 0 < known * share < CALLERS_FEW]
    if few:
        waits = policy.goals.latency.ratio is not None
        yield Problem(
            "route_by",
            f"`{policy.route_by}` had {known:,} different values in training, and a variant is drawn for each of them: at "
            f"{named(policy, few[0])} chance may give one of the models none of them, or a share far from the stated one"
            + (", and `goals.latency.ratio` would wait for ever. " if waits else ". ")
            + "Route by a field with more values, or leave `route_by` out",
            refused=waits,
        )
    most = max(amounts, default=0)
    if 0 < known < most:
        yield Problem(
            "route_by",
            f"with `evidence: served` each value of `{policy.route_by}` counts once, since it is drawn once; training "
            f"had {known:,} of them, and a step takes about {most:,}: route by a field with more values, or leave `route_by` out",
        )


def _units(policy: Policy, models: Mapping[Variant, Subject]) -> Iterator[Problem]:
    """Units that are so few that a day holds little evidence."""
    if policy.unit is None or not (known := _values(policy.unit, models)):
        return
    most = max((goal.most.requests or 0 for goal in asked(policy)), default=0)
    if most > DAYS_MANY * known:
        yield Problem(
            "unit",
            f"of each `{policy.unit}` one request a day counts, and training had {known:,} of them: a step takes about {most:,} "
            f"requests, which is {most / known:,.0f} days. Write a larger margin, or a `unit` with more values",
            refused=False,
        )


def _values(name: str, models: Mapping[Variant, Subject]) -> int:
    """How many different values a field had in training; 0 where that is not known."""
    return max((model.values.get(name, 0) for model in models.values()), default=0)


def _errors_ratio(policy: Policy) -> float | None:
    return policy.goals.errors.ratio if policy.goals.errors is not None else None


def speed(policy: Policy, models: Mapping[Variant, Subject], limits: Limits) -> Iterator[Problem]:
    """Models that are slower than the limits they are held to."""
    latency, primary, candidate = policy.goals.latency, models[Variant.PRIMARY], models.get(Variant.CANDIDATE)
    if latency.p99_ms > latency.deadline_ms:
        says = f"is beyond the deadline of {latency.deadline_ms:g} ms, after which callers get 504: write less"
        yield Problem("goals.latency.p99_ms", f"`p99_ms` of {latency.p99_ms:g} {says}", refused=False)
    if primary.seconds is not None and primary.seconds * 1000 > latency.deadline_ms:
        yield Problem(
            "goals.latency.deadline_ms",
            f"the primary takes {primary.seconds * 1000:,.0f} ms for one row on this machine, and the deadline is "
            f"{latency.deadline_ms:g} ms: every request would be answered 504. Write `deadline_ms: "
            f"{_roomy(primary.seconds, limits):g}`, or use a faster machine or model",
        )
    if candidate is None or candidate.seconds is None:
        return
    share, took = limits.candidate_share, candidate.seconds * 1000
    if share is not None and took > latency.deadline_ms * share:
        yield Problem(
            "goals.latency.deadline_ms",
            f"the candidate takes {took:,.0f} ms for one row on this machine, and may use {latency.deadline_ms * share:g} ms (the "
            f"{share:.0%} of the deadline that UNDERSTUDY_CANDIDATE_TIMEOUT_SHARE leaves it): its canary requests would fall back "
            f"to the primary. Write `deadline_ms: {_roomy(candidate.seconds, limits):g}`",
            refused=False,
        )
    elif took > latency.p99_ms:
        says = f"the candidate takes {took:,.0f} ms for one row on this machine: it would be rolled back as too slow"
        yield Problem("goals.latency.p99_ms", says, refused=False)


def _roomy(seconds: float, limits: Limits) -> float:
    """A deadline in milliseconds that leaves either model `ROOM` times what it takes, rounded up to a round number."""
    wanted = ROOM * 1000 * seconds / (limits.candidate_share or 1.0)
    size = 10.0 ** (len(str(int(wanted))) - 1)
    return float(-(-wanted // size) * size)
