from pathlib import Path

import pytest
import torch

from imagesprint.diagnosis.check import OK, WARNING
from imagesprint.diagnosis.machine import devices

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def test_without_a_gpu(tmp_path: Path) -> None:
    driver, device = devices(tmp_path / "none")
    assert (driver.status, driver.detail) == (OK, "no NVIDIA driver")
    assert (device.status, device.detail.startswith("the CPU, in ")) == (OK, True)


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for CUDA")
def test_a_driver_and_a_torch_that_cannot_use_it(tmp_path: Path) -> None:
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n")
    driver = devices(file)[0]
    assert driver.status == WARNING
    assert driver.detail == f"NVIDIA 535.129.03, but torch {torch.__version__} is built without CUDA"
    assert "built for CUDA" in driver.hint
