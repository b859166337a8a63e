"""The documents of a rollout from its store, without a running service. Blocks."""

import time
from dataclasses import asdict

import msgspec

from understudy import loading
from understudy.domain import Event, JsonObject, Variant
from understudy.loading.store import open_rollout, stored_rollouts
from understudy.rollout.controller import bands_of
from understudy.serving.policy_document import about
from understudy.serving.rollout_document import known_to, shown
from understudy.settings import Settings
from understudy.store import Store

PAGE = 500


def look_back(settings: Settings) -> JsonObject | None:
    """Reads the rollout that the rollout file and its models name from the store; None if it is not there.

    Returns:
        `rollout` (its key), `state`, `policy`, `evidence` and `events` as in `GET /rollout`, `/rollout/policy`, `/rollout/evidence`
        and `/rollout/events`, and `drift` (only `alarms` and `features`), None if drift was never measured.

    Raises:
        ConfigurationError: if the rollout file or a model cannot be read.
        StoreError: if the store cannot be read.
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
    events: list[Event] = []
    while page := store.events(after=events[-1].id if events else 0, limit=PAGE):
        events += page
    return events
