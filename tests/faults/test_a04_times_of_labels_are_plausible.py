"""600 labels whose `at` was in milliseconds were acknowledged as matched and never counted, and could not be sent again.

They are refused by row with a hint. A time that was plausible and wrong is corrected by sending it again with an earlier one.
"""

import json

import pytest

from tests.support.controllers import Process
from tests.unit.rollout.world import World
from understudy.api.feedback import FeedbackDecoder
from understudy.domain import Fate, LabelReport
from understudy.errors import InvalidInput
from understudy.store.memory import MemoryStore
from understudy.store.sql import SqlStore
from understudy.testing import card, observation

NOW = 1_795_806_504.0
DAY = 86_400.0


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    made = (
        MemoryStore("r", lambda o: {})
        if request.param == "memory"
        else SqlStore(f"sqlite:///{tmp_path}/a.db", "r", lambda o: {})
    )
    yield made
    made.close()


def test_a_batch_in_milliseconds_is_refused_by_row():
    labels = [{"prediction_id": f"a-{i}", "label": 1, "at": (NOW - i) * (1000 if i % 2 else 1)} for i in range(4)]
    with pytest.raises(InvalidInput) as caught:
        FeedbackDecoder(card(), 100).decode(json.dumps({"labels": labels}).encode(), NOW)
    assert [(e["row"], e["field"]) for e in caught.value.errors] == [(1, "at"), (3, "at")]
    assert all("milliseconds" in e["problem"] for e in caught.value.errors)


def fates(store, at, received_at, label=1):
    return store.add_labels([LabelReport("a", label, at)], received_at=received_at).fates


def known(store, known_by=None):
    ((_, _, report),) = store.outcomes(known_by=known_by)
    return None if report is None else report.at


def test_an_earlier_time_corrects_a_label_once_and_earlier_looks_stay_as_they_were(store):
    store.add_observations([observation("a", at=NOW - 10 * DAY)])
    assert fates(store, NOW - 1 * DAY, NOW) == [Fate.MATCHED]
    before = store.receipts()
    assert fates(store, NOW, NOW) == [Fate.DUPLICATE], "what was known cannot become unknown"
    assert fates(store, NOW - 9 * DAY, NOW) == [Fate.CORRECTED]
    assert fates(store, NOW - 9.5 * DAY, NOW) == [Fate.DUPLICATE], "once"
    assert fates(store, NOW - 9.5 * DAY, NOW, label=0) == [Fate.CONFLICT]

    assert known(store) == NOW - 9 * DAY
    assert known(store, before) == NOW - 1 * DAY
    assert known(store, before - 1) is None


def test_a_label_without_a_time_counts_on_the_time_base_of_its_request(store):
    """A replayed request of 2013 got its label 60 s after it arrived: that is its delay, not thirteen years."""
    store.add_observations([observation("a", at=1_372_680_000.0, replay="july", received_at=NOW)])
    receipt = store.add_labels([LabelReport("a", 1, NOW + 59, timed=False)], received_at=NOW + 60)
    assert receipt.outcomes[0].delay == 60
    ((_, _, report),) = store.outcomes()
    assert not report.timed


def test_a_correction_counts_and_every_decision_can_be_verified():
    """640 labels that were said to be known too late count for nothing; corrected, they advance the rollout."""
    world = World()
    process = Process(world)
    names = world.serve(640, labelled=False)
    at = world.clock.now()
    world.clock.advance(2 * 3600)
    world.label(names, at=at + 2 * 3600 - 1)
    process.tick()
    assert world.where[0] == "shadow"
    world.label(names, at=at + 60)
    process.tick()
    assert world.where[0] == "canary"
    checks, changed = world.verified()
    assert changed is None
    assert all(check.agrees for check in checks), [check.says for check in checks]
