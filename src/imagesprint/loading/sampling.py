"""What training batches are asked to be, and which samples each of them holds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import RankError, UsageError
from imagesprint.images.crops import CropSpec, check_fields
from imagesprint.images.draws import FIRST_FREE, LAST, permutations
from imagesprint.recipes.recipe import BAD_RECORDS, Recipe
from imagesprint.recipes.schedule import Stretch, Timeline
from imagesprint.recipes.validation import MAX_BOUND, MAX_PIXELS, MAX_SEED, MAX_SIDE

DRAWN_TOGETHER: Final = 4096  # samples: 0.1 ms for each 256 of them, which drawn alone take 0.6 (AMD EPYC)


@dataclass(frozen=True)
class BatchSpec:
    """What a loader's batches are: so many `epochs` or `steps` of `batch_size` images, `image_size` pixels a side.

    `batch_size` counts the images of one step on all ranks together; they come in batches of `micro_batch`, by default
    each rank's share. `source` names the variant of the data to read, `crop` says how images are cut out. Order, crops
    and draws follow from `seed`. `bad_records` is "stop" or "substitute": then the next sound sample of the epoch's
    order stands in for one that is bad. `draws` are pairs of a purpose, from 16 on, and how many random numbers of that
    purpose each image has in `Batch.draws`. Raises UsageError for what is out of range.
    """

    image_size: int
    batch_size: int
    epochs: int | None = None
    steps: int | None = None
    micro_batch: int = 0
    source: str = "full"
    crop: CropSpec = field(default_factory=CropSpec)
    seed: int = 0
    bad_records: str = "stop"
    draws: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            found = "neither" if self.epochs is None else "both"
            raise UsageError(f"BatchSpec: {found} epochs and steps given", "give one of them, such as epochs=10")
        lasts = f"in 1..{MAX_BOUND}"
        purposes = {purpose for purpose, _ in self.draws}
        drawn = all(FIRST_FREE <= purpose <= LAST and count > 0 for purpose, count in self.draws)
        micro_batch = self.micro_batch or self.batch_size
        rules = (
            ("image_size", f"in 1..{MAX_SIDE}", 0 < self.image_size <= MAX_SIDE),
            ("batch_size", "at least 1", self.batch_size > 0),
            ("micro_batch", "a divisor of batch_size", micro_batch > 0 and self.batch_size % micro_batch == 0),
            ("micro_batch", f"of at most {MAX_PIXELS} pixels", self.micro_batch * self.image_size**2 <= MAX_PIXELS),
            ("epochs", lasts, self.epochs is None or 0 < self.epochs <= MAX_BOUND),
            ("steps", lasts, self.steps is None or 0 < self.steps <= MAX_BOUND),
            ("seed", f"in 0..{MAX_SEED}", 0 <= self.seed <= MAX_SEED),
            ("bad_records", " or ".join(BAD_RECORDS), self.bad_records in BAD_RECORDS),
            (
                "draws",
                f"pairs of a purpose, in {FIRST_FREE}..{LAST} and each once, and a count, at least 1",
                drawn and len(purposes) == len(self.draws),
            ),
        )
        check_fields(self, rules)

    @property
    def micro_batches(self) -> int:
        """Micro-batches in one step, over all ranks."""
        return self.batch_size // (self.micro_batch or self.batch_size)

    @property
    def num_draws(self) -> int:
        """How many random numbers each image has."""
        return sum(count for _, count in self.draws)

    def shared_by(self, world_size: int) -> "BatchSpec":
        """Return the same with a micro-batch. Raises RankError where so many ranks cannot share a step evenly."""
        shares = self.micro_batches if self.micro_batch else self.batch_size
        if world_size < 1 or shares % world_size:
            what = f"{shares} micro-batches" if self.micro_batch else f"{shares} images"
            raise RankError(
                f"{world_size} ranks cannot share the {what} of a step evenly",
                "run another number of ranks, or give another batch_size or micro_batch",
            )
        return self if self.micro_batch else replace(self, micro_batch=self.batch_size // world_size)


def batch_specs(recipe: Recipe, draws: tuple[tuple[int, int], ...] = ()) -> tuple[BatchSpec, ...]:
    """What the batches of each phase of a valid recipe are, with these `draws`. Raises RecipeError where a micro-batch
    is not settled yet.
    """
    return tuple(
        BatchSpec(
            image_size=phase.image_size,
            batch_size=phase.batch_size,
            epochs=phase.epochs and phase.epochs[1] - phase.epochs[0],
            steps=phase.steps and phase.steps[1] - phase.steps[0],
            micro_batch=phase.batch_size // phase.micro_batches,
            source=phase.source,
            crop=CropSpec(
                kind=recipe.crop,
                min_area=phase.min_area,
                aspect=recipe.aspect,
                min_object_covered=recipe.min_object_covered,
                flip=recipe.flip,
                antialias=recipe.antialias,
            ),
            seed=recipe.seed,
            bad_records=recipe.bad_records,
            draws=draws,
        )
        for phase in recipe.phases
    )


class Course(Timeline[BatchSpec]):
    """Which batch of which epoch each step is, where `specs` follow one another, on `num_train` images.

    Raises UsageError for a batch that is larger than the training set.
    """

    def __init__(self, specs: Sequence[BatchSpec], num_train: int) -> None:
        for spec in specs:
            if spec.batch_size > num_train:
                raise UsageError(
                    f"batch_size {spec.batch_size} is more than the {num_train} training images", "give a smaller one"
                )
        steps = [spec.steps or (spec.epochs or 0) * (num_train // spec.batch_size) for spec in specs]
        super().__init__(specs, steps, num_train)


class Sampler:
    """The order of the samples under `timeline`: batch i of epoch e is the i-th slice of the epoch's permutation."""

    def __init__(self, timeline: Timeline[Stretch], seed: int) -> None:
        self._timeline = timeline
        self._seed = seed
        self._epochs = range(0)
        self._orders: NDArray[np.int64] = np.empty((0, 0), np.int64)

    def micro_batch(self, step: int, index: int) -> NDArray[np.int64]:
        """The sample ids, int64[M], of micro-batch `index` of `step`. IndexError where there is no such one."""
        order, start = self._place(step, index)
        return order[start : start + self._timeline.phase(step).micro_batch]

    def batch(self, step: int) -> NDArray[np.int64]:
        """The sample ids, int64[N], of all micro-batches of `step`. IndexError where there is no such step."""
        order, start = self._place(step, 0)
        return order[start : start + self._timeline.phase(step).batch_size]

    def following(self, step: int, index: int, row: int) -> Iterator[int]:
        """The sample ids behind `row` of that micro-batch in the epoch's order, and from its start again, each once."""
        order, start = self._place(step, index)
        for place in range(start + row + 1, start + row + len(order)):
            yield int(order[place % len(order)])

    def _place(self, step: int, index: int) -> tuple[NDArray[np.int64], int]:
        """The order of the step's epoch, and where in it the micro-batch begins."""
        position, phase = self._timeline.position(step), self._timeline.phase(step)
        if not 0 <= index < phase.micro_batches:
            raise IndexError(f"micro-batch {index} of {phase.micro_batches}")
        if position.epoch not in self._epochs:
            together = max(1, DRAWN_TOGETHER // self._timeline.num_train)
            self._epochs = range(position.epoch, position.epoch + together)
            self._orders = permutations(self._timeline.num_train, self._seed, self._epochs)
        order = self._orders[position.epoch - self._epochs.start]
        return order, position.batch * position.batch_size + index * phase.micro_batch
