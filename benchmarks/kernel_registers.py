"""Compile the kernels of model/fused_kernels.py and model/product_kernels.py for an H200, which need not be there.

    python benchmarks/kernel_registers.py

A line for each in each form that a ResNet-50 trains with, and one in float64, which only tests use: registers a thread,
bytes that did not fit into them, bytes of shared memory a program, of which an H200 gives one 232,448 at most, and how
many programs of eight warps a multiprocessor then holds.
"""

import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from imagesprint.model import fused_kernels, product_kernels

PTXAS: Final = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
REGISTERS, SHARED, THREADS = 65536, 233472, 2048  # of a multiprocessor
KINDS: Final = {
    "*fp32": "means deviations mean variance inverse bias norm_weight norm_bias "
    "partial sums weight_gradient bias_gradient",
    "*bf16": "x gradient residual out masked added",
    "*i8": "places",
    "*u8": "kept",
    "i32": "rows channels parts height width inputs outputs pooled_rows",
    "fp32": "eps",
}
TYPES: Final = {name: kind for kind, names in KINDS.items() for name in names.split()}
FLAGS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {  # that are true, in each form
    "statistics_kernel": ((), ("float64",)),
    "combine_kernel": ((), ("float64",)),
    "normalise_kernel": ((), ("RELU",), ("ADD", "RELU", "KEEP"), ("ADD", "RELU", "KEEP", "float64")),
    "normalise_pool_kernel": ((), ("float64",)),
    "gradient_sums_kernel": (
        (), ("MASK_BY_X",), ("MASK_BY_BITS",), ("MASK_BY_X", "POOLED"), ("MASK_BY_X", "POOLED", "float64")
    ),
    "total_kernel": ((), ("float64",)),
    "input_gradient_kernel": ((), ("MASK_BY_X",), ("MASK_BY_X", "POOLED"), ("MASK_BY_X", "POOLED", "float64")),
    "product_statistics_kernel": (("64 columns",), ("128 columns",), ("64 columns", "float64")),
    "product_gradient_kernel": (
        *(
            (columns, *flags)
            for columns in ("64 columns", "128 columns")
            for flags in ((), ("MASK_BY_BITS",), ("MASK_BY_BITS", "ADD"))
        ),
        ("64 columns", "MASK_BY_BITS", "ADD", "float64"),
    ),
}  # fmt: skip


def constants_of(kernel: Any, flags: tuple[str, ...]) -> dict[str, Any]:
    """Return what is compiled into a form of `kernel`."""
    rows = fused_kernels.POOL_TILE if "pool" in f"{kernel.__name__} {flags}".lower() else fused_kernels.TILE
    given: dict[str, Any] = {name: name in flags for name in kernel.arg_names if name.isupper()}
    wide = "float64" in flags
    given |= {"F": tl.float64 if wide else tl.float32, "BLOCK_CHANNELS": 128, "BLOCK_ROWS": rows // 128}
    if kernel.__name__ in ("combine_kernel", "total_kernel"):
        given |= {"BLOCK_CHANNELS": fused_kernels.COMBINED_CHANNELS, "BLOCK_PARTS": fused_kernels.COMBINED_PARTS}
    if kernel.__name__.startswith("product"):
        columns = next(int(flag.split()[0]) for flag in flags if flag.endswith(" columns"))
        depth = product_kernels.FLOAT64_DEPTH if wide else product_kernels.PRODUCT_DEPTH
        given |= {"BLOCK_ROWS": fused_kernels.PRODUCT_ROWS, "BLOCK_COLUMNS": columns, "BLOCK_DEPTH": depth}
    return {name: value for name, value in given.items() if name in kernel.arg_names}


def compiled(kernel: Any, flags: tuple[str, ...]) -> Any:
    """Return what Triton makes of `kernel` for sm_90."""
    constants = constants_of(kernel, flags)
    weight = "*bf16" if kernel.__name__.startswith("product") else "*fp32"
    types = TYPES | {"weight": weight} | dict.fromkeys(constants, "constexpr")
    if "float64" in flags:  # but for eps, which Triton takes as float32
        types = {name: re.sub(r"^\*(fp32|bf16)$", "*fp64", kind) for name, kind in types.items()}
    places = enumerate(kernel.arg_names)
    aligned = [place for place, name in places if types[name][0] in "*i" and name not in fused_kernels.UNSPECIALISED]
    source = ASTSource(
        kernel,
        {name: types[name] for name in kernel.arg_names},
        constants,
        {(place,): [["tt.divisibility", 16]] for place in aligned},
    )
    options = {"num_warps": fused_kernels.WARPS, "num_stages": product_kernels.PRODUCT_STAGES}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def registers(ptx: str) -> tuple[int, int]:
    """Return registers a thread and spilt bytes, as ptxas says."""
    with TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx, encoding="utf-8")
        words = (PTXAS, "-v", "--gpu-name=sm_90a", source, "-o", source.with_suffix(".cubin"))
        said = subprocess.run(words, capture_output=True, text=True, check=True).stderr
    used, spilt = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes spill stores", said)
    if used is None or spilt is None:
        raise RuntimeError(f"ptxas says neither registers nor spills: {said}")
    return int(used[1]), int(spilt[1])


def main() -> None:
    print("| kernel | form | registers | spilt bytes | shared bytes | programs |\n|---|---|---|---|---|---|")
    threads = 32 * fused_kernels.WARPS
    for name, forms in FLAGS.items():
        kernel = getattr(product_kernels if name.startswith("product") else fused_kernels, name)
        for flags in forms:
            built = compiled(kernel, flags)
            used, spilt = registers(built.asm["ptx"])
            shared = built.metadata.shared
            per_thread = -(-used // 8) * 8  # they are given in eights
            programs = min(REGISTERS // (per_thread * threads), SHARED // (shared + 1024), THREADS // threads)
            form = ", ".join(flags) or "plain"
            print(f"| {name} | {form} | {used} | {spilt} | {shared} | {programs} |", flush=True)


if __name__ == "__main__":
    main()
