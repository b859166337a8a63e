"""A fifth of the zoo, drawn by a seed: in this process; two of it as services of their own. `make zoo` plays all of it."""

from pathlib import Path

import numpy as np
import pytest

from tests.zoo import page
from tests.zoo.doors import Mismatch, Result, compared
from tests.zoo.entry import Entry
from tests.zoo.models import models
from tests.zoo.play import play

SEED = 14
SHARE = 5
HEAVY = ("light-", "hostile-endless", "hostile-huge", "hostile-deep")
"""Networks of tens of megabytes, and files that take as long as their limits: for `make zoo`."""
_LIGHT = [entry for entry in models() if not entry.name.startswith(HEAVY)]
_PLAIN = [entry for entry in _LIGHT if not entry.refused]
_REFUSED = [entry for entry in _LIGHT if entry.refused]
REAL = ("text-per-token", "sk-frame")


def drawn(entries: list[Entry], count: int) -> list[str]:
    order = np.random.default_rng(SEED).permutation(len(entries))
    return sorted(entries[i].name for i in order[:count])


def by_name(name: str) -> Entry:
    return next(entry for entry in models() if entry.name == name)


@pytest.mark.parametrize("name", drawn(_PLAIN, len(models()) // SHARE - 4))
def test_every_door_gives_what_the_runtime_gives(name: str, tmp_path: Path) -> None:
    """All but the sockets."""
    assert play(by_name(name), tmp_path / "m", SEED, real=False).wrong == []


@pytest.mark.parametrize("name", drawn(_REFUSED, 2))
def test_what_cannot_be_served_is_refused_with_one_sentence(name: str, tmp_path: Path) -> None:
    """By `init` or `check`, and by `serve`."""
    assert play(by_name(name), tmp_path / "m", SEED, real=True).wrong == []


@pytest.mark.acceptance
@pytest.mark.parametrize("name", REAL)
def test_a_service_gives_what_the_runtime_gives(name: str, tmp_path: Path) -> None:
    """As processes of its own."""
    assert play(by_name(name), tmp_path / "m", SEED, real=True).wrong == []


def test_names_are_unique_and_there_are_enough() -> None:
    names = [entry.name for entry in models()]
    assert len(names) == len({*names}) >= 140


@pytest.mark.parametrize(
    "found",
    [
        {"rows": 5, "outputs": {"y": {"rows": 5, "rows_outside": 0, "misshapen": 0}}},
        {"rows": 6, "outputs": {"y": {"rows": 6, "rows_outside": 1, "misshapen": 0}}},
        {"rows": 6, "outputs": {}},
    ],
)
def test_a_rehearsal_that_was_not_compared_on_every_row_and_output_is_wrong(found: dict[str, object]) -> None:
    with pytest.raises(Mismatch):
        compared(found, 6, ["y"])


def test_a_model_that_should_be_served_and_is_refused_is_wrong() -> None:
    """And the other way round."""
    served, hostile = (Entry("m", "x", len, lambda c, n: [], refused=said) for said in ("", "why"))
    assert Result(served, refused="check: why").wrong
    assert Result(hostile, {"/predict": "right"}).wrong
    assert not Result(hostile, refused="check: why").wrong
    assert "WRONG" in page.line(Result(served, {"/predict": "WRONG"}))
