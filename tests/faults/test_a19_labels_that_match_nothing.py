"""A label with an unknown prediction id stayed `pending`, without a hint. After a minute it is shown as matching nothing."""

from pathlib import Path

import pytest

from tests.unit.rollout.world import MODELS, START, pair, policy
from understudy.domain import Event, LabelReport
from understudy.rollout import funnel, losses
from understudy.serving.rollout_document import STRAY_S, known_to
from understudy.store.memory import MemoryStore
from understudy.store.sql import SqlStore

CLASSES = {variant: model.classes for variant, model in MODELS.items()}
POSITIVE = {variant: model.positive for variant, model in MODELS.items()}


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path):
    def tally(outcome):
        return losses.tally(outcome, CLASSES, POSITIVE)

    url = f"sqlite:///{tmp_path / 'u.db'}"
    opened = MemoryStore("r", tally) if request.param == "memory" else SqlStore(url, "r", tally)
    opened.save_plan(policy().first_plan("ab12"), Event(START, "started", "system", "", 0))
    yield opened
    opened.close()


def labels_at(store, now):
    known = known_to(store, store.load_plan(), now)
    stages = funnel.labels(None, known.counters, known.waiting.count, known.waiting.stray)
    return known.waiting, [each["count"] for each in stages[:2]], {x["reason"]: x["count"] for x in stages[0]["lost"]}


def test_it_waits_at_first_and_after_a_while_it_matches_nothing(store):
    store.add_labels([LabelReport("nobody", 1, START)], received_at=START)
    assert labels_at(store, START + 1)[1:] == ([1, 0], {"waits for its prediction": 1})
    waiting, counts, lost = labels_at(store, START + STRAY_S + 1)
    assert (waiting.oldest, counts, lost) == (START, [1, 0], {"label matches nothing": 1})


def test_one_whose_prediction_comes_is_matched_and_others_keep_their_reason(store):
    reports = [LabelReport(name, label, START) for name, label in [("p-1", 1), ("p-1", 1), ("p-1", 0), ("nobody", 1)]]
    store.add_labels(reports, received_at=START)
    assert labels_at(store, START + 1)[1:] == ([4, 0], {"waits for its prediction": 2, "duplicate": 1, "conflict": 1})
    store.add_observations([pair(1)], {"rows/live": 1})
    assert labels_at(store, START + 99)[1:] == ([4, 1], {"label matches nothing": 1, "duplicate": 1, "conflict": 1})


def test_the_decision_behind_a_plan_is_found(store):
    assert store.decision(1).kind == "started"
    assert store.decision(2) is None
