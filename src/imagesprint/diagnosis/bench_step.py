"""`bench step` and `bench train`: how fast steps are on noise and on prepared images, and how near to limits."""

import gc
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Final

import torch
from torch.utils.hooks import RemovableHandle

from imagesprint.console import Console
from imagesprint.diagnosis.roofline import Ceilings, ImageWork, Traffic, count_work, measure_ceilings
from imagesprint.diagnosis.stage_costs import ROUNDS, StageCosts, measure_costs
from imagesprint.diagnosis.step_timing import (
    LR,
    Setup,
    TimedTraining,
    check_steps,
    peak_memory,
    shape_of,
    start_peak,
)
from imagesprint.errors import UsageError
from imagesprint.images.decoders import decoder_name
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.ranks import Ranks, open_ranks
from imagesprint.storage.url import Place
from imagesprint.training.prefetch import Mark, Stopwatch
from imagesprint.training.state import TrainingState

CLASSES: Final = 1000  # ImageNet's
WARM_UP: Final = 2
PART_STEPS: Final = 3  # over which the parts are averaged
# Of an eager step; inside a compiled one there are none to see. input: clearing the sums, copying, normalising.
# backward: with the loss. reduction: from the last gradient to the optimizer. update: it and all that follows it.
PARTS: Final = ("input", "forward", "backward", "reduction", "update")
# --compile, and whether our own kernels run (model/fused_resnet.py), as they do in training
VARIANTS: Final[dict[str, tuple[str, bool]]] = {
    "eager": ("off", False),
    "compiled": ("on", False),
    "fused": ("on", True),
}


@dataclass(frozen=True)
class StepSpeed:
    """How fast steps of a shape are on noise, in seconds, those of compiling before them, and the peak of memory while
    they ran, in bytes.
    """

    image_size: int
    batch_size: int
    micro_batch: int
    freeze: str
    compile_seconds: float
    images_per_second: float
    seconds_per_step: float
    slowest_step: float
    peak_memory: int


@dataclass(frozen=True)
class AgainstLimits:
    """What one rank does beside what its device can do at best; bytes and bounds by the fields of Traffic."""

    flops_per_image: float
    flops_per_second: float
    share_of_matmul: float
    bytes_per_image: Traffic
    bytes_per_second: float
    memory_bound: dict[str, float]
    share_of_memory_bound: dict[str, float]


@dataclass(frozen=True)
class MeasuredShape:
    """What `bench step` finds of a shape; `seconds_by_part` has PARTS of an eager step."""

    speed: StepSpeed
    seconds_by_part: dict[str, float]
    limits: AgainstLimits


@dataclass(frozen=True)
class ProjectedPhase:
    """A phase at the speed of its shape."""

    steps: int
    images: int
    image_size: int
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class Projection:
    """The training time of a whole recipe, as it is `derived`."""

    derived: str
    num_train: int
    phases: list[ProjectedPhase]
    seconds: float


@dataclass(frozen=True)
class StepBench:
    """The result of `bench step`. `projection`, and `variants` by name with those that were `left_out`, are there where
    they were asked for.
    """

    setup: Setup
    steps: int
    ceilings: Ceilings
    phases: list[MeasuredShape]
    projection: Projection | None
    variants: list[tuple[str, StepSpeed]] | None
    left_out: dict[str, str]

    def as_json(self) -> dict[str, object]:
        """Return the object that `bench step --json` prints."""
        rows = [{**vars(row.speed), "seconds_by_part": row.seconds_by_part, **vars(row.limits)} for row in self.phases]
        more: dict[str, object] = {} if self.projection is None else {"projection": self.projection}
        if self.variants is not None:
            variants = [{"variant": name, **vars(speed)} for name, speed in self.variants]
            more |= {"variants": variants, "left_out": self.left_out}
        figures = {"data": "synthetic", "steps": self.steps, "ceilings": self.ceilings, "phases": rows}
        return {"bench": "step", **vars(self.setup), **figures, **more}


def bench_step(
    recipe: Recipe,
    device: str,
    compilation: str,
    steps: int,
    num_train: int | None,
    variants: int | None,
    console: Console,
) -> StepBench:
    """Measure `steps` steps of each shape of `recipe`'s phases on auto, cpu or cuda, on all ranks together, compiled or
    not (auto, on or off). With `variants` only those of that many pixels, and each also in VARIANTS.

    Every rank returns the result. With `num_train` images it has the time that the whole recipe would take at these
    speeds. Raises RankError and UsageError as `train` does, and UsageError where no phase is of `variants` pixels.
    """
    check_steps(recipe)
    shapes = _shapes(recipe, variants)
    with open_ranks(device) as ranks:
        console = console if ranks.is_main else Console.silent()
        schedule = None if num_train is None else Schedule(recipe, num_train)
        training = TimedTraining(recipe, CLASSES, ranks, compilation)
        setup = training.setup
        console.live("measuring  the device's ceilings")
        ranks.barrier()
        ceilings = measure_ceilings(training.recipe, ranks.device)
        rows = [_measure(training, phase, steps, ceilings, console) for phase in shapes]
        speeds = {shape_of(phase): row.speed.images_per_second for phase, row in zip(shapes, rows, strict=True)}
        projection = None if schedule is None else project(recipe, schedule, speeds)
        del training  # its memory is free for the variants
        found = None
        if variants is not None:
            found = [row for phase in shapes for row in _measure_variants(recipe, ranks, phase, steps, console)]
        console.live(f"measured {steps} steps of {len(shapes)} shapes", last=True)
        return StepBench(setup, steps, ceilings, rows, projection, found, variants_left_out(ranks.device))


def _shapes(recipe: Recipe, pixels: int | None) -> list[Phase]:
    """The first phase of each shape that is to be measured, in the recipe's order."""
    shapes: dict[tuple[int, int, int, str], Phase] = {}
    for phase in recipe.phases:
        if pixels in (None, phase.image_size):
            shapes.setdefault(shape_of(phase), phase)
    if not shapes:
        sizes = ", ".join(map(str, sorted({phase.image_size for phase in recipe.phases})))
        raise UsageError(f"--variants {pixels}: {recipe.name} has no phase of that size", f"its sizes are {sizes}")
    return list(shapes.values())


def _measure(training: TimedTraining, phase: Phase, steps: int, ceilings: Ceilings, console: Console) -> MeasuredShape:
    speed = measure_speed(training, phase, steps, console)
    work = count_work(training.recipe, phase, CLASSES)
    limits = _against_limits(work, speed.images_per_second / training.ranks.world_size, ceilings)
    return MeasuredShape(speed, _measure_parts(training, phase), limits)


def measure_speed(training: TimedTraining, phase: Phase, steps: int, console: Console, variant: str = "") -> StepSpeed:
    """Return how fast `steps` steps of `phase` are on noise, compiled and warmed before."""
    what = f"measuring  {phase.image_size} px, batch {phase.batch_size}"
    console.live(what, f"micro-batch {phase.micro_batch} {variant}".rstrip())
    device = training.ranks.device
    batches = training.noise(phase)
    compile_seconds = training.compile(phase)
    training.seconds(batches, phase, 0, WARM_UP)
    start_peak(device)
    seconds = training.seconds(batches, phase, steps, 0)
    speed, peak = phase.batch_size * steps / sum(seconds), peak_memory(device)
    return StepSpeed(*shape_of(phase), compile_seconds, speed, median(seconds), max(seconds), peak)


def _against_limits(work: ImageWork, speed: float, ceilings: Ceilings) -> AgainstLimits:
    """What one rank does at `speed` images a second."""
    bounds = {name: ceilings.copy_bytes_per_second / size for name, size in vars(work.traffic).items()}
    return AgainstLimits(
        flops_per_image=work.flops,
        flops_per_second=work.flops * speed,
        share_of_matmul=work.flops * speed / ceilings.matmul_flops_per_second,
        bytes_per_image=work.traffic,
        bytes_per_second=work.traffic.eager * speed,
        memory_bound=bounds,
        share_of_memory_bound={name: speed / bound for name, bound in bounds.items()},
    )


def project(recipe: Recipe, schedule: Schedule, speeds: Mapping[tuple[int, int, int, str], float]) -> Projection:
    """Return the training time of the whole recipe, derived from the images a second of each of its shapes."""
    phases = []
    for phase, (start, end) in zip(recipe.phases, schedule.bounds, strict=True):
        images, speed = (end - start) * phase.batch_size, speeds[shape_of(phase)]
        phases.append(ProjectedPhase(end - start, images, phase.image_size, speed, images / speed))
    derived = "steps × batch_size ÷ images_per_second, summed over the phases; no evaluation, no loading"
    return Projection(derived, schedule.num_train, phases, sum(row.seconds for row in phases))


def variants_left_out(device: torch.device) -> dict[str, str]:
    """Return those of VARIANTS that cannot be measured here, and why."""
    if device.type != "cuda":
        return {"fused": "its kernels need a GPU"}
    return {} if find_spec("triton") else {"fused": "Triton is not installed"}


def _measure_variants(
    recipe: Recipe, ranks: Ranks, phase: Phase, steps: int, console: Console
) -> Iterator[tuple[str, StepSpeed]]:
    """The speed of each of VARIANTS that can be run here."""
    for name, (compilation, fused) in VARIANTS.items():
        if name not in variants_left_out(ranks.device):
            gc.collect()  # frees the memory of the graphs before
            training = TimedTraining(recipe, CLASSES, ranks, compilation, fused)
            if fused and training.state.not_fused:
                console.warn(f"{name} is left out: {training.state.not_fused}")
                continue
            speed = measure_speed(training, phase, steps, console, name)
            del training
            yield name, speed


def _measure_parts(training: TimedTraining, phase: Phase) -> dict[str, float]:
    """The mean seconds of each of PARTS in an eager step."""
    device = training.ranks.device
    batches = training.noise(phase)
    totals = dict.fromkeys(PARTS, 0.0)
    training.state.freeze(phase.freeze)  # the hooks are on what is trained
    for _ in range(PART_STEPS):
        step = partial(training.eager_step, batches, phase, LR)
        for part, seconds in _Watch(training.state, device).run(step).items():
            totals[part] += seconds / PART_STEPS
    return totals


class _Watch:
    """One step with marks in it, each named after the part that begins there."""

    def __init__(self, state: TrainingState, device: torch.device) -> None:
        self._state = state
        self._stopwatch = Stopwatch(device)
        self._marks: list[tuple[str, Mark]] = []

    def run(self, step: Callable[[], object]) -> dict[str, float]:
        with ExitStack() as stack:
            for handle in self._hooks():
                stack.callback(handle.remove)
            self._begin("input")
            step()
        self._begin("")
        self._stopwatch.wait()
        return self._seconds()

    def _hooks(self) -> list[RemovableHandle]:
        network, optimizer = self._state.network, self._state.optimizer
        return [
            network.register_forward_pre_hook(lambda *_: self._begin("forward")),
            network.register_forward_hook(lambda *_: self._begin("backward")),
            *(
                parameter.register_post_accumulate_grad_hook(lambda _: self._gradient())  # type: ignore[no-untyped-call]
                for parameter in network.parameters()
                if parameter.requires_grad
            ),
            optimizer.register_step_pre_hook(lambda *_: self._begin("update")),
        ]

    def _begin(self, part: str) -> None:
        self._marks.append((part, self._stopwatch.mark()))

    def _gradient(self) -> None:
        """The backward pass ends with the last gradient, whichever that is."""
        if self._marks[-1][0] == "reduction":
            self._marks.pop()
        self._begin("reduction")

    def _seconds(self) -> dict[str, float]:
        seconds = dict.fromkeys(PARTS, 0.0)
        for (part, start), (following, end) in itertools.pairwise(self._marks):
            # Between two micro-batches nothing is reduced: the next one is brought in.
            part = "input" if (part, following) == ("reduction", "forward") else part
            seconds[part] += self._stopwatch.seconds(start, end)
        return seconds


@dataclass(frozen=True)
class TrainedShape:
    """Steps on prepared images beside steps on noise; `data_wait` is the share of the time in which they waited."""

    image_size: int
    batch_size: int
    micro_batch: int
    freeze: str
    compile_seconds: float
    images_per_second: float
    synthetic_images_per_second: float
    share_of_synthetic: float
    data_wait_seconds: float
    data_wait: float
    mean_bytes: float


@dataclass(frozen=True)
class TrainBench:
    """The result of `bench train`: medians of `rounds` rounds of `steps` steps."""

    setup: Setup
    data: Place
    decoder: str
    steps: int
    rounds: int
    phases: list[TrainedShape]

    def as_json(self) -> dict[str, object]:
        """Return the object that `bench train --json` prints."""
        figures = {name: value for name, value in vars(self).items() if name != "setup"}
        return {"bench": "train", **vars(self.setup), **figures}


def bench_train(recipe: Recipe, data: Place, device: str, compilation: str, steps: int, console: Console) -> TrainBench:
    """Measure each kind of steps of `recipe` on auto, cpu or cuda, compiled or not (auto, on or off): `steps` steps on
    images of the root `data`, in turns with as many on noise. Every rank returns the result.

    Raises the errors of `train`, and UsageError as `check_steps` does.
    """
    check_steps(recipe)
    root = open_root(data)
    with open_ranks(device) as ranks:
        console = console if ranks.is_main else Console.silent()
        training = TimedTraining(recipe, len(root.classes), ranks, compilation)
        costs = measure_costs(training, root, console, steps=steps)
        rows = [_beside_noise(recipe.phases[kind.together.phase], kind, root, steps) for kind in costs.kinds]
        return TrainBench(training.setup, root.path, decoder_name(), steps, ROUNDS, rows)


def _beside_noise(phase: Phase, costs: StageCosts, root: Root, steps: int) -> TrainedShape:
    return TrainedShape(
        *shape_of(phase),
        compile_seconds=costs.compiling,
        images_per_second=phase.batch_size / costs.step,
        synthetic_images_per_second=phase.batch_size / costs.on_noise,
        share_of_synthetic=costs.share_of_synthetic,
        data_wait_seconds=costs.data_wait * costs.step * steps,
        data_wait=costs.data_wait,
        mean_bytes=float(root.dataset(root.nearest(phase.source), "train").encoded_lengths.mean()),
    )
