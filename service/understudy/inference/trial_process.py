"""The process in which a model is opened for the first time: `python -P -m understudy.inference.trial_process`.

ONNX Runtime runs native code on whatever a file says: it may loop for ever, abort, or take all memory. Here that harms nothing.
The request comes as JSON on stdin, the result goes as JSON to stdout. See `understudy.loading.trial` for the other end.
"""

import ctypes
import os
import resource
import signal
import sys
from typing import BinaryIO

import msgspec

from understudy.errors import UnderstudyError
from understudy.inference.devices import device_of
from understudy.inference.onnx import EngineOptions, OnnxEngine

PR_SET_PDEATHSIG = 1
OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "Cannot allocate memory")
"""What the runtime's messages say if an allocation fails."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to open, and how.

    Attributes:
        parent: the process id of the process that asks; this process ends with it.
        max_mib: limit of this process's memory. Without effect on a GPU, where the driver reserves more than it uses.
    """

    source: str
    parent: int
    max_mib: int
    options: EngineOptions


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        card: the model's card as JSON; empty if it was not opened.
        device: the device that runs it.
        seconds: what a run of one row takes.
        unnamed: as in `OnnxEngine.unnamed`.
        error: why it was refused, in the words of the engine.
        kind: the class of that error: `memory`, or one of `understudy.errors`.
    """

    card: str = ""
    device: str = ""
    seconds: float = 0.0
    unnamed: int = 0
    error: str = ""
    kind: str = ""


def opened(request: Request) -> Result:
    """Open and warm up the model."""
    try:
        engine = OnnxEngine(request.source, **request.options)
    except MemoryError as error:
        return Result(error=str(error), kind="memory")
    except UnderstudyError as error:
        short = any(words in error.detail for words in OUT_OF_MEMORY)
        return Result(error=error.detail, kind="memory" if short else type(error).__name__)
    return Result(
        card=engine.card.model_dump_json(),
        device=engine.device,
        seconds=engine.seconds(1),
        unnamed=engine.unnamed,
    )


def _limited(request: Request) -> None:
    """End with the parent, and keep to the memory."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request.parent:  # it ended before the line above
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if device_of(request.options.get("device", "auto")) == "cpu":
        size = request.max_mib * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _own_stdout() -> BinaryIO:
    """The pipe of the result. What native code prints goes to stderr."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def main() -> None:
    """Answer one request."""
    with _own_stdout() as pipe:
        request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
        _limited(request)
        pipe.write(msgspec.json.encode(opened(request)))
    # Closing a session that has just been warmed up may take longer than opening it.
    os._exit(0)


if __name__ == "__main__":
    main()
