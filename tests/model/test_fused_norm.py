"""Triton's kernels: what they compute, in its interpreter or on a GPU, and that they compile for one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="there is no Triton for this platform")


@pytest.mark.parametrize("cases", ["fused_norm_cases.py", "fused_product_cases.py"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_kernels_compute_what_torch_does(device: str, cases: str) -> None:
    words = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", Path(__file__).with_name(cases))
    environment = os.environ | {"TRITON_INTERPRET": "1" if device == "cpu" else "0"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_the_kernels_compile_for_sm_90_and_fit_into_its_registers(tmp_path: Path) -> None:
    """In each form that training uses, and in float64, as the cases above have it; without spilling."""
    from imagesprint.model import fused_kernels, product_kernels

    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    words = (sys.executable, Path(__file__).parents[2] / "benchmarks/kernel_registers.py")
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    named = {name for module in (fused_kernels, product_kernels) for name in vars(module) if name.endswith("_kernel")}
    assert {row[0] for row in rows} == named
    assert len(named) == 9
    assert {row[0] for row in rows if "float64" in row[1]} == named
    for kernel, form, used, spilt, shared, programs in rows:
        assert int(shared) <= 232_448, (kernel, form)  # of an H100 or H200: CUDA's programming guide, table of limits
        assert (int(spilt), int(programs) >= 1) == (0, True), (kernel, form, used)
