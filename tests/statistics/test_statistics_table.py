"""The command that writes docs/explanation/statistics-table.md, in its quick form, and the usual rules that it compares with."""

import numpy as np

from tests.statistics import rules, table
from tests.statistics.page import TABLES


def test_the_quick_table_has_every_row_and_keeps_its_bounds(tmp_path):
    out = tmp_path / "table.md"

    assert table.main(["--quick", "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    for title, _, _ in TABLES.values():
        assert f"## {title}" in page
    assert page.count("\n| ") >= 5 + len(table.WRONG) + 2 + len(table.RAMPS) + len(table.POWER) + 6
    assert "nan" not in page


def test_a_share_over_its_budget_is_reported():
    report = table.Report(table.Size(rollouts=1000), quick=False)
    report.share("fine", 50, budget=True)
    assert not report.wrong
    report.share("too many", 51, budget=True)
    assert report.wrong == ["too many: 51 of 1000"]


def test_blocks_add_up():
    assert table.Size(rollouts=1200).blocks(500) == [500, 500, 200]
    assert table.Size(rollouts=120).blocks(500) == [120]


def test_flagger_never_forgets_a_failed_check():
    errors = np.array([[0, 30], [0, 30], [30, 30], [0, 30], [0, 30], [0, 0], [0, 0]])
    back, on = rules.flagger(errors, 200, 0.1, checks=5)

    assert back.tolist() == [False, True]
    assert on.tolist() == [True, False]


def test_kayenta_passes_what_it_cannot_see_and_fails_what_is_plain():
    rng = np.random.default_rng(1)
    primary = rng.normal(0.10, 0.01, (50, 200))
    noise = rng.normal(0.0, 0.01, (50, 200))
    high_equal, _ = rules.kayenta(0.10 + noise, primary)
    high_worse, promoted = rules.kayenta(0.13 + noise, primary)

    assert high_equal.mean() < 0.1
    assert high_worse.mean() > 0.95
    assert (high_worse ^ promoted).all()


def test_kayentas_interval_is_the_mann_whitney_interval():
    """Its lower end is above 0 as often as scipy's one-sided test at 1 % rejects."""
    from scipy import stats

    rng = np.random.default_rng(2)
    ours, theirs = rng.normal(0.5, 1.0, (40, 400)), rng.normal(0.0, 1.0, (40, 400))
    high, _ = rules.kayenta(ours, theirs, every=40, tolerance=0.0)
    rejected = stats.mannwhitneyu(ours, theirs, alternative="greater", method="asymptotic").pvalue < 0.01

    assert (high == rejected).mean() > 0.97


def test_the_z_test_gives_the_first_significant_interval():
    worse, better = np.array([[2, 30], [2, 30], [60, 30]]), np.array([[2, 2], [2, 2], [2, 2]])

    assert rules.z_test(worse, better, 0.0, "above").tolist() == [3, 1]
    assert rules.z_test(better, worse, 0.0, "below").tolist() == [3, 1]
