"""Two models' answers beside each other: flips, distances and errors as their definitions say, in sums that merge."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.rollout import comparison
from understudy.rollout.comparison import DISTANCE_BUCKETS, ComparisonSums, figures, quantile_of
from understudy.rollout.policy import Tolerance

SHARES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40)
NUMBERS = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])


def binary(shares):
    return np.array([[1 - p, p] for p in shares])


def test_flips_are_counted_by_the_way_they_go() -> None:
    found = comparison.labels(["a", "b", "a", "c"], ["a", "a", "b", "a"], ["a", "b", "c"])
    assert found.sums == {
        "label_rows": 4,
        "label_flips": 3,
        'flip/["b", "a"]': 1,
        'flip/["a", "b"]': 1,
        'flip/["c", "a"]': 1,
    }
    assert figures(ComparisonSums({"rows": 4.0} | found.sums))["labels"]["ways"][0] == {
        "primary": "a",
        "candidate": "b",
        "rows": 1,
    }


def test_ways_are_bounded_however_many_classes_there_are() -> None:
    """The first ten by name, the others together; a flip between two others is still a flip."""
    names = list(range(1_000))
    found = comparison.labels(names, names[1:] + names[:1], names)
    ways = [name for name in found.sums if name.startswith("flip/")]
    assert len(ways) == 12
    assert found.sums['flip/["other", "other"]'] == 989
    assert found.sums["label_flips"] == 1_000


def test_one_and_the_word_one_are_another_label() -> None:
    """Labels are compared as Python does: 1 and True are the same, "1" is another."""
    assert comparison.labels([1, 1], [True, "1"], [0, 1]).sums["label_flips"] == 1


def test_a_flip_below_the_noise_floor_is_none() -> None:
    """0.5 and a hair beside 0.5: the runtime's doing, not the model's."""
    summary, equal = comparison.probabilities(binary([0.5, 0.5]), binary([0.5 + 1e-8, 0.6]), floor=1e-7)
    assert equal.tolist() == [True, False]
    assert summary.sums["distance_equal"] == 1
    assert comparison.labels([0, 0], [1, 1], [0, 1], equal).sums["label_flips"] == 1


@given(SHARES)
def test_the_distance_of_two_classes_is_the_difference_of_one(shares: list[float]) -> None:
    """Total variation of (1 − p, p) and (1 − q, q) is |p − q|; the histogram has every row once, in its bucket."""
    other = list(reversed(shares))
    summary, _ = comparison.probabilities(binary(shares), binary(other))
    apart = [abs(p - q) for p, q in zip(shares, other, strict=True)]
    assert summary.sums["distance_sum"] == pytest.approx(sum(apart), abs=1e-9)
    assert summary.maxima["distance"] == pytest.approx(max(apart), abs=1e-12)
    assert sum(v for k, v in summary.sums.items() if k.startswith("distance/")) == len(shares)


def test_the_distance_is_the_largest_difference_over_sets_of_classes() -> None:
    summary, _ = comparison.probabilities(np.array([[0.5, 0.3, 0.2]]), np.array([[0.1, 0.5, 0.4]]))
    assert summary.maxima == {name: pytest.approx(0.4) for name in ("distance", "probability", "farthest")}
    assert summary.sums["distance/10"] == 1
    assert DISTANCE_BUCKETS[10] == 0.5


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_outside_the_tolerance_is_what_numpy_says(pairs: list[tuple[float, float]], atol: float, rtol: float) -> None:
    """`numpy.isclose` with the primary as the reference; NaN beside NaN is equal."""
    a, b = ([pair[i] for pair in pairs] for i in (0, 1))
    found = comparison.tensors("y", a, b, Tolerance(atol=atol, rtol=rtol))
    close = np.isclose(b, a, rtol=rtol, atol=atol, equal_nan=True)
    assert found.sums.get("outside/y", 0) == found.sums.get("rows_outside/y", 0) == (~close).sum()
    assert found.sums["elements/y"] == len(pairs)


def test_errors_are_absolute_and_relative_to_the_primary() -> None:
    found = comparison.tensors("y", [[1.0, 2.0], [10.0, 0.0]], [[1.0, 2.5], [10.0, 0.0]], Tolerance())
    assert found.sums == {"rows/y": 2, "rows_outside/y": 1, "elements/y": 4, "outside/y": 1, "abs_sum/y": 0.5}
    assert found.maxima == {"abs/y": 0.5, "rel/y": 0.25}
    assert figures(ComparisonSums({"rows": 2.0} | found.sums, found.maxima))["outputs"]["y"] == {
        "rows": 2,
        "rows_outside": 1,
        "elements": 4,
        "outside": 1,
        "not_finite": 0,
        "misshapen": 0,
        "share": 0.5,
        "mean_abs": 0.125,
        "max_abs": 0.5,
        "max_rel": 0.25,
    }


def test_numbers_that_are_not_finite_are_outside_and_counted() -> None:
    """Unless both say the same."""
    found = comparison.tensors(
        "y", [math.nan, math.inf, 1.0, math.inf], [math.nan, math.inf, math.nan, 1.0], Tolerance()
    )
    assert (found.sums["outside/y"], found.sums["not_finite/y"]) == (2, 2)
    assert found.maxima == {"abs/y": 0.0, "rel/y": 0.0}


def test_below_the_floor_is_equal_whatever_the_tolerance() -> None:
    exact = Tolerance(atol=0, rtol=0)
    assert comparison.tensors("y", [1.0], [1.0001], exact).sums["outside/y"] == 1
    assert "outside/y" not in comparison.tensors("y", [1.0], [1.0001], exact, floor=0.001).sums


@pytest.mark.parametrize(
    ("primary", "candidate"),
    [([[1.0, 2.0]], [[1.0, 2.0, 3.0]]), ([[1.0]], [1.0]), (["a"], [1.0]), ([None], [1.0]), ([{"a": 1}], [{"a": 1}])],
)
def test_shapes_and_kinds_that_do_not_fit_are_counted_and_never_raised(primary, candidate) -> None:
    found = comparison.tensors("y", primary, candidate, Tolerance())
    assert found.sums == {"rows/y": len(primary), "rows_outside/y": len(primary), "misshapen/y": len(primary)}
    assert figures(ComparisonSums({"rows": 1.0} | found.sums))["outputs"]["y"]["mean_abs"] is None


def test_rows_of_several_shapes_are_compared_one_by_one() -> None:
    """Requests with arrays of other sizes may share a batch: that makes none of them unequal."""
    a, b = [[1.0], [1.0, 2.0], [3.0]], [[1.0], [1.0, 2.5], [3.0, 4.0]]
    sums = comparison.tensors("y", a, b, Tolerance()).sums
    assert sums == {
        "rows/y": 3,
        "rows_outside/y": 2,
        "misshapen/y": 1,
        "elements/y": 3,
        "outside/y": 1,
        "abs_sum/y": 0.5,
    }
    assert comparison.close(a, b, Tolerance()).tolist() == [True, False, False]


@given(st.data())
def test_a_row_is_close_exactly_where_the_summary_does_not_count_it_as_outside(data: st.DataObject) -> None:
    numbers = st.sampled_from([0.0, 1.0, 1.0005, 1.01, -2.0, math.nan, math.inf])
    rows = data.draw(
        st.lists(st.tuples(st.lists(numbers, max_size=2), st.lists(numbers, max_size=2)), min_size=1, max_size=4)
    )
    a, b = [x for x, _ in rows], [y for _, y in rows]
    together = comparison.close(a, b, Tolerance())
    assert together.tolist() == [bool(comparison.close([x], [y], Tolerance())[0]) for x, y in rows]
    assert comparison.tensors("y", a, b, Tolerance()).sums.get("rows_outside/y", 0.0) == (~together).sum()


def test_texts_and_truth_values_are_compared_as_they_are() -> None:
    assert comparison.tensors("y", ["a", "b"], ["a", "c"], Tolerance()).sums["outside/y"] == 1
    assert comparison.tensors("y", [True, False], [True, True], Tolerance()).sums["outside/y"] == 1


@given(SHARES, st.integers(0, 40))
def test_summaries_of_parts_merge_to_that_of_the_whole(shares: list[float], cut: int) -> None:
    """Exactly in the counts, to rounding in the sums; through JSON as the store keeps them."""
    other = [p * p for p in shares]

    def summary(start: int, end: int) -> ComparisonSums:
        a, b = shares[start:end], other[start:end]
        found, equal = comparison.probabilities(binary(a), binary(b), 0.01)
        names = [[int(p > 0.5) for p in part] for part in (a, b)]
        found.merge(comparison.labels(*names, [0, 1], equal))
        found.merge(comparison.tensors("y", a, b, Tolerance()))
        return found

    at = min(cut, len(shares))
    whole, parts = summary(0, len(shares)), ComparisonSums()
    for start, end in ((0, at), (at, len(shares))):
        if end > start:
            parts.merge(summary(start, end))
    assert json.loads(json.dumps(parts.sums)) == pytest.approx(whole.sums)
    assert parts.maxima == pytest.approx(whole.maxima)


def test_quantiles_come_from_the_histogram() -> None:
    """A thousand rows at 0.15: all in the bucket from 0.1 to 0.2."""
    summary, _ = comparison.probabilities(binary([0.5] * 1000), binary([0.65] * 1000))
    told = figures(ComparisonSums({"rows": 1000.0} | summary.sums))["probabilities"]
    assert told["mean"] == pytest.approx(0.15)
    assert (told["p50"], told["p99"]) == (pytest.approx(0.15), pytest.approx(0.199))
    assert quantile_of([0, 10, 0], (1, 2), 0.5) == 1.5


def test_nothing_compared_says_so() -> None:
    assert figures(ComparisonSums()) == {"rows": 0}


def test_classes_in_another_order_are_put_beside_each_other() -> None:
    """And a class that one does not know has the probability 0 there."""
    assert comparison.aligned(["a", "b"], ["a", "b"]) is None
    found = comparison.aligned(["a", "b"], ["b", "c", "a"])
    assert found is not None
    at_primary, at_candidate, width = found
    a = comparison.widened(np.array([[0.2, 0.8]]), at_primary, width)
    b = comparison.widened(np.array([[0.7, 0.1, 0.2]]), at_candidate, width)
    assert a.tolist() == [[0.2, 0.8, 0.0]]
    assert b.tolist() == [[0.2, 0.7, 0.1]]


def test_the_floor_is_the_largest_difference_by_output() -> None:
    summary, _ = comparison.probabilities(binary([0.5, 0.5]), binary([0.5001, 0.5]))
    summary.merge(comparison.tensors("a/b", [1.0], [1.5], Tolerance()))
    assert comparison.floor_of(summary) == {"probabilities": pytest.approx(0.0001), "a/b": 0.5}


def test_rows_without_elements_are_equal_in_every_form() -> None:
    """No boxes as an array of shape [rows, 0, 4], and as lists, which do not say the 4."""
    none = np.zeros((1, 0, 4), np.float32)
    boxes = [[], [[1.0, 2.0, 3.0, 4.0]]]
    assert comparison.tensors("boxes", none, [[]], Tolerance()).sums == {"rows/boxes": 1.0}
    assert comparison.close(none, [[]], Tolerance()).tolist() == [True]
    assert comparison.close(boxes, boxes, Tolerance()).tolist() == [True, True]
    assert comparison.close(boxes, boxes[::-1], Tolerance()).tolist() == [False, False]
