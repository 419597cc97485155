"""A training whose steps, checkpoints and memory are measured, on generated noise or on prepared images."""

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch

from imagesprint.checkpoints.naming import list_checkpoints
from imagesprint.checkpoints.weights import TrainedModel
from imagesprint.checkpoints.writer import CheckpointWriter
from imagesprint.console import Console
from imagesprint.diagnosis.machine import processor, versions
from imagesprint.errors import UsageError
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import AHEAD, Loader
from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.validation import check_world_size
from imagesprint.records.dataset import Root
from imagesprint.runs.ranks import Ranks
from imagesprint.training.features import blank_features, feature_batches
from imagesprint.training.optimizer import best_precision
from imagesprint.training.prefetch import DeviceBatches, Stopwatch, on_device
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep, wants_compiled


def start_peak(device: torch.device) -> None:
    """From now on, watch for a new peak; where the kernel does not allow it, the old one stands on."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what compiling and choosing algorithms took
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets VmHWM


def peak_memory(device: torch.device) -> int:
    """Return the peak in bytes: on a GPU of what PyTorch's allocator held, on a CPU of the whole process."""
    if device.type == "cuda":
        # Not what was allocated: the memory of a CUDA graph counts as free there while the graph runs.
        return torch.cuda.max_memory_reserved(device)
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def synthetic_batches(
    phase: Phase, num_classes: int, device: torch.device, num_draws: int = 0, features: torch.Tensor | None = None
) -> Iterator[Batch]:
    """Return micro-batches of random pixels, labels and draws without end; with `features` [1, …] in place of pixels.

    They lie in host memory, pinned for a GPU, as the loader's do: a step copies them as it does in training.
    """
    generator = torch.Generator().manual_seed(0)
    rows, size = phase.micro_batch, phase.image_size

    def placed(values: torch.Tensor) -> torch.Tensor:
        return values.pin_memory() if device.type == "cuda" else values

    def images() -> torch.Tensor:
        if features is not None:
            return features.expand(rows, *features.shape[1:]).contiguous()
        return torch.randint(256, (rows, size, size, 3), generator=generator, dtype=torch.uint8)

    made = [
        Batch(
            images=placed(images()),
            labels=placed(torch.randint(num_classes, (rows,), generator=generator)),
            sample_ids=torch.arange(rows),
            mask=torch.ones(rows, dtype=torch.bool),
            step=0,
            draws=placed(torch.rand((rows, num_draws), generator=generator)),
        )
        for _ in range(2)
    ]
    return itertools.cycle(made)


_COPIED_AHEAD: Final = 2  # batches that `on_device` holds or has asked for beyond the one in use
_MOST_IMAGES: Final = 2**31 - 1  # of a training set
LR: Final = 1e-3  # weights move, but no loss can become infinite: not-a-numbers are computed at another speed


@dataclass(frozen=True)
class Setup:
    """What the figures of any bench of steps belong to; `threads` are those of each rank."""

    device: str
    world_size: int
    threads: int
    versions: dict[str, str]
    recipe: str
    model: str
    precision: str
    compiled: bool


class TimedTraining:
    """A training of `recipe` whose steps are timed on this rank's device; the precision is settled as `train` does it.

    Batch norm's last scales begin at one: with zeros, half of the network would compute with zeros, which a GPU does
    faster. Without `fused` torch's kernels alone train it. Features that are made once are those of a black image.
    Raises RankError where the ranks cannot share the micro-batches.
    """

    def __init__(self, recipe: Recipe, num_classes: int, ranks: Ranks, compilation: str, fused: bool = True) -> None:
        check_world_size(recipe, ranks.world_size)
        precision = best_precision(ranks.device) if recipe.precision == "auto" else recipe.precision
        self.recipe = replace(recipe, precision=precision, zero_init=False)
        self.ranks = ranks
        classes = tuple(str(label) for label in range(num_classes))
        self.state = TrainingState(self.recipe, classes, ranks.device, fused=fused)
        self.is_compiled = wants_compiled(compilation, ranks.device)
        self.eager_step = TrainingStep(self.state, ranks)
        self.step = TrainingStep(self.state, ranks, compiled=True) if self.is_compiled else self.eager_step
        self._stopwatch = Stopwatch(ranks.device)
        self._features: torch.Tensor | None = None
        if recipe.features_once:
            self._features = blank_features(self.model(), ranks.device).cpu()

    def model(self) -> TrainedModel:
        """A fresh one on the device, as evaluations and features have it."""
        network = build_model(self.recipe, len(self.state.classes))
        return TrainedModel(network, self.recipe, self.state.classes, 1).to(self.ranks.device).eval()

    def batches(self, loader: Loader) -> DeviceBatches:
        """The batches of `loader`, on the device, as training makes them."""
        if self._features is None:
            return on_device(iter(loader), self.ranks.device)
        table = self._features.expand(_MOST_IMAGES, *self._features.shape[1:])  # one row in memory
        return on_device(feature_batches(loader, table), self.ranks.device)

    def noise(self, phase: Phase) -> DeviceBatches:
        """Random micro-batches of `phase`, on the device, for which nothing is loaded."""
        draws = sum(count for _, count in self.recipe.draws)
        made = synthetic_batches(phase, len(self.state.classes), self.ranks.device, draws, self._features)
        return on_device(made, self.ranks.device)

    def compile(self, phase: Phase) -> float:
        """Compile and warm the shape of `phase`; return the seconds that it took, 0 where the step is not compiled."""
        start = time.perf_counter()
        if not self.step.prepare([phase]):
            return 0.0
        self._stopwatch.wait()
        return time.perf_counter() - start

    def seconds(self, batches: Iterator[Batch], phase: Phase, steps: int, warm_up: int) -> list[float]:
        """Return the seconds that each of `steps` steps takes, after `warm_up` that do not count."""
        for _ in range(warm_up):
            self.step(batches, phase, LR)
        self.ranks.barrier()
        return self._stopwatch.laps(partial(self.step, batches, phase, LR), steps)

    @property
    def setup(self) -> Setup:
        """What the figures belong to."""
        return Setup(
            device_name(self.ranks),
            self.ranks.world_size,
            self.ranks.threads,
            versions("torch", "triton", "numpy"),
            self.recipe.name,
            self.recipe.model,
            self.recipe.precision,
            self.is_compiled,
        )


def device_name(ranks: Ranks) -> str:
    """Return the name of this rank's GPU, or of the processor and its cores."""
    return ranks.device_name if ranks.device.type == "cuda" else processor()


def training_loader(
    training: TimedTraining, phase: Phase, root: Root, steps: int, threads: int | None = None
) -> Loader:
    """Return the loader of this rank's share of `steps` steps of `phase`, by so many `threads`, else the rank's own."""
    recipe, ranks = replace(training.recipe, phases=(replace(phase, epochs=None, steps=(0, steps)),)), training.ranks
    pin = ranks.device.type == "cuda"
    return Loader(root, recipe, ranks.rank, ranks.world_size, threads=threads or ranks.threads, pin=pin)


def steps_ahead(phase: Phase, world_size: int) -> int:
    """Return how many steps' batches a loader may have ready after another's turn: its clock starts after them."""
    return -(-(AHEAD + _COPIED_AHEAD) * world_size // phase.micro_batches)


def shape_of(phase: Phase) -> tuple[int, int, int, str]:
    """Return image size, batch size, micro-batch and what is frozen: all of a phase that a step's speed depends on."""
    return phase.image_size, phase.batch_size, phase.micro_batch, phase.freeze


def check_steps(recipe: Recipe) -> None:
    """Raise UsageError where the steps of `recipe` say nothing of how long its training takes."""
    if recipe.features_once:
        raise UsageError(
            f"{recipe.name} has features once: nearly all of its time goes to making them, not to its steps",
            "`imagesprint plan RECIPE --data ROOT` measures both on this machine; or --set features_once=false",
        )


@dataclass(frozen=True)
class CheckpointTime:
    """Seconds that training waits for a checkpoint, that writing it takes beside the training, and that this takes from
    it: on a CPU, on which both compute; and its size in bytes.
    """

    waited: float = 0.0
    writing: float = 0.0
    taken: float = 0.0
    size: int = 0


def time_checkpoint(training: TimedTraining, folder: Path) -> CheckpointTime:
    """Write a checkpoint below `folder` and remove it, on rank 0; the others wait, and all their figures are 0."""
    ranks, found = training.ranks, CheckpointTime()
    if ranks.is_main:
        with (
            tempfile.TemporaryDirectory(prefix="imagesprint-", dir=folder) as place,
            CheckpointWriter(Path(place), training.state.checkpoint_like(), Console.silent()) as writer,
        ):
            writer.save(training.state.checkpoint(1, "", ""))
            start = time.process_time()
            writer.finish()
            taken = (time.process_time() - start) / ranks.threads if ranks.device.type == "cpu" else 0.0
            (file,) = list_checkpoints(Path(place))
            found = CheckpointTime(writer.waited, writer.take_seconds(), taken, file.stat().st_size)
    ranks.barrier()
    return found
