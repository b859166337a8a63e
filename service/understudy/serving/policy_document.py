"""The document of `GET /rollout/policy`: the steps, the goals, and what a request row takes. Pure."""

from collections.abc import Mapping, Sequence

from msgspec import UNSET, UnsetType

from understudy.documents import FieldDocument, LabelRules, PolicyDocument, StepDocument
from understudy.domain import SHARE_ONE, JsonObject, Variant
from understudy.inference.cards import Card, InputSpec
from understudy.inference.decoding import Field
from understudy.inference.profile import CategoricalProfile, NumericProfile
from understudy.observability.metrics import LATENCY_BUCKETS
from understudy.rollout import losses
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep, Step

CHOICES_MAX = 120
"""Largest number of values of a string input that are offered in a form: the most frequent ones in training."""


def about(
    policy: Policy, fields: Sequence[Field], context: Sequence[str], cards: Mapping[Variant, Card]
) -> PolicyDocument:
    """The document of `GET /rollout/policy`.

    Args:
        fields: of a request row.
        context: further fields that a row may have, to route or to count by.
    """
    specs = {spec.name: spec for variant in reversed(Variant) if variant in cards for spec in cards[variant].inputs}
    card = cards[Variant.PRIMARY]
    return PolicyDocument(
        model=policy.model,
        task=policy.task,
        label=card.label,
        classes=list(card.classes),
        positive=card.positive,
        steps=[_step(step) for step in policy.steps],
        goals=policy.goals.model_dump(mode="json"),
        labels=LabelRules(wait_s=policy.labels.wait, count=policy.labels.count),
        route_by=policy.route_by,
        unit=policy.unit,
        fields=[_field(field, specs[field.name]) for field in fields],
        context=list(context),
        models={variant.value: _model(card) for variant, card in cards.items()},
        buckets={"latency_s": list(LATENCY_BUCKETS), "label_delay_s": list(losses.DELAY_BUCKETS)},
    )


def _model(card: Card) -> JsonObject:
    """A card without its signature: where the model comes from, and how good it was on data it had not seen."""
    members = {"name", "version", "description", "digest", "training", "held_out", "measured", "parity", "libraries"}
    return card.model_dump(mode="json", include=members)


def _step(step: Step) -> StepDocument:
    if not isinstance(step, ShadowStep | CanaryStep):
        return StepDocument(kind="promote", share=100.0, until={}, require=[])
    share = step.shadow if isinstance(step, ShadowStep) else step.canary
    return StepDocument(
        kind="shadow" if isinstance(step, ShadowStep) else "canary",
        share=share * 100 / SHARE_ONE,
        until=step.until.model_dump(mode="json", exclude_none=True) if step.until else {},
        require=list(step.require),
    )


def _field(field: Field, spec: InputSpec) -> FieldDocument:
    """One field with an example: the middle of its training data, or the most frequent value."""
    profile, numeric, shares = spec.profile, None, dict[str, float]()
    if isinstance(profile, NumericProfile):
        numeric = profile
    elif isinstance(profile, CategoricalProfile):
        shares = profile.shares
    by_share = sorted(shares, key=lambda value: -shares[value])
    example: float | str | UnsetType = by_share[0] if by_share else UNSET
    if numeric is not None:
        example = numeric.edges[len(numeric.edges) // 2] if numeric.edges else numeric.mean
    return FieldDocument(
        name=field.name,
        dtype=field.dtype,
        shape=list(field.shape),
        scalar=field.scalar,
        nullable=field.nullable,
        required=field.required,
        description=spec.description,
        example=example,
        minimum=numeric.minimum if numeric else UNSET,
        maximum=numeric.maximum if numeric else UNSET,
        choices=sorted(by_share[:CHOICES_MAX]) if by_share else UNSET,
    )
