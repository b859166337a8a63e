"""Opens ONNX Runtime sessions on the requested device.

It works around two known problems of the runtime: it falls back to the CPU without an error when a GPU was requested
(microsoft/onnxruntime#23372), and it sizes its thread pools by the host's cores instead of the container's quota (#3099).
"""

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
from onnxruntime import OrtValue

from understudy.errors import ConfigurationError
from understudy.inference.bfloat16 import with_float32
from understudy.inference.cards import ModelBytes
from understudy.inference.signature import Session

_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
# The libraries of each provider; an error names the first that cannot be loaded.
_LIBRARIES = {
    "cuda": [
        "libcuda.so.1",
        "libcudart.so.12",
        "libcublasLt.so.12",
        "libcublas.so.12",
        "libcufft.so.11",
        "libcudnn.so.9",
    ],
    "tensorrt": ["libnvinfer.so.10", "libnvonnxparser.so.10"],
}


def cpu_quota() -> float:
    """CPUs this process may use: its affinity mask, cut down to the cgroup's quota (v2, then v1)."""
    cpus = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cpus = min(cpus, int(quota) / int(period))
    except (OSError, ValueError):
        try:
            root = Path("/sys/fs/cgroup/cpu")
            micros = int((root / "cpu.cfs_quota_us").read_text(encoding="ascii"))
            if micros > 0:
                cpus = min(cpus, micros / int((root / "cpu.cfs_period_us").read_text(encoding="ascii")))
        except (OSError, ValueError):
            pass
    return cpus


def device_of(wanted: str) -> str:
    """The device that a rollout file's `device` stands for on this machine: "cpu", "cuda" or "tensorrt"."""
    if wanted != "auto":
        return wanted
    usable = "CUDAExecutionProvider" in ort.get_available_providers() and _missing_library("cuda") is None
    return "cuda" if usable else "cpu"


def cancellable(device: str, *, frees: bool) -> tuple[ort.RunOptions, Callable[[], None]]:
    """Options of a run that can be cancelled, and the function that cancels it from another thread.

    Args:
        device: the device of the session.
        frees: give the memory back when the run ends. The runtime's arena keeps that of the largest run for later ones otherwise.
    """
    options = ort.RunOptions()
    options.log_severity_level = 4  # a cancelled Loop would be logged as an error
    if frees and device == "cpu":
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def stop() -> None:
        options.terminate = True

    return options, stop


def open_session(path: Path, device: str, threads: int, model: ModelBytes) -> tuple[Session, str]:
    """Open a model on a device with ONNX Runtime.

    Args:
        path: the model's file, for error messages.
        device: as in the rollout file.
        threads: the threads of one run.
        model: the model's bytes.

    Returns:
        The session, and the device that runs it.

    Raises:
        ConfigurationError: the device is not available, or the model cannot be loaded.
    """
    available = ort.get_available_providers()
    device = device_of(device)
    wanted = _PROVIDERS[device]
    if wanted[0] not in available:
        raise ConfigurationError(
            f"device: {device} was requested, but this ONNX Runtime ({ort.__version__}) is built for {', '.join(available)}. "
            "The library missing is onnxruntime-gpu: `pip uninstall -y onnxruntime && pip install 'understudy[gpu]'`, "
            "or say device: cpu."
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # A spinning pool would use the core that decodes the next request.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if model.data:
        # Not by path: ONNX Runtime would map the files, so overwriting them would change the weights of a running session.
        buffers, sizes = list(model.data.values()), [len(each) for each in model.data.values()]
        options.add_external_initializers_from_files_in_memory(list(model.data), buffers, sizes)
    try:
        session = ort.InferenceSession(model.graph, options, providers=wanted)
    except Exception as error:
        found = re.search(r"complex(64|128)|float8\w*|float4\w*|u?int[24]\b", str(error))
        hint = f" ({found[0]} is not served: export the model with inputs and outputs of float32)" if found else ""
        raise ConfigurationError(f"{path} cannot be loaded{hint}: {error}") from error
    if session.get_providers()[0] != wanted[0]:
        missing = _missing_library(device) or "unknown; run with ORT's own log: session log_severity_level 0"
        raise ConfigurationError(
            f"device: {device} was requested, but ONNX Runtime fell back to {session.get_providers()[0]}. "
            f"The library missing is {missing}. Install it, or say device: cpu."
        )
    return with_float32(session, OrtValue), device


def _missing_library(device: str) -> str | None:
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    for name in _LIBRARIES["cuda"] + (_LIBRARIES["tensorrt"] if device == "tensorrt" else []):
        try:
            ctypes.CDLL(name)
        except OSError:
            return name
    return None
