"""The most memory that work takes."""

import contextlib
from pathlib import Path

import torch


def start_peak(device: torch.device) -> None:
    """From now on, watch for a new peak; where the kernel does not allow it, the old one stands on."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what compiling and choosing algorithms took
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets VmHWM


def peak_memory(device: torch.device) -> int:
    """Return the peak in bytes: on a GPU of what PyTorch's allocator held, on a CPU of the whole process."""
    if device.type == "cuda":
        # Not what was allocated: the memory of a CUDA graph counts as free there while the graph runs.
        return torch.cuda.max_memory_reserved(device)
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
