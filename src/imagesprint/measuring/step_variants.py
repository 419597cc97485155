"""The same training step run in several ways, each measured alone: a training of its own, gone before the next."""

import gc
from collections.abc import Iterator
from importlib.util import find_spec
from statistics import median
from typing import Any, Final

import torch

from imagesprint.console import Console
from imagesprint.measuring.memory import peak_memory, start_peak
from imagesprint.measuring.step_timing import TimedTraining
from imagesprint.measuring.synthetic import synthetic_batches
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.runs.ranks import Ranks
from imagesprint.training.prefetch import on_device

WARM_UP: Final = 2
# --compile, and whether batch norm, residual addition and ReLU run by the kernels of model/fused_norm.py
VARIANTS: Final[dict[str, tuple[str, bool]]] = {
    "eager": ("off", False),
    "compiled": ("on", False),
    "fused": ("on", True),
}


def variants_left_out(device: torch.device) -> dict[str, str]:
    """Return those of VARIANTS that cannot be measured here, and why."""
    if device.type != "cuda":
        return {"fused": "its kernels need a GPU"}
    return {} if find_spec("triton") else {"fused": "Triton is not installed"}


def measure_variants(
    recipe: Recipe, num_classes: int, ranks: Ranks, phase: Phase, steps: int, console: Console
) -> Iterator[dict[str, Any]]:
    """Yield what `measure_speed` finds of `phase`, and its `variant`, for each of VARIANTS that can be run here."""
    for name, (compilation, fused) in VARIANTS.items():
        if name not in variants_left_out(ranks.device):
            console.live(f"measuring  {name}", f"{phase.image_size} px, micro-batch {phase.micro_batch}")
            gc.collect()  # frees the memory of the graphs before
            training = TimedTraining(recipe, num_classes, ranks, compilation, fused)
            row = measure_speed(training, num_classes, phase, steps)
            del training
            yield {"variant": name, **row}


def measure_speed(training: TimedTraining, num_classes: int, phase: Phase, steps: int) -> dict[str, Any]:
    """Return the shape of `phase`, the speed of `steps` steps of it on synthetic data, the seconds that compiling took
    before them, and the peak of memory while they ran.
    """
    device = training.ranks.device
    batches = on_device(synthetic_batches(phase, num_classes, device), device)
    compile_seconds = training.compile(phase)
    training.seconds(batches, phase, 0, WARM_UP)
    start_peak(device)
    seconds = training.seconds(batches, phase, steps, 0)
    return {
        "image_size": phase.image_size,
        "batch_size": phase.batch_size,
        "micro_batch": phase.micro_batch,
        "compile_seconds": compile_seconds,
        "images_per_second": phase.batch_size * steps / sum(seconds),
        "seconds_per_step": median(seconds),
        "slowest_step": max(seconds),
        "peak_memory": peak_memory(device),
    }
