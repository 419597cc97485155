"""The evaluator: it judges checkpoints on all ranks together, and keeps the decoded images for the next one."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from imagesprint.checkpoints.cached import cached
from imagesprint.checkpoints.weights import load_model
from imagesprint.console import Console
from imagesprint.errors import CheckpointError, UsageError
from imagesprint.evaluating.evaluation import COLUMNS, accuracy, check_classes, evaluation_precision, judge, read_table
from imagesprint.evaluating.places import CheckpointPlaces
from imagesprint.evaluating.results import Details, Result, ResultsKept, details
from imagesprint.evaluating.views import View
from imagesprint.images.crops import evaluation_shapes
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Dataset, Root
from imagesprint.runs.ranks import Ranks
from imagesprint.storage.url import Place

MOST_BYTES = 16 << 30  # of one process; ImageNet's 50,000 at 288 px take 12 GB
SHARE_OF_FREE = 0.25  # of the machine's free memory, for all its ranks together


@dataclass(frozen=True)
class ViewFigures:
    """What a checkpoint came to by the view of that name."""

    view: str
    num_images: int
    top1: float
    top5: float
    mean_class_accuracy: float
    loss: float

    @classmethod
    def of(cls, result: Result) -> "ViewFigures":
        """From what is kept."""
        figures = result["top1"], result["top5"], result["mean_class_accuracy"], result["loss"]
        return cls(result["view"], result["num_images"], *figures)


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """One judged checkpoint; `epoch` counts the epochs done.

    The figures are those of the plain view, the recipe's own evaluation, as are the `details` behind them
    (`evaluating.results.details`). `views` has each option beside it. All were made in `precision`
    (`evaluation_precision`).
    """

    path: str
    step: int
    epoch: float
    num_images: int
    top1: float
    top5: float
    mean_class_accuracy: float
    loss: float
    precision: str
    views: tuple[ViewFigures, ...]
    details: Details

    @classmethod
    def of(cls, place: Place, plain: Result, *others: Result) -> "EvaluatedCheckpoint":
        """From the results of all views, that of the plain one first."""
        return cls(
            path=str(place),
            step=plain["step"],
            epoch=plain["epoch"],
            num_images=plain["num_images"],
            top1=plain["top1"],
            top5=plain["top5"],
            mean_class_accuracy=plain["mean_class_accuracy"],
            loss=plain["loss"],
            precision=plain["precision"],
            views=tuple(map(ViewFigures.of, others)),
            details=plain["details"],
        )


class Evaluator:
    """Judges checkpoints by `views` on the validation split of `root`. All ranks call the same with the same."""

    def __init__(
        self, root: Root, views: tuple[View, ...], ranks: Ranks, console: Console, places: CheckpointPlaces
    ) -> None:
        self._root, self._views, self._ranks, self._console, self._places = root, views, ranks, console, places
        self._kept = ResultsKept(root, ranks.device)
        self._images = EvaluationImages(ranks)
        self._sets: dict[tuple[str, str], Dataset] = {}
        self._labels = root.dataset(root.variants[0], "validation").labels  # the same in every variant

    @property
    def fallbacks(self) -> int:
        """Images that were left to Pillow, on all ranks."""
        return self._ranks.total(self._images.fallbacks)

    def judge(self, places: Sequence[Place]) -> Iterator[EvaluatedCheckpoint]:
        """Yield the checkpoints in order as they are judged; on rank 0 alone, the others only work.

        What was judged before comes from the run. A checkpoint whose file goes away meanwhile is left out.
        """
        if not places:
            return
        found = [self._find(place) for place in places]
        missing = torch.tensor([[result is None for result in results] for results in found], dtype=torch.int64)
        missing *= self._ranks.is_main  # it decides: the others' disks may show them something else
        missing = missing.to(self._ranks.device)
        self._ranks.sum(missing)
        wanted = self._ranks.read(missing)
        queue = [i for i in range(len(places)) if any(wanted[i])]
        done = 0
        for size in _rounds(len(queue), self._ranks.world_size):
            turn, queue = queue[:size], queue[size:]
            for i in turn:
                self._console.live(f"evaluating  {i + 1}/{len(places)}  {places[i].name}", f"in {places[i].parent}")
            for i, results in zip(turn, self._round([(places[i], wanted[i]) for i in turn]), strict=True):
                found[i] = [old or new for old, new in zip(found[i], results, strict=True)]
            ready = queue[0] if queue else len(places)
            yield from self._complete(places[done:ready], found[done:ready])
            done = ready
        yield from self._complete(places[done:], found[done:])

    def _find(self, place: Place) -> list[Result | None]:
        content = self._places.content(place) if self._ranks.is_main else None
        if content is None:
            return [None] * len(self._views)
        return [self._kept.find(self._places.path(place), view, content) for view in self._views]

    def _complete(self, places: Sequence[Place], found: list[list[Result | None]]) -> Iterator[EvaluatedCheckpoint]:
        if not self._ranks.is_main:
            return
        for place, results in zip(places, found, strict=True):
            whole = [result for result in results if result is not None]
            if len(whole) == len(results):
                yield EvaluatedCheckpoint.of(place, *whole)
            else:
                self._console.warn(f"{place} went away before it was judged")

    def _round(self, jobs: list[tuple[Place, list[bool]]]) -> list[list[Result | None]]:
        """Judge one checkpoint a rank or, where there are fewer, each by all ranks; the results, on rank 0 alone."""
        ranks = self._ranks
        tables = torch.zeros(
            len(jobs), len(self._views), len(self._labels) + 1, COLUMNS, dtype=torch.float64, device=ranks.device
        )
        facts = torch.zeros(len(jobs), 3, dtype=torch.float64, device=ranks.device)  # step, epoch, variant
        whole = len(jobs) == ranks.world_size
        share = (0, 1) if whole else (ranks.rank, ranks.world_size)
        for number, (place, wanted) in enumerate(jobs):
            if whole and number != ranks.rank:
                continue
            found = self._fill(place, wanted, tables[number], share)
            if found is not None and (whole or ranks.is_main):
                facts[number] = torch.tensor(found, dtype=torch.float64)
        ranks.sum(tables)
        ranks.sum(facts)
        said = ranks.read(facts)  # read first: it names a rank that does not answer
        if not ranks.is_main:
            return [[None] * len(self._views)] * len(jobs)
        return [
            [self._result(place, view, table, fact) for view, table in zip(self._views, of_views, strict=True)]
            for (place, _), of_views, fact in zip(jobs, tables, said, strict=True)
        ]

    def _fill(
        self, place: Place, wanted: list[bool], tables: Tensor, share: tuple[int, int]
    ) -> tuple[int, float, int] | None:
        """Judge this rank's share by the wanted views; the checkpoint's step, epoch and variant, None if it is gone."""
        try:
            with cached(place) as path:
                model = load_model(path).to(self._ranks.device)
                check_classes(self._root, model.classes)
                variant = self._root.nearest(model.recipe.eval_source)
                for view, table, is_wanted in zip(self._views, tables, wanted, strict=True):
                    if is_wanted:
                        judged = view.model(path, model, lambda: self._dataset(variant, "train"))
                        batches = self._images.batches(self._dataset(variant, "validation"), model.recipe, view, share)
                        judge(view.logits(judged), batches, table)
        except (UsageError, CheckpointError):
            if self._places.exists(place):
                raise
            return None
        epoch = Schedule(model.recipe, model.num_train).epochs_done(model.step)
        return model.step, epoch, self._root.variants.index(variant)

    def _dataset(self, variant: str, split: str) -> Dataset:
        if (variant, split) not in self._sets:
            self._sets[variant, split] = self._root.dataset(variant, split)
        return self._sets[variant, split]

    def _result(self, place: Place, view: View, table: Tensor, facts: list[float]) -> Result | None:
        outcomes = read_table(table)
        if outcomes is None:
            return None
        data = self._kept.data(self._root.variants[int(facts[2])])
        assert data is not None  # it was read from
        figures = accuracy(outcomes, self._labels, evaluation_precision(self._ranks.device))
        result: Result = {
            "view": view.name,
            "step": int(facts[0]),
            "epoch": facts[1],
            "num_images": figures.num_images,
            "top1": figures.top1,
            "top5": figures.top5,
            "mean_class_accuracy": figures.mean_class_accuracy,
            "loss": figures.loss,
            "precision": figures.precision,
            "details": details(outcomes, self._labels, self._root.classes),
            "data": data,
        }
        try:
            self._kept.keep(self._places.path(place), view, result, self._places.content(place) or "")
        except OSError as error:
            self._console.warn(f"{place.parent.parent} cannot be written ({error.strerror}): the result is not kept")
        return result


def _rounds(count: int, world_size: int) -> Iterator[int]:
    """How many of `count` checkpoints are judged at a time: one a rank, then the rest together."""
    yield from [world_size] * (count // world_size)
    if count % world_size:
        yield count % world_size


@dataclass(frozen=True)
class _Wanted:
    """Which pixels: of which split, and how they are cut."""

    dataset: Dataset
    resize: int
    size: int
    batch_size: int
    shape: str

    @property
    def num_bytes(self) -> int:
        """Of all images, but for padding."""
        return 3 * int(evaluation_shapes(self.dataset.sizes, self.size, self.shape).prod(1).sum())

    def loader(self, share: tuple[int, int], threads: int) -> EvaluationLoader:
        """Of the batches of rank r of W, the `share`."""
        sizes = (self.size, self.resize, self.batch_size)
        return EvaluationLoader(self.dataset, *sizes, *share, threads=threads, shape=self.shape)


class EvaluationImages:
    """Batches for evaluations by one rank; `fallbacks` counts the images that were left to Pillow."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self._room = min(MOST_BYTES, int(SHARE_OF_FREE * free / ranks.local_world_size))
        self._kept: dict[_Wanted, dict[int, Batch]] = {}
        self.fallbacks = 0

    def batches(self, dataset: Dataset, recipe: Recipe, view: View, share: tuple[int, int]) -> Iterator[Batch]:
        """Those that rank r of W, the `share`, has to judge; the arithmetic of a batch does not depend on it."""
        wanted = _Wanted(dataset, *view.sizes(recipe), recipe.eval_batch_size, view.shape(recipe))
        kept, loader = self._kept.get(wanted, {}), wanted.loader(share, self._ranks.threads)
        if all(number in kept for number in loader.numbers):
            yield from (kept[number] for number in loader.numbers)
            return
        if wanted not in self._kept and wanted.num_bytes <= self._room:
            self._room -= wanted.num_bytes
            kept = self._kept[wanted] = {}
        with loader:
            for batch in loader:
                if wanted in self._kept:
                    kept[batch.step] = _copy(batch)
                yield batch
        self.fallbacks += loader.fallbacks


def _copy(batch: Batch) -> Batch:
    """A batch of its own memory: a loader's is valid only until the next."""
    copies: Any = {name: value.clone() for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, **copies)
