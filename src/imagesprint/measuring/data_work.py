"""What every loader that is compared has to do, the same images, crops and flips in the same batches, and Pillow at it.

Other people's loaders are in benchmarks/loaders.py: they are given the same work.
"""

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from imagesprint.images.native_library import Encoded
from imagesprint.loading.load import read_encoded
from imagesprint.loading.loader import Loader
from imagesprint.measuring.contest import Pass
from imagesprint.recipes.recipe import Phase
from imagesprint.records.dataset import open_dataset

LoadImage = Callable[[Encoded, list[int], bool, int], NDArray[np.uint8]]  # image, box, flip, size

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


def in_data_loader(work: Work, load: LoadImage) -> Pass:
    """Return a pass of torch's DataLoader whose images `load` makes: with as many processes as `work` has threads, with
    one in this process.
    """
    import torch
    from torch.utils.data import DataLoader, Dataset

    torch.set_num_threads(1)
    batches = work.batches()

    class Images(Dataset[Any]):
        def __len__(self) -> int:
            return work.images

        def __getitem__(self, index: int) -> Any:
            number, row = divmod(index, work.batch_size)
            batch = batches.held[number % len(batches.held)]
            box = batch.crops[row].tolist()
            return torch.from_numpy(load(batch.encoded[row], box, bool(batch.flips[row]), work.image_size))

    if work.threads == 1:
        loader = DataLoader(Images(), work.batch_size)
    else:  # fork: the images are shared, not copied
        loader = DataLoader(
            Images(),
            work.batch_size,
            num_workers=work.threads,
            persistent_workers=True,
            multiprocessing_context="fork",
        )

    def run() -> None:
        for _ in loader:
            pass

    return run


def pillow(work: Work) -> Pass:
    """Return a pass of Pillow in torch's DataLoader, on images in memory, with our crops and flips."""
    from PIL import Image

    def load(data: Encoded, box: list[int], flip: bool, size: int) -> NDArray[np.uint8]:
        image = Image.fromarray(data) if isinstance(data, np.ndarray) else Image.open(io.BytesIO(data)).convert("RGB")
        image = image.crop((box[0], box[1], box[2], box[3])).resize((size, size), Image.Resampling.BILINEAR)
        return np.array(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image)

    return in_data_loader(work, load)
