"""Triton's kernels: what they compute, in its interpreter or on a GPU, and that they compile for one."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="there is no Triton for this platform")


@pytest.mark.parametrize("cases", ["fused_norm_cases.py", "fused_product_cases.py"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_kernels_compute_what_torch_does(device: str, cases: str) -> None:
    words = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", Path(__file__).with_name(cases))
    environment = os.environ | {"TRITON_INTERPRET": "1" if device == "cpu" else "0"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


SUMS = dict.fromkeys(("means", "deviations", "mean", "variance", "inverse", "weight", "bias", "sums"), "*fp32")
ACTIVATIONS = dict.fromkeys(("x", "gradient", "residual", "out", "masked"), "*bf16")
SCALARS = {"rows": "i32", "channels": "i32", "parts": "i32", "eps": "fp32"}
FLAGS = ((), ("ADD", "RELU"), ("MASK_BY_X",), ("MASK_BY_OUT",))  # that are true, for the kernels that have them


@pytest.mark.parametrize(("flags", "ones"), [*((flags, ()) for flags in FLAGS), ((), ("parts",))])
def test_the_kernels_compile_for_sm_90(
    flags: tuple[str, ...], ones: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an argument that is one, too: Triton makes a constant of it, and other code."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from imagesprint.model import fused_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"BLOCK_ROWS": 64, "BLOCK_CHANNELS": 64, "BLOCK_PARTS": 512, "F": triton.language.float32}
    constants |= {name: name in flags for names in FLAGS for name in names} | dict.fromkeys(ones, 1)
    kernels = [value for name, value in vars(fused_kernels).items() if name.endswith("_kernel")]
    assert len(kernels) == 5
    for kernel in kernels:
        if not {*flags, *ones} <= set(kernel.arg_names):
            continue
        types: dict[str, Any] = ACTIVATIONS | SUMS | SCALARS | dict.fromkeys(constants, "constexpr")
        source = ASTSource(
            kernel,
            {name: types[name] for name in kernel.arg_names},
            {name: value for name, value in constants.items() if name in kernel.arg_names},
            {
                (place,): [["tt.divisibility", 16]]
                for place, name in enumerate(kernel.arg_names)
                if types[name][0] == "*"
            },
        )
        built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": fused_kernels.WARPS})
        assert built.metadata.num_warps == fused_kernels.WARPS
        assert len(built.asm["cubin"]) > 1000
