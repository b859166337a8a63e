"""The keys of the rollout file that say how a GPU is used. Pure."""

import re
from typing import Annotated, Literal

import pydantic

from understudy.rollout.goals import Strict

Device = Literal["auto", "cpu", "cuda", "tensorrt"]
_UNITS = {"MiB": 2**20, "GiB": 2**30}


def _size(value: object) -> object:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MiB|GiB)", value.strip()) if isinstance(value, str) else None
    if match is None and not (isinstance(value, int) and not isinstance(value, bool)):
        raise ValueError("an amount of memory is a number and a unit: 512MiB, 2GiB")
    return int(float(match[1]) * _UNITS[match[2]]) if match else value


Size = Annotated[
    int,
    pydantic.BeforeValidator(_size),
    pydantic.Field(ge=2**20),
    pydantic.WithJsonSchema({"type": ["string", "integer"], "description": "an amount of memory: 512MiB, 2GiB"}),
]


class DeviceOptions(Strict):
    """How a GPU is used; only with `device: cuda`, `tensorrt` or `auto`. What is absent is left to ONNX Runtime."""

    device_id: int = pydantic.Field(default=0, ge=0, le=63, description="the number of the GPU, as `nvidia-smi` has it")
    gpu_memory: Size | None = pydantic.Field(
        default=None,
        description="the most that ONNX Runtime's arena takes for one model in one process; CUDA's own libraries come on top",
    )
    cudnn_conv_algo_search: Literal["exhaustive", "heuristic", "default"] = pydantic.Field(
        default="heuristic",
        description="how cuDNN chooses a convolution's algorithm for each new shape; `exhaustive` measures, in a caller's request",
    )
    use_tf32: bool = pydantic.Field(
        default=True, description="TensorFloat-32 in products of float32: faster, with about three decimal digits"
    )
    trt_fp16: bool = pydantic.Field(default=False, description="`tensorrt` only: let it compute in float16")
    trt_engine_cache: str | None = pydantic.Field(
        default=None, description="`tensorrt` only: a folder that keeps built engines, which take minutes to build"
    )
