"""What the device can do at best: copying within its memory, and multiplying matrices. Measured, not looked up."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from imagesprint.recipes.recipe import Recipe
from imagesprint.training.precision import AUTOCAST, weight_dtype
from imagesprint.training.stopwatch import Stopwatch

COPY_BYTES: Final = {"cuda": 4 << 30, "cpu": 256 << 20}  # far more than any cache holds
MATRIX_SIDE: Final = {"cuda": 8192, "cpu": 1024}
_PASSES: Final = 7


@dataclass(frozen=True)
class Ceilings:
    """Bytes read and written in a second by a copy, FLOP in a second by a product of square matrices of `dtype`."""

    copy_bytes_per_second: float
    matmul_flops_per_second: float
    dtype: str


def measure_ceilings(recipe: Recipe, device: torch.device) -> Ceilings:
    """Measure both on `device`, the product in the dtype that the recipe's convolutions have."""
    dtype = AUTOCAST.get(recipe.precision, weight_dtype(recipe))
    return Ceilings(_copy(device), _matmul(device, dtype), str(dtype).removeprefix("torch."))


def _copy(device: torch.device) -> float:
    source = torch.ones(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * len(source) / _fastest(device, lambda: target.copy_(source))


def _matmul(device: torch.device, dtype: torch.dtype) -> float:
    side = MATRIX_SIDE[device.type]
    # Random numbers: a GPU multiplies zeros faster than any real data, because it draws less power.
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / _fastest(device, lambda: torch.mm(a, b, out=out))


def _fastest(device: torch.device, work: Callable[[], object]) -> float:
    """Return the seconds of the fastest pass but the first, which warms up: a ceiling is what nothing disturbs."""
    return min(Stopwatch(device).laps(work, _PASSES)[1:])
