"""All that `doctor` looks at without arguments: this machine and this installation."""

import os
import resource
from pathlib import Path

from imagesprint.measuring.doctor import hardware, installation, rank_environment, storage
from imagesprint.measuring.doctor.cgroups import core_limit, memory_limit
from imagesprint.measuring.doctor.check import FAILURE, Check
from imagesprint.records.dataset import open_root


def machine_checks(folder: Path, data: Path | None) -> list[Check]:
    """One check a thing. Takes a few seconds, and for a moment 64 MiB in `folder`.

    `folder` is where a run is to be written, `data` the ROOT to be trained on, if it is known. Raises as `open_root`
    does.
    """
    root = open_root(data) if data is not None else None
    of_torch = installation.pytorch()
    on_devices, gpus = _devices() if of_torch.status != FAILURE else ([], 0)
    return [
        installation.python(),
        of_torch,
        *on_devices,
        installation.packages(),
        *installation.optional_packages(),
        installation.decoder(),
        installation.libjpeg(),
        hardware.cores(core_limit()),
        hardware.processor_check(),
        hardware.memory(memory_limit()),
        storage.shared_memory(gpus),
        storage.disk(folder),
        storage.open_files(root, *resource.getrlimit(resource.RLIMIT_NOFILE)),
        *rank_environment.rank_checks(len(os.sched_getaffinity(0))),
    ]


def _devices() -> tuple[list[Check], int]:
    """The checks of the devices, and the number of GPUs."""
    import torch

    from imagesprint.measuring.doctor.devices import devices  # imports torch

    return devices(), torch.cuda.device_count()
