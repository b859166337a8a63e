"""Commands of `understudy`, run in this process."""

import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.support.graphs import classifier
from understudy import cli


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and nothing of ours in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("UNDERSTUDY_") or name == "PORT"]:
        monkeypatch.delenv(name)


def understudy(*arguments: Any, **env: str) -> Result:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], env=env)


def done(*arguments: Any, **env: str) -> str:
    result = understudy(*arguments, **env)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: Any, **env: str) -> str:
    """The one line on stderr of a command that failed."""
    result = understudy(*arguments, **env)
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.stderr.startswith("understudy: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def example(folder: Path) -> Path:
    """The rollout file that `init` writes for two small models, in the current folder."""
    classifier(folder / "poc.onnx")
    classifier(folder / "better.onnx")
    done("init", "poc.onnx", "better.onnx")
    return folder / "rollout.yaml"
