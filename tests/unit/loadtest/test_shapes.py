"""Arrivals: as many as asked, when the shape says, as a Poisson process bunches them, and the same for the same seed."""

import numpy as np
import pytest
from scipy import stats

from understudy.loadtest.shapes import BLOCK_S, SHAPES, arrivals, mean_share, share


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_offers_its_mean_rate_exactly(shape: str) -> None:
    """Ascending moments inside the test; the count is the rate's integral, to one request; the peak is the rate."""
    moments = list(arrivals(shape, 200, 90, 1))

    assert moments == sorted(moments)
    assert 0 <= moments[0] <= moments[-1] <= 90
    assert abs(len(moments) - 200 * 90 * mean_share(shape)) <= 1.5
    assert share(shape, np.linspace(0, 1, 1001)).max() == pytest.approx(1.0, abs=1e-6)


def test_steady_arrivals_are_a_poisson_process() -> None:
    """Within a minute: gaps are exponential (Kolmogorov-Smirnov, fixed seed), counts per second vary as much as their mean."""
    moments = np.array(list(arrivals("steady", 500, BLOCK_S, 3)))

    assert stats.kstest(np.diff(moments), "expon", args=(0, 1 / 500)).pvalue > 0.01
    counts = np.bincount(moments.astype(int), minlength=60)
    assert 0.6 < counts.var() / counts.mean() < 1.5


def test_a_spike_is_where_it_should_be() -> None:
    """Four times the load in the middle fifth."""
    moments = np.array(list(arrivals("spike", 400, 50, 5)))
    inside = ((moments >= 20) & (moments < 30)).sum()

    assert inside == pytest.approx(400 * 10, rel=0.05)
    assert len(moments) - inside == pytest.approx(100 * 40, rel=0.05)


def test_the_seed_decides() -> None:
    """The same moments for the same seed, others for another; two processes' moments are not each other's."""
    assert list(arrivals("steady", 50, 5, 1)) == list(arrivals("steady", 50, 5, 1))
    assert list(arrivals("steady", 50, 5, 1)) != list(arrivals("steady", 50, 5, 2))
