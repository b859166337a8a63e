"""The forecast promised millions of labels for margins that no number of labels can show: the weakest bet of the evidence is too
strong for them. It says so now, and `check` refuses such a margin.
"""

import pytest

from understudy.rollout.sequential import MeanEvidence, labels_needed, threshold

ALPHA = 0.025


def decided(variance: float, margin: float, pairs: int) -> bool:
    """Whether so many pairs of equal models, as typical as can be, show a margin."""
    evidence, won = MeanEvidence(), int(pairs * variance / 2)
    for value, times in ((1.0, won), (-1.0, won), (0.0, pairs - 2 * won)):
        evidence.update(value, times=times)
    return evidence.log_e_below(margin) >= threshold(ALPHA)


@pytest.mark.parametrize("variance", [1.0, 0.3, 0.1, 0.01])
@pytest.mark.parametrize("ratio", [0.0001, 0.001, 0.0018, 0.0019, 0.002, 0.003, 0.01, 0.1])
def test_the_forecast_is_for_ever_exactly_where_it_is(variance: float, ratio: float) -> None:
    """The margin as a part of the variance; within a factor of two where there is a number."""
    forecast = labels_needed(ALPHA, variance, ratio * variance)

    if forecast is None:
        assert not decided(variance, ratio * variance, 2**48)
    else:
        assert decided(variance, ratio * variance, 2 * forecast.about)
        assert not decided(variance, ratio * variance, forecast.about // 2)


def test_other_bounds_are_the_same_question_in_other_units() -> None:
    """Values up to 20 need what values up to 1 need, with gap and variance measured in twentieths."""
    assert labels_needed(ALPHA, 40.0, 0.4, largest=20.0) == labels_needed(ALPHA, 0.1, 0.02)
