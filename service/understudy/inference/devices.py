"""Opens ONNX Runtime sessions on the requested device.

It works around two known problems of the runtime: it falls back to the CPU without an error when a GPU was requested
(microsoft/onnxruntime#23372), and it sizes its thread pools by the host's cores instead of the container's quota (#3099).
"""

import contextlib
import ctypes
import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeAlias

import onnxruntime as ort
from onnxruntime import OrtValue

from understudy.errors import ConfigurationError
from understudy.inference.bfloat16 import with_float32
from understudy.inference.cards import ModelBytes
from understudy.inference.locales import missing_locale
from understudy.inference.session import bound
from understudy.inference.signature import Session

_FIRST = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# The libraries of each provider by the major version of CUDA that the runtime was built for, as `readelf -d` shows them; an error
# names the first that cannot be loaded. onnxruntime-gpu 1.31 is built for CUDA 13.
_CUDA = {
    12: ("libcudart.so.12", "libcublasLt.so.12", "libcublas.so.12", "libcufft.so.11", "libcudnn.so.9"),
    13: ("libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudnn.so.9"),
}
_DRIVER = "libcuda.so.1"
_TENSORRT = ("libnvinfer.so.10", "libnvonnxparser.so.10")


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """How a GPU is used: the rollout file's `device_options`.

    Attributes:
        gpu_memory: the limit of the session's arena in bytes; None leaves it to the runtime.
        trt_engine_cache: a folder; None keeps no engines.
    """

    device_id: int = 0
    gpu_memory: int | None = None
    cudnn_conv_algo_search: str = "heuristic"
    use_tf32: bool = True
    trt_fp16: bool = False
    trt_engine_cache: str | None = None


Provider: TypeAlias = str | tuple[str, dict[str, str]]


def providers_of(device: str, options: GpuOptions) -> list[Provider]:
    """The runtime's providers for a device, with their options.

    Raises:
        ConfigurationError: an option is set that this device does not have.
    """
    given = [f.name for f in fields(options) if getattr(options, f.name) != f.default]
    foreign = given if device == "cpu" else [n for n in given if n.startswith("trt_")] if device == "cuda" else []
    if foreign:
        raise ConfigurationError(
            f"device_options.{foreign[0]} is for device: {'tensorrt' if foreign[0].startswith('trt_') else 'cuda or tensorrt'}, "
            f"but the models run on {device}. Leave it out, or change device."
        )
    if device == "cpu":
        return ["CPUExecutionProvider"]
    cuda = {
        "device_id": str(options.device_id),
        "cudnn_conv_algo_search": options.cudnn_conv_algo_search.upper(),
        "use_tf32": str(int(options.use_tf32)),
    }
    if options.gpu_memory is not None:
        # Powers of two would go beyond the limit long before it is used.
        cuda |= {"gpu_mem_limit": str(options.gpu_memory), "arena_extend_strategy": "kSameAsRequested"}
    found: list[Provider] = [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]
    if device == "tensorrt":
        engine = {"device_id": str(options.device_id), "trt_fp16_enable": str(int(options.trt_fp16))}
        if options.trt_engine_cache is not None:
            engine |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": options.trt_engine_cache}
        found.insert(0, ("TensorrtExecutionProvider", engine))
    return found


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


def open_session(
    path: Path, device: str, threads: int, model: ModelBytes, gpu: GpuOptions | None = None
) -> tuple[Session, str]:
    """Open a model on a device with ONNX Runtime.

    Args:
        path: the model's file, for error messages.
        device: as in the rollout file.
        threads: the threads of one run.
        model: the model's bytes.
        gpu: how a GPU is used; None for the defaults.

    Returns:
        The session, and the device that runs it.

    Raises:
        ConfigurationError: the device is not available, or the model cannot be loaded.
    """
    available = ort.get_available_providers()
    automatic, device = device == "auto", device_of(device)
    first = _FIRST[device]
    if first not in available:
        raise ConfigurationError(
            f"device: {device} was requested, but this ONNX Runtime ({ort.__version__}) is built for {', '.join(available)}. "
            "The library missing is onnxruntime-gpu: `pip uninstall -y onnxruntime && pip install 'understudy[gpu]'`, "
            "or say device: cpu."
        )
    # `auto` on a machine without a GPU takes the CPU, whatever was said about a GPU.
    providers = providers_of(device, gpu if gpu is not None and not (automatic and device == "cpu") else GpuOptions())
    if device != "cpu":
        preload()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what fails raises an exception; the trial of a layout fails often, and is no error
    # A spinning pool would use the core that decodes the next request.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if model.data:
        # Not by path: ONNX Runtime would map the files, so overwriting them would change the weights of a running session.
        buffers, sizes = list(model.data.values()), [len(each) for each in model.data.values()]
        options.add_external_initializers_from_files_in_memory(list(model.data), buffers, sizes)
    try:
        session = ort.InferenceSession(model.graph, options, providers=providers)
    except Exception as error:
        if (why := missing_locale(str(error))) is not None:
            raise ConfigurationError(f"{path} cannot be loaded: {why}") from error
        found = re.search(r"complex(64|128)|float8\w*|float4\w*|u?int[24]\b", str(error))
        hint = f" ({found[0]} is not served: export the model with inputs and outputs of float32)" if found else ""
        raise ConfigurationError(f"{path} cannot be loaded{hint}: {error}") from error
    if session.get_providers()[0] != first:
        missing = _missing_library(device) or "unknown; run with ORT's own log: session log_severity_level 0"
        raise ConfigurationError(
            f"device: {device} was requested, but ONNX Runtime fell back to {session.get_providers()[0]}. "
            f"The library missing is {missing}. Install it, or say device: cpu."
        )
    served = with_float32(session, OrtValue)
    return (bound(served) if device != "cpu" else served), device


def preload() -> None:
    """Load the CUDA libraries of pip packages and of PyTorch, which are not on the loader's path.

    The runtime prints what it does not find. That would be in the output of commands, and the error names it in any case.
    """
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def missing_libraries(device: str) -> list[str]:
    """The libraries of a device that cannot be loaded here, for the CUDA that the runtime was built for."""
    preload()
    major = str(getattr(ort, "cuda_version", "") or "").partition(".")[0]
    cuda = _CUDA.get(int(major) if major.isdigit() else 12, _CUDA[13])
    return [name for name in (_DRIVER, *cuda, *(_TENSORRT if device == "tensorrt" else ())) if not _loads(name)]


def _missing_library(device: str) -> str | None:
    return next(iter(missing_libraries(device)), None)


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
