"""What a figure was measured on: it means nothing without the machine and the versions."""

import os
import platform
from importlib import metadata
from pathlib import Path


def processor() -> str:
    """Return the processor's name and the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    return f"{_processor_name()}, {cores} core{'' if cores == 1 else 's'}"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of imagesprint, of Python and of those of `packages` that are installed."""
    found = {"python": platform.python_version()}
    for name in ("imagesprint", *packages):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
