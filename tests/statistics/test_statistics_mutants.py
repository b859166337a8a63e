"""The mutants of `tests.statistics.mutants`: each still finds its place and one is run; all of them if time allows."""

import pytest

from tests.statistics import mutants


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_finds_its_place_and_is_still_python(mutant):
    source = (mutants.ROOT / mutants.PACKAGE / f"{mutant.module}.py").read_text(encoding="utf-8")
    changed = mutants.applied(source, mutant)

    assert changed != source
    compile(changed, mutant.module, "exec")


def test_a_mutant_dies_and_one_that_changes_nothing_survives(monkeypatch, capsys):
    wrong = next(mutant for mutant in mutants.MUTANTS if "without n·log1p" in mutant.name)
    harmless = mutants.Mutant("harmless", "base", "GRID = 1\n", "GRID = 2 - 1\n")
    monkeypatch.setattr(mutants, "MUTANTS", [wrong, harmless])

    assert mutants.main([]) == 1
    printed = capsys.readouterr().out
    assert "1 of 2 mutants die" in printed
    assert "SURVIVES" in printed


@pytest.mark.slow
def test_every_mutant_dies():
    assert mutants.main([]) == 0
