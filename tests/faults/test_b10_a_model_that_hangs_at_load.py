"""B10: a model that loops for ever at load: `init` and `check` were silent for ever, and the primary was never served.

A model is opened in a process of its own first, with limits on time and memory. A candidate that hangs there, or kills that
process, does not keep the primary from being served.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.faults.models import TABLES, tables_rollout
from tests.support import service
from tests.support.commands import alone, done, refused
from tests.support.graphs import classifier, folder, scaling
from tests.support.hostile import greedy, hanging
from understudy.errors import ConfigurationError, TrialFailed
from understudy.inference.cards import InputSpec, digest_of
from understudy.loading import trial
from understudy.loading.preflight import preflight
from understudy.loading.trial import Trial, Untried, tried, tried_one
from understudy.runtime import programs
from understudy.settings import Settings, read_settings

__all__ = ["alone"]

X = InputSpec(name="x", dtype="float32", shape=[None, 1])
ABORT = [sys.executable, "-c", "import os, sys; print('free(): invalid size', file=sys.stderr, flush=True); os.abort()"]


def short(timeout_s: float = 3.0, max_mib: int = 8_192) -> Settings:
    return read_settings(model_open_timeout_s=timeout_s, model_open_max_mib=max_mib)


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "understudy.inference.trial_process" in " ".join(p.cmdline())]


def test_a_model_that_hangs_is_given_up_in_time(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(
        TrialFailed, match=r"hang\.onnx could not be opened within 3 s \(UNDERSTUDY_MODEL_OPEN_TIMEOUT_S\)"
    ):
        tried_one(Untried(str(hanging(tmp_path / "hang.onnx"))), short())
    assert time.monotonic() - began < 20
    assert not children()


def test_the_other_model_is_tried_all_the_same(tmp_path: Path) -> None:
    models = [
        Untried(str(hanging(tmp_path / "hang.onnx"))),
        Untried(str(classifier(tmp_path / "good.onnx"))),
    ]

    hung, good = tried(models, short(12.0))

    assert isinstance(hung, TrialFailed)
    assert isinstance(good, Trial)
    assert good.card.classes == [0, 1]
    assert good.device == "cpu"
    assert good.seconds > 0


def test_a_model_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TrialFailed, match=r"could not be opened within 512 MiB of memory \(UNDERSTUDY_MODEL_OPEN_MAX_MIB\)"
    ):
        tried_one(Untried(str(greedy(tmp_path / "greedy.onnx"))), short(60, 512))


def test_a_model_that_aborts_names_the_signal_and_the_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "module", lambda name: ABORT)
    with pytest.raises(TrialFailed, match=r"killed by SIGABRT \(free\(\): invalid size\)"):
        tried_one(Untried(str(classifier(tmp_path / "poc.onnx"))), short())


def test_a_process_that_the_system_kills_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(programs, "module", lambda name: kill)
    with pytest.raises(TrialFailed, match="killed by SIGKILL, as the system does when memory runs out"):
        tried_one(Untried(str(classifier(tmp_path / "poc.onnx"))), short())


@pytest.mark.parametrize("content", [b"hello", b"", classifier], ids=["text", "empty", "truncated"])
def test_a_file_that_is_no_model_is_an_ordinary_refusal(tmp_path: Path, content: object) -> None:
    file = tmp_path / "bad.onnx"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        classifier(file)
        file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(ConfigurationError, match=r"bad\.onnx") as found:
        tried_one(Untried(str(file)), short(60))
    assert not isinstance(found.value, TrialFailed)


def test_init_refuses_a_model_that_hangs(tmp_path: Path) -> None:
    classifier(tmp_path / "poc.onnx")
    hanging(tmp_path / "better.onnx")
    said = refused("init", "poc.onnx", "better.onnx", UNDERSTUDY_MODEL_OPEN_TIMEOUT_S="3")
    assert "better.onnx could not be opened within 3 s" in said
    assert not (tmp_path / "rollout.yaml").exists()


@pytest.mark.parametrize(
    "arguments",
    [["evaluate", "better.onnx", "--data", "rows.csv", "--label", "y"], ["profile", "better.onnx", "rows.csv"]],
    ids=lambda arguments: arguments[0],
)
def test_other_commands_refuse_a_model_that_hangs(arguments: list[str], tmp_path: Path) -> None:
    hanging(tmp_path / "better.onnx")
    (tmp_path / "rows.csv").write_text("x,y\n1,1\n", encoding="utf-8")
    said = refused(*arguments, UNDERSTUDY_MODEL_OPEN_TIMEOUT_S="3")
    assert "better.onnx could not be opened within 3 s" in said


def test_ctrl_c_ends_the_command_and_the_trial(tmp_path: Path) -> None:
    classifier(tmp_path / "poc.onnx")
    hanging(tmp_path / "better.onnx")
    process = subprocess.Popen(
        [*programs.command_line("init"), "poc.onnx", "better.onnx"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ,
    )
    tried_by = psutil.Process(process.pid)
    until = time.monotonic() + 30
    while not (trials := [p for p in tried_by.children() if p.is_running()]) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert trials
    assert not psutil.wait_procs(trials, timeout=5)[1]


def test_a_trial_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    hanging(tmp_path / "hang.onnx")
    code = (
        "from understudy.loading.trial import *; from understudy.settings import read_settings\n"
        "tried_one(Untried('hang.onnx'), read_settings())"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", code], cwd=tmp_path)
    until = time.monotonic() + 30
    while not (trials := psutil.Process(process.pid).children()) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(2)  # until it has asked to be ended with its parent
    process.kill()
    process.wait()
    assert trials
    assert not psutil.wait_procs(trials, timeout=5)[1]


def test_what_the_time_limit_is_for_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its engines are built when a model is opened."""
    monkeypatch.setattr(trial, "TENSORRT_FACTOR", 2)
    monkeypatch.setattr(programs, "module", lambda name: [sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(TrialFailed, match=r"within 0\.4 s"):
        tried_one(Untried(str(tmp_path / "any.onnx"), {"device": "tensorrt"}), short(0.2))


def test_a_primary_that_hangs_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tables_rollout(tmp_path)
    hanging(tmp_path / "poc.onnx")
    with pytest.raises(TrialFailed, match=r"poc\.onnx could not be opened within 3 s"):
        preflight(read_settings(rollout_file=file, state_dir=tmp_path / "state", model_open_timeout_s=3))


def test_check_refuses_a_candidate_that_hangs(tmp_path: Path) -> None:
    file = tables_rollout(tmp_path)
    hanging(tmp_path / "better.onnx")
    assert "better.onnx could not be opened within 3 s" in refused("check", file, UNDERSTUDY_MODEL_OPEN_TIMEOUT_S="3")


def test_the_primary_is_served_beside_a_candidate_that_hangs(tmp_path: Path) -> None:
    file = tables_rollout(tmp_path)
    hanging(tmp_path / "better.onnx")
    running = service.start(tmp_path / "state", rollout=file, model_open_timeout_s="12")
    try:
        answer = running.predict({"i": 3})
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"][0]["value"] == 1.0
        state = running.rollout()
        assert state["phase"] == "serving"
        assert "better.onnx could not be opened within 12 s" in state["headline"]
        assert "the candidate is away, and the primary is served alone" in running.log.read_text()
        said = done("status", "--url", running.url)
        assert "could not be opened within 12 s" in " ".join(said.split())
    finally:
        running.stop()
    assert "Traceback" not in running.log.read_text()


def test_a_rollout_goes_on_if_the_candidate_that_hangs_has_a_card(tmp_path: Path) -> None:
    """Its evidence stays where it was. The primary answers in its place."""
    poc, better = folder(tmp_path / "poc", inputs=[X]), folder(tmp_path / "better", inputs=[X])
    scaling(poc / "model.onnx", width=1)
    hanging(better / "model.onnx")
    for each in (poc, better):
        card = json.loads((each / "card.json").read_text())
        (each / "card.json").write_text(json.dumps(card | {"digest": digest_of(each / "model.onnx")}))
    file = tmp_path / "rollout.yaml"
    steps = [{"shadow": 100}, {"canary": 50}, "promote"]
    file.write_text(yaml.safe_dump(TABLES | {"primary": "poc", "candidate": "better", "steps": steps}))
    running = service.start(tmp_path / "state", rollout=file, model_open_timeout_s="12")
    try:
        answer = running.predict({"x": 3.0})
        assert answer.status_code == 200, answer.text
        state = running.rollout()
        assert state["phase"] == "shadow"
        assert not state["candidate"]["up"]
        assert "could not be opened within 12 s" in state["headline"]
        running.wait_for(lambda: "could not be opened within 12 s" in (running.rollout()["candidate"]["reason"] or ""))
    finally:
        running.stop()
    assert "Traceback" not in running.log.read_text()
