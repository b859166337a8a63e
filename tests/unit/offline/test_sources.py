"""Data sources are found by name, and what is in the current folder takes no package's place."""

import json
import sys
from pathlib import Path

import pytest

from understudy.errors import ConfigurationError
from understudy.offline import sources

MODULE = "class Own:\n    fields = ('x',)\n\n\nOWN = Own()\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_history", raising=False)
    (tmp_path / "own_history.py").write_text(MODULE)
    return tmp_path


def test_an_object_is_named_directly(folder: Path) -> None:
    assert list(sources.find("own_history:OWN").fields) == ["x"]
    assert sys.path[-1] == str(folder), "after every installed package"


def test_a_project_registers_its_own(folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[tool.understudy.sources]\nmine = "own_history:OWN"\n')

    assert list(sources.find("mine").fields) == ["x"]
    with pytest.raises(ConfigurationError, match="no data source `yours` here"):
        sources.find("yours")


def test_a_package_registers_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = folder / "history-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: history\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[understudy.sources]\ninstalled = own_history:OWN\n")
    monkeypatch.syspath_prepend(str(folder))

    assert list(sources.find("installed").fields) == ["x"]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("no_such_module:X", "needs no_such_module, which is not installed"),
        ("own_history:THEIRS", "own_history has no THEIRS"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_imported_is_said(place: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        sources.find(place)


def test_outside_the_repository_the_flights_are_missing(folder: Path) -> None:
    (folder / "models.py").write_text("raise SystemExit('not this one')\n")

    with pytest.raises(ConfigurationError, match="run the command in a checkout") as refused:
        sources.find(sources.FLIGHTS)
    assert "\n" not in refused.value.detail


def test_a_file_that_is_no_toml_is_named(folder: Path) -> None:
    (folder / "pyproject.toml").write_text(json.dumps({"no": "toml"}))

    with pytest.raises(ConfigurationError, match=r"pyproject\.toml"):
        sources.find("mine")


def test_the_repository_registers_the_flights() -> None:
    source = sources.find(sources.FLIGHTS)

    flight = source.moments(7, 1)[0]
    assert set(source.fields) <= set(flight.row)
    assert flight.label in {0, 1, None}
