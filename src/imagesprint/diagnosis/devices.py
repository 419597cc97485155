"""What torch computes on here."""

from pathlib import Path
from typing import Final

import torch

from imagesprint.diagnosis.check import Check, failure, ok, warning
from imagesprint.training.optimizer import best_precision

DRIVER_FILE: Final = Path("/proc/driver/nvidia/version")  # of the kernel module
_GIB: Final = 1 << 30
_HINT: Final = (
    "see to CUDA_VISIBLE_DEVICES, to the container's GPUs (docker --gpus all), and whether nvidia-smi shows them; an "
    "old driver needs an update, or a torch built for an older CUDA"
)


def devices(driver_file: Path = DRIVER_FILE) -> list[Check]:
    """One check of the driver, which `driver_file` tells of, and one of each device."""
    driver = _driver_version(driver_file)
    if torch.cuda.is_available():
        found = driver or "of an unknown version"
        return [
            ok("driver", f"NVIDIA {found}, for torch's CUDA {torch.version.cuda}"),
            *(_gpu(number) for number in range(torch.cuda.device_count())),
        ]
    cpu = ok("device", f"the CPU, in {best_precision(torch.device('cpu'))}")
    if driver is None:
        return [ok("driver", "no NVIDIA driver"), cpu]
    if torch.version.cuda is None:
        hint = "install a torch built for CUDA: pip install --force-reinstall torch, from the default index"
        return [warning("driver", f"NVIDIA {driver}, but torch {torch.__version__} is built without CUDA", hint), cpu]
    return [failure("driver", f"NVIDIA {driver}, but no GPU: {_why()}", _HINT), cpu]


def _gpu(number: int) -> Check:
    properties = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    found = (
        f"{properties.name}, compute capability {properties.major}.{properties.minor}, {free / _GIB:.1f} of "
        f"{total / _GIB:.1f} GiB free, {best_precision(torch.device('cuda', number))}"
    )
    name = f"device {number}"
    if free < total / 2:
        return warning(
            name, f"{found}: others are at work on it", "nvidia-smi shows who; end them or choose another GPU"
        )
    return ok(name, found)


def _why() -> str:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "torch sees none"


def _driver_version(file: Path) -> str | None:
    """The kernel module's version; None where there is none."""
    try:
        words = file.read_text(encoding="utf-8").split()
    except OSError:
        return None
    return next((word for word in words if word.replace(".", "").isdigit() and "." in word), "of an unknown version")
