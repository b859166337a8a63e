"""P2 and P3: numbers worked out elsewhere (mpmath with 40 digits, confseq, savvi), to the last digit given."""

import math

import pytest

from understudy.rollout.sequential import AttributionEvidence, LateHarm, MeanEvidence, RateEvidence, SplitGuard
from understudy.rollout.sequential.mean import bets


def ternary(plus: int, minus: int, zero: int) -> MeanEvidence:
    evidence = MeanEvidence()
    for x, times in ((1.0, plus), (-1.0, minus), (0.0, zero)):
        evidence.update(x, times)
    return evidence


@pytest.mark.parametrize(
    ("counts", "above_0", "below_2_points", "low", "high"),
    [
        ((30, 10, 360), 3.2855889525, -0.80014394676, 0.001802880787, 0.1033981366),
        ((94, 94, 1703), -0.612400430568, 2.08061223232, -0.02273763723, 0.02273763723),
        ((0, 0, 500), 0.0, 7.40362003936, -0.01058434931, 0.01058434931),
        ((400, 500, 9100), -1.86763446253, 43.501447217, -0.0193597605, -0.0006999265688),
        ((1, 0, 0), 0.19119770095, -0.234645496877, -1.0, 1.0),
    ],
)
def test_mean_golden(counts, above_0, below_2_points, low, high):
    evidence = ternary(*counts)

    assert evidence.log_e_above(0.0) == pytest.approx(above_0, rel=1e-10, abs=1e-11)
    assert evidence.log_e_below(0.02) == pytest.approx(below_2_points, rel=1e-10)
    assert evidence.band(0.05) == pytest.approx((low, high), rel=2e-9)


@pytest.mark.parametrize(
    ("ours", "all_of_them", "log_e"),
    [(20, 200, 2.45322024639), (10, 200, -0.876836889441), (3, 5, 3.86553550571)],
)
def test_attribution_golden(ours, all_of_them, log_e):
    evidence = AttributionEvidence()
    evidence.update(True, 0.05, ours)
    evidence.update(False, 0.05, all_of_them - ours)

    assert evidence.log_e_above(1.0) == pytest.approx(log_e, rel=1e-10)


@pytest.mark.parametrize(
    ("hits", "n", "above", "below"),
    [
        (20, 1000, 2.24534781536, -0.844316005735),
        (3, 1000, -1.49850747676, 1.3394097648),
        (0, 300, -1.11887377074, 1.30493986114),
    ],
)
def test_rate_golden(hits, n, above, below):
    evidence = RateEvidence()
    evidence.update(True, hits)
    evidence.update(False, n - hits)

    assert evidence.log_e_above(0.01) == pytest.approx(above, rel=1e-10)
    assert evidence.log_e_below(0.01) == pytest.approx(below, rel=1e-10)


def test_late_harm_golden():
    harm = LateHarm(harm_line=0.0)
    seen = []
    for x in (1, 0, 1, 1, -1):
        harm.update(x)
        seen.append(math.exp(harm.log_e()))

    assert seen == pytest.approx([1.0777626524, 1.0777626524, 1.24706428036, 1.54190167228, 1.02083394291], rel=1e-10)


def test_late_harm_stays_at_one_while_nothing_happens():
    harm = LateHarm(harm_line=0.0)
    for _ in range(5000):
        harm.update(0.0)
        assert harm.log_e() == pytest.approx(0.0, abs=1e-13)


@pytest.mark.parametrize(
    ("candidates", "primaries", "share", "log_e"),
    [
        (480, 520, 0.5, -0.473125233671),
        (40, 960, 0.05, -0.100694028484),
        (400, 9600, 0.05, 8.9285110031),
        (700, 19300, 0.05, 49.8914102626),
    ],
)
def test_split_guard_agrees_with_savvi(candidates, primaries, share, log_e):
    guard = SplitGuard()
    guard.update(True, share, candidates)
    guard.update(False, share, primaries)

    assert guard.log_e() == pytest.approx(log_e, rel=1e-10)


def test_one_fixed_bet_is_confseqs_betting_martingale():
    """confseq `betting_mart`, m = ½, constant bet 0.4: our bet λ = 0.4 / (1 - 0.4·½) after the reparametrisation."""
    values = (1, 0, 1, 1, 0, 1, 1, 1, 0, 1) * 3
    bet = 0.4 / (1 - 0.4 * 0.5)
    stock = math.prod((1 + bet * x) / (1 + bet * 0.5) for x in values)

    assert stock == pytest.approx(6.174702670603166, rel=1e-13)


def test_the_mixture_is_the_mean_of_its_fixed_bets():
    """Each rung alone is such a martingale; their mean is what the class reports."""
    values = [1.0, 0.0, 0.3, 1.0, -0.25, 1.0, -1.0] * 5
    evidence = MeanEvidence()
    for x in values:
        evidence.update(x)
    for m in (-0.2, 0.0, 0.37):
        stocks = [math.prod((1 + bet * x) / (1 + bet * m) for x in values) for bet in bets(-1, 1, 0)]
        assert evidence.log_e_above(m) == pytest.approx(math.log(sum(stocks[:9]) / 9), rel=1e-12)
        assert evidence.log_e_below(m) == pytest.approx(math.log(sum(stocks[9:]) / 9), rel=1e-12)


def test_late_harm_is_the_sum_over_its_restarts():
    """The recursion against its definition: every start s, weighted by what was let go at s, and the rest kept."""
    values = [0.4, -1.0, 0.0, 0.9, 1.0, 0.2, -0.3, 1.0, 0.7]
    harm = LateHarm(harm_line=0.05)
    for t, x in enumerate(values, start=1):
        harm.update(x)

        kept = [1 / math.log2(s + 2) for s in range(t + 1)]
        total = kept[t]
        for bet in bets(-1, 1, 0)[:9]:
            for s in range(t):
                run = math.prod((1 + bet * v) / (1 + bet * 0.05) for v in values[s:t])
                total += (kept[s] - kept[s + 1]) * run / 9
        assert harm.log_e() == pytest.approx(math.log(total), abs=1e-12)
