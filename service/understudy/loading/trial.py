"""Opens models in processes of their own first, with limits on time and memory.

What a model file makes ONNX Runtime do is not known before it is opened: it may loop for ever, abort, or take all memory. A process
that may not be lost opens a model only after `tried` has; see `understudy.inference.trial_process` for the other end.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO

import msgspec

from understudy.errors import ConfigurationError, InferenceError, TrialFailed, UnderstudyError
from understudy.inference.cards import Card
from understudy.inference.devices import cpu_quota, device_of
from understudy.inference.onnx import FOR_ITS_CARD, EngineOptions, OnnxEngine
from understudy.inference.trial_process import Request, Result
from understudy.runtime import programs
from understudy.settings import Settings

TENSORRT_FACTOR = 30
"""TensorRT builds an engine when a model is opened, for minutes: its time limit is so many times longer."""
QUOTED_MAX_CHARS = 200


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial found.

    Attributes:
        card: the model's card, as the engine has it.
        device: the device that ran it: "cpu", "cuda" or "tensorrt".
        seconds: what a run of one row takes.
        unnamed: how many probabilities have no class names.
    """

    card: Card
    device: str
    seconds: float
    unnamed: int


@dataclass(frozen=True, slots=True)
class Untried:
    """A model that is to be tried. `source` is a path on this machine."""

    source: str
    options: EngineOptions = field(default_factory=lambda: FOR_ITS_CARD)

    def request(self, max_mib: int) -> Request:
        """The request to the process that tries it."""
        return Request(source=self.source, parent=os.getpid(), max_mib=max_mib, options=self.options)


def tried(models: Sequence[Untried], settings: Settings) -> list[Trial | UnderstudyError]:
    """Try models in processes of their own: at once if each has a core of its own, so that they do not distort what is measured.

    Returns:
        For each model what was found, or why it cannot be served: a `TrialFailed` if it hung, died or ran out of memory.
    """
    if cpu_quota() >= sum(model.options.get("threads", 1) for model in models):
        return _together(models, settings)
    return [each for model in models for each in _together([model], settings)]


def tried_one(model: Untried, settings: Settings) -> Trial:
    """Try one model.

    Raises:
        TrialFailed: it hung, died or ran out of memory.
        ConfigurationError: it cannot be served.
    """
    return passed(tried([model], settings)[0])


def opened(source: str, options: EngineOptions, settings: Settings) -> OnnxEngine:
    """Try a model, and open it in this process.

    Raises:
        TrialFailed: it hung, died or ran out of memory.
        ConfigurationError: it cannot be served.
    """
    tried_one(Untried(source, options), settings)
    return OnnxEngine(source, **options)


def passed(result: Trial | UnderstudyError) -> Trial:
    """The result of a trial.

    Raises:
        UnderstudyError: the model cannot be served.
    """
    if isinstance(result, UnderstudyError):
        raise result
    return result


class _Process:
    """A trial in progress."""

    def __init__(self, model: Untried, settings: Settings, stderr: IO[bytes]) -> None:
        self.model, self._settings = model, settings
        self._timeout_s = settings.model_open_timeout_s * (
            TENSORRT_FACTOR if device_of(model.options.get("device", "auto")) == "tensorrt" else 1
        )
        self._stderr = stderr
        self._reply = bytearray()
        self.until = time.monotonic() + self._timeout_s
        with tempfile.TemporaryFile() as request:
            request.write(msgspec.json.encode(model.request(settings.model_open_max_mib)))
            request.seek(0)
            self._process = subprocess.Popen(
                programs.module("understudy.inference.trial_process"),
                stdin=request,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        assert self._process.stdout is not None
        self.stdout: IO[bytes] = self._process.stdout

    def read(self) -> bool:
        """Read what has arrived; whether more may come."""
        part = os.read(self.stdout.fileno(), 2**20)
        self._reply += part
        return bool(part)

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self.stdout.close()

    def result(self, *, late: bool) -> Trial | UnderstudyError:
        """What came of it, once its pipe was closed or its time is over."""
        source = self.model.source
        if late:
            return TrialFailed(
                f"{source} could not be opened within {self._timeout_s:g} s (UNDERSTUDY_MODEL_OPEN_TIMEOUT_S): loading it, or its "
                "first runs, did not end. Give it more time, or export a model without an endless loop"
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        try:
            result = msgspec.json.decode(bytes(self._reply), type=Result)
        except msgspec.DecodeError:
            return TrialFailed(f"{source} could not be opened: {self._death()}")
        return outcome(result, source, self._settings)

    def _death(self) -> str:
        code = self._process.poll()
        if code is None or code >= 0:
            ended = f"the process that tried it ended with status {code}"
        else:
            ended = f"the process that tried it was killed by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                ended += ", as the system does when memory runs out"
        self._stderr.seek(0)
        lines = [line for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        return f"{ended} ({_short(lines[-1])})" if lines else ended


def outcome(result: Result, source: str, settings: Settings) -> Trial | UnderstudyError:
    """What the process that tried a model has found, as an error if it cannot be served."""
    if result.kind == "memory":
        return TrialFailed(
            f"{source} could not be opened within {settings.model_open_max_mib:,} MiB of memory "
            "(UNDERSTUDY_MODEL_OPEN_MAX_MIB): loading it, or a run during the warm-up, needs more. Raise the limit if the "
            "machine has that much for each process that runs the model"
        )
    if result.kind:
        return _error(result)
    return Trial(Card.model_validate_json(result.card), result.device, result.seconds, result.unnamed)


def _together(models: Sequence[Untried], settings: Settings) -> list[Trial | UnderstudyError]:
    running: list[_Process] = []
    results: dict[int, Trial | UnderstudyError] = {}
    try:
        with contextlib.ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            for number, model in enumerate(models):
                stderr = stack.enter_context(tempfile.TemporaryFile())
                running.append(_Process(model, settings, stderr))
                selector.register(running[-1].stdout, selectors.EVENT_READ, number)
            while len(results) < len(models):
                left = [each.until for number, each in enumerate(running) if number not in results]
                for key, _ in selector.select(max(min(left) - time.monotonic(), 0)):
                    if not running[key.data].read():
                        selector.unregister(key.fileobj)
                        results[key.data] = running[key.data].result(late=False)
                for number, each in enumerate(running):
                    if number not in results and time.monotonic() >= each.until:
                        selector.unregister(each.stdout)
                        results[number] = each.result(late=True)
    finally:  # also if somebody pressed Ctrl-C
        for each in running:
            each.end()
    return [results[number] for number in range(len(models))]


def _error(result: Result) -> UnderstudyError:
    inference = result.kind in {"InferenceError", "NotFinite", "WrongShape"}
    return InferenceError(result.error) if inference else ConfigurationError(result.error)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= QUOTED_MAX_CHARS else f"{line[:QUOTED_MAX_CHARS]}…"
