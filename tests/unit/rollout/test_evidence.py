"""What the pairs add up to: what counts, what waits, what is missing, and that neither paging nor waiting changes the sum."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.rollout.world import MODELS, SCORES, START, answer, folded, pair, policy, row
from understudy.domain import Attempt, LabelReport, Mode, Status, Variant
from understudy.rollout import unit_dedup as firsts_module
from understudy.rollout.evidence import Evidence
from understudy.rollout.scoring import Model
from understudy.rollout.sequential import PairedGoal
from understudy.rollout.tail import Tail
from understudy.rollout.unit_dedup import UNIT_WINDOW_S

WAIT = 3600.0
BRIER = policy(quality={"loss": "brier"})
steady = settings(max_examples=40, deadline=None, derandomize=True)


def state(evidence):
    return json.dumps(evidence.state(), sort_keys=True)


def quality(evidence, rows=(), metric="zero_one"):
    return next(r for r in evidence.readings(evidence.tail(rows)) if r.metric == metric)


def goal_of(differences, margin=0.5):
    """The goal that these differences alone would make; a tuple is a missing one, at its worst and at its best."""
    goal = PairedGoal(margin, margin)
    for each in differences:
        goal.update(*(each if isinstance(each, tuple) else (each,)))
    return goal


# What is settled, and when.


def test_the_settled_prefix_ends_before_the_first_pair_that_waits():
    rows = [row(i, "worse", None if i == 3 else 1) for i in range(1, 6)]
    evidence = folded(policy(), rows)
    assert (evidence.seen, evidence.settled, evidence.quality.n) == (5, 2, 2)

    rows[2] = row(3, "better")
    assert evidence.settle(rows[2:]) == 3
    assert evidence.settled == 5
    assert evidence.quality == goal_of([1.0, 1.0, -1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("delay", "difference"), [(0.0, -1.0), (WAIT, -1.0), (WAIT + 1, (1.0, -1.0)), (None, (1.0, -1.0))]
)
def test_a_label_counts_inside_its_wait_and_a_later_one_is_none(delay, difference):
    """A better answer whose label is missing counts as the worst that it could have been."""
    first = row(1, "better", None) if delay is None else row(1, "better", delay=delay)
    evidence = folded(policy(), [first, row(2, at=START + 3 * WAIT)])

    assert evidence.settled == 2
    assert evidence.quality == goal_of([difference, 0.0])
    assert evidence.coverage.labelled == 1 + (not isinstance(difference, tuple))


def test_missing_labels_alone_never_roll_back_and_never_advance():
    """Worst case for advancing, best case for harm: the same rows speak against both."""
    rows = [row(i, "worse", None) for i in range(1, 301)] + [row(301, at=START + 3 * WAIT)]
    evidence = folded(policy(), rows)
    found = quality(evidence)

    assert evidence.quality.n == 301
    assert found.log_e_harm < 1
    assert found.log_e_advance < -2
    assert quality(folded(policy(), [row(i, "worse") for i in range(1, 301)])).log_e_harm > 50


def test_under_zero_one_loss_an_agreement_speaks_before_its_label_and_under_brier_it_does_not():
    rows = [row(i, kind, None) for i in range(1, 31) for kind in [("same", "both wrong")[i % 2]]]
    counted = quality(folded(policy(), rows), rows)
    waiting = quality(folded(BRIER, mixed := [row(i, "worse", None) for i in range(1, 31)]), mixed, "brier")

    assert (counted.n, counted.pending) == (30, 30)
    assert counted.log_e_advance == pytest.approx(goal_of([0.0] * 30).log_e_advance())
    assert counted.log_e_advance > 10
    assert waiting.log_e_advance == pytest.approx(0.0)
    assert waiting.pending == 30


def test_agreements_wait_for_their_label_before_they_are_settled():
    """Coverage and the primary's own target need the labels of agreements as much as those of disagreements."""
    rows = [row(i, ("same", "both wrong")[i % 2], None) for i in range(1, 5)]
    own = policy(quality={"poc_target": 0.2})
    evidence = folded(own, rows)
    assert evidence.settled == 0

    rows = [row(i, ("same", "both wrong")[i % 2]) for i in range(1, 5)]
    evidence.settle(rows)
    assert (evidence.settled, evidence.coverage.share) == (4, 1.0)
    assert quality(evidence, metric="poc_target").estimate == pytest.approx(0.5)


def test_a_label_of_another_kind_counts_as_the_worst_and_is_told():
    regression = policy(quality={"loss": "absolute_error", "clip": 10})
    models = {v: Model([], None) for v in Variant}
    number, other = Attempt(Status.OK, None, 3.0), Attempt(Status.OK, None, 5.0)
    rows = [
        row(1, label="soon", primary=number, candidate=number),
        row(2, label="late", primary=number, candidate=other),
    ]
    evidence = folded(regression, rows, models)
    assert (evidence.settled, evidence.labels, evidence.no_loss) == (2, 0, 2)
    assert evidence.quality.whole == goal_of([0.0, 0.2]).whole
    assert evidence.standing(Tail()).as_dict()["no_loss"] == 2


# What counts.


@pytest.mark.parametrize("status", [Status.FAILED, Status.TIMEOUT, Status.INVALID])
@pytest.mark.parametrize("own", [policy(), BRIER], ids=["zero_one", "brier"])
def test_an_attempt_without_an_answer_is_a_loss_of_one(status, own):
    loss = 0.04 if own is BRIER else 0.0
    evidence = folded(own, [row(1, candidate=answer(status)), row(2, primary=answer(status))])

    assert evidence.quality == goal_of([1.0 - loss, loss - 1.0])
    assert evidence.attempts.latency.whole.n == 1  # of the rows that the primary answered


@pytest.mark.parametrize("which", ["primary", "candidate"])
def test_a_rehearsal_that_was_never_tried_is_no_pair(which):
    evidence = folded(policy(errors={"margin": 0.1}), [row(1, **{which: answer(Status.NONE)})])

    assert (evidence.seen, evidence.settled) == (1, 1)
    assert (
        evidence.quality.n,
        evidence.attempts.errors.n,
        evidence.attempts.latency.whole.n,
        evidence.coverage.settled,
    ) == (0, 0, 0, 0)


@pytest.mark.parametrize("changes", [{"mode": Mode.PINNED}, {"mode": Mode.SHADOW}, {"request_id": "p-0"}], ids=str)
def test_pinned_requests_and_further_rows_of_a_request_are_no_evidence(changes):
    rows = [row(1, "worse", **changes), row(2, "worse", None, **changes), row(3)]
    evidence = folded(policy(errors={"margin": 0.1}), rows)

    assert evidence.settled == 3
    assert (evidence.quality.n, evidence.attempts.errors.n, evidence.attempts.latency.whole.n, evidence.poc.n) == (
        1,
        1,
        1,
        1,
    )
    assert evidence.tail(rows).worst == [0.0]


def test_a_unit_counts_once_per_window():
    day = UNIT_WINDOW_S
    times = [
        ("ann", 0),
        ("ann", 60),
        ("bob", 90),
        ("ann", day),
        ("ann", day + 60),
        (None, day),
        (None, day),
        ("ann", 2 * day),
    ]
    base = START // day * day
    own = policy(labels={"wait": "30d"})
    rows = [row(i, at=base + after, unit=unit) for i, (unit, after) in enumerate(times, 1)]
    evidence = folded(own, rows)

    assert evidence.settled == len(rows)
    assert evidence.quality.n == evidence.attempts.latency.whole.n == 6
    assert len(Evidence(own, MODELS).tail(rows).worst) == 6


def test_units_that_share_a_bit_count_as_repeats_so_memory_has_a_limit(monkeypatch):
    monkeypatch.setattr(firsts_module, "BITS", 8)
    evidence = folded(policy(), [row(i, unit=f"u{i}") for i in range(1, 200)])
    assert evidence.quality.n == 8


def test_on_arrival_only_labelled_pairs_count():
    own = policy(labels={"count": "on_arrival"})
    rows = [row(1, "worse"), row(2, "worse", None), row(3, "better"), row(4, "same", None)]
    evidence = folded(own, rows)
    assert (evidence.settled, evidence.quality.n) == (1, 1)
    assert evidence.tail(rows[1:]) == Tail(
        [-1.0], [-1.0], [-1.0], [True], labelled=1, labelled_in_step=1, pending=2, last=4
    )

    after = row(5, at=START + 3 * WAIT)
    evidence.see([after])
    evidence.settle([*rows[1:], after])
    assert evidence.settled == 5
    assert evidence.quality == goal_of([1.0, -1.0, 0.0])
    assert (evidence.coverage.settled, evidence.coverage.labelled) == (5, 3)


def test_coverage_tells_both_sides_of_a_disagreement_apart():
    kinds = [("better", 1), ("better", None), ("worse", 1), ("same", None)]  # better: only the candidate says "1"
    rows = [row(i, kind, label) for i, (kind, label) in enumerate(kinds, 1)]
    coverage = folded(policy(), [*rows, row(9, at=START + 3 * WAIT)]).coverage

    assert (coverage.only_candidate, coverage.only_candidate_labelled) == (2, 1)
    assert (coverage.only_primary, coverage.only_primary_labelled) == (1, 1)
    assert coverage.share == pytest.approx(3 / 5)


def test_errors_and_latency_need_no_label():
    slow = Attempt(Status.OK, 1, 0.8, None, 0.0501)
    rows = [
        row(1, "failed", None),
        row(2, label=None, candidate=slow),
        row(3, label=None, candidate=answer(Status.TIMEOUT)),
        row(4, label=None),
    ]
    evidence = folded(policy(errors={"margin": 0.1}), rows)

    assert evidence.settled == 0
    assert (evidence.attempts.errors.n, evidence.attempts.errors.whole.mean) == (4, 0.5)
    assert (evidence.attempts.latency.whole.n, evidence.attempts.latency.whole.hits) == (
        4,
        3,
    )  # a failure is no fast answer


def test_the_tail_is_at_worst_and_at_best_what_a_label_could_make_of_it():
    rows = [row(1, "worse", None), row(2, "better"), row(3, "failed", None)]
    tail = Evidence(BRIER, MODELS).tail(rows)

    assert tail.worst == pytest.approx([0.6, -0.6, 0.96])
    assert tail.best == pytest.approx([-0.6, -0.6, 0.36])
    assert (tail.labelled, tail.pending, tail.last) == (1, 2, 3)


def test_looking_at_the_tail_changes_nothing():
    rows = [row(i, "worse", None, unit=f"u{i}") for i in range(1, 30)]
    evidence = folded(policy(), rows)
    before = state(evidence)
    evidence.readings(evidence.tail(rows))
    assert state(evidence) == before


@pytest.mark.parametrize("look", ["log_e_advance", "log_e_harm"])
@pytest.mark.parametrize("kind", ["worse", "better"])
def test_what_the_tail_says_is_never_more_than_what_its_labels_will_say(look, kind):
    """Pending pairs bound the evidence from below, so looking early spends nothing."""
    rows = [row(i, kind if i % 3 else "same", 1 if i % 4 else None) for i in range(1, 200)]
    early = getattr(quality(Evidence(policy(), MODELS), rows), look)
    later = []
    evidence = Evidence(policy(), MODELS)
    for each in [row(i, kind if i % 3 else "same") for i in range(1, 200)]:
        evidence.settle([each])
        later.append(getattr(quality(evidence), look))

    assert early <= max([0.0, *later]) + 1e-9


def test_regression_errors_are_clipped_and_a_pending_one_is_bounded_by_how_far_the_answers_are_apart():
    own = policy(quality={"loss": "absolute_error", "clip": 10, "margin": 5})
    models = {v: Model([], None) for v in Variant}
    near, far, between = (Attempt(Status.OK, None, value) for value in (4.0, 900.0, 7.0))
    rows = [
        row(1, label=3.0, primary=near, candidate=far),
        row(2, label=4.5, primary=far, candidate=near),
        row(3, label=None, primary=near, candidate=between),
        row(4, label=None, primary=near, candidate=near),
    ]
    evidence = folded(own, rows, models)

    assert evidence.quality == goal_of([1.0 - 0.1, 0.05 - 1.0])
    assert evidence.tail(rows[2:]) == Tail([0.3, 0.0], [-0.3, 0.0], [-0.3, 0.0], [True, True], pending=2, last=4)
    assert evidence.clipped.cut == {Variant.PRIMARY: 1, Variant.CANDIDATE: 1}


def test_more_classes_than_two_are_scored_by_all_their_probabilities():
    own = policy(quality={"loss": "brier"})
    models = {v: Model(["a", "b", "c"], None) for v in Variant}
    sure, torn = Attempt(Status.OK, "a", None, (1.0, 0.0, 0.0)), Attempt(Status.OK, "b", None, (0.2, 0.5, 0.3))
    rows = [row(1, label="a", primary=sure, candidate=torn), row(2, label=None, primary=sure, candidate=torn)]
    evidence = folded(own, rows, models)
    tail = evidence.tail(rows[1:])

    assert evidence.quality.whole.mean == pytest.approx((0.8**2 + 0.5**2 + 0.3**2) / 2)
    assert (tail.worst, tail.best) == (pytest.approx([0.49]), pytest.approx([0.19 - 1.0]))


@pytest.mark.parametrize("score", [1.0000001, 7.5, -3.0])
def test_a_model_whose_probabilities_are_none_loses_at_most_one_and_stops_nobody(score):
    """Logits, or a softmax that rounding put above 1: a loss is bounded, whatever the model says."""
    wild = Attempt(Status.OK, 1, score, None, 0.001)
    rows = [row(1, label=0, candidate=wild, primary=0.0), row(2, label=1, candidate=wild, primary=0.0)]
    evidence = folded(BRIER, rows)
    assert evidence.quality.n == 2
    assert -1.0 <= evidence.quality.whole.mean <= 1.0


# Steps, and what is kept.


def test_saying_twice_that_a_step_began_changes_nothing():
    evidence = folded(policy(), [row(i) for i in range(1, 21)])
    evidence.begin_step(0, 1)
    assert evidence.marks == []
    evidence.begin_step(1, 2)
    evidence.settle([row(21, revision=2)])
    before = state(evidence)
    evidence.begin_step(1, 2)

    assert state(evidence) == before
    assert evidence.marks == [(1, 2, 20, 20, 1)]
    assert (evidence.quality.whole.n, evidence.quality.step.n) == (21, 1)


def test_a_row_belongs_to_the_step_whose_plan_routed_it_and_not_to_the_one_that_its_label_finds():
    """Two rows of the step before settle late, and behind them lie one of the old plan and one of the new."""
    late = [row(i, label=None) for i in (1, 2)]
    evidence = folded(policy(errors={"margin": 0.1}), late)
    evidence.begin_step(1, 2)
    evidence.settle([row(1), row(2)])
    behind = [row(3), row(4, revision=2), row(5, label=None, revision=2)]
    evidence.see(behind)
    tail = evidence.tail(behind)

    assert (evidence.quality.whole.n, evidence.quality.step.n) == (2, 0)
    assert tail.in_step == [False, True, True]
    assert (evidence.attempts.errors.whole.n, evidence.attempts.errors.step.n) == (5, 2)
    assert (evidence.attempts.latency.whole.n, evidence.attempts.latency.step.n) == (5, 2)
    standing = evidence.standing(tail)
    assert (standing.labels, standing.step_labels, standing.step_requests) == (4, 1, 2)
    assert standing.step_s == 3.0  # since the last request before the step


def test_a_new_step_needs_evidence_of_its_own_and_forgets_no_harm():
    evidence = folded(policy(), [row(i) for i in range(1, 41)])
    harm, advance = quality(evidence).log_e_harm, quality(evidence).log_e_advance
    evidence.begin_step(1, 2)

    assert advance > 10
    assert quality(evidence).log_e_advance == 0.0
    assert quality(evidence).log_e_harm == harm


def test_a_state_that_was_made_with_another_margin_is_refused():
    kept = folded(policy(), [row(1)]).state()
    with pytest.raises(ValueError, match=r"margin is 0\.4 here and 0\.5 there"):
        Evidence(policy(quality={"margin": 0.4}), MODELS).take(kept)
    with pytest.raises(ValueError, match="harm_line"):
        Evidence(policy(quality={"harm": 0.1}), MODELS).take(kept)


anything = st.lists(
    st.tuples(
        st.sampled_from(sorted(SCORES)),
        st.sampled_from([0, 1, 1, None]),
        st.sampled_from([None, None, "ann", "bob", "cy"]),
        st.sampled_from([Mode.LIVE] * 6 + [Mode.PINNED]),
        st.integers(0, 900),
    ),
    max_size=60,
).map(
    lambda drawn: [
        row(i, kind, label, unit=unit, mode=mode, at=START + 300 * i, delay=float(20 * delay))
        for i, (kind, label, unit, mode, delay) in enumerate(drawn, 1)
    ]
)


@given(anything, st.lists(st.integers(1, 9), min_size=1, max_size=20), st.sampled_from(["zero_one", "brier"]))
@steady
def test_pages_of_any_size_and_restarts_between_them_give_the_same_state(rows, sizes, loss):
    own = policy(quality={"loss": loss, "poc_target": 0.1}, errors={"margin": 0.01})
    whole = folded(own, rows)
    evidence = Evidence(own, MODELS)
    for number, size in enumerate(sizes * (len(rows) + 1)):
        page = [each for each in rows if each[0] > evidence.seen][:size]
        evidence.see(page)
        if not page:
            break
        restarted = Evidence(own, MODELS)
        restarted.take(json.loads(state(evidence)))
        assert state(restarted) == state(evidence)
        evidence = restarted if number % 2 else evidence
    while evidence.settle([each for each in rows if each[0] > evidence.settled][: sizes[0]]):
        pass

    assert state(evidence) == state(whole)
    assert evidence.readings(evidence.tail(rows[evidence.settled :])) == whole.readings(
        whole.tail(rows[whole.settled :])
    )


@given(
    st.lists(st.tuples(st.sampled_from(sorted(SCORES)), st.integers(0, 30), st.booleans()), max_size=40),
    st.sampled_from(["zero_one", "brier"]),
    st.sampled_from(["settled", "on_arrival"]),
    st.integers(1, 7),
)
@steady
def test_when_labels_arrive_inside_their_wait_cannot_change_what_is_settled(drawn, loss, count, every):
    """Looked at now and then while they arrive, in whatever order, or all at once at the end: the same, to the last bit."""
    own = policy(quality={"loss": loss, "poc_target": 0.2}, labels={"count": count, "wait": "100s"})
    rows = [row(i, kind, 1 if has else None, delay=5.0) for i, (kind, _, has) in enumerate(drawn, 1)]
    end = [row(i, at=START + i + 1000) for i in range(len(rows) + 1, len(rows) + 3)]
    arrival = {i: i + delay for i, (_, delay, _) in enumerate(drawn, 1)}
    watched = Evidence(own, MODELS)
    for now in range(1, len(rows) + 1, every):
        known = [(s, o, r if arrival[s] <= now else None) for s, o, r in rows if s <= now]
        watched.see(known[watched.seen :])
        watched.settle(known[watched.settled :])
    watched.see([*rows, *end][watched.seen :])
    watched.settle([*rows, *end][watched.settled :])

    assert watched.settled == len(rows) + 2
    assert state(watched) == state(folded(own, [*rows, *end]))


# The chain.


def altered(change):
    rows = [row(i, "worse" if i % 5 == 0 else "same") for i in range(1, 601)]
    rows[299] = change(rows[299])
    return folded(policy(), rows)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: (r[0], r[1], LabelReport("p-300", 0, r[1].at + 10)),
        lambda r: (r[0], r[1], None),
        lambda r: row(300, "worse", primary=0.8, candidate=0.21),
        lambda r: row(300, "worse", at=START + 300.5),
        lambda r: row(300, "worse", unit="ann"),
        lambda r: row(300, "worse", mode=Mode.PINNED),
        lambda r: (r[0], replace(r[1], candidate=replace(r[1].candidate, seconds=9.0)), r[2]),
    ],
    ids=["label", "no label", "score", "time", "unit", "mode", "latency"],
)
def test_a_row_that_is_changed_later_changes_the_chain_from_its_block_on(change):
    before, after = altered(lambda r: r), altered(change)
    if after.settled < 600:  # without its label the row waits
        assert after.settled == 299
        return
    assert before.chain.blocks[0] == after.chain.blocks[0]
    assert before.chain.blocks[1] != after.chain.blocks[1]
    assert before.chain.digest != after.chain.digest
    assert [seq for seq, _ in before.chain.blocks] == [256, 512]


def test_the_chain_says_nothing_of_labels_that_no_pair_waits_for():
    """A pinned row's label may come at any time; it is no evidence, and no alteration either."""
    early = folded(policy(), [row(1, mode=Mode.PINNED), row(2)])
    late = folded(policy(), [row(1, label=None, mode=Mode.PINNED), row(2)])
    assert early.chain.digest == late.chain.digest


def test_rows_that_were_settled_without_their_label_are_remembered_as_ranges():
    labels = {1: None, 2: None, 3: 1, 4: None}
    rows = [row(i, "worse", label) for i, label in labels.items()] + [row(5, at=START + 3 * WAIT)]
    evidence = Evidence(policy(), MODELS)
    evidence.see(rows)
    for each in rows:
        evidence.settle([each])
    assert evidence.missing == [(1, 2), (4, 4)]


def test_bands_are_at_half_the_error_budget_and_hold_the_estimate():
    found = quality(folded(policy(error_budget=0.1), [row(i, ("worse", "better", "same")[i % 3]) for i in range(300)]))
    goal = goal_of(
        [{"worse": 1.0, "better": -1.0, "same": 0.0}[("worse", "better", "same")[i % 3]] for i in range(300)]
    )

    assert (found.low, found.high) == goal.band(0.05)
    assert found.low < found.estimate < found.high
    assert math.isclose(found.gap, 0.5 - found.estimate)
    assert pair(1).prediction_id == "p-1"
