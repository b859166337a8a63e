"""What `check` says of the comparison is true: no quantile beyond the largest distance, and made-up rows are called so."""

from understudy.cli.compared import comparison_lines
from understudy.inference.cards import InputSpec
from understudy.offline.check import _drawn_from


def test_a_quantile_is_never_beyond_the_largest_distance() -> None:
    """The histogram's edge is beyond it."""
    found = {"mean": 0.2, "p50": 0.2812, "p95": 0.4, "p99": 0.4862, "max": 0.3437, "equal": 0.0}
    (line,) = comparison_lines({"probabilities": found})

    assert "99 % within 0.3437, at most 0.3437" in line


def test_rows_that_are_made_up_are_called_so() -> None:
    """Without a profile nothing is known of real rows."""
    plain = InputSpec(name="x", dtype="float32", shape=[None, 2])

    assert _drawn_from([plain]).startswith("made up, since no card has a profile of them")
