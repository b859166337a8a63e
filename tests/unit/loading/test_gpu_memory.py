"""Limits of GPU memory that add up to more than there is."""

import pytest

from understudy.loading.gpu_memory import does_not_fit
from understudy.rollout.policy import parse
from understudy.settings import Settings

GIB = 2**30


def warned(more: str = "", *, total: int | None = 16 * GIB, candidate: bool = True, elsewhere: str = "") -> list[str]:
    models = "primary: a.onnx\n" + ("candidate: b.onnx\n" if candidate else "")
    policy = parse(f"model: m\ntask: other\ndevice: cuda\n{models}{more}")
    return does_not_fit(policy, Settings(candidate_url=elsewhere), total)


def test_models_after_a_promotion_count() -> None:
    """Two workers with both models, and the candidate's process: five arenas, and what CUDA takes in three processes."""
    (line,) = warned("workers: 2\ndevice_options: {gpu_memory: 4GiB}\n")
    assert "5 models with device_options.gpu_memory 4GiB in 3 processes need 21.5 GiB, and the GPU has 16" in line
    assert "At most 2976MiB fits" in line
    assert warned("workers: 2\ndevice_options: {gpu_memory: 2976MiB}\n") == []
    assert warned("workers: 2\ndevice_options: {gpu_memory: 2977MiB}\n")


@pytest.mark.parametrize("more", ["", "device_options: {gpu_memory: 4GiB}\n"], ids=["no limit", "enough"])
def test_what_fits_or_is_not_limited_is_not_warned_about(more: str) -> None:
    """Without a limit, nothing is known."""
    assert warned(more) == []


def test_a_candidate_elsewhere_and_a_service_without_one_need_less() -> None:
    """Their processes are not on this GPU."""
    limit = "device_options: {gpu_memory: 6GiB}\n"
    assert "3 models" in warned(limit)[0]
    assert warned(limit, elsewhere="http://elsewhere:3000") == []
    assert warned(limit, candidate=False) == []


def test_a_gpu_of_unknown_size_is_not_warned_about() -> None:
    """`nvidia-smi` may be missing in a container."""
    assert warned("device_options: {gpu_memory: 400GiB}\n", total=None) == []
