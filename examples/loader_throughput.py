"""The images a second of a plain script's own DataLoader with Pillow, and of imagesprint's on the same photos.

    python examples/loader_throughput.py PHOTOS ROOT [--variant full] [--image-size 224] [--threads 2]

PHOTOS has CLASS/*.jpg; ROOT is what `imagesprint prepare` made of them. Both give random-resized crops, mirrored at
random, as uint8 [N, S, S, 3]. They take turns, three times after one to warm up; the medians are printed.
"""

import argparse
import io
import math
import os
import random
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import imagesprint

ROUNDS, EPOCHS = 3, 2


class Photos(Dataset[tuple[torch.Tensor, int]]):
    """What many scripts have: files in class folders, decoded by Pillow, one by one."""

    def __init__(self, folder: Path, size: int) -> None:
        self._files = sorted(folder.glob("*/*.jpg")) * EPOCHS
        self._classes = sorted({file.parent.name for file in self._files})
        self._size = size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        file = self._files[index]
        image = Image.open(io.BytesIO(file.read_bytes())).convert("RGB")
        small = image.crop(draw_crop(*image.size)).resize((self._size, self._size), Image.Resampling.BILINEAR)
        pixels = np.array(small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else small)
        return torch.from_numpy(pixels), self._classes.index(file.parent.name)


def draw_crop(width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom as torchvision's RandomResizedCrop draws them; else the whole image."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


def images_per_second(batches: Iterable[object], images: int) -> float:
    start = time.perf_counter()
    for _ in batches:
        pass
    return images / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("--variant", default="full")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()

    photos = Photos(args.photos, args.image_size)
    dataset = imagesprint.open_dataset(args.root, args.variant, "train")
    rows = min(64, len(dataset), len(photos))
    own = DataLoader(photos, rows, shuffle=True, num_workers=args.threads, persistent_workers=True, drop_last=True)
    spec = imagesprint.BatchSpec(image_size=args.image_size, batch_size=rows, epochs=EPOCHS)
    ours = imagesprint.Loader(dataset, spec, threads=args.threads)

    images = {"DataLoader, Pillow": len(own) * rows, "imagesprint.Loader": len(ours) * rows}
    loaders = dict(zip(images, (own, ours), strict=True))
    rounds = [{name: images_per_second(loaders[name], images[name]) for name in loaders} for _ in range(1 + ROUNDS)]
    for name in loaders:
        print(f"{name:20}{statistics.median(each[name] for each in rounds[1:]):8,.0f} images/s")


if __name__ == "__main__":
    main()
