"""Checks of a whole recipe, made once, after all overrides; every message names the row and the value."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from imagesprint.errors import RankError, RecipeError
from imagesprint.recipes.recipe import (
    ATTENTIONS,
    BAD_RECORDS,
    CLASS_WEIGHTS,
    CROPS,
    EVAL_SHAPES,
    FREEZE_NORMS,
    FREEZES,
    LOSS_NAMES,
    METHODS,
    MODEL_NAMES,
    OPTIMIZER_NAMES,
    PRECISIONS,
    RESNET_FIELDS,
    SHORTCUTS,
    STEMS,
    STRIDES,
    TRANSFORM_DRAWS,
    Phase,
    Recipe,
    did_you_mean,
    from_plain,
    kinds,
    shown,
)

MAX_SEED = 2**63 - 1  # a TOML integer has 64 bits with sign
# Above 2**31 the random draws, which count epochs in 32 bits, have the numbers that `prepare` draws with.
MAX_BOUND = 2**31 - 1
# Of one forward pass: no device holds what a network makes of more. It is what memory is asked for.
MAX_PIXELS = 2**31
MAX_SIDE = 65_535  # pixels: a JPEG's
WIDTHS = (1 / 16, 16.0)  # beyond them a ResNet has 8 channels throughout, or too many for any memory
ASPECTS = (0.01, 100.0)  # far beyond any use; towards 0 and infinity the crops' arithmetic ends in overflows


def validate(recipe: Recipe) -> None:
    """Return where the recipe can be trained as it stands; RecipeError names what cannot, its row and value."""
    for name, kind in kinds(Recipe).items():
        _check_plain(name, from_plain(kind, getattr(recipe, name), name))
    _check_network(recipe)
    _check_settings(recipe)
    _check_optimizer(recipe)
    _check_loss(recipe)
    _check_augment(recipe)
    _check_evaluation(recipe)
    if not recipe.phases:
        raise RecipeError("phases: there is none", "give the recipe at least one row, such as epochs = [0, 6]")
    for index, phase in enumerate(recipe.phases):
        _check_phase(f"phases.{index}", phase)
    _check_ranges(recipe.phases)
    if recipe.features_once:
        _check_features_once(recipe)


def _check_plain(where: str, value: Any) -> None:
    """Refuse what no field may hold: numbers that are not finite, text that no file can hold."""
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, float) and not math.isfinite(item):
            raise RecipeError(f"{where}: {item} is not finite", "give an ordinary number")
        if isinstance(item, str) and any("\ud800" <= char <= "\udfff" for char in item):
            raise RecipeError(f"{where}: {item!r} is not valid Unicode", "rename it to plain text")


def _choose(where: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        hint = did_you_mean(value, known) or f"choose one of {', '.join(known)}"
        raise RecipeError(f"{where}: unknown value {shown(value)!r}", hint)


def _within(where: str, value: float, rule: str, good: bool) -> None:
    if not good:
        raise RecipeError(f"{where}: {value} is out of range", f"it must be {rule}")


def _check_network(recipe: Recipe) -> None:
    if not recipe.model.startswith("timm:"):
        _choose("model", recipe.model, MODEL_NAMES)
    _choose("strides", recipe.strides, STRIDES)
    _choose("stem", recipe.stem, STEMS)
    _choose("shortcut", recipe.shortcut, SHORTCUTS)
    _choose("attention", recipe.attention, ATTENTIONS)
    _choose("freeze_norm", recipe.freeze_norm, FREEZE_NORMS)
    low, high = WIDTHS
    _within("width", recipe.width, f"in {low:g}..{high:g}", low <= recipe.width <= high)
    _within("bn_momentum", recipe.bn_momentum, "above 0 and at most 1", 0 < recipe.bn_momentum <= 1)
    _within("bn_eps", recipe.bn_eps, "above 0", recipe.bn_eps > 0)
    if recipe.model.startswith("resnet"):
        return
    for name in RESNET_FIELDS:
        value, plain = getattr(recipe, name), getattr(Recipe, name)
        if value != plain:
            raise RecipeError(
                f"{name}: {shown(value)} is for ResNets, and {recipe.model} is none",
                f"set {name}={plain}".lower(),
            )


def _check_settings(recipe: Recipe) -> None:
    if not recipe.name.strip():
        raise RecipeError("name: is empty", "give the recipe a name")
    _choose("precision", recipe.precision, PRECISIONS)
    _choose("crop", recipe.crop, CROPS)
    _choose("bad_records", recipe.bad_records, BAD_RECORDS)
    _within("seed", recipe.seed, f"in 0..{MAX_SEED}", 0 <= recipe.seed <= MAX_SEED)
    steps = recipe.recalibrate_bn
    _within("recalibrate_bn", steps, f"in 0..{MAX_BOUND} steps", 0 <= steps <= MAX_BOUND)
    if steps and recipe.freeze_norm == "all":
        raise RecipeError(
            f"recalibrate_bn: {steps} steps measure nothing where all statistics stand still (freeze_norm=all)",
            "set recalibrate_bn=0 or freeze_norm=frozen",
        )
    _within("min_object_covered", recipe.min_object_covered, "in 0..1", 0 <= recipe.min_object_covered <= 1)
    low, high = recipe.aspect
    if not ASPECTS[0] <= low <= high <= ASPECTS[1]:
        raise RecipeError(
            f"aspect: [{low}, {high}] is no range of width over height",
            f"give {ASPECTS[0]:g} ≤ low ≤ high ≤ {ASPECTS[1]:g}",
        )
    for value in recipe.mean:
        _within("mean", value, "in -1e6..1e6 (pixels are in 0..255)", abs(value) <= 1e6)
    for value in recipe.std:
        _within("std", value, "in 1e-6..1e6 (pixels are in 0..255)", 1e-6 <= value <= 1e6)


def _check_optimizer(recipe: Recipe) -> None:
    _choose("optimizer", recipe.optimizer, OPTIMIZER_NAMES)
    for name in ("momentum", "beta2", "ema_decay"):
        value = getattr(recipe, name)
        _within(name, value, "at least 0 and below 1", 0 <= value < 1)
    for name in ("weight_decay", "loss_scale"):
        value = getattr(recipe, name)
        _within(name, value, "at least 0", value >= 0)
    for name in ("rest_lr", "backbone_lr"):
        value = getattr(recipe, name)
        _within(name, value, "above 0", value > 0)
    _within("layer_decay", recipe.layer_decay, "above 0 and at most 1", 0 < recipe.layer_decay <= 1)
    if recipe.nesterov and recipe.momentum == 0:
        raise RecipeError("nesterov: true needs a momentum, which is 0", "set momentum=0.9 or nesterov=false")
    if recipe.nesterov and recipe.optimizer == "adamw":
        raise RecipeError("nesterov: true, but adamw has no such momentum", "set nesterov=false, or another optimizer")


def _check_loss(recipe: Recipe) -> None:
    _choose("loss", recipe.loss, LOSS_NAMES)
    _choose("class_weights", recipe.class_weights, CLASS_WEIGHTS)
    _within("label_smoothing", recipe.label_smoothing, "at least 0 and below 1", 0 <= recipe.label_smoothing < 1)
    _within("focal_gamma", recipe.focal_gamma, "at least 0", recipe.focal_gamma >= 0)
    if recipe.balance and recipe.class_weights != "none":
        raise RecipeError(
            f"class_weights: {recipe.class_weights}, but with balance every class comes equally often already",
            "set class_weights=none or balance=false",
        )


def _check_augment(recipe: Recipe) -> None:
    for entry in recipe.augment:
        name, *numbers = entry.split() or [""]
        if name not in TRANSFORM_DRAWS:
            hint = did_you_mean(name, TRANSFORM_DRAWS) or f"there are {', '.join(TRANSFORM_DRAWS)}"
            raise RecipeError(f"augment: unknown transform {shown(entry)!r}", hint)
        ranges = TRANSFORM_DRAWS[name].numbers
        if len(numbers) != len(ranges) or not all(map(_is_number_in, numbers, ranges)):
            wanted = " ".join([name, *(f"({_range_text(*bounds)})" for bounds in ranges)])
            raise RecipeError(f"augment: {shown(entry)!r} does not have the numbers of {name}", f"write {wanted}")
    names = [entry.split()[0] for entry in recipe.augment]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"augment: {name} is there twice", "each transform has draws for one use: leave one out")


def _is_number_in(text: str, bounds: tuple[float, float] | tuple[int, int]) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return bounds[0] <= value <= bounds[1] and (type(bounds[0]) is float or value.is_integer())


def _range_text(low: float, high: float) -> str:
    return f"{low:g} to {high:g}" + (", a whole number" if type(low) is int else "")


def _check_evaluation(recipe: Recipe) -> None:
    _check_source("eval_source", recipe.eval_source)
    _choose("eval_shape", recipe.eval_shape, EVAL_SHAPES)
    for name in ("eval_resize", "eval_image_size", "eval_batch_size"):
        value = getattr(recipe, name)
        _within(name, value, "at least 1", value >= 1)
    _within("eval_resize", recipe.eval_resize, f"at most {MAX_SIDE}", recipe.eval_resize <= MAX_SIDE)
    _check_pixels("eval_batch_size", recipe.eval_batch_size, recipe.eval_image_size)
    _within("eval_every", recipe.eval_every, "at least 0 epochs (0: at the end alone)", recipe.eval_every >= 0)
    _within("patience", recipe.patience, "at least 0 evaluations (0: the run never ends early)", recipe.patience >= 0)
    if recipe.patience and not recipe.eval_every:
        raise RecipeError(
            f"patience: {recipe.patience} evaluations are never made, since eval_every is 0", "set eval_every=1"
        )
    if recipe.eval_image_size > recipe.eval_resize:
        raise RecipeError(
            f"eval_image_size: a centre of {recipe.eval_image_size} px does not fit a shorter side of "
            f"eval_resize {recipe.eval_resize} px",
            f"set eval_resize={recipe.eval_image_size} or more",
        )


def _check_pixels(where: str, images: int, size: int) -> None:
    if images * size**2 > MAX_PIXELS:
        raise RecipeError(
            f"{where}: {images} images of {size} px at once are out of range",
            f"no device holds more than {max(1, MAX_PIXELS // size**2)} of them",
        )


def _check_source(where: str, source: str) -> None:
    digits = source.isascii() and source.isdigit() and not source.startswith("0")
    if source != "full" and not (digits and len(source) <= len(str(MAX_SIDE))):
        raise RecipeError(
            f"{where}: unknown variant {shown(source)!r}", "give full or the shorter side in pixels, such as 160"
        )


def _check_phase(row: str, phase: Phase) -> None:
    for name, kind in kinds(Phase).items():
        where = f"{row}.{name}"
        _check_plain(where, from_plain(kind, getattr(phase, name), where))
    _choose(f"{row}.method", phase.method, METHODS)
    for name in ("batch_size", "image_size"):
        value = getattr(phase, name)
        _within(f"{row}.{name}", value, "at least 1", value >= 1)
    _within(f"{row}.micro_batch", phase.micro_batch, "at least 1, or auto", phase.micro_batch >= 0)
    _check_pixels(f"{row}.micro_batch", max(1, phase.micro_batch), phase.image_size)
    if phase.micro_batch and phase.batch_size % phase.micro_batch:
        nearest = max(1, round(phase.batch_size / phase.micro_batch)) * phase.micro_batch
        raise RecipeError(
            f"{row}: batch_size {phase.batch_size} is no multiple of micro_batch {phase.micro_batch}",
            f"set {row}.batch_size={nearest}, or a micro_batch that divides {phase.batch_size}",
        )
    _check_source(f"{row}.source", phase.source)
    if not re.fullmatch(FREEZES, phase.freeze):
        raise RecipeError(
            f"{row}.freeze: unknown value {shown(phase.freeze)!r}",
            "give none, backbone (all but the head is not trained) or stages N (the stem and the first N stages)",
        )
    _within(f"{row}.min_area", phase.min_area, "above 0 and at most 1", 0 < phase.min_area <= 1)
    _check_lr(row, phase)


def _check_features_once(recipe: Recipe) -> None:
    """Refuse what would make another image, or another backbone, of a later epoch."""
    first = recipe.phases[0]
    rules = {
        "freeze_norm": recipe.freeze_norm != "none",
        "crop": recipe.crop == "center",
        "flip": not recipe.flip,
        "antialias": recipe.antialias,
        "augment": not recipe.augment,
        "bad_records": recipe.bad_records == "stop",
        "recalibrate_bn": recipe.recalibrate_bn == 0,
        "phases.*.freeze": all(phase.freeze == "backbone" for phase in recipe.phases),
        "phases.*.image_size": all(phase.image_size == first.image_size for phase in recipe.phases),
        "phases.*.source": all(phase.source == first.source for phase in recipe.phases),
    }
    for key, kept in rules.items():
        if not kept:
            raise RecipeError(
                f"features_once: {key} does not allow it: each image passes through the network one time alone",
                "it needs freeze=backbone, one image_size and one source in all phases, crop=center, flip=false, "
                "augment= (none), antialias=true, freeze_norm=frozen, bad_records=stop and recalibrate_bn=0; or set "
                "features_once=false",
            )


def _check_lr(row: str, phase: Phase) -> None:
    first, last = phase.lr
    if min(first, last) < 0:
        raise RecipeError(f"{row}.lr: [{first}, {last}] is negative", "a learning rate is at least 0")
    if phase.method == "exponential" and min(first, last) == 0:
        raise RecipeError(
            f"{row}.lr: [{first}, {last}] reaches 0, which an exponential never does",
            "give two rates above 0, or method linear or cosine",
        )
    if phase.method == "constant" and first != last:
        raise RecipeError(
            f"{row}.lr: [{first}, {last}] differ, but method is constant", f"set {row}.lr=[{first},{first}]"
        )


def _check_ranges(phases: Sequence[Phase]) -> None:
    unit = "epochs" if phases[0].epochs is not None else "steps"
    expected = 0
    for index, phase in enumerate(phases):
        row = f"phases.{index}"
        if (phase.epochs is None) == (phase.steps is None):
            found = "neither" if phase.epochs is None else "both"
            raise RecipeError(f"{row}: {found} epochs and steps given", "give each row exactly one of them")
        bounds: tuple[int, int] | None = getattr(phase, unit)
        if bounds is None:
            raise RecipeError(f"{row}: not in {unit} as phases.0 is", "give all rows in epochs or all in steps")
        start, end = bounds
        if start != expected:
            raise _not_contiguous(index, unit, start, expected)
        if end <= start:
            raise RecipeError(f"{row}.{unit}: [{start}, {end}) is empty", f"end it after {start}, or remove the row")
        _within(f"{row}.{unit}", end, f"at most {MAX_BOUND}", end <= MAX_BOUND)
        expected = end


def _not_contiguous(index: int, unit: str, start: int, expected: int) -> RecipeError:
    where = f"phases.{index}.{unit}"
    if index == 0:
        return RecipeError(f"{where}: starts at {start}", "the first row starts at 0")
    kind = "a gap" if start > expected else "an overlap"
    return RecipeError(
        f"{where}: starts at {start} but phases.{index - 1} ends at {expected}, {kind} of {abs(start - expected)}",
        f"start it at {expected}",
    )


def check_world_size(recipe: Recipe, world_size: int) -> None:
    """Return where `world_size` ranks can share every phase's micro-batches evenly.

    RankError otherwise: it names the world sizes that can, and the `--set` that would make this one fit. A micro-batch
    that is auto may become as small as one image.
    """
    recipe = _with_numbers(recipe)
    counts = [phase.micro_batches for phase in recipe.phases]
    if world_size < 1:
        raise RankError(f"{world_size} ranks are too few", f"this recipe runs on {_divisors(counts)} ranks")
    for index, count in enumerate(counts):
        if count % world_size:
            raise RankError(
                f"{world_size} ranks cannot share the {count} micro-batches of phases.{index} evenly",
                f"run {_divisors(counts)} ranks, or change the batches (and so the result): "
                f"{_fitting_sets(recipe, world_size)}",
            )


def largest_world_size(recipe: Recipe, ranks: int) -> int:
    """The largest number of `ranks`, at least 1, that can share every phase's micro-batches evenly."""
    common = math.gcd(*(phase.micro_batches for phase in _with_numbers(recipe).phases))
    return max(size for size in range(1, ranks + 1) if common % size == 0)


def _with_numbers(recipe: Recipe) -> Recipe:
    """`recipe` with a micro-batch of one image where it is auto: the smallest that it may become."""
    phases = (phase if phase.micro_batch else replace(phase, micro_batch=1) for phase in recipe.phases)
    return replace(recipe, phases=tuple(phases))


def _divisors(counts: Sequence[int]) -> str:
    """The numbers that divide each of `counts`, in order, for a message."""
    common = math.gcd(*counts)
    small = [size for size in range(1, math.isqrt(common) + 1) if common % size == 0]
    return ", ".join(str(size) for size in sorted({*small, *(common // size for size in small)}))


def _fitting_sets(recipe: Recipe, world_size: int) -> str:
    """The `--set`s under which `world_size` ranks fit, with batches as near the recipe's as can be."""
    wanted = [_fitting_batch(phase, world_size) for phase in recipe.phases]
    changes: list[str] = []
    for column, name in enumerate(("batch_size", "micro_batch")):
        values = [row[column] for row in wanted]
        present = [getattr(phase, name) for phase in recipe.phases]
        if values == present:
            continue
        if len(set(values)) == 1:
            changes.append(f"--set 'phases.*.{name}={values[0]}'")
        else:
            rows = enumerate(zip(values, present, strict=True))
            changes += [f"--set phases.{i}.{name}={value}" for i, (value, old) in rows if value != old]
    return " ".join(changes)


def _fitting_batch(phase: Phase, world_size: int) -> tuple[int, int]:
    """(batch_size, micro_batch) for `world_size` ranks: the micro-batch not above the present one if possible."""
    per_rank, rest = divmod(phase.batch_size, world_size)
    if rest == 0:
        largest = min(phase.micro_batch, per_rank)
        return phase.batch_size, next(size for size in range(largest, 0, -1) if per_rank % size == 0)
    rounds = -(-phase.micro_batches // world_size)
    micro_batch = max(1, phase.batch_size // (rounds * world_size))
    return micro_batch * rounds * world_size, micro_batch
