"""P1, P4, P5, P6, P7: exact properties of the engine, by enumeration and by hypothesis."""

import functools
import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.rollout.sequential import (
    AttributionEvidence,
    IpwDifference,
    LateHarm,
    LatencyEvidence,
    MeanEvidence,
    RateEvidence,
    SplitGuard,
    crossed,
)
from understudy.rollout.sequential import ipw as ipw_module
from understudy.rollout.sequential.ipw import weighted

STEPS = 7
VALUES = (-1.0, 0.0, 1.0)

losses = st.lists(st.floats(-1, 1, allow_subnormal=False) | st.sampled_from(VALUES), max_size=60)


def gathered(values, make=MeanEvidence):
    evidence = make()
    for x in values:
        evidence.update(x)
    return evidence


def chances(mean: float, differ: float = 0.6) -> dict[float, float]:
    """P(d) of a ternary value with this mean, of which `differ` is not 0."""
    return {-1.0: (differ - mean) / 2, 0.0: 1 - differ, 1.0: (differ + mean) / 2}


@functools.cache
def e_of(counts: tuple[int, int, int], m: float, side: str) -> float:
    evidence = MeanEvidence()
    for x, times in zip(VALUES, counts, strict=True):
        evidence.update(x, times)
    return math.exp(getattr(evidence, f"log_e_{side}")(m))


def count(path) -> tuple[int, int, int]:
    return tuple(path.count(x) for x in VALUES)


# P1: no randomness, so no luck.


@pytest.mark.parametrize("side", ["above", "below"])
@pytest.mark.parametrize("m", [-0.3, 0.0, 0.02, 0.25])
def test_expected_e_value_is_one_at_the_null_and_less_inside(m, side):
    inwards = -0.1 if side == "above" else 0.1
    at_null = within = 0.0
    for path in itertools.product(VALUES, repeat=STEPS):
        e = e_of(count(path), m, side)
        at_null += e * math.prod(chances(m)[x] for x in path)
        within += e * math.prod(chances(m + inwards)[x] for x in path)

    assert at_null == pytest.approx(1.0, abs=1e-12)
    assert within < 1.0 - 1e-3


# Adversaries choose the next mean knowing the path so far.
ADVERSARIES = {
    "constant": lambda _: 0.1,
    "bad after good luck": lambda path: 0.45 if sum(path) < 0 else -0.3,
    "good after good luck": lambda path: -0.3 if sum(path) < 0 else 0.45,
    "alternating": lambda path: 0.5 if len(path) % 2 else -0.35,
    "after a row of zeros": lambda path: 0.55 if path[-2:] == (0.0, 0.0) else -0.1,
}


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("side", ["above", "below"])
@pytest.mark.parametrize(("m", "alpha"), [(0.0, 0.3), (0.1, 0.3), (0.1, 0.6), (0.2, 0.5)])
def test_ever_crossing_while_the_running_average_is_in_the_null_is_rare(m, alpha, side, adversary):
    """P(∃n: E_n(m) ≥ 1/α and the average true mean so far is in the null) ≤ α, summed over all paths."""
    choose = ADVERSARIES[adversary]

    def wrong(path: tuple[float, ...], chance: float, means: float) -> float:
        n = len(path)
        in_null = n and (means <= m * n + 1e-12 if side == "above" else means >= m * n - 1e-12)
        if in_null and e_of(count(path), m, side) >= 1 / alpha:
            return chance
        if n == STEPS:
            return 0.0
        mean = choose(path)
        odds = chances(mean)
        return sum(wrong((*path, x), chance * odds[x], means + mean) for x in VALUES)

    assert wrong((), 1.0, 0.0) <= alpha


@pytest.mark.parametrize("alpha", [0.4, 0.7])
def test_late_harm_exact(alpha):
    """The same for the restart mixture: never above the line, whatever the means do below it."""
    seen = 0.0

    def wrong(path: tuple[float, ...], chance: float, harm: LateHarm) -> float:
        if crossed(harm.log_e(), alpha):
            return chance
        if len(path) == STEPS:
            return 0.0
        odds = chances(0.05 if sum(path) <= 0 else -0.2)
        total = 0.0
        for x in VALUES:
            after = LateHarm.from_state(harm.state())
            after.update(x)
            total += wrong((*path, x), chance * odds[x], after)
        return total

    seen = wrong((), 1.0, LateHarm(harm_line=0.05))

    assert 0.0 < seen <= alpha


@pytest.mark.parametrize("line", [0.0, 0.05])
def test_late_harm_is_a_martingale_at_the_line(line):
    expected = 0.0
    for path in itertools.product(VALUES, repeat=STEPS):
        harm = LateHarm(harm_line=line)
        for x in path:
            harm.update(x)
        expected += math.exp(harm.log_e()) * math.prod(chances(line)[x] for x in path)

    assert expected == pytest.approx(1.0, abs=1e-12)


# P4: order and merge.


@given(losses, st.randoms(use_true_random=False), st.integers(1, 5))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_mean_evidence_does_not_see_order_or_workers(values, rng, workers):
    alone = gathered(values)
    shuffled = rng.sample(values, len(values))
    parts = [gathered(shuffled[i::workers]) for i in range(workers)]
    merged = parts[-1]
    for part in parts[:-1]:
        merged.merge(part)

    assert merged.n == alone.n
    assert merged.log_stocks() == pytest.approx(alone.log_stocks(), abs=1e-9)
    assert gathered(shuffled).log_stocks() == pytest.approx(alone.log_stocks(), abs=1e-9)
    assert merged.mean == pytest.approx(alone.mean, abs=1e-12)
    assert merged.variance == pytest.approx(alone.variance, abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.05, 0.25, 0.5])), max_size=60), st.integers(0, 60))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_counts_merge_exactly(events, cut):
    for make in (AttributionEvidence, SplitGuard):
        alone, first, second = make(), make(), make()
        for i, (candidate, share) in enumerate(events):
            alone.update(candidate, share)
            (first if i < cut else second).update(candidate, share)
        second.merge(first)
        assert second == alone
    rate, one, two = RateEvidence(), RateEvidence(), RateEvidence()
    for i, (hit, _) in enumerate(events):
        rate.update(hit)
        (one if i < cut else two).update(hit)
    one.merge(two)
    assert one == rate


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=60), st.integers(0, 60))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_histograms_merge_exactly(pairs, cut):
    alone, first, second = LatencyEvidence(), LatencyEvidence(), LatencyEvidence()
    for i, (primary, candidate) in enumerate(pairs):
        alone.update(primary, candidate)
        (first if i < cut else second).update(primary, candidate)
    second.merge(first)
    assert second == alone


def test_late_harm_sees_order():
    early, late = LateHarm(), LateHarm()
    for x in [-1.0] * 20 + [1.0] * 20:
        early.update(-x)
        late.update(x)

    assert late.log_e() > early.log_e() + 1.0
    assert not hasattr(late, "merge")


def test_ipw_workers_merge_though_each_has_its_own_centre():
    rng = random.Random(5)
    parts = [IpwDifference(0.2), IpwDifference(0.2)]
    for i in range(500):
        parts[i % 2].update(rng.random() < 0.2, rng.random(), 0.2)
    n, total = sum(part.n for part in parts), sum(part.mean * part.n for part in parts)
    parts[0].merge(parts[1])

    assert parts[0].n == n
    assert parts[0].mean * n == pytest.approx(total)


# P5: monotone.


@given(losses, st.floats(-1, 1), st.floats(-1, 1))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_e_values_are_monotone_in_the_mean(values, one, two):
    evidence = gathered(values)
    low, high = sorted((one, two))

    assert evidence.log_e_above(low) >= evidence.log_e_above(high) - 1e-9
    assert evidence.log_e_below(low) <= evidence.log_e_below(high) + 1e-9


@given(losses, st.floats(0.001, 0.5), st.floats(0.001, 0.5))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_bands_nest_in_alpha_and_are_not_empty(values, one, two):
    evidence = gathered(values)
    small, large = sorted((one, two))
    (low, high), (inner_low, inner_high) = evidence.band(small), evidence.band(large)

    assert low <= inner_low <= inner_high <= high


@pytest.mark.parametrize("seed", range(4))
def test_the_band_passes_the_line_when_the_e_value_crosses(seed):
    rng = random.Random(seed)
    evidence = MeanEvidence()
    for _ in range(400):
        evidence.update(rng.choice([0.0, 0.0, 0.0, 1.0, 0.3, -0.5]) if seed % 2 else rng.choice([0.0, 0.0, -1.0, 0.6]))
        low, high = evidence.band(0.05)
        for line in (0.0, 0.02, -0.05):
            assert (low >= line) == crossed(evidence.log_e_above(line), 0.05)
            assert (high <= line) == crossed(evidence.log_e_below(line), 0.05)


# P6: mirror.


@given(losses, st.floats(-1, 1))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_swapping_the_models_mirrors_everything(values, m):
    one, two = gathered(values), gathered([-x for x in values])

    assert one.log_e_above(m) == pytest.approx(two.log_e_below(-m), abs=1e-12)
    low, high = one.band(0.05)
    assert two.band(0.05) == pytest.approx((-high, -low), abs=1e-12)


# P7: inverse propensity weighting has the right expectation, exactly.

GRID = [0.0, 0.2, 0.7, 1.0]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.5, 0.93])
def test_ipw_is_unbiased_for_any_centre(share):
    for ours, theirs, centre in itertools.product(GRID, GRID, [0.0, 0.13, 0.5, 1.0]):
        expected = share * weighted(True, ours, share, centre) + (1 - share) * weighted(False, theirs, share, centre)
        assert expected == pytest.approx(ours - theirs, abs=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_class_uses_a_centre_from_the_past_alone(share):
    """What the engine is given has expectation loss₁ - loss₀; a centre that has seen the current loss has not."""
    for ours, theirs, past in itertools.product(GRID, GRID, ([], [0.2], [1.0, 0.0, 0.4])):
        expected = 0.0
        for candidate, loss, chance in ((True, ours, share), (False, theirs, 1 - share)):
            evidence = IpwDifference(0.05)
            for earlier in past:
                evidence.update(False, earlier, share)
            before = evidence.mean * evidence.n
            evidence.update(candidate, loss, share)
            expected += chance * (evidence.mean * evidence.n - before)
        assert expected == pytest.approx(ours - theirs, abs=1e-9)


def test_ipw_values_keep_their_bounds():
    for candidate, loss, share, centre in itertools.product([True, False], GRID, [0.05, 0.5, 0.95], GRID):
        assert abs(weighted(candidate, loss, share, centre)) <= 1 / 0.05 * (1 + 1e-12)
    assert ipw_module.IpwDifference(0.05).band(0.05) == (-1.0, 1.0)
