"""`check` said "ready to serve" of models whose classes nothing names, and the rollout then waited for ever. It names the line now,
and what to write; so does the start of the service.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import alone, done, understudy
from tests.support.graphs import classifier
from understudy.errors import ConfigurationError
from understudy.inference import cards
from understudy.inference.cards import Card, InputSpec, OutputSpec, digest_of, write_card
from understudy.loading.preflight import preflight
from understudy.settings import Settings

__all__ = ["alone"]

FILE = """\
model: m
task: multiclass-classification
primary: poc
candidate: better
goals:
  quality:
    loss: {loss}
    margin: 0.05
steps:
  - shadow: 100
    until: {{labels: 50, duration: 24h}}
  - promote
"""


def unnamed(folder: Path, **changes: Any) -> None:
    """A classifier of three classes that neither its graph nor its card names."""
    folder.mkdir()
    classifier(folder / cards.MODEL_FILE, width=3)
    fields: dict[str, Any] = {
        "name": folder.name,
        "version": "1",
        "task": "multiclass-classification",
        "digest": digest_of(folder / cards.MODEL_FILE),
        "inputs": [InputSpec(name="x", dtype="float32", shape=[None, 3])],
        "outputs": [
            OutputSpec(name="label", dtype="int64", shape=[None], role="label"),
            OutputSpec(name="probabilities", dtype="float32", shape=[None, 3], role="probabilities"),
        ],
    }
    write_card(folder, Card(**(fields | changes)))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("poc", "better"):
        unnamed(tmp_path / name)
    return tmp_path


def test_check_names_the_line_and_the_way_out(models: Path) -> None:
    """Exit code 1, no traceback, and the table says which goal cannot finish."""
    (models / "rollout.yaml").write_text(FILE.format(loss="brier"), encoding="utf-8")
    result = understudy("check", COLUMNS="200")

    assert result.exit_code == 1
    assert "line 7, goals.quality.loss: no row of the primary could ever be scored" in result.stderr
    assert "classes" in result.stderr
    assert "ready to serve" not in result.output
    (row,) = (line for line in result.stdout.splitlines() if "brier, at most 0.05 worse" in line)
    assert row.rstrip("│ ").endswith("no")


def test_the_service_does_not_start(models: Path) -> None:
    """With the same words."""
    (models / "rollout.yaml").write_text(FILE.format(loss="log_loss"), encoding="utf-8")

    with pytest.raises(ConfigurationError, match=r"line 7, goals\.quality\.loss"):
        preflight(Settings())


def test_a_loss_that_needs_no_names_is_accepted(models: Path) -> None:
    """The predicted class is enough for it."""
    (models / "rollout.yaml").write_text(FILE.format(loss="zero_one"), encoding="utf-8")

    assert done("check").splitlines()[-1] == "ready to serve"


def test_init_writes_a_file_that_check_accepts(models: Path) -> None:
    """Whatever it takes for that."""
    done("init", "poc", "better")

    assert done("check").splitlines()[-1] == "ready to serve"
