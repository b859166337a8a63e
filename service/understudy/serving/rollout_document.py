"""The body of `GET /rollout`: a rollout as people see it, of what the store has."""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from understudy.domain import DRIFT_STATE, SHARE_ONE, Event, Plan, Variant
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
"""A label that has waited for its prediction this long matches nothing: records are stored within a second or so."""


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """What the store has of a rollout, for people to look at.

    Attributes:
        kept: what the judge kept last; drift: likewise of drift; None where there is none.
        decision: the event that put the plan in force. waiting: labels that wait for their prediction.
        now: when this was read.
    """

    kept: ShownState | None
    counters: Mapping[str, float]
    drift: Mapping[str, Any] | None
    decision: Event | None
    waiting: WaitingLabels
    now: float


def known_to(store: Store, plan: Plan, now: float) -> Known:
    """Read it. Blocks. The counters last, so that no row is looked at that is not counted yet."""
    kept, drift = cast("ShownState | None", store.load_state(SHOWN)), store.load_state(DRIFT_STATE)
    waiting = store.waiting_labels(received_before=now - STRAY_S)
    return Known(kept, store.counters(), drift, store.decision(plan.revision), waiting, now)


def shown(
    policy: Policy, cards: Mapping[Variant, Card], plan: Plan, known: Known, up: Mapping[Variant, bool]
) -> dict[str, Any]:
    """The body of `GET /rollout`, of what the store has.

    Args:
        up: whether each variant can be asked.
    """
    kept, counters, drift = known.kept, known.counters, known.drift
    verdict = current(plan, kept, known.decision)
    names = {variant: card.name for variant, card in cards.items()}
    read = kept.get("funnel") if kept else None
    waiting = known.waiting
    orders = TABLE[plan.phase]
    return {
        "model": policy.model,
        "phase": plan.phase.value,
        "step": plan.step,
        "weight": plan.weight * 100 / SHARE_ONE,
        "shadow_share": plan.shadow * 100 / SHARE_ONE,
        "primary": _who(cards, up, Variant.PRIMARY),
        "candidate": _who(cards, up, Variant.CANDIDATE),
        "headline": headline(plan, verdict, known.decision, names[Variant.PRIMARY], names.get(Variant.CANDIDATE)),
        "verdict": verdict,
        "metrics": kept["metrics"] if kept else [],
        "variants": {variant.value: figures(counters, variant) for variant in Variant},
        "labels": label_figures(counters)
        | {
            "funnel": funnel.labels(read, counters, waiting.count, waiting.stray),
            "oldest_waiting_s": None if waiting.oldest is None else max(known.now - waiting.oldest, 0.0) // 60 * 60,
        },
        "funnel": funnel.rows(read, counters),
        "progress": kept["progress"] if kept else None,
        "shadow": {
            name: int(counters.get(f"shadow/{name}", 0)) for name in ("sent", "compared", "dropped", "failed", "late")
        },
        "comparison": compared(ComparisonSums(part_of(counters, COMPARED))),
        "fallbacks": {k.partition("/")[2]: int(v) for k, v in counters.items() if k.startswith("fallbacks/")},
        "allowed": [order.value for order in PEOPLE if order in orders],
        "drift": {"alarms": drift["alarms"] if drift else []},
        "trial": plan.trial,
        "revision": plan.revision,
        "updated_at": plan.updated_at,
    }


def _who(cards: Mapping[Variant, Card], up: Mapping[Variant, bool], variant: Variant) -> dict[str, Any] | None:
    card = cards.get(variant)
    return (
        None if card is None else {"name": card.name, "version": card.version, "digest": card.digest, "up": up[variant]}
    )
