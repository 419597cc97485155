"""The decoded images of evaluations, kept in memory for the next checkpoint as far as there is room."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from imagesprint.evaluating.rectangles import rectangular_batches
from imagesprint.evaluating.views import View
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import Dataset
from imagesprint.runs.ranks import Ranks

MOST_BYTES = 16 << 30  # of one process; ImageNet's 50,000 at 288 px take 12 GB
SHARE_OF_FREE = 0.25  # of the machine's free memory, for all its ranks together


@dataclass(frozen=True)
class _Wanted:
    """Which pixels: of which split, and how they are cut."""

    dataset: Dataset
    resize: int
    size: int
    batch_size: int
    rectangular: bool

    @property
    def num_batches(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    @property
    def num_bytes(self) -> int:
        longest = (self.dataset.sizes.max(1) / self.dataset.sizes.min(1)).max() if self.rectangular else 1
        return int(self.num_batches * self.batch_size * self.size**2 * 3 * longest)


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
        wanted = _Wanted(dataset, *view.sizes(recipe), recipe.eval_batch_size, view.rectangular)
        kept = self._kept.get(wanted, {})
        numbers = range(share[0], wanted.num_batches, share[1])
        if all(number in kept for number in numbers):
            yield from (kept[number] for number in numbers)
            return
        if wanted not in self._kept and wanted.num_bytes <= self._room:
            self._room -= wanted.num_bytes
            kept = self._kept[wanted] = {}
        for batch in self._decode(wanted, share):
            if wanted in self._kept:
                kept[batch.step] = _copy(batch)
            yield batch

    def _decode(self, wanted: _Wanted, share: tuple[int, int]) -> Iterator[Batch]:
        dataset, resize, size, batch_size = wanted.dataset, wanted.resize, wanted.size, wanted.batch_size
        if wanted.rectangular:
            yield from rectangular_batches(dataset, resize, size, batch_size, share, self._ranks.threads)
            return
        loader = EvaluationLoader(dataset, size, resize, batch_size, *share, threads=self._ranks.threads)
        with loader:
            yield from loader
        self.fallbacks += loader.fallbacks


def _copy(batch: Batch) -> Batch:
    """A batch of its own memory: a loader's is valid only until the next."""
    tensors = {name: getattr(batch, name).clone() for name in ("images", "labels", "sample_ids", "mask")}
    return replace(batch, **tensors)
