"""The loaders: passes over a prepared dataset, batch by batch, for training and for evaluation."""

import itertools
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import RankError, RecordError, UsageError
from imagesprint.images.crops import draw_training_crops, evaluation_crops, evaluation_shapes
from imagesprint.images.decoders import open_decoder
from imagesprint.images.decoding import STAGES
from imagesprint.images.draws import sample_floats
from imagesprint.loading.batch import Batch, Buffer, Filled, Load
from imagesprint.loading.ring import Ring
from imagesprint.loading.sampling import DRAWN_TOGETHER, BatchSpec, Course, Sampler, Samples, batch_specs, make_sampler
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.recipes.validation import check_world_size, validate
from imagesprint.records.dataset import Dataset, Root, open_root
from imagesprint.storage.url import Place

AHEAD: Final = 2  # batches ready before they are asked for: one hides the decoding, the second its unevenness


class _BatchLoader(ABC):
    """What loaders share: a pass over some loads through a ring of buffers, by `threads` decoding threads.

    Each iteration is a pass from the start; beginning one ends the former, whose iterator then raises RuntimeError.
    Threads and buffers live only while a pass does: it ends with the last batch, an error, `close`, or when its
    iterator is dropped (as a `for` loop does however it is left). A loader that is not being iterated over can be
    pickled, and used after a fork.
    """

    def __init__(self, threads: int | None, pin: bool) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"{threads} threads cannot decode", "give at least 1, or leave it out to use every core")
        self._threads = threads
        self._pin = pin
        self._ring: Ring[Load, Buffer, Filled] | None = None
        # Over all passes, up to the batch that the consumer holds:
        self.wait_seconds = 0.0  # that it has waited for batches
        self.load_seconds = 0.0  # that making them took, beside the consumer
        self.storage_seconds = 0.0  # of these, for which they waited for records that a store had yet to send
        self.stages = np.zeros(len(STAGES), np.int64)  # how the rest divides: see `Decoder.stages`
        self.bad_records = 0  # how often a record was bad and another stood in
        self.first_bad_record = ""  # which, and why
        self.fallbacks = 0  # images that the native decoder left to Pillow, over all passes that have ended

    @abstractmethod
    def loads(self) -> Iterator[Load]:
        """The batches of a pass, in order."""

    @abstractmethod
    def __len__(self) -> int:
        """How many batches a pass yields."""

    @abstractmethod
    def _largest(self) -> tuple[int, int, int]:
        """The most rows, pixel values and draws a row that a batch of the pass has."""

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        buffers = [Buffer(*self._largest(), self._pin) for _ in range(AHEAD + 1)]
        decoder = open_decoder(self._threads or len(os.sched_getaffinity(0)))
        ring = self._ring = Ring(self.loads(), buffers, lambda load, buffer: buffer.fill(load, decoder), decoder.close)
        try:
            while True:
                start = time.perf_counter()
                filled = next(ring, None)
                self.wait_seconds += time.perf_counter() - start
                if filled is None:
                    return
                self._count(filled)
                yield filled.batch
        finally:
            ring.close()
            if self._ring is ring:
                self._ring = None
            self.fallbacks += decoder.fallbacks

    def _count(self, filled: Filled) -> None:
        if filled.bad and not self.first_bad_record:
            self.first_bad_record = filled.bad[0].what
        self.bad_records += len(filled.bad)
        self.load_seconds += filled.seconds
        self.storage_seconds += filled.storage
        self.stages += filled.stages

    def close(self) -> None:
        """End the present pass and its threads; a second call does nothing."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Loader(_BatchLoader):
    """Training batches, those of rank `rank` among `world_size`.

    `spec` says what they are: a BatchSpec, several that follow one another, a Recipe for its phases, or a single Phase,
    which stands for a recipe of defaults around it, from step 0 on. For each step in [start_step, end_step) (by default
    all) it yields micro-batches rank, rank + world_size, … as `Batch`; together the ranks' batches are the same stream
    whatever their number, the threads, and the step it starts at. `len` is how many this rank's are. Where
    `bad_records` is "substitute", the next sound sample of the epoch's order (with `balance`, of its class's) stands in
    for one that is bad, with crop and draws of its own; `bad_records` counts.

    `source` is a prepared ROOT (or its path), of which each spec reads the variant it names or else the nearest
    (`notes` then says so), or one dataset for all. `pin` puts the batches into pinned memory.

    Raises RankError for ranks that cannot share the micro-batches evenly, UsageError for specs that do not fit
    (RecipeError where a recipe made them) and steps that there are not; while iterating RecordError or ImageError for
    damaged data.
    """

    def __init__(
        self,
        source: Root | Dataset | str | Place,
        spec: BatchSpec | Sequence[BatchSpec] | Recipe | Phase,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        *,
        threads: int | None = None,
        end_step: int | None = None,
        pin: bool = False,
    ) -> None:
        super().__init__(threads, pin)
        recipe = _recipe_of(spec) if isinstance(spec, Phase) else spec
        if isinstance(recipe, Recipe):
            validate(recipe)
            check_world_size(recipe, world_size)
            self.specs = batch_specs(recipe, recipe.draws)
        else:
            specs = [recipe] if isinstance(recipe, BatchSpec) else recipe
            self.specs = tuple(each.shared_by(world_size) for each in specs)
            if len(seeds := {each.seed for each in specs}) != 1:
                raise UsageError(f"{len(specs)} specs with the seeds {sorted(seeds)}", "give specs of one seed")
            if len({each.balance for each in specs}) > 1:
                raise UsageError(f"{len(specs)} specs, of which some balance classes", "give balance to all or none")
        _check_rank(rank, world_size)
        self.notes: list[str] = []
        self._datasets = self._open(source if isinstance(source, Root | Dataset) else open_root(source))
        num_train = len(self._datasets[0])
        if isinstance(recipe, Recipe):
            Schedule(recipe, num_train)  # raises the error that names the phase whose batch is too large
        self._course = Course(self.specs, num_train)
        total = self._course.total_steps
        end_step = total if end_step is None else end_step
        if not 0 <= start_step <= end_step <= total:
            raise UsageError(
                f"steps {start_step}..{end_step} are not among the schedule's 0..{total}",
                "choose start_step and end_step within it",
            )
        self._steps = range(start_step, end_step)
        self._rank, self._world_size = rank, world_size

    def _open(self, source: Root | Dataset) -> list[Dataset]:
        """The dataset of each spec."""
        if isinstance(source, Dataset):
            return [source] * len(self.specs)
        opened: dict[str, Dataset] = {}
        datasets: list[Dataset] = []
        for spec in self.specs:
            variant = source.nearest(spec.source)
            note = f"{source.path} has no variant {spec.source}: {variant} is used instead"
            if variant != spec.source and note not in self.notes:
                self.notes.append(note)
            if variant not in opened:
                opened[variant] = source.dataset(variant, "train")
            datasets.append(opened[variant])
        if len({len(dataset) for dataset in datasets}) > 1:
            counts = ", ".join(f"{name}: {len(dataset)}" for name, dataset in opened.items())
            raise RecordError(
                f"the variants of {source.path} have different numbers of training images ({counts})",
                "delete the odd one's folder and prepare it again",
            )
        return datasets

    def sampler(self) -> Sampler:
        """A new one of which samples each step holds, on all ranks together."""
        labels = self._datasets[0].labels if self.specs[0].balance else None  # the same in every variant
        return make_sampler(self._course, self.specs[0].seed, labels)

    def take_notices(self) -> list[str]:
        """Return what people should hear of that happened to data in a store since the last call."""
        remotes = {id(dataset.remote): dataset.remote for dataset in self._datasets if dataset.remote is not None}
        return [notice for remote in remotes.values() for notice in remote.take_notices()]

    def _runs(self) -> list[tuple[BatchSpec, range]]:
        """The specs of this pass, each with its steps."""
        first, stop = self._steps.start, self._steps.stop
        runs = zip(self.specs, self._course.bounds, strict=True)
        return [(spec, range(max(a, first), min(b, stop))) for spec, (a, b) in runs if a < stop and b > first]

    def __len__(self) -> int:
        return sum(len(steps) * spec.micro_batches for spec, steps in self._runs()) // self._world_size

    def _largest(self) -> tuple[int, int, int]:
        sizes = [
            (spec.micro_batch, spec.micro_batch * spec.image_size**2 * 3, spec.num_draws) for spec, _ in self._runs()
        ]
        rows, values, draws = zip(*sizes, strict=True) if sizes else ((0,), (0,), (0,))
        return max(rows), max(values), max(draws)

    def loads(self, are_read: bool = True) -> Iterator[Load]:
        """The batches of a pass, in order; where they are not to be read, no store is asked for their records."""
        sampler = self.sampler()
        windows = list(self._windows())
        is_asked = are_read and any(dataset.remote for dataset in self._datasets)
        announce = self._announcer() if is_asked else None
        for number, steps in enumerate(windows):
            if announce is not None:  # one window ahead: its records come while those of this one are decoded
                for ahead in windows[:2] if number == 0 else windows[number + 1 : number + 2]:
                    announce(ahead)
            yield from self._drawn_together(sampler, steps)

    def _windows(self) -> Iterator[range]:
        """The steps of the pass, so many at a time as are drawn together."""
        for spec, steps in self._runs():
            count = max(1, DRAWN_TOGETHER * self._world_size // spec.batch_size)
            for start in range(steps.start, steps.stop, count):
                yield range(start, min(start + count, steps.stop))

    def _announcer(self) -> Callable[[range], None]:
        """Return what tells a dataset that is not on this machine which samples some steps will need.

        The first time it also asks for all that the pass will read, in order, and forgets what a pass before expected.
        """
        sampler = self.sampler()  # one of its own: it is an epoch ahead at times
        datasets = [self._datasets[self._course.phase_index(steps.start)] for _, steps in self._runs()]
        begun: list[Dataset] = []

        def announce(steps: range) -> None:
            dataset = self._datasets[self._course.phase_index(steps.start)]
            ids = np.concatenate([sampler.micro_batch(*place).ids for place in self._places(steps)])
            dataset.expect(ids, anew=dataset not in begun)
            if not begun:
                for each in datasets:
                    each.fill()
            if dataset not in begun:
                begun.append(dataset)

        return announce

    def _places(self, steps: range) -> list[tuple[int, int]]:
        """This rank's micro-batches in `steps`, which are of one spec: the step and the number in it."""
        indices = range(self._rank, self._course.phase(steps.start).micro_batches, self._world_size)
        return list(itertools.product(steps, indices))

    def _drawn_together(self, sampler: Sampler, steps: range) -> Iterator[Load]:
        """The loads of `steps`, which are of one spec."""
        spec = self._course.phase(steps.start)
        places = self._places(steps)
        ids, passes = map(np.concatenate, zip(*(sampler.micro_batch(*place) for place in places), strict=True))
        together = self._draw(steps.start, Samples(ids, passes))
        for number, (step, index) in enumerate(places):
            stand_ins = partial(self._stand_ins, sampler, step, index) if spec.bad_records == "substitute" else None
            start, advice = number * spec.micro_batch, _SUBSTITUTE
            yield together.part(start, spec.micro_batch, step=step, stand_ins=stand_ins, advice=advice)

    def _draw(self, step: int, samples: Samples) -> Load:
        """One load of `samples`, all of the spec of `step`."""
        ids, passes = samples
        spec = self._course.phase(step)
        dataset = self._datasets[self._course.phase_index(step)]
        with_boxes = spec.crop.kind == "distorted_bbox"
        boxes = [dataset.boxes(sample_id) for sample_id in ids.tolist()] if with_boxes else None
        crops, flips = draw_training_crops(spec.crop, spec.seed, dataset.sizes[ids], boxes, passes, ids)
        draws = sample_floats(spec.seed, passes, ids, spec.draws)
        shape = (spec.image_size, spec.image_size)
        return Load(dataset, ids, crops, flips, draws, spec.crop.antialias, len(ids), shape, step)

    def _stand_ins(self, sampler: Sampler, step: int, index: int, row: int) -> Iterator[Load]:
        for sample in sampler.following(step, index, row):
            yield self._draw(step, sample)


_SUBSTITUTE: Final = '; or pass over bad records: --set bad_records=substitute, in a BatchSpec bad_records="substitute"'


def _recipe_of(phase: Phase) -> Recipe:
    """A recipe of this phase alone, from step 0 on, with the defaults of `Recipe`."""
    shifted = [None if bounds is None else (0, bounds[1] - bounds[0]) for bounds in (phase.epochs, phase.steps)]
    return Recipe(name="one-phase", phases=(replace(phase, epochs=shifted[0], steps=shifted[1]),))


class EvaluationLoader(_BatchLoader):
    """Each image of `dataset` once, in the order of sample ids: batch j is the business of rank j % world_size.

    Where there are `sample_ids`, those images alone, in that order. The shorter side is resized to `resize` and the
    centre of `shape` cut out (`evaluation_shapes` of `image_size`), antialiased; no flip. Every batch of squares has
    `batch_size` rows; the last one's padding has mask False. Rectangles come by their height, then their width, and in
    that order within each shape; the last batch of each has fewer rows and no padding. `numbers` are this rank's
    batches. Raises RankError for a rank beyond world_size; while iterating RecordError or ImageError for damaged data.
    """

    def __init__(
        self,
        dataset: Dataset,
        image_size: int,
        resize: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        *,
        pin: bool = False,
        sample_ids: NDArray[np.int64] | None = None,
        shape: str = "square",
    ) -> None:
        super().__init__(threads, pin)
        _check_rank(rank, world_size)
        self._dataset = dataset
        ids = np.arange(len(dataset)) if sample_ids is None else sample_ids
        shapes = evaluation_shapes(dataset.sizes[ids], image_size, shape)
        self._batches = _batches_alike(ids, shapes, batch_size)
        self._cut = (resize, image_size, shape)
        self._rows = batch_size if shape == "square" else 0
        self.numbers = range(rank, len(self._batches), world_size)

    def __len__(self) -> int:
        return len(self.numbers)

    def _largest(self) -> tuple[int, int, int]:
        rows = [max(self._rows, len(self._batches[number][0])) for number in self.numbers]
        values = [count * math.prod(self._batches[number][1]) for count, number in zip(rows, self.numbers, strict=True)]
        return max(rows, default=0), 3 * max(values, default=0), 0

    def loads(self) -> Iterator[Load]:
        if self._dataset.remote is not None:
            own = (self._batches[number][0] for number in self.numbers)
            self._dataset.expect(np.concatenate([np.empty(0, np.int64), *own]), anew=True)
        for number in self.numbers:
            ids, shape = self._batches[number]
            yield Load(
                dataset=self._dataset,
                sample_ids=ids,
                crops=evaluation_crops(self._dataset.sizes[ids], *self._cut),
                flips=np.zeros(len(ids), np.bool_),
                draws=np.empty((len(ids), 0), np.float32),
                antialias=True,
                rows=max(self._rows, len(ids)),
                shape=shape,
                step=number,
                to_end=True,
            )


def _batches_alike(
    sample_ids: NDArray[np.int64], shapes: NDArray[np.int64], batch_size: int
) -> list[tuple[NDArray[np.int64], tuple[int, int]]]:
    """The ids of each batch, of one height and width, and these."""
    order = np.lexsort((shapes[:, 1], shapes[:, 0]))  # stable
    changes = np.flatnonzero(np.diff(shapes[order], axis=0).any(axis=1)) + 1
    batches = []
    for alike in np.split(order, changes):
        parts = (alike[start : start + batch_size] for start in range(0, len(alike), batch_size))
        batches += [(sample_ids[rows], (int(shapes[rows[0], 0]), int(shapes[rows[0], 1]))) for rows in parts]
    return batches


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise RankError(f"there is no rank {rank} among {world_size}", f"ranks are 0..{world_size - 1}")
