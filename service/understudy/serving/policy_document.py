"""What is being rolled out, for people who look at it: the steps, the goals, and what a request row takes. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from understudy.domain import SHARE_ONE, Variant
from understudy.inference.cards import Card, InputSpec
from understudy.inference.decoding import Field
from understudy.inference.profile import CategoricalProfile, NumericProfile
from understudy.observability.metrics import LATENCY_BUCKETS
from understudy.rollout import losses
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep, Step

CHOICES_MAX = 120
"""Most values of a string input that are offered in a form, the most frequent ones of its training."""


def about(
    policy: Policy, fields: Sequence[Field], context: Sequence[str], cards: Mapping[Variant, Card]
) -> dict[str, Any]:
    """The body of `GET /rollout/policy`.

    Args:
        fields: of a request row; context: what a row may say besides, to route or to count by.
    """
    specs = {spec.name: spec for variant in reversed(Variant) if variant in cards for spec in cards[variant].inputs}
    card = cards[Variant.PRIMARY]
    return {
        "model": policy.model,
        "task": policy.task,
        "label": card.label,
        "classes": list(card.classes),
        "positive": card.positive,
        "steps": [_step(step) for step in policy.steps],
        "goals": policy.goals.model_dump(mode="json"),
        "labels": {"wait_s": policy.labels.wait, "count": policy.labels.count},
        "route_by": policy.route_by,
        "unit": policy.unit,
        "fields": [_field(field, specs[field.name]) for field in fields],
        "context": list(context),
        "models": {variant.value: _model(card) for variant, card in cards.items()},
        "buckets": {"latency_s": list(LATENCY_BUCKETS), "label_delay_s": list(losses.DELAY_BUCKETS)},
    }


def _model(card: Card) -> dict[str, Any]:
    """A card without its signature: where the model comes from, and how good it was on months that it had not seen."""
    wanted = {"name", "version", "description", "digest", "training", "held_out", "parity", "libraries"}
    return card.model_dump(mode="json", include=wanted)


def _step(step: Step) -> dict[str, Any]:
    if not isinstance(step, ShadowStep | CanaryStep):
        return {"kind": "promote", "share": 100.0, "until": {}, "require": []}
    shadow = isinstance(step, ShadowStep)
    share = step.shadow if isinstance(step, ShadowStep) else step.canary
    until = step.until.model_dump(mode="json", exclude_none=True) if step.until else {}
    kind = "shadow" if shadow else "canary"
    return {"kind": kind, "share": share * 100 / SHARE_ONE, "until": until, "require": list(step.require)}


def _field(field: Field, spec: InputSpec) -> dict[str, Any]:
    """One field with an example: the middle of what its training data had, or the most frequent value."""
    found: dict[str, Any] = {
        "name": field.name,
        "dtype": field.dtype,
        "shape": list(field.shape),
        "scalar": field.scalar,
        "nullable": field.nullable,
        "required": field.required,
        "description": spec.description,
    }
    profile = spec.profile
    if isinstance(profile, NumericProfile):
        middle = profile.edges[len(profile.edges) // 2] if profile.edges else profile.mean
        found |= {"example": middle, "minimum": profile.minimum, "maximum": profile.maximum}
    elif isinstance(profile, CategoricalProfile) and profile.shares:
        by_share = sorted(profile.shares, key=lambda value: -profile.shares[value])
        found |= {"example": by_share[0], "choices": sorted(by_share[:CHOICES_MAX])}
    return found
