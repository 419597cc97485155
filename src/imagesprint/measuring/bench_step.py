"""`bench step`: how fast training steps are on synthetic data, where their time goes, and how near to the limits."""

from collections.abc import Mapping
from typing import Any, Final

from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.measuring.ceilings import Ceilings, measure_ceilings
from imagesprint.measuring.step_timing import TimedTraining, distinct_shapes, shape_of
from imagesprint.measuring.step_variants import measure_speed, measure_variants, variants_left_out
from imagesprint.measuring.synthetic import synthetic_batches
from imagesprint.measuring.traffic import Work, count_work
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.runs.ranks import open_ranks
from imagesprint.training.prefetch import on_device

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
