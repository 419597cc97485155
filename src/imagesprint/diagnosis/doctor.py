"""What `doctor` says of a run, from its logs, or of a recipe, by measuring its stages: the verdict in words."""

import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from imagesprint.console import Console
from imagesprint.diagnosis.advice import Setting, advise, cores_here, find_setting
from imagesprint.diagnosis.check import Check, ok, warning
from imagesprint.diagnosis.stage_costs import StageCosts, TrainingCosts, measure_costs, thread_counts
from imagesprint.diagnosis.step_timing import CheckpointTime, Setup, TimedTraining, check_steps
from imagesprint.diagnosis.verdict import Figures, Limit, PhaseFigures, find_limits, gain, read_figures
from imagesprint.errors import UsageError
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.ranks import open_ranks
from imagesprint.runs.rows import Began
from imagesprint.storage.url import Place


@dataclass(frozen=True)
class LoaderAlone:
    """What `threads` of each rank load while nothing else is done; `seconds` a step, divided into `shares`."""

    threads: int
    images_per_second: float
    seconds: float
    shares: dict[str, float]


@dataclass(frozen=True)
class Alone:
    """What the stages of a phase do by themselves: seconds of a `step` on noise, of the `reduction` between ranks, and
    of a `checkpoint` (`wait` and `writing`).
    """

    step: float
    loaders: list[LoaderAlone]
    reduction: float | None
    checkpoint: dict[str, float]


@dataclass(frozen=True)
class PhaseDiagnosis:
    """The figures of a phase and its limits, the narrowest first. `alone` is None where only logs were read."""

    phase: int
    steps: float
    world_size: int
    threads: int
    decoder: str
    images_per_second: float
    figures: Figures
    limits: list[Limit]
    alone: Alone | None = None


@dataclass(frozen=True)
class Diagnosis:
    """`bottleneck` is the narrowest stage of all `phases` together; None where nothing is known of any."""

    checks: list[Check]
    bottleneck: str | None
    phases: list[PhaseDiagnosis]


def diagnose_run(path: Path, data: Place | None) -> Diagnosis:
    """Return what `doctor RUN` says of the limits of the run at `path`, finished or not, trained on `data`.

    Raises UsageError where there is no run, or no such ROOT.
    """
    run, root = RunDirectory(path), None if data is None else open_root(data)
    recipe = run.recipe()
    if recipe is None:
        raise UsageError(f"{path} holds no run", "name the --output of an imagesprint train")
    if recipe.features_once:
        told = "nearly all of its time went to features, before the first step: its steps say nothing of it"
        return Diagnosis([ok("stages", told)], None, [])
    try:
        phases = read_figures(run)
    except UsageError as error:
        return Diagnosis([ok("stages", error.what, error.hint)], None, [])
    hosts = [row.host for row in run.commands() if isinstance(row, Began)]
    is_here = hosts[-1:] == [socket.gethostname()]
    return _diagnose(phases, recipe, root, cores_here() if is_here else 0)


def diagnose_recipe(
    recipe: Recipe, data: Place, device: str, compilation: str, console: Console
) -> tuple[Diagnosis, Setup]:
    """Return, on every rank, what `doctor RECIPE --data ROOT` says, and what it is said of. Each kind of step is
    described once, as the first phase that has it.

    For a moment a checkpoint lies in the present folder, where checkpoints of every epoch are taken to be written.
    Raises the errors of `train`, and UsageError as `check_steps` does.
    """
    check_steps(recipe)
    root = open_root(data)
    with open_ranks(device) as ranks:
        console = console if ranks.is_main else Console.silent()
        training = TimedTraining(recipe, len(root.classes), ranks, compilation)
        schedule = Schedule(recipe, len(root.dataset(root.nearest(recipe.phases[0].source), "train")))
        costs = measure_costs(training, root, console, threads=thread_counts(ranks.threads), checkpoint=Path.cwd())
        found = _diagnose(_with_checkpoints(costs, recipe, schedule), recipe, root, cores_here())
        phases = [
            replace(phase, alone=_alone(kind, costs.checkpoint))
            for phase, kind in zip(found.phases, costs.kinds, strict=True)
        ]
        return replace(found, phases=phases), training.setup


def _with_checkpoints(costs: TrainingCosts, recipe: Recipe, schedule: Schedule) -> list[PhaseFigures]:
    """The figures of each kind of steps, as many as the recipe has, with a checkpoint every epoch."""
    steps: Counter[int] = Counter()
    for phase, (start, end) in zip(costs.phases, schedule.bounds, strict=True):
        steps[phase.together.phase] += end - start
    found = []
    for each in (kind.together for kind in costs.kinds):
        epoch = schedule.num_train // recipe.phases[each.phase].batch_size  # steps
        late = max(0.0, costs.checkpoint.writing - epoch * each.figures.step)
        pause, writing = (costs.checkpoint.waited + late) / epoch, costs.checkpoint.writing / epoch
        figures = replace(each.figures, checkpoint=pause, checkpoint_writing=writing)
        found.append(replace(each, steps=steps[each.phase], figures=figures))
    return found


def _alone(costs: StageCosts, checkpoint: CheckpointTime) -> Alone:
    images, ranks = costs.together.figures.images, costs.together.world_size
    loaders = [
        LoaderAlone(each.threads, ranks / each.seconds, each.seconds * images / ranks, each.shares)
        for each in costs.loaders
    ]
    pauses = {"wait": checkpoint.waited, "writing": checkpoint.writing}
    return Alone(costs.on_noise, loaders, costs.reduction, pauses)


def _diagnose(phases: Sequence[PhaseFigures], recipe: Recipe, root: Root | None, cores: int) -> Diagnosis:
    checks: list[Check] = []
    described = []
    for each in phases:
        limits, figures = find_limits([(each.figures, 1)]), each.figures
        setting = find_setting(each, recipe.phases[each.phase], root, cores)
        checks += limit_checks(figures, limits, setting)
        ranks = (each.world_size, each.threads, each.decoder)
        speed = figures.images / figures.wall
        described.append(PhaseDiagnosis(each.phase, each.steps, *ranks, speed, figures, limits))
    overall = find_limits([(each.figures, each.steps) for each in phases])
    return Diagnosis(checks, overall[0].name, described)


WORTH_SAYING: Final = 0.05  # a gain; what is smaller needs no doing

_SUBJECTS: Final = {
    "read": "reading and checking records feeds",
    "decode": "decoding feeds",
    "copy": "copies to the device bring",
    "compute": "the step itself does",
}


def limit_checks(figures: Figures, limits: Sequence[Limit], setting: Setting) -> list[Check]:
    """Return a check for each of `limits` that takes any time, in their order.

    One that would gain more than WORTH_SAYING is a warning, but for `compute`, whose turn it is to be the narrowest.
    """
    return [_check(figures, limit, setting) for limit in limits if limit.seconds > 0]


def _check(figures: Figures, limit: Limit, setting: Setting) -> Check:
    name = f"phase {setting.phase}: {limit.name}"
    if limit.gain < WORTH_SAYING:
        return ok(name, _detail(figures, limit))
    advice = advise(limit.name, figures, setting)
    hint = "; or ".join(_with_gain(figures, each.what, each.saved) for each in advice)
    if limit.name == "compute":
        return ok(name, f"{_detail(figures, limit)}; at twice the speed it would be {limit.gain:+.0%}", hint)
    return warning(name, f"{_detail(figures, limit)}; were it free it would be {limit.gain:+.0%}", hint)


def _with_gain(figures: Figures, what: str, saved: float | None) -> str:
    return what if saved is None else f"{what}: {gain(figures.wall, saved):+.0%}"


def _detail(figures: Figures, limit: Limit) -> str:
    overall = f"training does {figures.images / figures.wall:,.0f}"
    if limit.name in _SUBJECTS:
        return f"{_SUBJECTS[limit.name]} {figures.images / limit.seconds:,.0f} images/s, {overall}"
    share = f"{limit.seconds / figures.wall:.0%} of the time ({1e3 * limit.seconds:,.1f} ms a step)"
    if limit.name == "storage":
        return f"the loader waits {share} for records that the store has yet to send"
    if limit.name == "straggler":
        return f"the others wait {share} for rank {figures.straggling_rank}"
    if limit.name == "reduction":
        return f"ranks wait {share} for sums on their way and for one another"
    if limit.name == "checkpoint":
        writing = f"; writing goes on beside it for {1e3 * figures.checkpoint_writing:,.1f} ms a step"
        return f"training stands still {share} for checkpoints{writing}"
    return f"training stands still {share} for evaluations"
