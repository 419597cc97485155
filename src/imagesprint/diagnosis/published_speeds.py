"""Speeds that others published for hardware that is not at hand, and what follows from them for other shapes."""

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from imagesprint.errors import UsageError
from imagesprint.model.flops import training_flops
from imagesprint.recipes.recipe import RESNET_FIELDS, Phase, Recipe
from imagesprint.training.time_plan import TimePlan

NUM_CLASSES = 1000  # of ImageNet, on which all of them were measured


@dataclass(frozen=True)
class PublishedSpeed:
    """Images a second that `gpus` GPUs trained `model` at together, as `source` says.

    `recipe` names the recipe that it was measured on and holds for alone, None if that is no matter; so `batch_size`.
    """

    gpu: str
    gpus: int
    recipe: str | None
    model: str
    image_size: int
    batch_size: int | None
    images_per_second: float
    source: str


@dataclass(frozen=True)
class Speed:
    """Images a second of a phase. `derived` says how it follows from what `source` has; empty where it is that."""

    images_per_second: float
    source: str
    derived: str


@cache
def published_speeds() -> tuple[PublishedSpeed, ...]:
    """Return the table."""
    text = files("imagesprint.diagnosis").joinpath("published_speeds.json").read_text(encoding="utf-8")
    return tuple(PublishedSpeed(**row) for row in json.loads(text))


def gpu_names() -> list[str]:
    """Return the names of the GPUs in the table."""
    return sorted({speed.gpu for speed in published_speeds()})


def speed_of(recipe: Recipe, phase: Phase, gpu: str, gpus: int) -> Speed:
    """Return the speed of `gpus` GPUs in `phase`: published, or derived from the nearest that is.

    Derived are speeds of another number of GPUs, in proportion to it, and of another model, image size or frozen part,
    by the floating-point operations that an image takes. Raises UsageError for a GPU that is not in the table.
    """
    known = [each for each in published_speeds() if each.gpu == gpu and each.recipe in (None, recipe.name)]
    if not known:
        raise UsageError(f"--gpu {gpu}: no speeds of it are known", f"choose one of {', '.join(gpu_names())}")
    nearest = min(known, key=lambda each: _distance(each, recipe, phase, gpus))
    factor, derived = gpus / nearest.gpus, []
    if gpus != nearest.gpus:
        derived.append(f"{gpus}/{nearest.gpus} of the GPUs")
    plain = {name: getattr(Recipe, name) for name in RESNET_FIELDS}
    published = replace(recipe, model=nearest.model, **plain)
    if (recipe, phase.image_size, phase.freeze) != (published, nearest.image_size, "none"):
        whole = replace(phase, image_size=nearest.image_size, freeze="none")
        theirs, ours = (training_flops(*pair, NUM_CLASSES) for pair in ((published, whole), (recipe, phase)))
        factor *= theirs / ours
        derived.append(f"{ours / 1e9:.3g} instead of {theirs / 1e9:.3g} GFLOP an image")
    return Speed(factor * nearest.images_per_second, nearest.source, ", ".join(derived))


def _distance(known: PublishedSpeed, recipe: Recipe, phase: Phase, gpus: int) -> tuple[float, ...]:
    """How far a published speed is from what is asked for; the first difference counts the most."""
    return (
        known.recipe != recipe.name,
        known.model != recipe.model,
        abs(math.log(known.gpus / gpus)),
        abs(math.log(known.image_size / phase.image_size)),
        abs(math.log((known.batch_size or phase.batch_size) / phase.batch_size)),
    )


def published_plan(recipe: Recipe, gpu: str, gpus: int) -> tuple[TimePlan, list[Speed]]:
    """Return the plan of `gpus` GPUs, in which training steps alone take time, and the speed of each phase.

    What limits a phase is assumed: those who publish speeds feed their GPUs fast enough. Raises UsageError.
    """
    speeds = [speed_of(recipe, phase, gpu, gpus) for phase in recipe.phases]
    steps = tuple(
        phase.batch_size / speed.images_per_second for phase, speed in zip(recipe.phases, speeds, strict=True)
    )
    limits = ("compute",) * len(steps)
    return TimePlan(0.0, steps, 0.0, 0.0, limits, f"published for {gpu}, training steps alone"), speeds
