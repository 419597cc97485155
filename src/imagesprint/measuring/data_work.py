"""What every loader that `bench data` compares has to do: the same images, crops and flips, in the same batches."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.images.native_library import Encoded
from imagesprint.loading.load import read_encoded
from imagesprint.loading.loader import Loader
from imagesprint.recipes.recipe import Phase
from imagesprint.records.dataset import open_dataset

HELD_IMAGES: Final = 2048  # that each program has in memory: about 230 MB of ImageNet


@dataclass(frozen=True)
class HeldBatch:
    """A batch in memory, before decoding: its images, where to crop them and which to mirror (see `Decoder`)."""

    encoded: list[Encoded]
    crops: NDArray[np.int32]
    flips: NDArray[np.bool_]


@dataclass(frozen=True)
class Work:
    """`steps` batches of the training images of one variant: random-resized crops, mirrored at random, antialiased."""

    root: Path
    variant: str
    image_size: int
    batch_size: int
    steps: int
    threads: int

    @property
    def images(self) -> int:
        """Return how many images the batches have together."""
        return self.steps * self.batch_size

    def loader(self) -> Loader:
        """Return the loader of these batches."""
        dataset = open_dataset(self.root, self.variant, "train")
        epochs = -(-self.steps // (len(dataset) // self.batch_size))
        rows = self.batch_size
        phase = Phase((0, epochs), (0.1, 0.1), "constant", rows, rows, self.image_size, self.variant)
        return Loader(dataset, phase, threads=self.threads, end_step=self.steps)

    def batches(self) -> "Batches":
        """Return the batches, read into memory."""
        return Batches(self)


class Batches:
    """The batches of `work` in memory, begun again from the first after HELD_IMAGES images.

    Who reads from here pays neither for reading nor for checksums.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        images: dict[int, Encoded] = {}  # each one once, however often it comes
        self.held = []
        for load in itertools.islice(work.loader().loads(), -(-HELD_IMAGES // work.batch_size)):
            ids = load.sample_ids.tolist()
            images.update({i: read_encoded(load.dataset, i) for i in ids if i not in images})
            self.held.append(HeldBatch([images[i] for i in ids], load.crops, load.flips))

    def __iter__(self) -> Iterator[HeldBatch]:
        return itertools.islice(itertools.cycle(self.held), self._work.steps)
