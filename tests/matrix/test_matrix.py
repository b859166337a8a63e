"""A smaller matrix than `python -m tests.matrix` plays: every style of model once, under conditions that are dealt in turn."""

from pathlib import Path

import pytest

from tests.matrix import page
from tests.matrix.cells import TRUTHS, Cell, cells, play
from tests.matrix.worlds import STYLES

REQUESTS = 2_000


def chosen() -> list[tuple[Cell, str]]:
    """One cell of each style, the plain one of every third, and each of them with one of the three truths."""
    every = cells()
    dealt = [every[3 * style + style % 3] for style in range(len(STYLES))]
    return [(cell, TRUTHS[(number + number // 3) % 3]) for number, cell in enumerate(dealt)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.mark.parametrize(("cell", "truth"), chosen(), ids=lambda value: getattr(value, "style", value))
def test_a_rollout_ends_as_the_truth_has_it(cell: Cell, truth: str, folder: Path) -> None:
    """Seeded, so none of these may end wrongly; and the decisions are reached again offline."""
    outcome = play(cell, truth, folder, requests=REQUESTS)

    assert not outcome.wrong, page.line(outcome)
    assert outcome.agrees, page.line(outcome)
    assert outcome.phase != "refused", page.line(outcome)


def test_a_plain_rollout_is_decided(folder: Path) -> None:
    """Holding for ever would never be wrong, either."""
    assert play(Cell(0), "better", folder, requests=4_000).phase == "promoted"
    assert play(Cell(0), "worse", folder, requests=4_000).phase == "aborted"
