"""Rectangular evaluation: images sorted by their aspect ratio, and each batch at the mean ratio of its images.

As fast.ai did it for DAWNBench in 2018 (github.com/cybertronai/imagenet18): what lies left and right of the centre
square is seen, too.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from imagesprint.images.decoding import open_rgb
from imagesprint.loading.batch import Batch
from imagesprint.loading.load import read_encoded
from imagesprint.records.dataset import Dataset

MULTIPLE = 8  # pixels that the longer side is rounded down to


def rectangular_batches(
    dataset: Dataset, resize: int, size: int, batch_size: int, share: tuple[int, int], threads: int
) -> Iterator[Batch]:
    """Batches of all images of `dataset` whose shorter side is `size`; rank r of W, the `share`, gets r, r + W, ….

    Each image's shorter side is resized to `resize` and the central rectangle cut out, at most the whole image. The
    images of a batch, [batch_size, H, W, 3], are padded like the loaders'. Decoded by Pillow.
    """
    rank, world_size = share
    ratios = dataset.sizes[:, 1] / dataset.sizes[:, 0]
    order = np.argsort(ratios, kind="stable")
    with ThreadPoolExecutor(threads) as pool:
        for start in range(rank * batch_size, len(order), world_size * batch_size):
            ids = order[start : start + batch_size]
            height, width = _shape(float(ratios[ids].mean()), size)
            boxes = _central(dataset.sizes[ids], resize, height, width)
            cuts = pool.map(lambda i, box, shape=(width, height): _cut(dataset, i, box, shape), ids.tolist(), boxes)
            yield _batch(dataset, ids, list(cuts), batch_size, start // batch_size)


def _shape(ratio: float, size: int) -> tuple[int, int]:
    """Height and width, the shorter of them `size`."""
    longer = max(size, int(size * max(ratio, 1 / ratio)) // MULTIPLE * MULTIPLE)
    return (size, longer) if ratio >= 1 else (longer, size)


def _central(sizes: NDArray[np.int32], resize: int, height: int, width: int) -> list[tuple[int, ...]]:
    """The boxes to cut out of stored images, as left, top, right, bottom."""
    scale = sizes.min(1) / resize
    across = np.clip(np.rint(width * scale).astype(np.int64), 1, sizes[:, 1])
    down = np.clip(np.rint(height * scale).astype(np.int64), 1, sizes[:, 0])
    left, top = (sizes[:, 1] - across) // 2, (sizes[:, 0] - down) // 2
    return [tuple(box) for box in np.stack([left, top, left + across, top + down], 1).tolist()]


def _cut(dataset: Dataset, sample_id: int, box: tuple[int, ...], shape: tuple[int, int]) -> NDArray[np.uint8]:
    image = open_rgb(read_encoded(dataset, sample_id))
    return np.asarray(image.crop(box).resize(shape, Image.Resampling.BILINEAR))  # type: ignore[arg-type]


def _batch(dataset: Dataset, ids: NDArray[np.intp], cuts: list[NDArray[np.uint8]], rows: int, number: int) -> Batch:
    images = torch.zeros((rows, *cuts[0].shape), dtype=torch.uint8)
    images[: len(ids)] = torch.from_numpy(np.stack(cuts))
    labels, sample_ids = torch.zeros(rows, dtype=torch.int64), torch.full((rows,), -1)
    labels[: len(ids)] = torch.from_numpy(dataset.labels[ids].astype(np.int64))
    sample_ids[: len(ids)] = torch.from_numpy(ids.astype(np.int64))
    return Batch(images, labels, sample_ids, sample_ids >= 0, number)
