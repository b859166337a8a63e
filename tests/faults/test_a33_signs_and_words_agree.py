"""A band of failures read "between -6.88 % fewer and 15.81 % more". The side is named by a word, and numbers have no sign."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.rollout.reading import MetricReading
from understudy.rollout.sentences import sentence

METRICS = ["errors", "zero_one", "brier"]


def words(metric, low, high):
    return sentence(MetricReading(metric, (low + high) / 2, low, high, 1_000, 0, 0.02, 0.0, 0.0))


@pytest.mark.parametrize(
    ("low", "high", "band"),
    [
        (0.0688, 0.1581, "between 6.88% and 15.81% more"),
        (-0.1581, -0.0688, "between 6.88% and 15.81% fewer"),
        (-0.0688, 0.1581, "between 6.88% fewer and 15.81% more"),
        (0.0, 0.0, "between 0.00% fewer and 0.00% more"),
    ],
)
def test_a_band_of_failures_says_each_side(low, high, band):
    assert f"({band}; 2.00% more are allowed)" in words("errors", low, high)


@given(st.sampled_from(METRICS), st.floats(-1, 1), st.floats(-1, 1))
def test_no_metric_writes_a_sign_beside_its_word(metric, one, other):
    assert "-0." not in words(metric, min(one, other), max(one, other)).replace("zero-one", "")
    assert "nan" in words(metric, math.nan, math.nan)
