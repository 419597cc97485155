"""`plan`: what a training will take, on this machine by a kept calibration, on others by published speeds."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import torch

from imagesprint.console import Console
from imagesprint.diagnosis.calibration import Calibration, LoadingCost, StepTime, calibrate
from imagesprint.diagnosis.machine import versions
from imagesprint.diagnosis.published_speeds import NUM_CLASSES, gpu_names, published_plan
from imagesprint.diagnosis.step_timing import device_name
from imagesprint.errors import UsageError
from imagesprint.files import write_text
from imagesprint.images.decoders import decoder_name
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.recipes.serialization import to_dict
from imagesprint.recipes.validation import check_world_size
from imagesprint.records.dataset import Root, open_root
from imagesprint.report.run_record import Reference, published_reference
from imagesprint.runs.ranks import Ranks, open_ranks
from imagesprint.training.metering import Cadence
from imagesprint.training.micro_batch_size import settle_micro_batches
from imagesprint.training.optimizer import best_precision
from imagesprint.training.state import TrainingState
from imagesprint.training.step import wants_compiled
from imagesprint.training.time_plan import TimePlan, Timetable

_SAME_LENGTH = 0.5  # epochs that two trainings may differ by to count as of one length


def forecast(
    recipe: Recipe,
    schedule: Schedule,
    plan: TimePlan,
    details: Sequence[Mapping[str, Any]],
    checkpoint_bytes: int,
) -> dict[str, Any]:
    """Return what `imagesprint plan --json` prints of the times: a row a phase with its `details`, evaluations,
    checkpoints (all of which are kept, one an epoch), the start-up and total_seconds.
    """
    cadence = Cadence(schedule, recipe.eval_every, None, schedule.total_steps)
    work = Timetable(cadence, 0).whole()
    phases = []
    for phase, steps, seconds, limit, detail in zip(
        recipe.phases, work.steps, plan.steps, plan.limits, details, strict=True
    ):
        row = {"steps": steps, "images": steps * phase.batch_size, "image_size": phase.image_size}
        speed = {"batch_size": phase.batch_size, "images_per_second": phase.batch_size / seconds}
        phases.append({**row, "seconds": steps * seconds, "limited_by": limit, **speed, **detail})
    return {
        "num_train": schedule.num_train,
        "steps": schedule.total_steps,
        "epochs": schedule.epochs_done(schedule.total_steps),
        "start_up_seconds": plan.start_up,
        "phases": phases,
        "evaluations": {"count": work.evaluations, "seconds": work.evaluations * plan.evaluation},
        "checkpoints": {
            "count": work.checkpoints,
            "seconds": work.checkpoints * plan.checkpoint,
            "bytes": checkpoint_bytes,
            "bytes_on_disk": work.checkpoints * checkpoint_bytes,
        },
        "total_seconds": plan.start_up + plan.seconds(work),
    }


def accuracies(recipe: Recipe, schedule: Schedule, plan: TimePlan, reference: Reference) -> list[dict[str, float]]:
    """Return the points of `reference` that this training comes to, each with the `seconds` after which it does.

    Those of whole runs ("ends") count where the training is as long as they were.
    """
    timetable = Timetable(Cadence(schedule, recipe.eval_every, None, schedule.total_steps), 0)
    length = schedule.epochs_done(schedule.total_steps)
    points = []
    for point in reference.points:
        if reference.kind == "curve" and point.epoch <= length:
            step = _step_at(schedule, point.epoch)
        elif reference.kind == "ends" and abs(point.epoch - length) <= _SAME_LENGTH:
            step = schedule.total_steps
        else:
            continue
        figures = {"epoch": point.epoch, "top1": point.top1} | ({} if point.top5 is None else {"top5": point.top5})
        points.append(figures | {"seconds": plan.start_up + plan.seconds(timetable.before(step))})
    return points


def _step_at(schedule: Schedule, epoch: float) -> int:
    """The first number of steps after which `epoch` epochs are done."""
    low, high = 0, schedule.total_steps
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if schedule.epochs_done(middle) >= epoch else (middle + 1, high)
    return low


_FORMAT: Final = 2  # a calibration of another one is not read
_NO_MATTER: Final = ("name", "seed", "init", "eval_every", "phases")  # of a recipe, for how long its parts take


def kept_folder() -> Path:
    """Return the folder that calibrations are kept in; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagesprint" / "calibrations"


class KeptCalibration:
    """The place of one calibration: that of `recipe`, whose precision and micro-batches are settled, on this hardware,
    with these versions and data.
    """

    def __init__(self, recipe: Recipe, root: Root, ranks: Ranks, compiled: bool) -> None:
        self._facts = _facts(recipe, root, ranks, compiled)
        name = hashlib.sha256(json.dumps(self._facts, sort_keys=True).encode()).hexdigest()[:16]
        self.path = kept_folder() / f"{recipe.name.replace('/', '-')}-{name}.json"

    def read(self) -> tuple[Calibration, str] | None:
        """Return the calibration and the day it was made; None where there is none, or a damaged one."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return _calibration(content["calibration"]), content["made"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, calibration: Calibration, console: Console) -> str:
        """Write it, and return the day; where that is not possible, say so."""
        made = time.strftime("%Y-%m-%d")
        content = {"made": made, "calibration": asdict(calibration), "facts": self._facts}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            console.warn(f"{self.path} cannot be written ({error.strerror}): the calibration is not kept")
        return made


def _facts(recipe: Recipe, root: Root, ranks: Ranks, compiled: bool) -> dict[str, Any]:
    variants = [(root.nearest(phase.source), "train") for phase in recipe.phases]
    variants.append((root.nearest(recipe.eval_source), "validation"))
    fields = to_dict(recipe)
    return {
        "format": _FORMAT,
        "device": device_name(ranks),
        "ranks": [ranks.world_size, ranks.local_world_size, ranks.threads],
        "versions": versions("torch", "triton", "numpy", "pillow"),
        "compiled": compiled,
        "decoder": decoder_name(),
        "data": sorted(
            {f"{variant} {split} {root.dataset(variant, split).fingerprint}" for variant, split in variants}
        ),
        "recipe": {key: value for key, value in fields.items() if key not in _NO_MATTER},
        "phases": [
            [phase.image_size, phase.batch_size, phase.micro_batch, phase.source, phase.min_area]
            for phase in recipe.phases
        ],
    }


def _calibration(content: dict[str, Any]) -> Calibration:
    steps = tuple(StepTime(**{**row, "loading_cost": LoadingCost(**row["loading_cost"])}) for row in content["steps"])
    return Calibration(**{**content, "steps": steps})


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
