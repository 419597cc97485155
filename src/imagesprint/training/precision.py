"""The arithmetic of a training: which dtype, and how fp16 keeps small gradients."""

from contextlib import AbstractContextManager, nullcontext

import torch

from imagesprint.recipes.recipe import Recipe

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def best_precision(device: torch.device) -> str:
    """What precision "auto" means on `device`: bf16 where the hardware multiplies it, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # Without these instructions bf16 on a CPU is emulated, and slower than fp32.
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bf16" if any(probe is not None and probe() for probe in probes) else "fp32"


def weight_dtype(recipe: Recipe) -> torch.dtype:
    """The dtype of weights, gradients and statistics: float64 for fp64 (to compare ranks), else float32."""
    return torch.float64 if recipe.precision == "fp64" else torch.float32


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """The context of forward passes: autocast for bf16 and fp16, nothing otherwise."""
    dtype = AUTOCAST.get(recipe.precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def loss_scaler(recipe: Recipe, device: torch.device) -> torch.amp.GradScaler:
    """Dynamic loss scaling for fp16 without a `loss_scale`; disabled, and then a no-op, otherwise."""
    return torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16" and recipe.loss_scale == 0)


def static_scale(recipe: Recipe) -> float:
    """The constant factor on the loss: `loss_scale` in fp16, 1 otherwise."""
    return recipe.loss_scale if recipe.precision == "fp16" and recipe.loss_scale > 0 else 1.0
