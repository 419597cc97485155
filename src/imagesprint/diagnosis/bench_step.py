"""`bench step` and `bench train`: how fast steps are on noise and on prepared images, and how near to limits."""

import gc
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch

from imagesprint.console import Console
from imagesprint.diagnosis.roofline import Ceilings, Work, count_work, measure_ceilings
from imagesprint.diagnosis.step_timing import (
    TimedTraining,
    distinct_shapes,
    peak_memory,
    shape_of,
    start_peak,
    steps_ahead,
    synthetic_batches,
    training_loader,
)
from imagesprint.errors import UsageError
from imagesprint.images.decoders import decoder_name
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.ranks import Ranks, open_ranks
from imagesprint.training.prefetch import on_device

WARM_UP: Final = 2
# --compile, and whether our own kernels run (model/fused_resnet.py), as they do in training
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
            if fused and training.state.not_fused:
                console.warn(f"{name} is left out: {training.state.not_fused}")
                continue
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


CLASSES: Final = 1000  # ImageNet's
PART_STEPS: Final = 3  # over which the parts are averaged


def bench_step(
    recipe: Recipe,
    device: str,
    compilation: str,
    steps: int,
    num_train: int | None,
    variants: int | None,
    console: Console,
) -> dict[str, Any]:
    """Measure `steps` steps of each shape of `recipe`'s phases on auto, cpu or cuda, on all ranks together, compiled or
    not (auto, on or off). With `variants` only those of that many pixels, and each also in step_variants.VARIANTS.

    Return, on every rank, the object that `imagesprint bench step --json` prints. With `num_train` images it has the
    time that the whole recipe would take at these speeds. Raises RankError and UsageError as `train` does, and
    UsageError where no phase is of `variants` pixels.
    """
    shapes = _shapes(recipe, variants)
    with open_ranks(device) as ranks:
        console = console if ranks.is_main else Console.silent()
        schedule = None if num_train is None else Schedule(recipe, num_train)
        result = _measure_shapes(TimedTraining(recipe, CLASSES, ranks, compilation), shapes, steps, console)
        if schedule is not None:
            result["projection"] = project(recipe, schedule, result["phases"])
        if variants is not None:
            result["variants"] = [
                row for phase in shapes for row in measure_variants(recipe, CLASSES, ranks, phase, steps, console)
            ]
            result["left_out"] = variants_left_out(ranks.device)
        console.live(f"measured {steps} steps of {len(shapes)} shapes", last=True)
        return result


def _shapes(recipe: Recipe, pixels: int | None) -> list[Phase]:
    shapes = distinct_shapes(recipe)
    found = [phase for phase in shapes if pixels in (None, phase.image_size)]
    if not found:
        sizes = ", ".join(str(size) for size in sorted({phase.image_size for phase in shapes}))
        raise UsageError(f"--variants {pixels}: {recipe.name} has no phase of that size", f"its sizes are {sizes}")
    return found


def _measure_shapes(training: TimedTraining, shapes: list[Phase], steps: int, console: Console) -> dict[str, Any]:
    console.live("measuring  the device's ceilings")
    training.ranks.barrier()
    ceilings = measure_ceilings(training.recipe, training.ranks.device)
    phases = []
    for phase in shapes:
        console.live(f"measuring  {phase.image_size} px, batch {phase.batch_size}", f"micro-batch {phase.micro_batch}")
        phases.append(_measure(training, phase, steps, ceilings))
    return {
        "bench": "step",
        **training.described(),
        "data": "synthetic",
        "steps": steps,
        "ceilings": vars(ceilings),
        "phases": phases,
    }


def _measure(training: TimedTraining, phase: Phase, steps: int, ceilings: Ceilings) -> dict[str, Any]:
    device = training.ranks.device
    found = measure_speed(training, CLASSES, phase, steps)
    batches = on_device(synthetic_batches(phase, CLASSES, device), device)
    parts = training.eager_parts(batches, phase, PART_STEPS)
    speed = found["images_per_second"] / training.ranks.world_size
    limits = _against_limits(count_work(training.recipe, phase, CLASSES), speed, ceilings)
    return found | {"seconds_by_part": parts} | limits


def _against_limits(work: Work, speed: float, ceilings: Ceilings) -> dict[str, Any]:
    """What one rank does at `speed` images a second, beside what its device can do at best."""
    limits = {name: ceilings.copy_bytes_per_second / size for name, size in vars(work.traffic).items()}
    return {
        "flops_per_image": work.flops,
        "flops_per_second": work.flops * speed,
        "share_of_matmul": work.flops * speed / ceilings.matmul_flops_per_second,
        "bytes_per_image": vars(work.traffic),
        "bytes_per_second": work.traffic.eager * speed,
        "memory_bound": limits,
        "share_of_memory_bound": {name: speed / limit for name, limit in limits.items()},
    }


def project(recipe: Recipe, schedule: Schedule, measured: list[dict[str, Any]]) -> Mapping[str, Any]:
    """Return the training time of the whole recipe, derived from the `measured` row of each of its shapes: `seconds`,
    and for each of `phases` steps × batch_size ÷ images a second.
    """
    speeds = {(row["image_size"], row["batch_size"], row["micro_batch"]): row["images_per_second"] for row in measured}
    phases = []
    for phase, (start, end) in zip(recipe.phases, schedule.bounds, strict=True):
        images, speed = (end - start) * phase.batch_size, speeds[shape_of(phase)]
        row = {"steps": end - start, "images": images, "image_size": phase.image_size}
        phases.append({**row, "images_per_second": speed, "seconds": images / speed})
    return {
        "derived": "steps × batch_size ÷ images_per_second, summed over the phases; no evaluation, no loading",
        "num_train": schedule.num_train,
        "phases": phases,
        "seconds": sum(row["seconds"] for row in phases),
    }


STEPS: Final = 10
ROUNDS: Final = 3


def bench_train(
    recipe: Recipe, data: Path, device: str, compilation: str, steps: int, console: Console
) -> dict[str, Any]:
    """Measure each shape of `recipe`'s phases on auto, cpu or cuda, compiled or not (auto, on or off): ROUNDS times
    `steps` steps on images of the root `data`, in turn with as many on synthetic ones.

    Return, on every rank, the object that `imagesprint bench train --json` prints. Raises the errors of `train`.
    """
    root = open_root(data)
    with open_ranks(device) as ranks:
        console = console if ranks.is_main else Console.silent()
        training = TimedTraining(recipe, len(root.classes), ranks, compilation)
        phases = []
        for phase in distinct_shapes(training.recipe):
            console.live(
                f"measuring  {phase.image_size} px, batch {phase.batch_size}", f"micro-batch {phase.micro_batch}"
            )
            phases.append(_measure_beside(training, phase, root, steps))
        console.live(f"measured {ROUNDS} × {steps} steps of {len(phases)} shapes", last=True)
        return {
            "bench": "train",
            **training.described(),
            "data": root.path,
            "decoder": decoder_name(),
            "steps": steps,
            "rounds": ROUNDS,
            "phases": phases,
        }


def _measure_beside(training: TimedTraining, phase: Phase, root: Root, steps: int) -> dict[str, Any]:
    ranks, compile_seconds = training.ranks, training.compile(phase)
    lead = steps_ahead(phase, ranks.world_size)
    synthetic = on_device(synthetic_batches(phase, len(root.classes), ranks.device), ranks.device)
    loaded, noise, waits = [], [], []
    with training_loader(training, phase, root, ROUNDS * (lead + steps)) as loader:
        batches = on_device(iter(loader), ranks.device)
        for _ in range(ROUNDS):
            training.seconds(batches, phase, 0, lead)
            waited = loader.wait_seconds
            loaded.append(sum(training.seconds(batches, phase, steps, 0)))
            waits.append(loader.wait_seconds - waited)
            noise.append(sum(training.seconds(synthetic, phase, steps, lead)))
    images = steps * phase.batch_size
    return {
        "image_size": phase.image_size,
        "batch_size": phase.batch_size,
        "micro_batch": phase.micro_batch,
        "compile_seconds": compile_seconds,
        "images_per_second": images / median(loaded),
        "synthetic_images_per_second": images / median(noise),
        "share_of_synthetic": median(theirs / ours for ours, theirs in zip(loaded, noise, strict=True)),
        "data_wait_seconds": median(waits),
        "mean_bytes": float(root.dataset(root.nearest(phase.source), "train").encoded_lengths.mean()),
        "data_wait": median(wait / seconds for wait, seconds in zip(waits, loaded, strict=True)),
    }
