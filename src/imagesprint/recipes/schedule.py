"""The schedule: from a step to its phase, learning rate and place in the data. Pure; nothing here has state.

Consecutive phases of one batch size share one run of epochs, so that a change of the learning rate in the
middle of an epoch does not restart its permutation. Where the batch size changes, a new epoch begins, and an
epoch that was cut short counts as one.
"""

import bisect
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from imagesprint.errors import RecipeError
from imagesprint.recipes.recipe import Phase, Recipe


class Position(NamedTuple):
    """Which batch of which epoch's permutation a step trains on."""

    epoch: int
    batch: int  # in [0, batches_in_epoch)
    batches_in_epoch: int
    batch_size: int


class Row(NamedTuple):
    """One step as the schedule's table shows it."""

    step: int
    epoch: int
    phase: int
    lr: float
    batch_size: int
    image_size: int


class _Segment(NamedTuple):
    """A run of whole epochs of one batch size; its last epoch may be cut short."""

    start: int
    end: int
    first_epoch: int
    batches_in_epoch: int
    batch_size: int


class Stretch(Protocol):
    """What a Phase and a loader's BatchSpec have in common: how the images of a step are shared out."""

    @property
    def batch_size(self) -> int: ...

    @property
    def micro_batch(self) -> int: ...

    @property
    def micro_batches(self) -> int: ...


PhaseT = TypeVar("PhaseT", bound=Stretch, covariant=True)


class Timeline(Generic[PhaseT]):
    """Which batch of which epoch each step trains on: `phases` one after another, of so many `steps` each.

    `bounds` holds each phase's [start, end) in steps. A step outside the stated range is an IndexError.
    """

    def __init__(self, phases: Sequence[PhaseT], steps: Sequence[int], num_train: int) -> None:
        self.num_train = num_train
        self._phases = phases
        self._ends = list(itertools.accumulate(steps))
        self.bounds = tuple(zip([0, *self._ends], self._ends, strict=False))
        self.total_steps = self._ends[-1]
        self._segments = _segments([phase.batch_size for phase in phases], self.bounds, num_train)
        self._segment_ends = [segment.end for segment in self._segments]

    def phase_index(self, step: int) -> int:
        """The row that holds at `step`, in [0, total_steps)."""
        self._check(step, self.total_steps - 1)
        return bisect.bisect_right(self._ends, step)

    def phase(self, step: int) -> PhaseT:
        """The phase that holds at `step`, in [0, total_steps)."""
        return self._phases[self.phase_index(step)]

    def position(self, step: int) -> Position:
        """The batch that `step`, in [0, total_steps), trains on."""
        self._check(step, self.total_steps - 1)
        segment = self._segments[bisect.bisect_right(self._segment_ends, step)]
        epoch, batch = divmod(step - segment.start, segment.batches_in_epoch)
        return Position(segment.first_epoch + epoch, batch, segment.batches_in_epoch, segment.batch_size)

    def images_before(self, step: int) -> int:
        """The images trained on in the steps before `step`, in [0, total_steps], over all ranks."""
        self._check(step, self.total_steps)
        rows = zip(self._phases, self.bounds, strict=True)
        return sum(max(0, min(end, step) - start) * phase.batch_size for phase, (start, end) in rows)

    def epochs_done(self, step: int) -> float:
        """The epochs completed before `step`, in [0, total_steps]."""
        self._check(step, self.total_steps)
        if step == self.total_steps:
            last = self._segments[-1]
            return last.first_epoch + (step - last.start) / last.batches_in_epoch
        position = self.position(step)
        return position.epoch + position.batch / position.batches_in_epoch

    def is_epoch_start(self, step: int) -> bool:
        """Whether `step`, in [0, total_steps], begins an epoch; the end of the training counts as one."""
        self._check(step, self.total_steps)
        return step == self.total_steps or self.position(step).batch == 0

    def epoch_ends(self) -> Iterator[int]:
        """The numbers of steps after which an epoch ends, in order; those where it is cut short are among them."""
        for segment in self._segments:
            yield from range(segment.start + segment.batches_in_epoch, segment.end, segment.batches_in_epoch)
            yield segment.end

    def _check(self, step: int, last: int) -> None:
        if not 0 <= step <= last:
            raise IndexError(f"step {step} is not in 0..{last}")


class Schedule(Timeline[Phase]):
    """What a validated recipe does at each step on `num_train` training images.

    RecipeError names a phase whose batch is larger than the training set.
    """

    def __init__(self, recipe: Recipe, num_train: int) -> None:
        for index, phase in enumerate(recipe.phases):
            if phase.batch_size > num_train:
                raise RecipeError(
                    f"phases.{index}: batch_size {phase.batch_size} is more than the {num_train} training images",
                    f"set phases.{index}.batch_size and phases.{index}.micro_batch to fit",
                )
        super().__init__(recipe.phases, [_num_steps(phase, num_train) for phase in recipe.phases], num_train)

    def lr(self, step: int) -> float:
        """The learning rate of `step`, in [0, total_steps)."""
        index = self.phase_index(step)
        start, end = self.bounds[index]
        return _lr(self._phases[index], (step - start) / (end - start))

    def table(self) -> Iterator[Row]:
        """One row a step, in order."""
        for index, (phase, (start, end)) in enumerate(zip(self._phases, self.bounds, strict=True)):
            for step in range(start, end):
                lr = _lr(phase, (step - start) / (end - start))
                yield Row(step, self.position(step).epoch, index, lr, phase.batch_size, phase.image_size)


def _num_steps(phase: Phase, num_train: int) -> int:
    if phase.steps is not None:
        return phase.steps[1] - phase.steps[0]
    assert phase.epochs is not None, "the recipe was not validated"
    return (phase.epochs[1] - phase.epochs[0]) * (num_train // phase.batch_size)


def _segments(batch_sizes: list[int], bounds: Sequence[tuple[int, int]], num_train: int) -> list[_Segment]:
    segments: list[_Segment] = []
    for batch_size, (start, end) in zip(batch_sizes, bounds, strict=True):
        if segments and segments[-1].batch_size == batch_size:
            segments[-1] = segments[-1]._replace(end=end)
            continue
        first_epoch = 0
        if segments:
            last = segments[-1]
            first_epoch = last.first_epoch + math.ceil((last.end - last.start) / last.batches_in_epoch)
        segments.append(_Segment(start, end, first_epoch, num_train // batch_size, batch_size))
    return segments


def _lr(phase: Phase, t: float) -> float:
    """The rate after the share `t`, in [0, 1), of the phase."""
    first, last = phase.lr
    if phase.method == "exponential":
        rate: float = first * (last / first) ** t
        return rate
    if phase.method == "cosine":
        return last + (first - last) * (1 + math.cos(math.pi * t)) / 2
    return first + (last - first) * t  # linear, and constant, whose two rates are the same
