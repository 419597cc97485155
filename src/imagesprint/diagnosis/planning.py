"""`plan`: what a training will take, on this machine by costs measured once and kept, on others by published speeds."""

import bisect
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from imagesprint.console import Console
from imagesprint.diagnosis.calibrations import DISTURBED, KeptCalibration, disturbed_by, told
from imagesprint.diagnosis.excerpt import local_part
from imagesprint.diagnosis.published_speeds import NUM_CLASSES, gpu_names, published_plan
from imagesprint.diagnosis.stage_costs import LoadingCost, TrainingCosts, measure_costs
from imagesprint.diagnosis.step_timing import TimedTraining, device_name
from imagesprint.diagnosis.storage_plan import Storage
from imagesprint.diagnosis.storage_text import storage_lines
from imagesprint.diagnosis.stores import (
    NO_STORES,
    Stores,
    known_stores,
    look_at_stores,
    plan_stores,
    stores_elsewhere,
)
from imagesprint.errors import UsageError
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.recipes.validation import check_world_size
from imagesprint.records.dataset import Root, open_root
from imagesprint.report.run_record import Reference, published_reference
from imagesprint.runs.ranks import Ranks, open_ranks
from imagesprint.storage.url import Place
from imagesprint.training.metering import Cadence
from imagesprint.training.micro_batch_size import settle_micro_batches
from imagesprint.training.optimizer import best_precision
from imagesprint.training.state import TrainingState
from imagesprint.training.step import wants_compiled
from imagesprint.training.time_plan import TimePlan, Timetable

IMAGENET_IMAGES: Final = 1_281_167  # in its training split
_SAME_LENGTH: Final = 0.5  # epochs that two trainings may differ by to count as of one length


@dataclass(frozen=True)
class PlannedPhase:
    """A phase of a plan; `memory` and what follows where it was measured, `source` and `derived` where it is published
    (see `Speed`).
    """

    steps: int
    images: int
    image_size: int
    seconds: float
    limited_by: str
    batch_size: int
    freeze: str
    images_per_second: float
    memory: int | None = None
    seconds_by_stage: dict[str, float] | None = None
    loading_cost: LoadingCost | None = None
    source: str | None = None
    derived: str | None = None


@dataclass(frozen=True)
class PlannedEvaluations:
    """All evaluations together."""

    count: int
    seconds: float


@dataclass(frozen=True)
class PlannedCheckpoints:
    """All checkpoints together, one an epoch; `bytes` are those of one, `bytes_on_disk` of all, where all are kept."""

    count: int
    seconds: float
    bytes: int
    bytes_on_disk: int


@dataclass(frozen=True)
class CalibrationFile:
    """Where the costs that were measured are kept, the day they were `made`, whether that was just now, and which share
    of the cores' time other processes took meanwhile.
    """

    file: Path
    made: str
    is_new: bool
    disturbance: float

    @property
    def disturbed(self) -> str:
        """Return what is said of it where that share is too large to go by it again; empty where it is not."""
        return disturbed_by(self.disturbance)


@dataclass(frozen=True)
class Plan:
    """The result of `plan`, in seconds; `calibration` is None for another machine. `features_seconds` of the start-up
    are for making features, where the recipe has them once. `accuracies` are the points of
    `reference` that the training comes to, each with the `seconds` after which it does. With a `patience` other than 0
    it may end before. `storage` is None where data and run lie on this machine.
    """

    recipe: str
    model: str
    machine: str
    ranks: int
    calibration: CalibrationFile | None
    num_train: int
    steps: int
    epochs: float
    start_up_seconds: float
    features_seconds: float
    phases: list[PlannedPhase]
    evaluations: PlannedEvaluations
    checkpoints: PlannedCheckpoints
    total_seconds: float
    reference: str | None
    accuracies: list[dict[str, float]]
    patience: int
    not_included: tuple[str, ...]
    storage: Storage | None

    def as_json(self) -> dict[str, object]:
        """Return the object that `plan --json` prints, but for the price."""
        is_published = self.calibration is None
        absent = ("memory", "seconds_by_stage", "loading_cost") if is_published else ("source", "derived")
        rows = [{name: value for name, value in vars(row).items() if name not in absent} for row in self.phases]
        return vars(self) | {"phases": rows}


def plan_here(
    recipe: Recipe, data: Place, output: Place | None, device: str, compilation: str, console: Console
) -> Plan | None:
    """Plan a training of `recipe` on the root `data` and this machine, into `output` where that is known: by the costs
    that are kept, else by those that are measured now. Stores are measured each time. None on ranks but 0. Raises the
    errors of `train`.
    """
    root = open_root(data)
    with open_ranks(device) as ranks:
        console = console if ranks.is_main else Console.silent()
        check_world_size(recipe, ranks.world_size)
        if recipe.precision == "auto":
            recipe = replace(recipe, precision=best_precision(ranks.device))
        recipe = settle_micro_batches(recipe, None, root.classes, ranks, console)
        schedule = Schedule(recipe, len(root.dataset(root.nearest(recipe.phases[0].source), "train")))
        stores = look_at_stores(root, recipe, output, console) if ranks.is_main else NO_STORES
        kept = KeptCalibration(recipe, root, ranks, wants_compiled(compilation, ranks.device))
        found = kept.read() if ranks.is_main else None
        measured = None
        if not ranks.total(found is not None and found[0].disturbance <= DISTURBED):
            measured = _calibrate(recipe, root, ranks, compilation, console)
            found = kept.keep(measured, console) if ranks.is_main else None
        if found is None:
            return None
        costs, made = found
        plan = _forecast(
            recipe,
            schedule,
            _time_plan(costs, made),
            stores,
            machine=device_name(ranks),
            ranks=ranks.world_size,
            calibration=CalibrationFile(kept.path, made, costs is measured, costs.disturbance),
            num_classes=len(root.classes),
            checkpoint_bytes=costs.checkpoint.size,
        )
        phases = []
        for row, each in zip(plan.phases, costs.phases, strict=True):
            cost = LoadingCost.fitted(each.loaders) if each.loaders else None
            phases.append(replace(row, memory=each.peak_memory, seconds_by_stage=each.stages, loading_cost=cost))
        return replace(plan, phases=phases)


def _calibrate(recipe: Recipe, root: Root, ranks: Ranks, compilation: str, console: Console) -> TrainingCosts:
    """Measure all that a plan is made of, but for stores: of data in one, on a part that is here. A checkpoint lies in
    the folder for temporary files for a moment.
    """
    part = local_part(root, recipe, console)
    costs = measure_costs(
        TimedTraining(recipe, len(root.classes), ranks, compilation),
        part,
        console,
        threads=(1, max(2, ranks.threads)),  # two speeds fix two costs
        evaluation=True,
        checkpoint=Path(tempfile.gettempdir()),
    )
    judged, trained = (recipe.eval_source, "validation"), (recipe.phases[0].source, "train")
    longer = [
        len(root.dataset(root.nearest(variant), split)) / len(part.dataset(part.nearest(variant), split))
        for variant, split in (judged, trained)
    ]
    return replace(costs, evaluation=costs.evaluation * longer[0], features=costs.features * longer[1])


def plan_elsewhere(
    recipe: Recipe, num_train: int | None, data: Place | None, output: Place | None, gpu: str, gpus: int
) -> Plan:
    """Plan a training of `recipe` on `gpus` GPUs of that name by published speeds, on the images of the root `data`, or
    on `num_train`; without either on ImageNet, where that is what the recipe is for. How fast stores are from there is
    not known.

    Raises UsageError for a GPU that nothing is known of, for features that are made once, and where the number of
    images is missing.
    """
    if recipe.features_once:
        raise UsageError(
            f"{recipe.name} has features once: how fast they are made, and a head alone is trained, nobody published",
            "`imagesprint plan RECIPE --data ROOT` measures it on the machine that is to train",
        )
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
    times, speeds = published_plan(recipe, gpu, gpus)
    plan = _forecast(
        recipe,
        Schedule(recipe, num_train),
        times,
        stores_elsewhere(root, recipe, output),
        machine=gpu,
        ranks=gpus,
        calibration=None,
        num_classes=num_classes,
        checkpoint_bytes=_checkpoint_bytes(recipe, num_classes),
    )
    phases = []
    for row, speed in zip(plan.phases, speeds, strict=True):
        phases.append(replace(row, source=speed.source, derived=speed.derived or None))
    return replace(plan, phases=phases)


def known_plan(
    recipe: Recipe,
    root: Root,
    ranks: Ranks,
    compiled: bool,
    output: Place | None = None,
    checkpoint_every: int | None = None,
) -> tuple[TimePlan | None, list[str]]:
    """Return what is known of a training without measuring anything: by the costs and the stores' speeds that are kept,
    else by published speeds of this GPU, None where there are neither; and what there is to say of stores. It is a
    `Planner`.
    """
    plan = _known_times(recipe, root, ranks, compiled)
    stores = known_stores(root, recipe, output)
    if stores == NO_STORES:
        return plan, []
    schedule = Schedule(recipe, len(root.dataset(root.nearest(recipe.phases[0].source), "train")))
    cadence = Cadence(schedule, recipe.eval_every, checkpoint_every, schedule.total_steps, recipe.patience)
    work = Timetable(cadence, 0).whole()
    num_bytes = 0 if stores.run is None else _checkpoint_bytes(recipe, len(root.classes))
    plan, storage = plan_stores(stores, recipe, schedule, plan, work, num_bytes)
    return plan, storage_lines(storage)


def _known_times(recipe: Recipe, root: Root, ranks: Ranks, compiled: bool) -> TimePlan | None:
    found = KeptCalibration(recipe, root, ranks, compiled).read()
    if found is not None:
        return _time_plan(*found)
    if recipe.features_once:
        return None  # see `plan_elsewhere`
    name = device_name(ranks).lower() if ranks.device.type == "cuda" else ""
    gpu = next((known for known in gpu_names() if known in name), None)
    return None if gpu is None else published_plan(recipe, gpu, ranks.world_size)[0]


def _time_plan(costs: TrainingCosts, made: str) -> TimePlan:
    """Return the plan that follows from costs measured on the day `made`."""
    return TimePlan(
        costs.start_up + costs.features + sum(kind.first for kind in costs.kinds),
        tuple(each.step for each in costs.phases),
        costs.evaluation,
        costs.checkpoint.waited + costs.checkpoint.taken,
        tuple(each.limit for each in costs.phases),
        told(costs, made),
        costs.features,
    )


def _forecast(
    recipe: Recipe,
    schedule: Schedule,
    plan: TimePlan,
    stores: Stores,
    *,
    machine: str,
    ranks: int,
    calibration: CalibrationFile | None,
    num_classes: int,
    checkpoint_bytes: int,
) -> Plan:
    timetable = Timetable(Cadence(schedule, recipe.eval_every, None, schedule.total_steps, recipe.patience), 0)
    work = timetable.whole()
    plan, storage = plan_stores(stores, recipe, schedule, plan, work, checkpoint_bytes)
    phases = [
        PlannedPhase(
            steps=steps,
            images=steps * phase.batch_size,
            image_size=phase.image_size,
            seconds=steps * seconds,
            limited_by=limit,
            batch_size=phase.batch_size,
            freeze=phase.freeze,
            images_per_second=phase.batch_size / seconds,
        )
        for phase, steps, seconds, limit in zip(recipe.phases, work.steps, plan.steps, plan.limits, strict=True)
    ]
    count = work.checkpoints
    reference = published_reference(recipe.name) if num_classes == NUM_CLASSES else None
    if reference is not None and load_recipe(recipe.name).phases != recipe.phases:
        reference = None  # that is another training
    return Plan(
        recipe=recipe.name,
        model=recipe.model,
        machine=machine,
        ranks=ranks,
        calibration=calibration,
        num_train=schedule.num_train,
        steps=schedule.total_steps,
        epochs=schedule.epochs_done(schedule.total_steps),
        start_up_seconds=plan.start_up,
        features_seconds=plan.features,
        phases=phases,
        evaluations=PlannedEvaluations(work.evaluations, work.evaluations * plan.evaluation),
        checkpoints=PlannedCheckpoints(count, count * plan.checkpoint, checkpoint_bytes, count * checkpoint_bytes),
        total_seconds=plan.start_up + plan.seconds(work) + _sending(storage),
        reference=None if reference is None else reference.name,
        accuracies=[] if reference is None else _accuracies(schedule, plan, timetable, reference),
        patience=recipe.patience,
        not_included=() if calibration is not None else ("start-up", "evaluations", "checkpoints"),
        storage=storage,
    )


def _sending(storage: Storage | None) -> float:
    """Seconds for which a run in a store is still being sent when all else is done."""
    return 0.0 if storage is None or storage.run is None else storage.run.seconds_at_the_end or 0.0


def _accuracies(
    schedule: Schedule, plan: TimePlan, timetable: Timetable, reference: Reference
) -> list[dict[str, float]]:
    """The points of `reference` that this training comes to, each with the `seconds` after which it does.

    Those of whole runs ("ends") count where the training is as long as they were.
    """
    length = schedule.epochs_done(schedule.total_steps)
    points = []
    for point in reference.points:
        if reference.kind == "curve" and point.epoch <= length:
            step = bisect.bisect_left(range(schedule.total_steps), point.epoch, key=schedule.epochs_done)
        elif reference.kind == "ends" and abs(point.epoch - length) <= _SAME_LENGTH:
            step = schedule.total_steps
        else:
            continue
        figures = {"epoch": point.epoch, "top1": point.top1} | ({} if point.top5 is None else {"top5": point.top5})
        points.append(figures | {"seconds": plan.start_up + plan.seconds(timetable.before(step))})
    return points


def _checkpoint_bytes(recipe: Recipe, num_classes: int) -> int:
    state = TrainingState(recipe, tuple(map(str, range(num_classes))), torch.device("cpu"))
    return sum(tensor.nbytes for tensor in state.checkpoint_like())
