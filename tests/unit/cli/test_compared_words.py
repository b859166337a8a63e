"""What `check` says of the comparison is true: no quantile beyond the largest distance, and made-up rows are called so."""

import numpy as np

from understudy.cli.compared import comparison_lines
from understudy.inference.cards import InputSpec
from understudy.offline.check import _drawn_from
from understudy.rollout.comparison import figures, probabilities


def test_a_quantile_is_never_beyond_the_largest_distance() -> None:
    """The histogram's edge, 0.5, is beyond it."""
    sums, _ = probabilities(np.array([[1.0, 0.0]] * 4), np.array([[0.6563, 0.3437]] * 4))
    (line,) = comparison_lines(figures(sums))

    assert "50 % of the rows within 0.3437, 99 % within 0.3437, at most 0.3437" in line


def test_the_largest_distance_counts_rows_with_nan() -> None:
    """Such a row is as far as can be from any other."""
    sums, _ = probabilities(np.array([[1.0, 0.0]] * 2), np.array([[0.7, 0.3], [np.nan, 0.0]]))
    (line,) = comparison_lines(figures(sums))

    assert line.count("at most 1.0000") == 1
    assert sums.maxima["distance"] < 0.31, "the noise floor is of finite rows"


def test_rows_that_are_made_up_are_called_so() -> None:
    """Without a profile nothing is known of real rows."""
    plain = InputSpec(name="x", dtype="float32", shape=[None, 2])

    assert _drawn_from([plain]).startswith("made up, since no card has a profile of them")
