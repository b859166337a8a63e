"""What runs are expected to take: by rows, by sizes, and where nothing can be foreseen."""

import pytest

from understudy.inference.cost import FORGET_S, SURE, RowCosts, SizeCosts, ValueCosts

MEASURED = {
    (rows, rows * length): 1e-3 + 1e-6 * rows * length + 1e-8 * rows * length**2
    for rows in (1, 4)
    for length in (1, 16, 64, 256)
}


class Clock:
    time = 0.0

    def __call__(self) -> float:
        return self.time


def sized(clock: Clock | None = None) -> SizeCosts:
    return SizeCosts(MEASURED, ["x"], (), clock or Clock())


def test_attention_costs_the_square_of_the_length() -> None:
    """Far beyond what the warm-up tried: 16 texts of 1,024 words are not 16 times one word."""
    found = sized().seconds(16, 16 * 1024)

    assert found == pytest.approx(1e-3 + 1e-6 * 16 * 1024 + 1e-8 * 16 * 1024**2, rel=0.01)


def test_sizes_beyond_the_measured_ones_are_not_measured_until_a_run_has_ended() -> None:
    """Neither more elements nor longer rows; a cancelled run proves nothing."""
    costs = sized()
    assert costs.measured(4, 4 * 256)
    assert not costs.measured(1, 257)
    assert not costs.measured(8, 8 * 256)
    costs.took(0.01, 1, 2000, ended=False)
    assert not costs.measured(1, 2000)
    costs.took(0.01, 1, 2000)
    assert costs.measured(1, 2000)


def test_a_slow_run_counts_at_once_and_is_forgotten_with_time() -> None:
    """For its own size, not for others."""
    clock = Clock()
    costs = sized(clock)
    usual, small = costs.seconds(1, 256), costs.seconds(1, 4)
    costs.took(100 * usual, 1, 256)
    assert costs.seconds(1, 256) == pytest.approx(100 * usual)
    assert costs.seconds(1, 4) == small
    clock.time += FORGET_S
    assert costs.seconds(1, 256) == pytest.approx(usual * (1 + 99 / 2))
    for _ in range(20):
        costs.took(usual, 1, 256)
    assert costs.seconds(1, 256) == pytest.approx(usual, rel=0.01)


def test_one_cancelled_run_is_not_yet_a_proof() -> None:
    """The machine may have been busy for a moment: only several in a row make it sure that this size is too slow."""
    for costs, size in ((sized(), (1, 256)), (RowCosts({1: 0.001, 2: 0.002}), (1, 0))):
        usual = costs.least(*size)
        for _ in range(SURE - 1):
            costs.took(1.0, *size, ended=False)
        assert costs.least(*size) == usual
        assert costs.seconds(*size) >= 1.0
        costs.took(1.0, *size, ended=False)
        assert costs.least(*size) >= 1.0


def test_rows_return_to_what_was_measured_after_one_slow_run() -> None:
    """A run that was preempted sends the next of its size to the thread; once that one is as fast as usual, all is as before."""
    costs = RowCosts({1: 0.001, 2: 0.002, 4: 0.004})
    costs.took(0.5, 2)
    assert [costs.seconds(rows) for rows in (1, 2, 4)] == [0.001, 0.5, 0.004]
    costs.took(0.0021, 2)
    assert costs.seconds(2) == 0.002
    costs.took(0.3, 100)  # beyond the largest batch: in proportion
    assert costs.seconds(4) == pytest.approx(0.012)


def test_values_teach_nothing_about_other_values() -> None:
    """A cancelled loop says nothing of the next request, so that one is never refused for it."""
    costs = ValueCosts(0.001)
    costs.took(60.0, 1, ended=False)
    assert costs.seconds(1) == 0.001
    assert costs.least(1) == 0.0
    assert not costs.measured(1)
