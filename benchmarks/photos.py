"""A prepared root of generated photos, for benchmarks on machines that have no images: crops of scikit-learn's two.

    python benchmarks/photos.py ROOT --images 6144 --height 375 --variants 320,160

Ten classes, each one of the photos with its colours exchanged in one of five ways. More classes look like those ten in
turns, so that a network can learn ten things of them. A photo of 500 × 375 pixels becomes a JPEG of about the bytes
that ImageNet's have at shorter sides of 320 and 160 pixels.
"""

import argparse
import itertools
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from imagesprint.console import Console
from imagesprint.prepare.preparing import prepare

COLOURS = list(itertools.permutations(range(3)))[:5]
LOOKS = 2 * len(COLOURS)
NOISE = 6.0  # standard deviation of the pixels' noise: without it crops that are enlarged take too few bytes


def make_root(
    root: Path, images: int, height: int, variants: tuple[str, ...], classes: int = LOOKS, shards: int | None = None
) -> None:
    """Prepare about `images` training photos or more, and a tenth as many for validation, into `root`.

    Each of the `shards` is written by one process.
    """
    workers = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        each = -(-images * 11 // 10 // classes)
        tasks = [(label, number) for label in range(classes) for number in range(each)]
        with ProcessPoolExecutor(workers) as pool:
            list(pool.map(partial(write_photo, Path(folder), height), tasks, chunksize=32))
        console = Console(quiet=True)
        prepare(folder, root, variants=variants, val_fraction=1 / 11, shards=shards, workers=workers, console=console)


def write_photo(folder: Path, height: int, task: tuple[int, int]) -> None:
    """Write the crop that `task`, label and number, names."""
    label, number = task
    rng = np.random.default_rng(task)
    photo = sample_photos()[label % 2]
    rows = int(rng.integers(photo.shape[0] * 2 // 3, photo.shape[0]))
    columns = rows * 4 // 3
    top, left = rng.integers(0, photo.shape[0] - rows), rng.integers(0, photo.shape[1] - columns)
    crop = Image.fromarray(photo[top : top + rows, left : left + columns])
    pixels = np.asarray(crop.resize((height * 4 // 3, height)))[..., COLOURS[label % LOOKS // 2]]
    noisy = np.clip(pixels + rng.normal(0, NOISE, pixels.shape), 0, 255).astype(np.uint8)
    target = folder / f"class{label:03d}" / f"{number:05d}.jpg"
    target.parent.mkdir(exist_ok=True)
    Image.fromarray(noisy).save(target, quality=95)


@cache
def sample_photos() -> list[NDArray[np.uint8]]:
    """Return scikit-learn's two photos, each uint8 [427, 640, 3]."""
    return list(load_sample_images().images)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--images", type=int, default=6144)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--variants", default="320,160")
    parser.add_argument("--classes", type=int, default=LOOKS)
    parser.add_argument("--shards", type=int, help="default: as prepare has it")
    args = parser.parse_args()
    make_root(args.root, args.images, args.height, tuple(args.variants.split(",")), args.classes, args.shards)
    return 0


if __name__ == "__main__":
    sys.exit(main())
