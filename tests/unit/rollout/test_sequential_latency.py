"""P8: the histogram never says more than the exact latencies would, and says enough."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.rollout.sequential import LatencyEvidence
from understudy.rollout.sequential.rate import ABOVE, BELOW, log_e_rate

COARSE = {"lowest": 0.01, "highest": 1.0, "growth": 1.3}


def exact(primary, candidate, level, ratio, *, slower=False):
    """The smallest evidence over *all* real x, from the latencies themselves: it changes only at the data."""
    tail = 1 - level
    marks = sorted({0.0, *primary, *(c / ratio for c in candidate)})
    tried = [x for mark in marks for x in (mark * (1 - 1e-9), mark, mark * (1 + 1e-9))]
    return min(_at(x, primary, candidate, tail=tail, ratio=ratio, slower=slower) for x in tried)


def _at(x, primary, candidate, *, tail, ratio, slower):
    n, m = len(primary), len(candidate)
    if slower:
        p, c = [v >= x for v in primary], [v > ratio * x for v in candidate]
        return log_e_rate(BELOW, sum(p), n, tail) + log_e_rate(ABOVE, sum(c), m, tail)
    p, c = [v > x for v in primary], [v >= ratio * x for v in candidate]
    return log_e_rate(ABOVE, sum(p), n, tail) + log_e_rate(BELOW, sum(c), m, tail)


latencies = st.lists(st.floats(0.005, 2.0) | st.just(math.inf), min_size=1, max_size=40)


@given(latencies, latencies, st.sampled_from([0.5, 0.9]), st.integers(0, 3))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_separate_arms_never_exceed_the_exact_evidence(primary, candidate, level, steps):
    evidence = LatencyEvidence(**COARSE)
    for value in primary:
        evidence.update(primary=value)
    for value in candidate:
        evidence.update(candidate=value)
    ratio = 1.3**steps

    assert evidence.log_e_within(level, steps) <= exact(primary, candidate, level, ratio) + 1e-9
    assert evidence.log_e_slower(level, steps) <= exact(primary, candidate, level, ratio, slower=True) + 1e-9


def test_a_latency_in_a_bucket_on_the_wrong_side_is_caught():
    """Just under an edge and just over it differ by one bucket: the first may not count as having reached it."""
    mark = LatencyEvidence(**COARSE)._marks[4]
    under, over = LatencyEvidence(**COARSE), LatencyEvidence(**COARSE)
    under.update(candidate=math.nextafter(mark, 0.0), times=300)
    over.update(candidate=mark, times=300)

    assert under.log_e_under(mark, 0.9) > 3.0 > over.log_e_under(mark, 0.9)
    assert over.log_e_over(math.nextafter(mark, 0.0), 0.9) > 3.0
    assert over.log_e_over(mark, 0.9) < 3.0  # at the limit is not over it


def test_it_finds_what_is_there():
    rng = random.Random(7)
    separate = LatencyEvidence()
    for _ in range(6000):
        separate.update(primary=rng.lognormvariate(-4, 0.5))
        separate.update(candidate=rng.lognormvariate(-4, 0.5))

    assert separate.log_e_within(0.5, 5) > 3.0
    assert separate.log_e_slower(0.5, 5) < 0.0
    assert separate.quantiles(0.5)[0] == pytest.approx(math.exp(-4), rel=0.05)
    slow = LatencyEvidence()
    slow.update(primary=0.01, times=2000)
    slow.update(candidate=0.015, times=2000)
    assert slow.log_e_slower(0.5, 5) > 3.0
    assert slow.log_e_within(0.5, 5) < 0.0


def test_steps_within_a_ratio():
    evidence = LatencyEvidence()

    assert [evidence.steps_within(ratio) for ratio in (1.0, 1.02, 1.1, 1.105, 2.0)] == [0, 1, 4, 5, 35]
    with pytest.raises(ValueError, match=r"0\.9"):
        evidence.steps_within(0.9)


@pytest.mark.parametrize("bad", [math.nan, -0.1])
def test_bad_latencies_are_refused_and_count_nowhere(bad):
    evidence = LatencyEvidence()
    with pytest.raises(ValueError, match=str(bad)):
        evidence.update(candidate=bad)
    assert evidence.n == (0, 0)
