"""Labels that go missing selectively: a sample drawn by chance carries the evidence, each pair with the weight of its chance."""

import pytest

from tests.unit.rollout.world import MODELS, START, World, folded, policy, row
from understudy.rollout.evidence import WANTED_MAX, Evidence
from understudy.rollout.scoring import Scorer

AUDIT = policy(quality={"loss": "brier"}, labels={"audit": 25})
SCORER = Scorer(AUDIT, MODELS)
WAIT = 3600.0


def sampled(n, *, yes=True):
    """The first `n` numbers whose prediction is in the sample (or is not)."""
    return [i for i in range(1, 20 * n) if SCORER.sampled(f"p-{i}") is yes][:n]


def quality(evidence, rows=()):
    return next(r for r in evidence.readings(evidence.tail(rows)) if r.metric == "brier")


def test_the_sample_is_drawn_by_the_prediction_s_id_and_has_its_share():
    hits = sum(SCORER.sampled(f"p-{i}") for i in range(20_000))
    assert hits == pytest.approx(5_000, abs=4 * (20_000 * 0.25 * 0.75) ** 0.5)
    assert all(Scorer(policy(), MODELS).sampled(f"p-{i}") for i in range(100))


def test_who_is_not_asked_for_a_label_weighs_nothing_and_waits_for_nothing():
    outside = sampled(30, yes=False)
    evidence = folded(AUDIT, [row(i, "worse", None) for i in outside])
    assert (evidence.settled, evidence.quality.whole.mean) == (outside[-1], 0.0)
    assert evidence.coverage.settled == 0


def test_who_is_asked_weighs_as_many_as_it_stands_for():
    """A difference of 0.6 at a chance of a quarter counts as 2.4; one that no label could change needs no sample."""
    inside = sampled(1)[0]
    assert folded(AUDIT, [row(inside, "worse")]).quality.whole.mean == pytest.approx(2.4)
    waiting = Evidence(AUDIT, MODELS).tail([row(inside, "worse", None)])
    assert (waiting.worst, waiting.best) == (pytest.approx([2.4]), pytest.approx([-2.4]))
    agreed = policy(quality={"loss": "zero_one"}, labels={"audit": 25})
    assert folded(agreed, [row(inside, "same")]).quality.whole.mean == 0.0


def test_labels_that_hide_the_bad_news_outside_the_sample_change_nothing():
    """Only good news is labelled outside; inside every label is there, and the estimate is the truth."""
    kinds = {i: "worse" if i % 3 else "better" for i in range(1, 3_001)}
    told = [row(i, kind, 1 if kind == "better" or SCORER.sampled(f"p-{i}") else None) for i, kind in kinds.items()]
    hidden = folded(policy(quality={"loss": "brier"}, labels={"count": "on_arrival"}), told)
    audited = folded(AUDIT, told)

    truth = sum(0.6 if kind == "worse" else -0.6 for kind in kinds.values()) / len(kinds)
    assert audited.quality.whole.mean == pytest.approx(truth, abs=0.08)
    assert quality(hidden, told[hidden.settled :]).estimate < truth - 0.15
    assert audited.coverage.share == 1.0


def test_a_label_of_the_sample_that_never_comes_is_the_worst_case():
    inside = sampled(200)
    rows = [*(row(i, "better", None) for i in inside), row(9_999, at=START + 3 * WAIT)]
    evidence = folded(AUDIT, rows)
    assert evidence.quality.n == 201
    assert quality(evidence).log_e_advance < -1
    assert quality(evidence).log_e_harm < 1


def test_the_predictions_that_wait_for_their_label_are_listed_up_to_a_limit():
    rows = [row(i, "worse", None) for i in range(1, 6 * WANTED_MAX)]
    wanted = Evidence(AUDIT, MODELS).tail(rows).wanted
    assert len(wanted) == WANTED_MAX
    assert all(SCORER.sampled(name) for name in wanted)
    assert Evidence(policy(), MODELS).tail(rows[:10]).wanted == []


def test_the_list_shrinks_in_whatever_order_labels_come_and_without_new_requests():
    world = World(AUDIT)
    controller = world.controller()
    world.serve(40, "better", labelled=False)
    world.clock.advance(10)
    controller.tick()
    wanted = world.shown["wanted"]
    assert len(wanted) > 4
    world.label(wanted[-3:])
    world.clock.advance(10)
    controller.tick()
    assert world.shown["wanted"] == wanted[:-3]


@pytest.mark.parametrize(
    ("labels", "words"), [({"audit": 0}, "more than 0 percent"), ({"audit": 5, "count": "on_arrival"}, "settled")]
)
def test_an_audit_that_could_not_work_is_refused(labels, words):
    with pytest.raises(ValueError, match=words):
        policy(labels=labels)
