"""Plays one model: `init`, `check`, then every door of a service, in this process or as processes of its own."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from typer.testing import CliRunner
from typing_extensions import override

from tests.matrix import harness
from tests.support.service import ROOT, start
from tests.zoo.doors import Player, Result, compared
from tests.zoo.entry import ROWS, Entry, Reference
from tests.zoo.models import models
from understudy import cli, loading
from understudy.domain import Variant
from understudy.errors import UnderstudyError
from understudy.inference import Engine
from understudy.inference.onnx import OnnxEngine
from understudy.observability.summaries import part_of
from understudy.records.pairs import COMPARED
from understudy.rollout.comparison import ComparisonSums, figures
from understudy.settings import read_settings

COMMAND_S = 180.0
"""The longest that a command may take in a process of its own."""
REFUSED_S = 30.0
"""The longest until a file is refused."""
PATIENT = {"latency": {"p99_ms": 10_000, "deadline_ms": 20_000}}
"""Goals that a machine full of other work keeps; what a deadline does is another test's."""


class Unfaulty(harness.Service):
    """The matrix's service, whose models are as they are."""

    @override
    def wrapped(self, engine: OnnxEngine, variant: Variant) -> Engine:
        return engine


def play(entry: Entry, folder: Path, seed: int, *, real: bool) -> Result:
    """Play one model.

    Args:
        entry: the model.
        folder: an empty folder.
        seed: of its rows.
        real: as processes; otherwise all but the sockets, in this one.
    """
    began, result = time.monotonic(), Result(entry)
    folder.mkdir(parents=True)
    with _inside(folder):
        entry.build(Path("poc.onnx"))
        entry.build(Path("better.onnx"))
        with contextlib.suppress(Exception):  # what is no model has no signature
            if not entry.refused:
                reference = Reference(entry, Path("poc.onnx"))
                result.inputs, result.outputs = reference.inputs, reference.outputs
        command = partial(_process, limit_s=REFUSED_S) if entry.refused else _process if real else _here
        _commands(entry, result, command)
        if not result.refused and not result.wrong:
            _serve(entry, result, folder, seed, real=real)
    result.seconds = time.monotonic() - began
    return result


def played(name: str, seed: int, *, real: bool) -> Result:
    """Play one model in a folder of its own. Results of builders do not travel between processes, so the name comes in."""
    entry = next(entry for entry in models() if entry.name == name)
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        try:
            result = play(entry, Path(folder) / "m", seed, real=real)
        except Exception as error:  # noqa: BLE001  # the harness's own failure is a finding like any other
            result = Result(entry, {"harness": f"{type(error).__name__}: {error}"})
    result.entry = Entry(entry.name, entry.by, len, len, refused=entry.refused)  # type: ignore[arg-type]  # pickled
    return result


def _commands(entry: Entry, result: Result, command: Any) -> None:
    code, said = command("init", "poc.onnx", "better.onnx", *entry.init)
    if code:
        _refusal(result, "init", code, said)
        return
    data = yaml.safe_load(Path("rollout.yaml").read_text(encoding="utf-8"))
    data.setdefault("goals", {}).update(PATIENT)
    data["bake"] = "1h"
    for key, value in entry.keys.items():
        data[key] = {**data.get(key, {}), **value} if isinstance(value, Mapping) else value
    Path("rollout.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    result.doors["init"] = "right"
    code, said = command("check")
    if code and "it cannot finish" not in said:
        _refusal(result, "check", code, said)
        if result.refused:
            code, said = _process("serve", "--port", "1")  # refused likewise, before it listens
            if "understudy: " not in said:
                result.doors["serve"] = f"is not refused as by check: {said[-300:]}"
        return
    result.doors["check"] = "right"


def _refusal(result: Result, name: str, code: int, said: str) -> None:
    """A refusal is one line that a person can read."""
    lines = [line for line in said.splitlines() if line.startswith("understudy: ")]
    if code == 1 and len(lines) == 1 and "Traceback" not in said:
        result.refused = f"{name}: {lines[0].removeprefix('understudy: ')}"
    else:
        result.doors[name] = f"exit code {code}: {said[-600:]}"


def _here(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, list(arguments))
    said = done.output
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        said += f"\nTraceback: {type(done.exception).__name__}: {done.exception}"
    return done.exit_code, said


def _process(*arguments: str, limit_s: float = COMMAND_S) -> tuple[int, str]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "understudy.cli", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    except subprocess.TimeoutExpired:
        return 124, f"not done within {limit_s:.0f} s"
    return done.returncode, done.stdout + done.stderr


def _serve(entry: Entry, result: Result, folder: Path, seed: int, *, real: bool) -> None:
    chance = np.random.default_rng([seed, zlib.crc32(entry.name.encode())])
    rows = entry.rows(chance, ROWS)
    reference = Reference(entry, Path("poc.onnx"))
    expected = [reference.answer(row) for row in rows]
    settings = read_settings(rollout_file=folder / "rollout.yaml", state_dir=folder / "looked")
    policy = loading.load_policy(settings)
    card = loading.read_cards(policy, settings)[Variant.PRIMARY]
    try:
        (_played_real if real else _played_here)(
            result, folder, lambda call: Player(entry, card, call, rows, expected, policy.model)
        )
    except (UnderstudyError, AssertionError) as error:
        result.doors["serve"] = f"{type(error).__name__}: {error}"


def _played_here(result: Result, folder: Path, player_of: Any) -> None:
    policy = yaml.safe_load((folder / "rollout.yaml").read_text(encoding="utf-8"))
    with asyncio.Runner() as runner:
        serving = harness.serving(policy, folder, time.time(), Unfaulty)
        service = runner.run(serving.__aenter__())
        try:

            def call(method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Any:
                return runner.run(service.raw(method, path, body, headers))

            player = player_of(call)
            player.play(result)

            def settled() -> Mapping[str, Any]:
                runner.run(service.stored())
                runner.run(service.judge())
                sums = ComparisonSums(part_of(service.worker.store.counters(), COMPARED))
                return {"comparison": figures(sums)}

            _after(player, result, settled)
        finally:
            runner.run(serving.__aexit__(None, None, None))


def _played_real(result: Result, folder: Path, player_of: Any) -> None:
    running = start(folder / "state", rollout=folder / "rollout.yaml")
    try:

        def call(method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Any:
            response = running.http.request(
                method, path, content=body, headers={"content-type": "application/json", **headers}
            )
            return response.status_code, response.headers, response.content

        running.wait_for(lambda: running.rollout()["candidate"]["up"])
        player = player_of(call)
        player.play(result)

        def settled() -> Mapping[str, Any]:
            return dict(
                running.wait_for(
                    lambda: (
                        (r := running.rollout()) and (r.get("comparison") or {}).get("rows", 0) >= player.sent and r
                    ),
                    20,
                )
            )

        _after(player, result, settled)
    finally:
        running.stop()


def _after(player: Player, result: Result, settled: Any) -> None:
    """What is known once all is stored: the rehearsals' comparison; then labels."""
    found: dict[str, Any] = {}
    player._note(result, "shadow", lambda: _compared(player, found, settled))
    player._note(result, "feedback", lambda: player.feedback(lambda: None))


def _compared(player: Player, found: dict[str, Any], settled: Any) -> None:
    found.update(settled())
    others = [name for name, role in player._roles.items() if role == "other"]
    compared(found.get("comparison") or {}, player.sent, others)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith("UNDERSTUDY_") or name == "PORT"]:
        del os.environ[name]
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
