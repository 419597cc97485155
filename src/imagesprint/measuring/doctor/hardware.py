"""Cores, processor, memory: what this machine has, and what of it this process may use."""

import os
from pathlib import Path
from typing import Final

from imagesprint.images.native_library import is_available, library
from imagesprint.measuring.doctor.check import Check, ok, warning
from imagesprint.measuring.machine import processor

GIB: Final = 1 << 30
_LITTLE_MEMORY: Final = (
    2 * GIB
)  # `imagesprint demo` takes 0.54 GiB at its peak (ru_maxrss; two cores, torch 2.13 for the CPU)
_SET: Final = "unset OMP_NUM_THREADS, or set it to {}; torchrun sets it to 1 where it is not set"


def cores(limit: float | None) -> Check:
    """The cores that this process may use; `limit` is what `core_limit` says."""
    allowed, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    found = f"{allowed} of {there}"
    if limit is None:
        return ok("cores", f"{found}, no limit of their time")
    found += f", but the cgroup allows the time of {limit:g}"
    if limit >= allowed:
        return ok("cores", found)
    fitting = max(1, int(limit))
    return warning(
        "cores",
        f"{found}: {allowed} threads would be stopped again and again",
        f"give the container more (docker --cpus {allowed}), or set OMP_NUM_THREADS={fitting} before each command",
    )


def threads(allowed: int, ranks: int) -> Check:
    """OMP_NUM_THREADS, which torch and the loader heed, against the share of `allowed` cores of each of `ranks`."""
    share, wanted = max(1, allowed // ranks), os.environ.get("OMP_NUM_THREADS", "")
    if not wanted:
        return ok("threads", f"{share} a rank; OMP_NUM_THREADS is not set")
    if not (wanted.isdigit() and int(wanted) > 0):
        return warning("threads", f"OMP_NUM_THREADS is {wanted!r}, no number: {share} are taken", _SET.format(share))
    if int(wanted) < share:
        return warning(
            "threads",
            f"OMP_NUM_THREADS={wanted} leaves {share - int(wanted)} of {share} cores idle",
            _SET.format(share),
        )
    return ok("threads", f"{share} a rank; OMP_NUM_THREADS is {wanted}")


def processor_check() -> Check:
    """The processor, and whether the native decoder finds AVX2 on it."""
    name = processor().rpartition(", ")[0]
    flags = _cpu_flags()
    fast = [flag for flag in ("avx2", "avx512_bf16", "amx_bf16") if flag in flags]
    if is_available() and library().ims_resizer(0) == b"portable":
        return warning(
            "processor",
            f"{name}, without AVX2: images are resized by portable code, to the same pixels",
            "in a virtual machine choose a CPU type that hands AVX2 on, such as host",
        )
    return ok("processor", f"{name}{', with ' + ', '.join(fast) if fast else ''}")


def memory(limit: tuple[int, int] | None) -> Check:
    """Main memory; `limit` is what `memory_limit` says."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    total, free = (int(fields[key].split()[0]) << 10 for key in ("MemTotal", "MemAvailable"))
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB are free"
    if limit is not None and limit[1] < free:
        free = limit[1]
        found = f"the cgroup allows {limit[0] / GIB:.1f} GiB, of which {free / GIB:.1f} are left; {found}"
    if free < _LITTLE_MEMORY:
        hint = "end other work or raise the limit (docker --memory); a smaller phases.*.micro_batch takes less"
        return warning("memory", found, hint)
    return ok("memory", found)


def _cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()
