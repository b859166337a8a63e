"""Whether the models fit in a GPU's memory, which all processes of a service share."""

import subprocess

from understudy.rollout.policy import Policy
from understudy.settings import Settings

NVIDIA_SMI_S = 5.0
PROCESS_BYTES = 500 * 2**20
"""What CUDA, cuBLAS and cuDNN take in each process besides the arenas; NVIDIA names 300 to 500 MiB."""


def models_on_it(policy: Policy, settings: Settings) -> tuple[int, int]:
    """The most models that are loaded at once, and the processes that hold them."""
    workers = settings.workers or policy.workers
    if policy.candidate is None:
        return workers, workers
    # After a promotion each worker holds both. A candidate that is served elsewhere has a GPU of its own.
    own = 0 if settings.candidate_url else 1
    return 2 * workers + own, workers + own


def does_not_fit(policy: Policy, settings: Settings, total: int | None) -> list[str]:
    """A warning if the limits add up to more than the GPU has.

    Args:
        total: the GPU's memory in bytes; None if it is not known.
    """
    each = policy.device_options.gpu_memory
    if each is None or total is None:
        return []
    models, processes = models_on_it(policy, settings)
    needed = models * each + processes * PROCESS_BYTES
    if needed <= total:
        return []
    room = max(0, (total - processes * PROCESS_BYTES) // models)
    warning = (
        f"warning: {models} models with device_options.gpu_memory {each / 2**30:.3g}GiB in {processes} processes need "
        f"{needed / 2**30:.3g} GiB, and the GPU has {total / 2**30:.3g}: a promotion may fail for want of memory. "
        f"At most {room // 2**20}MiB fits; or use fewer workers"
    )
    return [warning]


def total_bytes(device_id: int) -> int | None:
    """The memory of a GPU; None if `nvidia-smi` cannot say it."""
    command = ["nvidia-smi", f"--id={device_id}", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(  # noqa: S603 - a fixed program and a number
            command, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return int(run.stdout.strip()) * 2**20 if run.stdout.strip().isdigit() else None
