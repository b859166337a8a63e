"""Checks before a start: the models can be served together, and the rollout can finish."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from understudy import loading
from understudy.domain import Variant
from understudy.errors import ConfigurationError, TrialFailed
from understudy.http.auth import Tokens
from understudy.inference.cards import Card
from understudy.inference.mapping import check_names, only_read_by
from understudy.inference.names import listed, quoted, shown
from understudy.inference.tasks import fitted
from understudy.loading import gpu_memory
from understudy.loading.trial import passed, tried
from understudy.observability import webhooks
from understudy.records.pairs import tolerances
from understudy.rollout.feasibility import Feasibility, Limits, Lines, Subject, feasibility, said
from understudy.rollout.policy import Policy
from understudy.settings import Settings


@dataclass(frozen=True, slots=True)
class Preflight:
    """The result of the checks before a start.

    Attributes:
        messages: lines to show to the user.
        feasibility: whether the rollout can finish.
        lines: the line of each key in the rollout file.
        file: the rollout file's path.
        cards: the cards of the models; without that of a candidate that is away, unless it has a card of its own.
        away: why the candidate is not served: it hung or died when it was tried. Empty if it is.
    """

    messages: list[str]
    feasibility: Feasibility
    lines: Lines
    file: Path
    cards: Mapping[Variant, Card]
    away: str = ""

    def refuse(self) -> None:
        """Raise an error if the rollout could not finish.

        Raises:
            ConfigurationError: names each line of the rollout file that has to change, and how.
        """
        if problems := self.feasibility.refusals:
            listed = "".join(f"\n  {said(problem, self.lines)}" for problem in problems)
            raise ConfigurationError(f"the rollout in {self.file} could not finish:{listed}")


def preflight(settings: Settings) -> Preflight:
    """Load and warm up the models, and check that the rollout can finish. A candidate that hangs or dies does not stop the start.

    Raises:
        ConfigurationError: the service cannot start, with the reason.
    """
    result = examine(settings, primary_alone=True)
    result.refuse()
    warnings = [f"warning: {said(problem, result.lines)}" for problem in result.feasibility.warnings]
    return dataclasses.replace(result, messages=result.messages + warnings)


def examine(settings: Settings, *, primary_alone: bool = False) -> Preflight:
    """Load and warm up the models, and find out whether the rollout can finish.

    Args:
        primary_alone: whether to go on without a candidate that hangs or dies when it is tried.

    Raises:
        ConfigurationError: the models cannot be served, with the first reason.
    """
    policy = loading.load_policy(settings)
    messages = [f"rollout file {settings.rollout_file}: {policy.model}, {policy.task}, {len(policy.steps)} steps"]
    cards: list[Card] = []
    seconds: list[float | None] = []
    away = ""
    sources = {Variant.PRIMARY: policy.primary} | ({Variant.CANDIDATE: policy.candidate} if policy.candidate else {})
    results = tried(
        [loading.untried(source, settings, policy, variant) for variant, source in sources.items()], settings
    )
    for (variant, source), result in zip(sources.items(), results, strict=True):
        if primary_alone and variant is Variant.CANDIDATE and isinstance(result, TrialFailed):
            away = result.detail
            if (known := loading.card_beside(policy, settings, variant)) is None:
                policy = loading.alone(policy)
            else:
                cards.append(known)
                seconds.append(None)
            continue
        trial = passed(result)
        card = fitted(trial.card, policy.task)
        cards.append(card)
        messages.append(
            f"{source}: {card.name} {card.version} on {trial.device}, one row in {trial.seconds * 1000:.3f} ms, "
            f"{card.digest[:19]}…"
        )
        messages += [f"{source}: {sentence}" for sentence in card.layout]
        seconds.append(trial.seconds)
    if trial.device != "cpu":
        messages += gpu_memory.does_not_fit(policy, settings, gpu_memory.total_bytes(policy.device_options.device_id))
    tolerances(policy, cards)
    if len(cards) > 1:
        loading.check_together(policy, *cards)
        messages += names_in_use(policy, *cards)
    else:
        check_names(cards[0], None, policy.inputs, policy.outputs)
    fields = loading.fields_of(cards[0], cards[1] if len(cards) > 1 else None)
    loading.check_keys(policy, fields)
    messages.append(f"a row has {len(fields)} fields: {', '.join(shown(field.name) for field in fields)}")
    Tokens(settings.tokens_file)
    if urls := webhooks.read_urls(settings.webhook_urls):
        webhooks.read_secrets(settings.webhook_secret_file)
        messages.append(f"events go to {', '.join(webhooks.receiver(url) for url in urls)}")
    subjects = {v: subject(card, duration) for v, card, duration in zip(Variant, cards, seconds, strict=False)}
    limits = Limits(settings.retention_days * 86400, settings.candidate_timeout_share)
    file, text = loading.rollout_text(settings)
    return Preflight(
        messages,
        feasibility(policy, subjects, limits),
        Lines(text),
        file,
        dict(zip(Variant, cards, strict=False)),
        away,
    )


def names_in_use(policy: Policy, primary: Card, candidate: Card) -> list[str]:
    """What `check` says about the names that the two models call differently, and about inputs that only one of them has."""
    renamed = {name: keys.rename for name, keys in policy.inputs.items() if keys.rename is not None}
    pairs = [f"the input {quoted(a)} is {quoted(b)} of the candidate" for a, b in renamed.items()]
    pairs += [f"the output {quoted(a)} is {quoted(b)} of the candidate" for a, b in policy.outputs.items()]
    if only := only_read_by(candidate, primary):
        pairs.append(f"only the candidate reads {listed(only)}, which requests may leave out")
    return [f"names: {'; '.join(pairs)}"] if pairs else []


def subject(card: Card, seconds: float | None = None) -> Subject:
    """The properties of a model that feasibility depends on.

    Args:
        seconds: the measured duration of one row; None if it was not measured.
    """
    known = {s.name: len(s.profile.shares) for s in card.inputs if s.profile and s.profile.kind == "categorical"}
    values = known | {spec.name: 2 for spec in card.inputs if spec.dtype == "bool"}
    return Subject(card.name, tuple(card.classes), card.roles, values, seconds, card.task)
