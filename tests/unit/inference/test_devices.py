"""The rollout file's `device_options`, as ONNX Runtime's providers get them, and the libraries that are named if missing."""

import sys
import types
from typing import Any

import pytest

from understudy import loading
from understudy.errors import ConfigurationError
from understudy.inference import devices
from understudy.inference.devices import GpuOptions, providers_of
from understudy.rollout.policy import parse

FILE = "model: m\ntask: other\nprimary: a.onnx\n"


def options(text: str) -> GpuOptions:
    return loading.gpu_options(parse(f"{FILE}device_options: {text}\n"))


def test_options_reach_the_cuda_provider_as_it_names_them() -> None:
    """Memory is a number of bytes, and the arena grows by what is asked for."""
    cuda, cpu = providers_of(
        "cuda", options("{device_id: 1, gpu_memory: 1.5GiB, cudnn_conv_algo_search: default, use_tf32: false}")
    )
    assert cpu == "CPUExecutionProvider"
    assert cuda == (
        "CUDAExecutionProvider",
        {
            "device_id": "1",
            "cudnn_conv_algo_search": "DEFAULT",
            "use_tf32": "0",
            "gpu_mem_limit": str(3 * 2**29),
            "arena_extend_strategy": "kSameAsRequested",
        },
    )


def test_tensorrt_comes_before_cuda_and_both_use_the_same_gpu() -> None:
    """What TensorRT does not take, CUDA runs."""
    found = dict(
        each
        for each in providers_of("tensorrt", options("{device_id: 2, trt_fp16: true, trt_engine_cache: /var/e}"))
        if not isinstance(each, str)
    )
    assert [*found] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert {each["device_id"] for each in found.values()} == {"2"}
    assert found["TensorrtExecutionProvider"] == {
        "device_id": "2",
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/var/e",
    }


@pytest.mark.parametrize(
    ("device", "text", "said"),
    [
        ("cpu", "{gpu_memory: 2GiB}", "device_options.gpu_memory is for device: cuda or tensorrt"),
        ("cuda", "{trt_fp16: true}", "device_options.trt_fp16 is for device: tensorrt"),
    ],
)
def test_an_option_that_the_device_does_not_have_is_refused(device: str, text: str, said: str) -> None:
    """Ignored, it would be believed."""
    with pytest.raises(ConfigurationError, match=said):
        providers_of(device, options(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{gpu_mem_limit: 5}", "device_options.gpu_mem_limit"),
        ("{gpu_memory: 2GB}", "512MiB, 2GiB"),
        ("{gpu_memory: true}", "512MiB, 2GiB"),
        ("{device_id: -1}", "device_options.device_id"),
        ("{cudnn_conv_algo_search: fast}", "heuristic"),
    ],
)
def test_options_are_strict(text: str, said: str) -> None:
    """A name or a value that is not known is refused, with the key."""
    with pytest.raises(ConfigurationError, match=said):
        options(text)


def test_a_policy_that_is_read_again_has_the_same_memory() -> None:
    """Policies are stored as JSON, in bytes."""
    assert options("{gpu_memory: 2147483648}") == options("{gpu_memory: 2GiB}")


@pytest.mark.parametrize(
    ("built", "missing"),
    [("12.8", "libcudart.so.12"), ("13.0", "libcudart.so.13"), ("13.0", "libcurand.so.10"), ("13.0", "libcuda.so.1")],
)
def test_the_missing_library_is_one_of_the_cuda_that_the_runtime_was_built_for(
    monkeypatch: pytest.MonkeyPatch, built: str, missing: str
) -> None:
    """onnxruntime-gpu 1.31 needs CUDA 13; naming a library of CUDA 12 would send people astray."""

    def load(name: str) -> object:
        if name == missing:
            raise OSError(name)
        return object()

    monkeypatch.setattr(devices, "ort", types.SimpleNamespace(cuda_version=built))
    monkeypatch.setattr(devices.ctypes, "CDLL", load)
    assert missing_library("cuda") == missing


def missing_library(device: str) -> Any:
    return devices._missing_library(device)


def test_what_the_runtime_prints_about_libraries_is_not_in_the_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output of `understudy check --json` is read by programs."""
    loads = types.SimpleNamespace(preload_dlls=lambda: sys.stdout.write("Failed to load libcublasLt.so.13"))
    monkeypatch.setattr(devices, "ort", loads)
    devices.preload()
    assert capsys.readouterr().out == ""
