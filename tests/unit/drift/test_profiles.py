"""Profiles: what training looked like, and how unlike the rest its own days were."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.drift import SLOT_S
from understudy.drift.bins import CATEGORIES_MAX, bins_of, noise_floor, psi
from understudy.drift.learn import categorical_profile, numeric_profile

DAY = 24 * SLOT_S


def days(count: int, rows: int = 480) -> np.ndarray:
    """Times, evenly spaced over so many days."""
    return np.arange(count * rows) * (DAY / rows)


def test_a_numeric_profile_has_deciles_and_right_closed_bins() -> None:
    """Few distinct values give fewer bins; one value gives one."""
    profile = numeric_profile(np.arange(1.0, 101.0))
    assert len(profile.edges) == 9
    assert profile.shares == pytest.approx([0.1] * 10)
    few = numeric_profile(np.array([0.0, 0.0, 0.0, 0.0, 1.0, np.nan]))
    assert few.missing == pytest.approx(1 / 6)
    assert few.edges[0] == 0.0
    assert few.shares[0] == pytest.approx(0.8)
    assert math.fsum(few.shares) == pytest.approx(1.0)
    constant = numeric_profile(np.ones(5))
    assert (constant.edges, constant.shares) == ([1.0], [1.0, 0.0])
    assert constant.windows is None
    with pytest.raises(ValueError, match="at least one value"):
        numeric_profile(np.array([np.nan]))


def test_a_categorical_profile_is_most_frequent_first() -> None:
    """And then by name; the empty string is a missing value."""
    profile = categorical_profile(np.array(["b", "a", "b", ""], dtype=object))
    assert list(profile.shares.items()) == [("b", pytest.approx(2 / 3)), ("a", pytest.approx(1 / 3))]
    assert profile.missing == pytest.approx(0.25)


def test_what_moves_through_its_range_says_so() -> None:
    """The day of the month: no day resembles a month. Noise: every day resembles the rest."""
    at = days(30)
    sweeping = numeric_profile(np.floor(at / DAY), at).windows
    noise = numeric_profile(np.random.default_rng(1).normal(size=at.size), at).windows

    assert sweeping is not None
    assert noise is not None
    assert sweeping.count == noise.count == 30 * 24 - 23
    assert sweeping.psi > 5
    assert noise.psi < 0.1


def test_a_record_of_one_day_lies_outside_the_rest() -> None:
    """A heat wave in training: the reference knows that such a day may come, as for a day that comes after."""
    at = days(20)
    steady = np.random.default_rng(2).uniform(0, 1, at.size)
    wave = np.where((at >= 9 * DAY) & (at < 10 * DAY), steady + 5, steady)

    profile = numeric_profile(wave, at)
    assert profile.windows is not None
    bins, counts = bins_of(profile), np.zeros(13)
    counts[bins.outside[-1]] = 480  # a day wholly above everything that was seen
    assert profile.windows.psi == pytest.approx(
        float(psi(counts[: bins.size], bins.shares * (at.size - 480))), rel=0.15
    )


def test_the_most_missing_day_is_known() -> None:
    """A sensor that failed for a day in training may fail for a day again."""
    at = days(20)
    values = np.where((at >= 3 * DAY) & (at < 4 * DAY), np.nan, 1.0)

    windows = numeric_profile(values, at).windows
    assert windows is not None
    assert windows.missing == 1.0


def test_two_days_of_training_are_no_reference() -> None:
    """Nor are rows without a time."""
    at = days(1)
    assert numeric_profile(np.ones(at.size), at).windows is None
    assert categorical_profile(np.array(["a"] * at.size, dtype=object), at).windows is None


def test_every_value_has_its_bin() -> None:
    """What training never saw lies outside; None and NaN are missing; an edge belongs to the left."""
    numbers = bins_of(numeric_profile(np.array([0.0, 1.0, 2.0, 3.0])))
    below, above = numbers.outside
    assert numbers.code([-1, 9, None, math.nan]).tolist() == [below, above, numbers.size, numbers.size]
    assert below < numbers.code([0])[0] <= numbers.code([3])[0] < above
    names = bins_of(categorical_profile(np.array(["a", "a", "b"], dtype=object)))
    assert names.code(["a", "b", "c", None, ""]).tolist() == [0, 1, names.outside[0], names.size, names.size]


def test_rare_categories_share_a_bin() -> None:
    """So that a field with many names stays small; they are known all the same."""
    names = [f"n{i:04d}" for i in range(3 * CATEGORIES_MAX)]
    bins = bins_of(categorical_profile(np.array(names, dtype=object)))

    codes = bins.code([*names, "never seen"])
    assert bins.size == CATEGORIES_MAX + 2
    assert set(codes[:-1]) == set(range(CATEGORIES_MAX + 1))
    assert codes[-1] == bins.outside[0]


COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=12)


@given(COUNTS, st.integers(1, 50))
def test_the_distance_is_zero_for_equals_and_grows_with_nothing_else(counts: list[int], times: int) -> None:
    """Not negative, symmetric, and blind to how many rows there are but for the half row that is added."""
    own = np.array(counts, dtype=float)
    other = own[::-1] * times

    assert float(psi(own, own)) == pytest.approx(0)
    assert float(psi(own, other)) >= 0
    assert float(psi(own, other)) == pytest.approx(float(psi(other, own)))


def test_independent_rows_of_one_distribution_stay_below_the_noise_floor() -> None:
    """By the floor's own promise 1 window in 10,000 is above it: of 2,000 windows more than 4 would be so once in 100,000 runs."""
    random = np.random.default_rng(3)
    shares = np.full(10, 0.1)
    windows = random.multinomial(500, shares, size=2000).astype(float)

    above = psi(windows, shares * 30_000) > noise_floor(10, 500, 30_000)
    assert np.count_nonzero(above) <= 4
    assert np.quantile(psi(windows, shares * 30_000), 0.99) > noise_floor(10, 500, 30_000) / 3
    assert noise_floor(10, 0, 100) == math.inf
