"""Processes on one core take turns; what passes through on the way is what it was."""

import pytest

from understudy.runtime import fairness


class Core:
    """A clock, and a core that somebody else takes for `taken` seconds whenever it is offered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.taken = 100.0, 0.0
        self.offered: list[float] = []
        monkeypatch.setattr(fairness, "_until", 0.0)
        monkeypatch.setattr(fairness, "yield_now", self.yield_now)
        monkeypatch.setattr(fairness.time, "perf_counter", lambda: self.now)

    def yield_now(self) -> None:
        self.offered.append(round(self.now, 6))
        self.now += self.taken

    def work(self, seconds: float, step: float = 0.00001) -> None:
        for _ in range(round(seconds / step)):
            self.now += step
            fairness.yield_cpu()


def test_a_core_that_others_want_is_offered_once_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each turn of our own, and not more often: a switch costs both."""
    core = Core(monkeypatch)
    core.taken = 0.001
    core.work(0.004)
    assert len(core.offered) == pytest.approx(0.004 / fairness.SLICE_S, abs=1)
    assert (
        min(b - a - core.taken for a, b in zip(core.offered, core.offered[1:], strict=False)) >= fairness.SLICE_S * 0.99
    )


def test_a_core_that_nobody_takes_is_offered_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes to want it waits a fraction of a turn."""
    core = Core(monkeypatch)
    core.work(0.004)
    assert len(core.offered) == pytest.approx(0.004 / fairness.RETRY_S, rel=0.3)


def test_items_come_whole_and_in_order_with_turns_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their number, from any iterable, and none is asked for before its piece is due."""
    core = Core(monkeypatch)
    monkeypatch.setattr(fairness, "RETRY_S", 0.0)
    for count in (0, 1, fairness.PIECE, fairness.PIECE + 1, 3 * fairness.PIECE):
        core.offered.clear()
        assert list(fairness.yielding(iter(range(count)))) == list(range(count))
        assert len(core.offered) == -(-count // fairness.PIECE)
    asked = iter(range(100))
    assert next(fairness.yielding(asked, 2)) == 0
    assert next(asked) == 2


def test_a_list_that_is_let_go_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Piece by piece."""
    core = Core(monkeypatch)
    monkeypatch.setattr(fairness, "RETRY_S", 0.0)
    items = list(range(2 * fairness.PIECE + 3))
    fairness.clear_yielding(items)
    assert items == []
    assert len(core.offered) == 3
