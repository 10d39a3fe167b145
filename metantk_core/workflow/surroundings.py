"""What numbers, times and memory depend on beside a configuration: this machine enters, plain values leave."""

import platform
import resource
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from metantk_core.reruns import Surroundings
from metantk_core.scores import device_kind
from metantk_core.workflow.runs import COMPUTING, versions

REFERENCE = "product of two matrices of float32, 512 x 512 by numpy on a processor, 4096 x 4096 on a GPU"
"""What ``reference_seconds`` times; another one has another name."""

_SIZE, _SIZE_ON_GPU = 512, 4096
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def surroundings(device: str) -> Surroundings:
    """Return the software and the machine that numbers of networks on a device depend on.

    Args:
        device: Where networks run, as torch spells it.
    """
    import torch

    kind = device_kind(device)
    return Surroundings(
        versions=versions(COMPUTING),
        # torch chooses its code by these instructions, and the code's order of summation shows in the last digits.
        processor=f"{_processor()} ({torch.backends.cpu.get_cpu_capability()})",
        accelerator=torch.cuda.get_device_name(device) if kind == "cuda" else "",
        threads=torch.get_num_threads(),
        device=kind,
    )


def reference_seconds(device: str, at_least: float) -> tuple[float, float]:
    """Return how long the reference operation takes at the moment: the mean over some time.

    On a processor it is numpy's, so that a version of torch that computes more slowly is noticed and not divided out.

    Args:
        device: Where networks run.
        at_least: Seconds to repeat it for.

    Returns:
        Seconds by the clock, and seconds of processor time.
    """
    if device_kind(device) == "cpu":
        import numpy as np

        matrix = np.full((_SIZE, _SIZE), 0.5, dtype=np.float32)
        operate = partial(np.matmul, matrix, matrix, out=np.empty_like(matrix))
    else:
        import torch

        there = torch.full((_SIZE_ON_GPU, _SIZE_ON_GPU), 0.5, device=device)

        def operate() -> object:
            torch.matmul(there, there)
            return torch.cuda.synchronize(device)

    operate()  # the first one may start threads
    processor, began, times = time.process_time(), time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < at_least or times == 0:
        operate()
        times += 1
    return spent / times, (time.process_time() - processor) / times


def forget_peak_memory(device: str) -> None:
    """Begin to look for the peak memory anew, where the system can.

    Args:
        device: Where networks run.
    """
    if device_kind(device) == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # where the system can't, it is that of the whole process
        _RESET.write_text("5", encoding="ascii")  # proc_pid_clear_refs(5)


def peak_memory(device: str) -> int | None:
    """Return the most bytes that this process held in memory, or on the accelerator, since that was last forgotten.

    Args:
        device: Where networks run.

    Returns:
        None where the system does not tell.
    """
    if device_kind(device) == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        held = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(held.split()[1]) * 1024
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (most if sys.platform == "darwin" else most * 1024) or None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2] for line in lines if line.startswith("model name")), "")
    return " ".join(named.split()) or platform.processor() or platform.machine() or "unknown processor"
