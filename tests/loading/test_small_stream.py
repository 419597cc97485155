"""The stream of the recipe `small` over two epochs does not depend on ranks, threads or where it starts."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from imagesprint.console import Console
from imagesprint.loading.loader import Loader
from imagesprint.prepare.preparing import prepare
from imagesprint.recipes.library import load_recipe

RECIPE = load_recipe("small")
IMAGES_A_CLASS = 145  # 290 images: two steps of 128 an epoch, 34 images dropped
STEPS_AN_EPOCH = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("root") / "root"
    generator = np.random.default_rng(1)
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        for split, count in (("train", IMAGES_A_CLASS), ("val", 2)):
            (source / split / name).mkdir(parents=True)
            for index in range(count):
                height, width = generator.integers(60, 120, 2)
                top, left = generator.integers(0, photo.shape[0] - height), generator.integers(0, 640 - width)
                crop = Image.fromarray(photo[top : top + height, left : left + width])
                crop.save(source / split / name / f"{index:03d}.jpg", quality=85)
    prepare(source, made, variants=("full",), shards=3, workers=1, console=Console(quiet=True))
    return made


def digests(root: Path, start: int, end: int, world_size: int, threads: int) -> list[str]:
    """One hash a step over sample ids, labels and pixels, the ranks' micro-batches put in their order."""
    loaders = [
        Loader(root, RECIPE, rank, world_size, start, end_step=end, threads=threads) for rank in range(world_size)
    ]
    streams = [iter(loader) for loader in loaders]
    found = []
    for _ in range(start, end):
        digest = hashlib.sha256()
        for micro_batch in range(RECIPE.phases[0].micro_batches):
            batch = next(streams[micro_batch % world_size])
            for tensor in (batch.sample_ids, batch.labels, batch.images):
                digest.update(tensor.numpy().tobytes())
        found.append(digest.hexdigest())
    assert all(next(stream, None) is None for stream in streams)
    return found


# The first two epochs, and the two around the change from 64 to 96 pixels.
@pytest.mark.parametrize("first_epoch", [0, RECIPE.phases[1].epochs[1] - 1 if RECIPE.phases[1].epochs else 0])
def test_two_epochs_hash_the_same(root: Path, first_epoch: int) -> None:
    start = first_epoch * STEPS_AN_EPOCH
    end = start + 2 * STEPS_AN_EPOCH
    expected = digests(root, start, end, world_size=1, threads=1)
    assert len(set(expected)) == 2 * STEPS_AN_EPOCH
    for world_size, threads in ((1, 4), (2, 1), (2, 4), (4, 1), (4, 4)):
        assert digests(root, start, end, world_size, threads) == expected, (world_size, threads)
    for middle in range(start + 1, end):
        assert digests(root, middle, end, world_size=2, threads=1) == expected[middle - start :]
