"""What training batches are asked to be, and which samples each of them holds."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import RankError, UsageError
from imagesprint.images.crops import CropSpec, check_fields
from imagesprint.images.draws import DEAL, FIRST_FREE, LAST, ROUND, permutations
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
    purpose each image has in `Batch.draws`. With `balance` each class comes equally often, however many images it has:
    an epoch is as many images as ever, but those of a small class come several times in it, each time cropped and drawn
    for anew, and those of a large one not all. Raises UsageError for what is out of range.
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
    balance: bool = False

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
            balance=recipe.balance,
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


class Samples(NamedTuple):
    """Samples in their order: `ids` int64[N], and `passes` int64[N], how often each was dealt out before.

    Crops and draws of a sample follow from its pass: where it comes again, they are others.
    """

    ids: NDArray[np.int64]
    passes: NDArray[np.int64]


class Sampler(ABC):
    """Which samples each step under `timeline` trains on: a pure function of the step, so that no way there matters."""

    def __init__(self, timeline: Timeline[Stretch], seed: int) -> None:
        self._timeline = timeline
        self._seed = seed

    def micro_batch(self, step: int, index: int) -> Samples:
        """The samples of micro-batch `index` of `step`. IndexError where there is no such one."""
        phase = self._timeline.phase(step)
        if not 0 <= index < phase.micro_batches:
            raise IndexError(f"micro-batch {index} of {phase.micro_batches}")
        return self._read(step, index * phase.micro_batch, phase.micro_batch)

    def batch(self, step: int) -> Samples:
        """The samples of all micro-batches of `step`. IndexError where there is no such step."""
        return self._read(step, 0, self._timeline.phase(step).batch_size)

    @abstractmethod
    def following(self, step: int, index: int, row: int) -> Iterator[Samples]:
        """What may stand in for `row` of that micro-batch, each once: one sample at a time."""

    @abstractmethod
    def _read(self, step: int, start: int, count: int) -> Samples:
        """The `count` samples of the step's batch from its place `start` on."""


class ShuffledSampler(Sampler):
    """Batch i of epoch e is the i-th slice of the epoch's permutation; the pass of all its samples is e."""

    def __init__(self, timeline: Timeline[Stretch], seed: int) -> None:
        super().__init__(timeline, seed)
        self._epochs = range(0)
        self._orders: NDArray[np.int64] = np.empty((0, 0), np.int64)

    def following(self, step: int, index: int, row: int) -> Iterator[Samples]:
        """Those behind that row in the epoch's order, and from its start again."""
        start = index * self._timeline.phase(step).micro_batch + row
        order, place, epoch = self._order(step)
        for at in range(place + start + 1, place + start + len(order)):
            yield _of_epoch(order[[at % len(order)]], epoch)

    def _read(self, step: int, start: int, count: int) -> Samples:
        order, place, epoch = self._order(step)
        return _of_epoch(order[place + start : place + start + count], epoch)

    def _order(self, step: int) -> tuple[NDArray[np.int64], int, int]:
        """The order of the step's epoch, where in it its batch begins, and which epoch that is."""
        position = self._timeline.position(step)
        if position.epoch not in self._epochs:
            together = max(1, DRAWN_TOGETHER // self._timeline.num_train)
            self._epochs = range(position.epoch, position.epoch + together)
            self._orders = permutations(self._timeline.num_train, self._seed, self._epochs)
        order = self._orders[position.epoch - self._epochs.start]
        return order, position.batch * position.batch_size, position.epoch


def _of_epoch(ids: NDArray[np.int64], epoch: int) -> Samples:
    return Samples(ids, np.full(len(ids), epoch))


class BalancedSampler(Sampler):
    """Each class equally often: a training is one long row of places, dealt out in rounds that hold each class once.

    The order of the classes in a round is drawn anew for each. Round g takes from a class with n samples the
    (g mod n)-th in the order of its pass g ÷ n; each pass through a class has an order of its own. So at any place of
    the row two classes were met equally often but for one time, and so were two samples of a class; in a batch, which
    may begin and end within a round, but for two. The row knows no epochs and no batch sizes. `labels` int32[N] are
    those of the samples; a class without any is left out.
    """

    def __init__(self, timeline: Timeline[Stretch], seed: int, labels: NDArray[np.int32]) -> None:
        super().__init__(timeline, seed)
        self._labels = labels
        self._by_label = np.argsort(labels, kind="stable")
        counts = np.bincount(labels)
        self._first = np.cumsum(counts) - counts  # of each label, its place in the former
        self._classes = np.flatnonzero(counts)
        self._counts = counts[self._classes]
        self._rounds = range(0)
        self._dealt = Samples(np.empty(0, np.int64), np.empty(0, np.int64))

    def following(self, step: int, index: int, row: int) -> Iterator[Samples]:
        """Those behind it in the order of its class's pass, and from its start again: the label stays."""
        ids, passes = self.micro_batch(step, index)
        own, label = passes[[row]], int(self._labels[ids[row]])
        members = self._by_label[self._first[label] :][: np.count_nonzero(self._labels == label)]
        order = members[permutations(len(members), self._seed, own, DEAL, label)[0]]
        place = int(np.flatnonzero(order == ids[row])[0])
        for at in range(place + 1, place + len(order)):
            yield Samples(order[[at % len(order)]], own)

    def _read(self, step: int, start: int, count: int) -> Samples:
        place, width = self._timeline.images_before(step) + start, len(self._classes)
        rounds = range(place // width, -(-(place + count) // width))
        if rounds.start < self._rounds.start or rounds.stop > self._rounds.stop:
            together = max(DRAWN_TOGETHER, self._timeline.num_train) // width
            self._rounds = range(rounds.start, max(rounds.stop, rounds.start + together))
            self._dealt = self._deal(self._rounds)
        at = slice(place - self._rounds.start * width, place - self._rounds.start * width + count)
        return Samples(self._dealt.ids[at], self._dealt.passes[at])

    def _deal(self, rounds: range) -> Samples:
        """The samples of whole rounds."""
        of_class = np.empty((len(self._classes), len(rounds)), np.int64)
        for size in np.unique(self._counts).tolist():  # at once for all classes of a size
            rows = np.flatnonzero(self._counts == size)
            labels, passes = self._classes[rows], np.arange(rounds.start // size, (rounds.stop - 1) // size + 1)
            drawn = np.tile(passes, len(rows)), DEAL, np.repeat(labels, len(passes))
            orders = permutations(size, self._seed, *drawn).reshape(len(rows), -1)
            began = rounds.start - int(passes[0]) * size
            places = self._first[labels][:, None] + orders[:, began : began + len(rounds)]
            of_class[rows] = self._by_label[places]
        order, numbers = permutations(len(self._classes), self._seed, rounds, ROUND), np.arange(len(rounds))[:, None]
        passes = (rounds.start + numbers) // self._counts[order]
        return Samples(of_class[order, numbers].reshape(-1), passes.reshape(-1))


def make_sampler(timeline: Timeline[Stretch], seed: int, balanced: NDArray[np.int32] | None) -> Sampler:
    """The sampler of a training; `balanced` are the labels of all samples where its classes come equally often."""
    if balanced is None:
        return ShuffledSampler(timeline, seed)
    return BalancedSampler(timeline, seed, balanced)
