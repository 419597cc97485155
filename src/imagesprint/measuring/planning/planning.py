"""`plan`: what a training will take, on this machine by a calibration, on others by published speeds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.measuring.calibration import Calibration, StepTime, calibrate
from imagesprint.measuring.planning.forecast import accuracies, forecast
from imagesprint.measuring.planning.kept import KeptCalibration
from imagesprint.measuring.planning.published_speeds import NUM_CLASSES, gpu_names, published_plan
from imagesprint.measuring.reporting.references import published_reference
from imagesprint.measuring.step_timing import device_name
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.recipes.validation import check_world_size
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.ranks import Ranks, open_ranks
from imagesprint.training.compiled import wants_compiled
from imagesprint.training.micro_batch_size import settle_micro_batches
from imagesprint.training.precision import best_precision
from imagesprint.training.state import TrainingState
from imagesprint.training.time_plan import TimePlan

IMAGENET_IMAGES = 1_281_167  # in its training split


def plan_here(recipe: Recipe, data: Path, device: str, compilation: str, console: Console) -> dict[str, Any]:
    """Plan a training of `recipe` on the root `data` and this machine: by the calibration that is kept, else by one
    that is made now.

    Returns what `imagesprint plan --json` prints but for the price; on ranks but 0 it may be empty. Raises the errors
    of `train`.
    """
    root = open_root(data)
    with open_ranks(device) as ranks:
        console = console if ranks.is_main else Console.silent()
        check_world_size(recipe, ranks.world_size)
        if recipe.precision == "auto":
            recipe = replace(recipe, precision=best_precision(ranks.device))
        recipe = settle_micro_batches(recipe, None, root.classes, ranks, console)
        num_train = len(root.dataset(root.nearest(recipe.phases[0].source), "train"))
        schedule = Schedule(recipe, num_train)
        kept = KeptCalibration(recipe, root, ranks, wants_compiled(compilation, ranks.device))
        found = kept.read() if ranks.is_main else None
        is_new = not ranks.total(found is not None)
        if is_new:
            calibration = calibrate(recipe, root, ranks, compilation, console)
            found = calibration, kept.keep(calibration, console) if ranks.is_main else ""
        if found is None:  # rank 0 has it
            return {}
        calibration, made = found
        plan = time_plan(calibration, made)
        return {
            **_head(recipe, device_name(ranks), ranks.world_size),
            "calibration": {"file": kept.path, "made": made, "is_new": is_new},
            **forecast(
                recipe, schedule, plan, [_details(one) for one in calibration.steps], calibration.checkpoint_bytes
            ),
            **_reached(recipe, schedule, plan, len(root.classes)),
            "not_included": [],
        }


def plan_elsewhere(recipe: Recipe, num_train: int | None, data: Path | None, gpu: str, gpus: int) -> dict[str, Any]:
    """Plan a training of `recipe` on `gpus` GPUs of that name by published speeds, on the images of the root `data`, or
    on `num_train`; without either on ImageNet, where that is what the recipe is for.

    Returns the same. Raises UsageError for a GPU that nothing is known of, and where the number of images is missing.
    """
    check_world_size(recipe, gpus)
    root = open_root(data) if data is not None else None
    if root is not None:
        num_train = len(root.dataset(root.nearest(recipe.phases[0].source), "train"))
    elif num_train is None and published_reference(recipe.name) is not None:
        num_train = IMAGENET_IMAGES
    if num_train is None:
        raise UsageError(
            f"on how many images {recipe.name} is to be trained is not known",
            "give --data ROOT, or --num-train 1281167",
        )
    num_classes = NUM_CLASSES if root is None else len(root.classes)
    schedule = Schedule(recipe, num_train)
    plan, speeds = published_plan(recipe, gpu, gpus)
    details = [{"source": speed.source, "derived": speed.derived or None} for speed in speeds]
    return {
        **_head(recipe, gpu, gpus),
        "calibration": None,
        **forecast(recipe, schedule, plan, details, _checkpoint_bytes(recipe, num_classes)),
        **_reached(recipe, schedule, plan, num_classes),
        "not_included": ["start-up", "evaluations", "checkpoints"],
    }


def known_plan(recipe: Recipe, root: Root, ranks: Ranks, compiled: bool) -> TimePlan | None:
    """Return what is known of a training without measuring anything: by the calibration that is kept, else by published
    speeds of this GPU; None where there is neither. It is a `Planner`.
    """
    found = KeptCalibration(recipe, root, ranks, compiled).read()
    if found is not None:
        return time_plan(*found)
    name = device_name(ranks).lower() if ranks.device.type == "cuda" else ""
    gpu = next((known for known in gpu_names() if known in name), None)
    return None if gpu is None else published_plan(recipe, gpu, ranks.world_size)[0]


def time_plan(calibration: Calibration, made: str) -> TimePlan:
    """Return the plan that follows from a calibration `made` on that day."""
    start_up = calibration.start_up + sum(step.first for step in set(calibration.steps))
    return TimePlan(
        start_up,
        tuple(step.step for step in calibration.steps),
        calibration.evaluation,
        calibration.checkpoint,
        tuple(step.limit for step in calibration.steps),
        f"calibrated on this machine on {made}",
    )


def _head(recipe: Recipe, machine: str, ranks: int) -> dict[str, Any]:
    return {"recipe": recipe.name, "model": recipe.model, "machine": machine, "ranks": ranks}


def _details(step: StepTime) -> dict[str, Any]:
    """What a calibration knows of a phase beyond its time."""
    return {"memory": step.peak_memory, "seconds_by_stage": step.stages, "loading_cost": vars(step.loading_cost)}


def _reached(recipe: Recipe, schedule: Schedule, plan: TimePlan, num_classes: int) -> dict[str, Any]:
    """When the accuracies of the recipe's reference are reached, where this is that training."""
    reference = published_reference(recipe.name) if num_classes == NUM_CLASSES else None
    if reference is None or load_recipe(recipe.name).phases != recipe.phases:
        return {"reference": None, "accuracies": []}
    return {"reference": reference.name, "accuracies": accuracies(recipe, schedule, plan, reference)}


def _checkpoint_bytes(recipe: Recipe, num_classes: int) -> int:
    state = TrainingState(recipe, tuple(map(str, range(num_classes))), torch.device("cpu"))
    return sum(tensor.nbytes for tensor in state.checkpoint_like())
