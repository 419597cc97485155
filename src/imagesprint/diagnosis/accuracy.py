"""What can cost a run accuracy, as far as its recipe and its figures tell; docs/accuracy.md has the sizes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from imagesprint.diagnosis.accuracy_data import data_checks
from imagesprint.diagnosis.check import Check, failure, ok, warning
from imagesprint.images.decoders import decoder_name
from imagesprint.recipes.library import builtin_names, load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Root, open_root, variant_size
from imagesprint.report.run_record import RunRecord, read_run
from imagesprint.storage.url import Place

SIZES_GAINED: Final = (8 / 7, 9 / 7)  # evaluated over trained, as in 256 and 288 px for 224
_LARGEST_RATIO: Final = 1.5
_SMALL_BATCH: Final = 16  # per batch norm; below it the error grows: Wu and He 2018, "Group normalization"
_RATE_AN_IMAGE: Final = 0.1 / 256  # with momentum 0.9: Goyal et al. 2017, section 5.1
_NEAR: Final = 1.25  # a factor off the rate of the built-in recipe
_FAR: Final = 10.0  # a factor off that of Goyal et al., where no nearer one is known
_LOW_END: Final = 0.05  # of the highest rate
_REMEMBERED: Final = 0.01  # the share of what should be forgotten
_LEFT_OUT: Final = 0.1  # of an epoch
_LEARNT: Final = 20.0  # points of top-1 over chance, on training images
_LOST: Final = 0.25  # the share of that which is suspiciously little on validation images
_SHIFTED: Final = 0.8  # the share of the most frequent confusions
_FEW: Final = 20  # confusions, which say nothing yet
_MANY_OVERFLOWS: Final = 0.01  # of the steps
_MANY_BAD: Final = 0.001  # of the images: what `prepare --max-rejected` takes for too many


def accuracy_checks(run: Path, data: Place | None) -> list[Check]:
    """One check an effect, for the run in the directory `run`, which may be under way.

    With `data`, the ROOT that it was trained on, some of its images are looked at. Raises UsageError where there is no
    run, nothing was logged yet, or there is no such ROOT; RecordError where it is damaged.
    """
    record = read_run(run)
    root = open_root(data) if data is not None else None
    schedule = _schedule(record, root)
    return [
        *result_checks(record, schedule),
        *recipe_checks(record.recipe),
        resolution(record.recipe, root),
        *(schedule_checks(record.recipe, schedule, record.last.step) if schedule is not None else ()),
        *(data_checks(record, root) if root is not None else ()),
    ]


def _schedule(record: RunRecord, root: Root | None) -> Schedule | None:
    """The schedule on as many images as the run was trained on; None where neither a checkpoint nor `root` says."""
    num_train = record.checkpoint.num_train
    if not num_train and root is not None:
        num_train = len(root.dataset(root.nearest(record.recipe.phases[0].source), "train"))
    schedule = Schedule(record.recipe, num_train) if num_train else None
    is_of_run = schedule is not None and record.last.step <= schedule.total_steps
    return schedule if is_of_run else None  # `data` is of another size: the checks of it say so


def result_checks(record: RunRecord, schedule: Schedule | None) -> list[Check]:
    """What the logs, the newest checkpoint and the results of `evaluate` say; `schedule` where it is known."""
    checks = [_files(record), _finished(record, schedule), _labels(record), _bad_records(record), _decoder(record)]
    return [*checks, _overflows(record)] if record.recipe.precision == "fp16" else checks


def _files(record: RunRecord) -> Check:
    if not record.remarks:
        return ok("files", "all are whole")
    return warning("files", "; ".join(record.remarks), "the weights do not depend on it")


def _finished(record: RunRecord, schedule: Schedule | None) -> Check:
    step = record.last.step
    found = f"{step:,}{f' of {schedule.total_steps:,}' if schedule else ''} steps are done"
    if record.result is not None:
        return ok("finished", f"early: {found}" if record.result.ended_early else f"all {step:,} steps are done")
    hint = "give the same train command again: most of the accuracy comes where the learning rate falls"
    return warning("finished", f"{found}, at learning rate {record.last.lr:.3g}", hint)


def _labels(record: RunRecord) -> Check:
    """Whether validation labels mean what training labels do: else one learns and the other stays at chance."""
    name, classes = "labels", record.checkpoint.classes
    if not record.evaluations or not classes:
        return ok(name, "nothing was evaluated and saved yet")
    chance = 100 / len(classes)
    learnt, judged = record.last.top1, record.evaluations[-1].top1
    found = f"top-1 {learnt:.1f}% in training, {judged:.1f}% in evaluation, {chance:.1f}% by chance"
    shift = _shift(record, classes)
    if shift:
        hint = f"labels are off by {abs(shift)}: prepare or index both splits anew, from one list of classes"
        return failure(
            name, f"{found}; most mistakes are {abs(shift)} class{'es' if abs(shift) > 1 else ''} away", hint
        )
    if learnt >= chance + _LEARNT and judged < chance + _LOST * (learnt - chance):
        hint = (
            "look at both: imagesprint inspect ROOT --ids 0,1,2 --split validation; if they are right, batch norm's "
            "statistics may not be: imagesprint evaluate RUN --data ROOT --recalibrate 10000"
        )
        return warning(name, f"{found}: the labels of validation may mean other classes", hint)
    return ok(name, found)


def _shift(record: RunRecord, classes: Sequence[str]) -> int:
    """By how many classes most mistakes of the newest evaluation in RUN/evaluated are off; 0: by no one number."""
    if not record.judged or record.judged[0]["top1"] > 50 or len(classes) < 3:
        return 0
    confusions = record.judged[0]["details"]["confusions"]
    number = {name: index for index, name in enumerate(classes)}
    shifts: Counter[int] = Counter()
    for row in confusions:
        if row["class"] in number and row["taken_for"] in number:
            shifts[number[row["taken_for"]] - number[row["class"]]] += row["count"]
    if shifts.total() < _FEW:
        return 0
    shift, count = shifts.most_common(1)[0]
    return shift if count >= _SHIFTED * shifts.total() else 0


def _bad_records(record: RunRecord) -> Check:
    count = record.totals.bad_records
    images = sum(row.images_per_second * row.seconds for row in record.metrics)
    if not count:
        return ok("bad records", "none")
    found = f"{count:,} times another record stood in for a bad one, in {images:,.0f} images"
    hint = "imagesprint verify ROOT --decode lists the bad ones; prepare them again"
    return (warning if count > _MANY_BAD * images else ok)("bad records", found, hint)


def _overflows(record: RunRecord) -> Check:
    count = record.totals.overflows
    found = f"{count:,} of {record.last.step:,} steps were lost to gradients that fp16 cannot hold"
    if count <= _MANY_OVERFLOWS * record.last.step:
        return ok("overflows", found)
    return warning("overflows", found, "train anew with --set precision=bf16, or a lower --set loss_scale=64")


def _decoder(record: RunRecord) -> Check:
    trained, here = record.checkpoint.decoder, decoder_name()
    if trained in ("", here):
        return ok("decoder", f"{here}, in training and here")
    found = f"trained with {trained}, evaluated here with {here}: pixels differ slightly"
    return warning("decoder", found, f"IMAGESPRINT_DECODER={trained}, or an installation that has it")


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
    if recipe.init or not recipe.model.startswith("resnet"):
        return ok("zero init", f"as {'the weights of init' if recipe.init else recipe.model} had it")
    if recipe.zero_init:
        return ok("zero init", "each block's last scale began at 0")
    return warning("zero init", "each block's last scale began at 1", _anew("zero_init=true"))


def _weight_decay(recipe: Recipe) -> Check:
    if not recipe.decay_norm_and_bias or recipe.weight_decay == 0:
        return ok("weight decay", f"{recipe.weight_decay:g}, on weights alone")
    hint = "most recipes spare them now: --set decay_norm_and_bias=false"
    return ok("weight decay", f"{recipe.weight_decay:g}, on batch norm and biases, too", hint)


def _strides(recipe: Recipe) -> Check:
    if not recipe.model.startswith("resnet"):
        return ok("strides", f"those of {recipe.model}")
    if recipe.strides == "v1.5" or recipe.model in ("resnet18", "resnet20", "resnet34"):  # these have no bottlenecks
        return ok("strides", recipe.strides)
    return warning("strides", f"{recipe.strides}: three of four places are skipped unseen", _anew("strides=v1.5"))


def _stands_still(recipe: Recipe) -> bool:
    """Whether no batch norm ever goes by the statistics of a micro-batch, or moves its own."""
    whole = all(phase.freeze == "backbone" for phase in recipe.phases)
    return recipe.freeze_norm == "all" or (recipe.freeze_norm == "frozen" and whole)


def _norm_batch(recipe: Recipe) -> Check:
    if _stands_still(recipe):
        return ok("batch norm", "all statistics stand still: a micro-batch is no matter to it")
    least = min((row.micro_batch for row in recipe.phases if row.micro_batch), default=_SMALL_BATCH)
    found = f"each batch norm sees {least} images or more"
    if least >= _SMALL_BATCH:
        return ok("batch norm", found)
    return warning("batch norm", f"{found}: few for stable statistics", _anew("'phases.*.micro_batch=32'"))


def _learning_rate(recipe: Recipe) -> Check:
    """The highest rate an image, against that of the built-in recipe of the same name, else against the usual one."""
    name, rate = "learning rate", _rate_an_image(recipe)
    known = load_recipe(recipe.name) if recipe.name in builtin_names() else None
    if known is not None and known.optimizer == recipe.optimizer:
        usual, off, of = _rate_an_image(known), _NEAR, f"that of {recipe.name}"
    elif recipe.optimizer != "sgd" and rate:
        return ok(name, f"up to {rate:.3g} an image: no rate of {recipe.optimizer} is known that it could be held to")
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
    if _stands_still(recipe):
        return ok(name, "they stand still, as they were in the beginning")
    if recipe.recalibrate_bn and step == schedule.total_steps:
        return ok(name, f"measured anew at the end, by the images of {recipe.recalibrate_bn:,} steps")
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
