"""A part of a ROOT in a store, brought here first: what is measured on it is this machine's work, not the store's."""

from typing import Final

import numpy as np

from imagesprint.console import Console
from imagesprint.recipes.recipe import Recipe
from imagesprint.records.dataset import Dataset, Root
from imagesprint.storage.cache import CacheHold
from imagesprint.storage.url import Place

_LEAST: Final = 1024  # images: enough for decoding to see different ones, and soon here
_AT_A_TIME: Final = 256


class Excerpt(Root):
    """The first `count` images of each split of `root`, as if there were no others; none is fetched unasked."""

    def __init__(self, root: Root, count: int) -> None:
        super().__init__(root.path, root.variants, root._held)
        self._count = count

    def dataset(self, variant: str, split: str) -> Dataset:
        """See Root."""
        return _Part(self.path / variant, split, self._held.get(variant), self._count)


class _Part(Dataset):
    def __init__(self, path: Place, split: str, held: CacheHold | None, count: int) -> None:
        super().__init__(path, split, held)
        self._count = count

    def __len__(self) -> int:
        return min(self._count, super().__len__())

    def fill(self) -> None:
        """Leave the rest where it is."""


def local_part(root: Root, recipe: Recipe, console: Console) -> Root:
    """Return what of `root` a measurement of `recipe` reads, once that is here: all of it where it lies on this machine
    anyway. Raises StorageError.
    """
    wanted = dict.fromkeys((root.nearest(phase.source), "train") for phase in recipe.phases)
    wanted |= {(root.nearest(recipe.eval_source), "validation"): None}
    datasets = [root.dataset(*names) for names in wanted]
    if all(dataset.remote is None or dataset.remote.is_whole for dataset in datasets):
        return root
    part = Excerpt(root, max(_LEAST, *(phase.batch_size for phase in recipe.phases)))
    for variant, split in wanted:
        dataset = part.dataset(variant, split)
        ids = np.arange(len(dataset))
        dataset.expect(ids, anew=True)
        for start in range(0, len(ids), _AT_A_TIME):
            console.live(f"fetching    {variant}, {split}: {start:,} of {len(ids):,} images to measure with")
            dataset.places(ids[start : start + _AT_A_TIME])
    return part
