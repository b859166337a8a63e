"""The README's "Your two models in five commands", from two files and a table to the first canary step.

The commands are those of the README, in its order, in a folder with nothing but the two models and the data.
"""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.own_models import PAIRS
from tests.support.service import ROOT, START_S, WAIT_S
from understudy.runtime.ports import free_port

HEADING = "## Your two models in five commands"
COMMAND_S = 300.0
LABELS = {"churn": "churned", "iris": "species", "prices": "price", "torch-like": "kind"}
"""The README calls the label `y`."""


def commands(label: str) -> list[list[str]]:
    """The README's commands, without `make setup`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(HEADING)[1]
    block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    lines = [shlex.split(line, comments=True) for line in block[1].splitlines()]
    return [[label if word == "y" else word for word in line] for line in lines if line[0] == "understudy"]


@contextlib.contextmanager
def served(command: list[str], folder: Path, port: int) -> Iterator[httpx.Client]:
    """The service of `understudy serve`, once it is ready."""
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            until = time.monotonic() + START_S
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if client.get("/readyz").is_success and client.get("/rollout").json()["candidate"]["up"]:
                        break
                assert process.poll() is None, (folder / "serve.log").read_text()
                assert time.monotonic() < until, (folder / "serve.log").read_text()
                time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait(30)


def run(words: list[str], folder: Path, *more: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNDERSTUDY_")}
    command = [sys.executable, "-m", "understudy.cli", *words[1:], *more]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout


@pytest.mark.parametrize("name", LABELS)
def test_two_files_and_a_table_reach_the_first_canary_step(tmp_path: Path, name: str) -> None:
    """Models of scikit-learn, LightGBM and PyTorch's form: numbers, texts, a matrix; classes, values, missing values."""
    PAIRS[name][0](tmp_path)
    said: dict[str, str] = {}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        client: httpx.Client | None = None
        for words in commands(LABELS[name]):
            if words[1] == "serve":
                command = [sys.executable, "-m", "understudy.cli", *words[1:], "--port", str(port)]
                client = stack.enter_context(served(command, tmp_path, port))
                continue
            if words[1] == "explain":
                assert client is not None
                until = time.monotonic() + WAIT_S
                while client.get("/rollout").json()["phase"] != "canary":
                    assert time.monotonic() < until, client.get("/rollout").json()
                    time.sleep(0.2)
            said[words[1]] = run(words, tmp_path, *(["--url", url] if words[1] in {"replay", "explain"} else []))

    assert list(said) == ["init", "check", "replay", "explain"]
    assert "better.onnx is better than poc.onnx" in said["init"]
    assert said["check"].splitlines()[-1] == "ready to serve"
    assert "4,000 sent" in said["replay"]
    assert "0 failed" in said["replay"]
    assert "phase canary" in said["explain"]
