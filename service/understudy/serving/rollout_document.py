"""The document of `GET /rollout`, made from the store's state."""

import dataclasses
from collections.abc import Mapping
from typing import cast

import msgspec

from understudy.documents import Comparison, DriftSummary, LabelFigures, ModelStatus, RehearsalCounts, Rollout
from understudy.domain import DRIFT_STATE, SHARE_ONE, Event, JsonObject, Plan, Variant
from understudy.inference.cards import Card
from understudy.observability.summaries import figures, label_figures, part_of
from understudy.records.pairs import COMPARED
from understudy.rollout import funnel
from understudy.rollout.comparison import ComparisonSums
from understudy.rollout.comparison import figures as compared
from understudy.rollout.controller import SHOWN
from understudy.rollout.documents import ShownState
from understudy.rollout.headline import current, headline
from understudy.rollout.phases import PEOPLE, TABLE
from understudy.rollout.policy import Policy
from understudy.store import Store, WaitingLabels

STRAY_S = 60.0
"""A label that has waited this long for its prediction counts as matching nothing: records are stored within about a second."""


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """The store's state of a rollout.

    Attributes:
        kept: the last state that the judge saved, or None.
        counters: the counters by name.
        drift: the last saved state of drift, or None.
        decision: the event that put the plan in force.
        waiting: labels that wait for their prediction.
        now: when this was read.
    """

    kept: ShownState | None
    counters: Mapping[str, float]
    drift: JsonObject | None
    decision: Event | None
    waiting: WaitingLabels
    now: float


def known_to(store: Store, plan: Plan, now: float) -> Known:
    """Read it from the store. Blocks. Counters are read last, so that every row in the other states is counted."""
    kept, drift = cast("ShownState | None", store.load_state(SHOWN)), store.load_state(DRIFT_STATE)
    waiting = store.waiting_labels(received_before=now - STRAY_S)
    return Known(kept, store.counters(), drift, store.decision(plan.revision), waiting, now)


def shown(
    policy: Policy, cards: Mapping[Variant, Card], plan: Plan, known: Known, up: Mapping[Variant, bool]
) -> Rollout:
    """The document of `GET /rollout`.

    Args:
        up: whether each variant can answer.
    """
    kept, counters, drift, waiting = known.kept, known.counters, known.drift, known.waiting
    verdict = current(plan, kept, known.decision)
    names = {variant: card.name for variant, card in cards.items()}
    read = kept.get("funnel") if kept else None
    orders = TABLE[plan.phase]
    rehearsals = RehearsalCounts.__struct_fields__
    return Rollout(
        model=policy.model,
        phase=plan.phase,
        step=plan.step,
        weight=plan.weight * 100 / SHARE_ONE,
        shadow_share=plan.shadow * 100 / SHARE_ONE,
        primary=_status(cards[Variant.PRIMARY], up=up[Variant.PRIMARY]),
        candidate=_status(cards[Variant.CANDIDATE], up=up[Variant.CANDIDATE]) if Variant.CANDIDATE in cards else None,
        headline=headline(plan, verdict, known.decision, names[Variant.PRIMARY], names.get(Variant.CANDIDATE)),
        verdict=verdict,
        metrics=kept["metrics"] if kept else [],
        variants={variant.value: figures(counters, variant) for variant in Variant},
        labels=LabelFigures(
            **label_figures(counters),
            funnel=funnel.labels(read, counters, waiting.count, waiting.stray),
            oldest_waiting_s=None if waiting.oldest is None else max(known.now - waiting.oldest, 0.0) // 60 * 60,
        ),
        funnel=funnel.rows(read, counters),
        progress=kept["progress"] if kept else None,
        shadow=RehearsalCounts(**{name: int(counters.get(f"shadow/{name}", 0)) for name in rehearsals}),
        comparison=msgspec.convert(compared(ComparisonSums(part_of(counters, COMPARED))), Comparison),
        fallbacks={k.partition("/")[2]: int(v) for k, v in counters.items() if k.startswith("fallbacks/")},
        allowed=[order.value for order in PEOPLE if order in orders],
        drift=DriftSummary(alarms=drift["alarms"] if drift else []),
        trial=plan.trial,
        revision=plan.revision,
        updated_at=plan.updated_at,
    )


def _status(card: Card, *, up: bool) -> ModelStatus:
    return ModelStatus(name=card.name, version=card.version, digest=card.digest, up=up)
