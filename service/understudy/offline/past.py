"""A rollout's past from its store, without serving it: the documents that the service would answer. Blocks."""

import time
from dataclasses import asdict
from typing import Any

import msgspec

from understudy import loading
from understudy.domain import Event, Variant
from understudy.loading.store import open_rollout, stored_rollouts
from understudy.rollout.controller import bands_of
from understudy.serving.policy_document import about
from understudy.serving.rollout_document import known_to, shown
from understudy.settings import Settings
from understudy.store import Store

PAGE = 500


def look_back(settings: Settings) -> dict[str, Any] | None:
    """What the store holds of the rollout that the rollout file and its models name; None when it does not hold it.

    Returns:
        `rollout` (its key), `state`, `policy`, `evidence` and `events` as `GET /rollout`, `/rollout/policy`, `/rollout/evidence`
        and `/rollout/events` answer them, and `drift` (`alarms` and `features` alone), None where none was measured.

    Raises:
        ConfigurationError: when the rollout file or a model cannot be read.
        StoreError: when the store cannot.
    """
    policy = loading.load_policy(settings)
    cards = loading.read_cards(policy, settings)
    rollout = loading.rollout_key(policy, cards)
    if rollout not in {record.rollout for record in stored_rollouts(settings)}:
        return None
    store = open_rollout(settings, rollout)
    try:
        plan = store.load_plan()
        if plan is None:
            return None
        known = known_to(store, plan, time.time())
        drift = known.drift
        fields = loading.fields_of(cards[Variant.PRIMARY], cards.get(Variant.CANDIDATE))
        return {
            "rollout": rollout,
            "state": msgspec.to_builtins(shown(policy, cards, plan, known, dict.fromkeys(Variant, True))),
            "policy": msgspec.to_builtins(about(policy, fields, [], cards)),
            "evidence": {"bands": bands_of(store)},
            "events": [asdict(event) | {"details": dict(event.details)} for event in _events(store)],
            "drift": {"alarms": drift["alarms"], "features": drift["readings"]} if drift else None,
        }
    finally:
        store.close()


def _events(store: Store) -> list[Event]:
    found: list[Event] = []
    while page := store.events(after=found[-1].id if found else 0, limit=PAGE):
        found += page
    return found
