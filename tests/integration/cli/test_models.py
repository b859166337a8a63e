"""BentoML's own model store: import, export, list, and tags in rollout files."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.support import service
from tests.support.graphs import FLOAT, classifier, folder, save, summing

ROLLOUT = """
model: sums
task: regression
primary: {primary}
candidate: {candidate}
goals: {{quality: {{loss: win_rate, margin: 0.05}}, latency: {{p99_ms: 5000, deadline_ms: 10000}}}}
labels: {{wait: 1h}}
steps: [{{shadow: 100, until: {{labels: 500}}}}, promote]
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A model store of its own."""
    return tmp_path / "home"


def run(home: Path, *arguments: object) -> tuple[int, str]:
    """A command's exit code and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "understudy.cli", *(str(a) for a in arguments)],
        cwd=home.parent,
        env=os.environ | {"BENTOML_HOME": str(home), "UNDERSTUDY_STATE_DIR": str(home.parent / "state")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def done(home: Path, *arguments: object) -> str:
    code, printed = run(home, *arguments)
    assert code == 0, printed
    return printed


def refused(home: Path, *arguments: object) -> str:
    code, printed = run(home, *arguments)
    assert (code, printed.count("\n")) == (1, 1), printed
    return printed


def heavy(path: Path) -> Path:
    """x · w, with w in a data file in a folder beside the graph."""
    w = numpy_helper.from_array(np.arange(300, dtype=np.float32).reshape(3, 100), "w")
    made = save(
        path, [helper.make_node("MatMul", ["x", "w"], ["y"])], [("x", FLOAT, ["n", 3])], [("y", FLOAT, ["n", 100])], [w]
    )
    model = onnx.load(made)
    onnx.save_model(model, made, save_as_external_data=True, location="w.data", size_threshold=0)
    return made


def test_a_model_folder_comes_back_with_the_same_bytes(tmp_path: Path, home: Path) -> None:
    """Graph and card, and nothing else."""
    made = folder(tmp_path / "sum")
    assert "primary: bentoml:sums:1" in done(home, "models", "import", made, "--name", "sums:1")
    assert f"names it as {tmp_path / 'back'}\n" in done(home, "models", "export", "sums:1", tmp_path / "back")
    assert {f.name: f.read_bytes() for f in (tmp_path / "back").iterdir()} == {
        name: (made / name).read_bytes() for name in ("model.onnx", "card.json")
    }


def test_external_data_come_back_with_the_same_bytes(tmp_path: Path, home: Path) -> None:
    """For a bare file, which has no card in the store either."""
    made = heavy(tmp_path / "heavy.onnx")
    done(home, "models", "import", made, "--name", "heavy:1")
    done(home, "models", "export", "heavy:1", tmp_path / "back")
    assert {f.name: f.read_bytes() for f in (tmp_path / "back").iterdir()} == {
        "model.onnx": made.read_bytes(),
        "w.data": (tmp_path / "w.data").read_bytes(),
    }


def test_a_card_beside_the_file_is_stored(tmp_path: Path, home: Path) -> None:
    """As `card.json`; the name is the card's."""
    made = folder(tmp_path / "sum", name="Sums of all")
    file = (made / "model.onnx").rename(tmp_path / "poc.onnx")
    card = (made / "card.json").rename(tmp_path / "poc.card.json")
    assert "stored as sums-of-all:" in done(home, "models", "import", file)
    done(home, "models", "export", "sums-of-all", tmp_path / "back")
    assert (tmp_path / "back/card.json").read_bytes() == card.read_bytes()


def test_what_cannot_be_served_is_not_imported(tmp_path: Path, home: Path) -> None:
    """In one sentence; the store stays empty."""
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert "bad.onnx" in refused(home, "models", "import", tmp_path / "bad.onnx")
    assert "store is empty" in done(home, "models", "list")


def test_a_model_that_does_not_open_in_time_is_not_imported(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened in a process of its own, as `check` does."""
    monkeypatch.setenv("UNDERSTUDY_MODEL_OPEN_TIMEOUT_S", "0.001")
    assert "UNDERSTUDY_MODEL_OPEN_TIMEOUT_S" in refused(home, "models", "import", summing(tmp_path / "sum.onnx"))
    assert "store is empty" in done(home, "models", "list")


def test_an_export_overwrites_only_when_told_to(tmp_path: Path, home: Path) -> None:
    """A card of the model that was replaced goes with it; other files stay."""
    done(home, "models", "import", summing(tmp_path / "sum.onnx"), "--name", "sum:1")
    back = folder(tmp_path / "back")
    (back / "notes.txt").write_text("mine")
    assert "is not empty; name another folder" in refused(home, "models", "export", "sum:1", back)
    done(home, "models", "export", "sum:1", back, "--force")
    assert sorted(file.name for file in back.iterdir()) == ["model.onnx", "notes.txt"]


def test_a_stored_model_that_was_changed_is_not_exported(tmp_path: Path, home: Path) -> None:
    """Its digest is the one that was checked at the import."""
    done(home, "models", "import", summing(tmp_path / "sum.onnx"), "--name", "sum:1")
    classifier(home / "models/sum/1/model.onnx")
    assert "bentoml:sum:1 was changed after its import" in refused(home, "models", "export", "sum:1", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("name", ["Sums", "sums:latest", "a b", "a:b:c", "../x"])
def test_a_name_that_the_store_does_not_take_is_refused(tmp_path: Path, home: Path, name: str) -> None:
    """Rather than changed, since the rollout file would name another one."""
    assert f"--name {name}: write NAME" in refused(
        home, "models", "import", summing(tmp_path / "sum.onnx"), "--name", name
    )


def test_a_version_is_imported_once(tmp_path: Path, home: Path) -> None:
    """A tag keeps its model."""
    made = summing(tmp_path / "sum.onnx")
    done(home, "models", "import", made, "--name", "sum:1")
    assert "sum:1 is in BentoML's model store already" in refused(home, "models", "import", made, "--name", "sum:1")


def test_the_list_says_what_cannot_be_served(tmp_path: Path, home: Path) -> None:
    """With the reason, below the table."""
    done(home, "models", "import", folder(tmp_path / "sum"), "--name", "sum:1")
    done(home, "models", "import", summing(tmp_path / "sum.onnx"), "--name", "old:1")
    (home / "models/old/1/model.onnx").rename(home / "models/old/1/saved_model.onnx")
    printed = done(home, "models", "list")
    row = next(line for line in printed.splitlines() if line.startswith("sum:1"))
    assert "sha256:" in row
    assert "cannot be served" not in row
    assert "old:1 cannot be served: bentoml:old:1 has no model.onnx; store its ONNX file with" in printed


def test_a_tag_is_printed_as_it_is(tmp_path: Path, home: Path) -> None:
    """Although the console knows `:b:` as a symbol."""
    assert "primary: bentoml:b:1" in done(home, "models", "import", summing(tmp_path / "sum.onnx"), "--name", "b:1")


def test_an_unknown_tag_is_refused_in_one_sentence(tmp_path: Path, home: Path) -> None:
    """By `check`, with the command that shows the known ones."""
    file = tmp_path / "rollout.yaml"
    file.write_text(ROLLOUT.format(primary="bentoml:none", candidate=summing(tmp_path / "sum.onnx")))
    assert "bentoml:none is not in BentoML's model store; `understudy models list`" in refused(home, "check", file)


def test_check_names_the_version_that_a_tag_means(tmp_path: Path, home: Path) -> None:
    """The newest one."""
    made = summing(tmp_path / "sum.onnx")
    for version in ("a", "b"):
        done(home, "models", "import", made, "--name", f"sum:{version}")
    file = tmp_path / "rollout.yaml"
    file.write_text(ROLLOUT.format(primary="bentoml:sum", candidate="bentoml:sum:a"))
    printed = done(home, "check", file)
    assert "bentoml:sum:b: " in printed, printed
    assert "bentoml:sum:a: " in printed


def test_a_service_serves_the_version_of_its_start(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a worker that is started again after a newer version was stored."""
    monkeypatch.setenv("BENTOML_HOME", str(home))
    done(home, "models", "import", summing(tmp_path / "sum.onnx"), "--name", "sum:a")
    file = tmp_path / "rollout.yaml"
    file.write_text(ROLLOUT.format(primary="bentoml:sum", candidate="bentoml:sum:latest"))
    running = service.start(tmp_path / "state", rollout=file)
    try:
        assert "version=bentoml:sum:a" in running.log.read_text()
        done(home, "models", "import", heavy(tmp_path / "heavy.onnx"), "--name", "sum:b")
        (worker,) = running.children("Understudy")
        worker.kill()
        running.wait_for(lambda: [c.pid for c in running.children("Understudy")] not in ([], [worker.pid]))
        answer = running.wait_for(lambda: (r := running.predict({"x": [1, 2, 3]})).status_code == 200 and r)
        assert "6.0" in answer.text
    finally:
        running.stop()
