"""`bench step`: how fast training steps are on synthetic data, where their time goes, and how near to the limits."""

from collections.abc import Mapping
from statistics import median
from typing import Any, Final

from imagesprint.console import Console
from imagesprint.measuring.ceilings import Ceilings, measure_ceilings
from imagesprint.measuring.memory import peak_memory, start_peak
from imagesprint.measuring.step_timing import TimedTraining, distinct_shapes, shape_of
from imagesprint.measuring.synthetic import synthetic_batches
from imagesprint.measuring.traffic import Work, count_work
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.runs.ranks import open_ranks
from imagesprint.training.prefetch import on_device

CLASSES: Final = 1000  # ImageNet's
STEPS: Final = 10
WARM_UP: Final = 2
PART_STEPS: Final = 3  # over which the parts are averaged


def bench_step(
    recipe: Recipe, device: str, compilation: str, steps: int, num_train: int | None, console: Console
) -> dict[str, Any]:
    """Measure `steps` steps of each shape of `recipe`'s phases on auto, cpu or cuda, on all ranks together, compiled or
    not (auto, on or off).

    Return, on every rank, the object that `imagesprint bench step --json` prints. With `num_train` images it has the
    time that the whole recipe would take at these speeds. Raises RankError and UsageError as `train` does.
    """
    with open_ranks(device) as ranks:
        console = console if ranks.is_main else Console.silent()
        training = TimedTraining(recipe, CLASSES, ranks, compilation)
        schedule = None if num_train is None else Schedule(training.recipe, num_train)
        console.live("measuring  the device's ceilings")
        ranks.barrier()
        ceilings = measure_ceilings(training.recipe, ranks.device)
        phases = []
        for phase in distinct_shapes(training.recipe):
            console.live(f"measuring  {phase.image_size} px, batch {phase.batch_size}, micro-batch {phase.micro_batch}")
            phases.append(_measure(training, phase, steps, ceilings))
        console.live(f"measured {steps} steps of {len(phases)} shapes", last=True)
        result = {
            "bench": "step",
            **training.described(),
            "data": "synthetic",
            "steps": steps,
            "ceilings": vars(ceilings),
            "phases": phases,
        }
        return result if schedule is None else result | {"projection": project(training.recipe, schedule, phases)}


def _measure(training: TimedTraining, phase: Phase, steps: int, ceilings: Ceilings) -> dict[str, Any]:
    device = training.ranks.device
    batches = on_device(synthetic_batches(phase, CLASSES, device), device)
    start_peak(device)
    seconds = training.seconds(batches, phase, steps, WARM_UP)
    peak = peak_memory(device)
    parts = training.eager_parts(batches, phase, PART_STEPS)
    speed = phase.batch_size * steps / sum(seconds)
    return {
        "image_size": phase.image_size,
        "batch_size": phase.batch_size,
        "micro_batch": phase.micro_batch,
        "images_per_second": speed,
        "seconds_per_step": median(seconds),
        "slowest_step": max(seconds),
        "seconds_by_part": parts,
        "peak_memory": peak,
        **_against_limits(count_work(training.recipe, phase, CLASSES), speed / training.ranks.world_size, ceilings),
    }


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
