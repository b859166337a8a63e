"""P8: the histogram never says more than the exact latencies would, and says enough."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.rollout.sequential import LatencyEvidence, PairedLatencyEvidence
from service.rollout.sequential.latency import _log_e_ternary
from service.rollout.sequential.rate import ABOVE, BELOW, log_e_rate

COARSE = {"lowest": 0.01, "highest": 1.0, "growth": 1.3}


def exact(primary, candidate, level, ratio, *, slower=False, paired=False):
    """The smallest evidence over *all* real x, from the latencies themselves: it changes only at the data."""
    tail = 1 - level
    marks = sorted({0.0, *primary, *(c / ratio for c in candidate)})
    tried = [x for mark in marks for x in (mark * (1 - 1e-9), mark, mark * (1 + 1e-9))]
    return min(_at(x, primary, candidate, tail=tail, ratio=ratio, slower=slower, paired=paired) for x in tried)


def _at(x, primary, candidate, *, tail, ratio, slower, paired):
    n, m = len(primary), len(candidate)
    if slower:
        p, c = [v >= x for v in primary], [v > ratio * x for v in candidate]
        logs = [log_e_rate(BELOW, sum(p), n, tail), log_e_rate(ABOVE, sum(c), m, tail)]
        wins = sum(b and not a for a, b in zip(p, c, strict=False))
        losses = sum(a and not b for a, b in zip(p, c, strict=False))
    else:
        p, c = [v > x for v in primary], [v >= ratio * x for v in candidate]
        logs = [log_e_rate(ABOVE, sum(p), n, tail), log_e_rate(BELOW, sum(c), m, tail)]
        wins = sum(a and not b for a, b in zip(p, c, strict=False))
        losses = sum(b and not a for a, b in zip(p, c, strict=False))
    if not paired:
        return sum(logs)
    return math.log((math.exp(logs[0]) + math.exp(logs[1]) + math.exp(_log_e_ternary(wins, losses))) / 3)


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


@given(
    st.lists(st.tuples(st.floats(0.005, 2.0), st.floats(0.005, 2.0) | st.just(math.inf)), min_size=1, max_size=40),
    st.sampled_from([0.5, 0.9]),
    st.integers(0, 3),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_pairs_never_exceed_the_exact_evidence(pairs, level, steps):
    evidence = PairedLatencyEvidence(within_steps=steps, slower_steps=steps, **COARSE)
    for pair in pairs:
        evidence.update(*pair)
    primary, candidate = zip(*pairs, strict=True)
    ratio = 1.3**steps

    assert evidence.log_e_within(level) <= exact(primary, candidate, level, ratio, paired=True) + 1e-9
    assert evidence.log_e_slower(level) <= exact(primary, candidate, level, ratio, slower=True, paired=True) + 1e-9


@given(
    st.lists(st.tuples(st.floats(0.005, 2.0), st.floats(0.005, 2.0) | st.just(math.inf)), min_size=1, max_size=25),
    st.integers(0, 3),
    st.integers(0, 3),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_ends_of_intervals_add_up_to_the_pairs(pairs, within, slower):
    """The counts behind the ternary test, rebuilt from their interval ends, against counting pair by pair."""
    evidence = PairedLatencyEvidence(within_steps=within, slower_steps=slower, **COARSE)
    for pair in pairs:
        evidence.update(*pair)
    marks = [0.0, *evidence._marks, math.inf]
    top = len(evidence._marks)
    running = [0, 0, 0, 0]
    for i in range(top + 1):
        running = [total + row[i] for total, row in zip(running, evidence._turns, strict=True)]
        x = marks[i + 1] if i < top else None  # beyond the last edge nothing is counted as reached
        far = 0 if i == 0 else min(i + within, top)
        p = [x is not None and a >= x for a, _ in pairs]
        c = [b >= marks[far] for _, b in pairs]
        wins, losses = _discordant(p, c)
        assert running[:2] == [wins, losses]
        p = [a >= marks[i] for a, _ in pairs]
        c = [i + 1 + slower <= top and b >= marks[i + 1 + slower] for _, b in pairs]
        losses, wins = _discordant(p, c)
        assert running[2:] == [wins, losses]


def _discordant(first, second):
    both = list(zip(first, second, strict=True))
    return sum(a and not b for a, b in both), sum(b and not a for a, b in both)


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
    separate, paired = LatencyEvidence(), PairedLatencyEvidence(within_steps=5, slower_steps=5)
    for _ in range(6000):
        primary = rng.lognormvariate(-4, 0.5)
        separate.update(primary=primary)
        separate.update(candidate=rng.lognormvariate(-4, 0.5))
        paired.update(primary, primary)

    assert separate.log_e_within(0.5, 5) > 3.0
    assert separate.log_e_slower(0.5, 5) < 0.0
    assert paired.log_e_within(0.95) > 3.0
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


def test_pairs_are_averaged_not_multiplied():
    """One model's slow requests are the other's fast ones: a product of the halves would count that luck twice."""
    seconds = [0.05 * 1.01**i for i in range(150)]
    steps, ratio = 30, 1.02**30
    evidence = PairedLatencyEvidence(within_steps=steps, lowest=0.01, highest=1.0, growth=1.02)
    mirrored = seconds[::-1]
    for pair in zip(seconds, mirrored, strict=True):
        evidence.update(*pair)
    average = exact(seconds, mirrored, 0.5, ratio, paired=True)

    assert 3.0 < evidence.log_e_within(0.5) <= average + 1e-9
    assert average < 0.8 * exact(seconds, mirrored, 0.5, ratio)


def test_margins_of_pairs_are_fixed():
    evidence = PairedLatencyEvidence(within_steps=5)
    assert evidence.log_e_within(0.99, 5) == evidence.log_e_within(0.99)
    with pytest.raises(ValueError, match="fixed at 5"):
        evidence.log_e_within(0.99, 6)


@pytest.mark.parametrize("bad", [math.nan, -0.1])
def test_bad_latencies_are_refused_and_count_nowhere(bad):
    for make in (LatencyEvidence, PairedLatencyEvidence):
        evidence = make()
        with pytest.raises(ValueError, match=str(bad)):
            evidence.update(0.01, bad) if make is PairedLatencyEvidence else evidence.update(candidate=bad)
        assert evidence.n == (0, 0)
    with pytest.raises(ValueError, match="two latencies"):
        PairedLatencyEvidence().update(0.01, None)
