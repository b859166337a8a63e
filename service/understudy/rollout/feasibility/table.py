"""The table that `understudy check` prints: each goal and step, what it needs, and from where that comes. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from understudy.domain import SHARE_ONE
from understudy.rollout.feasibility import needs
from understudy.rollout.feasibility.asked import asked
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep, Until


@dataclass(frozen=True, slots=True)
class Need:
    """One row of the table: what is judged, what it needs, from where that comes, and how much of it one step takes, about.

    Attributes:
        key: of the rollout file; problems with it make the row infeasible.
        labels: and `requests`: at the step that takes most; None where it needs none, or where no number is enough.
    """

    key: str
    subject: str
    needs: str
    source: str
    labels: int | None = None
    requests: int | None = None


def table(policy: Policy) -> Iterator[Need]:
    """The rows: goals, then steps."""
    yield from _goals(policy)
    for number, step in enumerate(policy.steps):
        if isinstance(step, ShadowStep | CanaryStep):
            yield _of_step(policy, number, step)


def _goals(policy: Policy) -> Iterator[Need]:
    goals, quality = policy.goals, policy.goals.quality
    most = {each.key: each.most for each in asked(policy)}
    if quality is not None:
        subject, amount = f"{quality.loss}, at most {quality.margin:g} worse", most["goals.quality.margin"]
        audited = (
            "" if policy.labels.audit is None else f", of the {policy.labels.audit * 100 / SHARE_ONE:g} % in the audit"
        )
        both = "requests that the router drew" if quality.evidence == "served" else "requests that both models answered"
        source = "canary answers" if quality.evidence == "served" else "rehearsals"
        labelled = quality.scale.loss.labelled
        if not labelled:
            subject = f"{quality.loss}, at most {quality.margin:.2%} of the rows"
        yield Need(
            "goals.quality",
            subject,
            f"labels of {both}{audited}" if labelled else both,
            f"POST /feedback, {source}" if labelled else source,
            amount.labels,
            amount.requests,
        )
    pairs = "requests that both models answered"
    if goals.errors is not None:
        subject, amount = f"failures, at most {goals.errors.margin:.2%} more", most["goals.errors.margin"]
        yield Need("goals.errors", subject, pairs, "rehearsals", None, amount.requests)
        if goals.errors.ratio is not None:
            subject = f"failures before callers, at most {goals.errors.ratio:g} times as many (rolls back only)"
            yield Need("goals.errors.ratio", subject, "failed requests", "canary answers")
    subject, amount = f"99 % of answers within {goals.latency.p99_ms:g} ms", most["goals.latency.p99_ms"]
    yield Need("goals.latency.p99_ms", subject, pairs, "rehearsals", None, amount.requests)
    if goals.latency.ratio is not None:
        times = ", ".join(f"{name} {times:g}" for name, (_, times) in goals.latency.ratio.levels().items())
        amount = most["goals.latency.ratio"]
        subject = f"latency, at most so many times the primary's: {times}"
        yield Need(
            "goals.latency.ratio", subject, "answers of each model to callers", "canary answers", None, amount.requests
        )
    if goals.throughput_rps is not None:
        yield Need(
            "goals.throughput_rps",
            f"{goals.throughput_rps:g} requests a second",
            "a load test that passes",
            "understudy loadtest",
        )


def _of_step(policy: Policy, number: int, step: ShadowStep | CanaryStep) -> Need:
    until, share = step.until or Until(), needs.pair_share(step)
    amounts = [amount for each in asked(policy) if (amount := each.at.get(number)) is not None]
    audit = 1.0 if policy.labels.audit is None else policy.labels.audit / SHARE_ONE
    served = policy.goals.quality is not None and policy.goals.quality.evidence == "served"
    labels = max([until.labels or 0, *(amount.labels or 0 for amount in amounts)])
    waited = [(until.requests or 0) / share, (until.labels or 0) / (1.0 if served else share * audit)] if share else []
    requests = max([0, *waited, *(amount.requests or 0 for amount in amounts)])
    least = [f"{until.labels:,} labels"] if until.labels else []
    least += [f"{until.requests:,} requests"] if until.requests else []
    least += [f"{until.duration / 3600:g} h"] if until.duration else []
    wanted = ["every goal", *([f"at least {' and '.join(least)}"] if least else [])]
    sources = {"loadtest": "a load test", "approval": "an operator's approval"}
    before = [f"{sources[each]} to begin it" for each in step.require]
    name = f"shadow {step.shadow * 100 / SHARE_ONE:g} %" if isinstance(step, ShadowStep) else ""
    name = f"canary {step.canary * 100 / SHARE_ONE:g} %" if isinstance(step, CanaryStep) else name
    return Need(
        f"steps.{number}",
        f"step {number + 1}: {name}",
        ", ".join([*wanted, *before]),
        _sources(policy, step),
        labels or None,
        round(requests) or None,
    )


def _sources(policy: Policy, step: ShadowStep | CanaryStep) -> str:
    found = ["requests"]
    if policy.goals.quality is not None and policy.goals.quality.scale.loss.labelled:
        found.append("labels")
    if isinstance(step, CanaryStep) and policy.goals.latency.ratio is not None:
        found.append("canary answers")
    found += [{"loadtest": "load test", "approval": "operator"}[each] for each in step.require]
    return ", ".join(found)
