"""`make gpu-check`, rehearsed on the CPU: every part runs, a part that fails or hangs costs only itself, and nothing looks like a
GPU's result.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from loadtests import gpu_check

ROOT = Path(__file__).parents[3]


def test_a_rehearsal_runs_every_part_and_says_what_it_is(tmp_path: Path) -> None:
    """It serves a rollout with both variants, and ends with 0."""
    result = tmp_path / "r.md"
    before = sorted((ROOT / "loadtests" / "results").iterdir())
    command = [sys.executable, "-m", "loadtests.gpu_check", "--device", "cpu", "--short", "--output", str(result)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    text = result.read_text()
    assert text.startswith("# Rehearsal on the CPU: not a GPU result")
    assert [line.split(":")[0][3:] for line in text.splitlines() if line.startswith("## ")] == [*gpu_check.PARTS]
    assert "canary: answered by" in text
    assert sorted((ROOT / "loadtests" / "results").iterdir()) == before


def test_a_gpu_that_is_not_there_fails_the_check_and_is_said(tmp_path: Path) -> None:
    """On a machine without a GPU, each part says in its last line what is missing."""
    held, text, _ = gpu_check._in_process("environment", tmp_path, "cuda", short=True, limit_s=60)
    if held:
        pytest.skip("a GPU is here")
    assert text.splitlines()[-1] == "`device: cuda` cannot work here: libcuda.so.1 is missing"


def test_a_part_that_hangs_is_ended_at_its_limit(tmp_path: Path) -> None:
    """The others run all the same; what it would have done next is not waited for."""
    held, text, seconds = gpu_check._in_process("speed", tmp_path, "cpu", short=False, limit_s=1)
    assert not held
    assert "ended at its limit of 1 s" in text
    assert seconds < 30


def test_wheels_that_came_in_pieces_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a network may take no file of 250 MB."""
    wheels, work = tmp_path / "wheels", tmp_path / "work"
    for folder in (wheels, work):
        folder.mkdir()
    for number, piece in enumerate((b"one", b"two")):
        (wheels / f"a-1-py3-none-any.whl.0{number}").write_bytes(piece)
    asked: list[str] = []
    monkeypatch.setattr(gpu_check.subprocess, "run", lambda command, **_: asked.extend(command))
    gpu_check.installed(wheels, work)
    assert (work / "a-1-py3-none-any.whl").read_bytes() == b"onetwo"
    assert asked[-1] == str(work / "a-1-py3-none-any.whl")
    assert "--no-index" in asked


def test_a_session_that_silently_got_the_cpu_is_no_result(tmp_path: Path) -> None:
    """The runtime falls back without an error, and its times would be those of the CPU."""
    held, text, _ = gpu_check._in_process("iobinding", tmp_path, "cuda", short=True, limit_s=60)
    if held:
        pytest.skip("a GPU is here")
    assert "CUDAExecutionProvider" in text
    assert "| rows |" not in text
