"""What in a recipe is known to cost accuracy; docs/accuracy.md says how much, and by whom it was measured."""

from typing import Final

from imagesprint.measuring.doctor.check import Check, ok, warning
from imagesprint.recipes.library import builtin_names, load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Root, variant_size

SIZES_GAINED: Final = (8 / 7, 9 / 7)  # evaluated over trained, as in 256 and 288 px for 224
_LARGEST_RATIO: Final = 1.5
_SMALL_BATCH: Final = 16  # per batch norm; below it the error grows: Wu and He 2018, "Group normalization"
_RATE_AN_IMAGE: Final = 0.1 / 256  # with momentum 0.9: Goyal et al. 2017, section 5.1
_NEAR: Final = 1.25  # a factor off the rate of the built-in recipe
_FAR: Final = 10.0  # a factor off that of Goyal et al., where no nearer one is known
_LOW_END: Final = 0.05  # of the highest rate
_REMEMBERED: Final = 0.01  # the share of what should be forgotten
_LEFT_OUT: Final = 0.1  # of an epoch


def recipe_checks(recipe: Recipe) -> list[Check]:
    """What the recipe alone tells."""
    return [
        _evaluation_size(recipe),
        _antialiasing(recipe),
        _zero_init(recipe),
        _weight_decay(recipe),
        _strides(recipe),
        _norm_batch(recipe),
        _learning_rate(recipe),
        _last_rate(recipe),
    ]


def schedule_checks(recipe: Recipe, schedule: Schedule, step: int) -> list[Check]:
    """What it makes of the number of training images, `step` steps into it."""
    checks = [_norm_statistics(recipe, schedule, step), _whole_epochs(schedule)]
    return [*checks, _moving_average(recipe, step)] if recipe.ema_decay else checks


def resolution(recipe: Recipe, root: Root | None) -> Check:
    """Whether images are enlarged, given the variants that `root` has or, without one, those that the recipe names."""
    rows = [(f"phase {i} at {row.image_size} px", row.source, row.image_size) for i, row in enumerate(recipe.phases)]
    rows.append((f"evaluation with a shorter side of {recipe.eval_resize} px", recipe.eval_source, recipe.eval_resize))
    for what, source, size in rows:
        variant = source if root is None else root.nearest(source)
        if variant_size(variant) < size:
            hint = f"prepare a larger variant: imagesprint prepare SOURCE ROOT --variants {size}"
            return warning("resolution", f"{what} enlarges images of variant {variant}", hint)
    return ok("resolution", "nothing is enlarged")


def _evaluation_size(recipe: Recipe) -> Check:
    name, trained, evaluated = "evaluation size", recipe.phases[-1].image_size, recipe.eval_image_size
    found = f"evaluated at {evaluated} px, trained at {trained} px in the end"
    sizes = ",".join(str(round(trained * factor)) for factor in (1.0, *SIZES_GAINED))
    hint = f"see what other sizes give: imagesprint evaluate RUN --data ROOT --sizes {sizes}"
    if recipe.crop == "center":
        return ok(name, found) if trained == evaluated else warning(name, f"{found}, by centre crops", hint)
    if not trained <= evaluated <= _LARGEST_RATIO * trained:
        seen = "smaller" if evaluated < trained else "larger"
        return warning(name, f"{found}: objects are {seen} than in training", hint)
    return ok(name, found, hint if trained == evaluated else "")


def _antialiasing(recipe: Recipe) -> Check:
    if recipe.antialias:
        return ok("antialiasing", "in training and evaluation")
    return warning("antialiasing", "in evaluation alone: training saw sharper, noisier images", _anew("antialias=true"))


def _zero_init(recipe: Recipe) -> Check:
    if recipe.zero_init:
        return ok("zero init", "each block's last scale began at 0")
    return warning("zero init", "each block's last scale began at 1", _anew("zero_init=true"))


def _weight_decay(recipe: Recipe) -> Check:
    if not recipe.decay_norm_and_bias or recipe.weight_decay == 0:
        return ok("weight decay", f"{recipe.weight_decay:g}, on weights alone")
    hint = "most recipes spare them now: --set decay_norm_and_bias=false"
    return ok("weight decay", f"{recipe.weight_decay:g}, on batch norm and biases, too", hint)


def _strides(recipe: Recipe) -> Check:
    if recipe.strides == "v1.5" or recipe.model in ("resnet18", "resnet20", "resnet34"):  # these have no bottlenecks
        return ok("strides", recipe.strides)
    return warning("strides", f"{recipe.strides}: three of four places are skipped unseen", _anew("strides=v1.5"))


def _norm_batch(recipe: Recipe) -> Check:
    least = min((row.micro_batch for row in recipe.phases if row.micro_batch), default=_SMALL_BATCH)
    found = f"each batch norm sees {least} images or more"
    if least >= _SMALL_BATCH:
        return ok("batch norm", found)
    return warning("batch norm", f"{found}: few for stable statistics", _anew("'phases.*.micro_batch=32'"))


def _learning_rate(recipe: Recipe) -> Check:
    """The highest rate an image, against that of the built-in recipe of the same name, else against the usual one."""
    name, rate = "learning rate", _rate_an_image(recipe)
    if recipe.name in builtin_names():
        usual, off, of = _rate_an_image(load_recipe(recipe.name)), _NEAR, f"that of {recipe.name}"
    else:
        usual, off, of = _RATE_AN_IMAGE, _FAR, "0.1 for 256 images"
    factor = rate / usual
    found = f"{factor:.3g} times {of}, an image"
    if 1 / off <= factor <= off:
        return ok(name, found)
    if factor == 0:
        return warning(name, "0 throughout", _anew("'phases.*.lr=0.1,0.1'"))
    return warning(name, found, f"scale the rate with the batch size: divide every phases.*.lr by {factor:.3g}")


def _rate_an_image(recipe: Recipe) -> float:
    return max(max(row.lr) / row.batch_size for row in recipe.phases)


def _last_rate(recipe: Recipe) -> Check:
    highest, last = max(max(row.lr) for row in recipe.phases), recipe.phases[-1].lr[1]
    found = f"the learning rate ends at {last:g}, having been {highest:g}"
    if last <= _LOW_END * highest:
        return ok("last rate", found)
    return warning("last rate", f"{found}: the weights do not settle", "let the last phase end at a hundredth, or at 0")


def _norm_statistics(recipe: Recipe, schedule: Schedule, step: int) -> Check:
    """Whether batch norm's running statistics have forgotten what they were at another image size or rate."""
    name = "norm statistics"
    start = schedule.bounds[schedule.phase_index(max(step - 1, 0))][0]
    kept = (1 - recipe.bn_momentum) ** (step - start)
    found = f"{kept:.1%} is from before the last {step - start:,} steps, by bn_momentum {recipe.bn_momentum:g}"
    if kept <= _REMEMBERED:
        return ok(name, found)
    hint = "see what measuring them anew gives: imagesprint evaluate RUN --data ROOT --recalibrate 10000"
    return warning(name, found, hint)


def _moving_average(recipe: Recipe, step: int) -> Check:
    kept = recipe.ema_decay**step
    found = f"{kept:.1%} of it is how the network began, by ema_decay {recipe.ema_decay:g} after {step:,} steps"
    if kept <= _REMEMBERED:
        return ok("moving average", found)
    hint = "imagesprint evaluate RUN --data ROOT --weights model judges the weights themselves; a lower ema_decay helps"
    return warning("moving average", found, hint)


def _whole_epochs(schedule: Schedule) -> Check:
    positions = [schedule.position(start) for start, _ in schedule.bounds]
    left = max(schedule.num_train - place.batches_in_epoch * place.batch_size for place in positions)
    found = f"at most {left:,} of {schedule.num_train:,} images are left out of one, for the last batch"
    if left <= _LEFT_OUT * schedule.num_train:
        return ok("epochs", found)
    return warning("epochs", f"{found}: training is shorter than it says", "choose batch sizes that divide better")


def _anew(change: str) -> str:
    return f"train anew with --set {change}"
