"""The batch that loaders yield, and how it is read and decoded into a reused buffer."""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imagesprint.errors import DataError
from imagesprint.images.decoding import Decoder
from imagesprint.loading.load import Load
from imagesprint.loading.stand_ins import decode_sound


@dataclass(frozen=True, eq=False)
class Batch:
    """Images and what belongs to them; row i of each tensor is one sample. Valid until the next batch is asked for,
    which may be the same tensors with other values.

    images: uint8 [M, S, S, 3], RGB. labels: int64 [M], from 0. sample_ids: int64 [M], rows of the split's index.
    mask: bool [M], False for the padding of an evaluation's last batch (images and label 0, sample id −1).
    step: the training step, or the number of the evaluation's batch.
    """

    images: torch.Tensor
    labels: torch.Tensor
    sample_ids: torch.Tensor
    mask: torch.Tensor
    step: int


@dataclass(frozen=True, eq=False)
class Filled:
    """A batch, and the errors of the bad records in whose place others stand in it.

    `seconds` is how long it took to make, `stages` what the decoder counted meanwhile (`Decoder.stages`).
    """

    batch: Batch
    bad: tuple[DataError, ...]
    seconds: float
    stages: NDArray[np.int64]


class Buffer:
    """Memory for one batch of up to `rows` rows and `values` pixel values; `pin` locks the pages for fast copies."""

    def __init__(self, rows: int, values: int, pin: bool) -> None:
        self._pixels = torch.empty(values, dtype=torch.uint8, pin_memory=pin)
        self._labels = torch.empty(rows, dtype=torch.int64, pin_memory=pin)
        self._sample_ids = torch.empty(rows, dtype=torch.int64, pin_memory=pin)
        self._mask = torch.empty(rows, dtype=torch.bool, pin_memory=pin)
        self._views: _Views | None = None

    def fill(self, load: Load, decoder: Decoder) -> Filled:
        """Read and decode `load` into this buffer; the batch's tensors are views of it.

        Raises RecordError for a damaged record, ImageError for an image that cannot be decoded, where no other may
        stand in; both say which.
        """
        began, stages = time.perf_counter(), decoder.stages.copy()
        rows, real, views = load.rows, len(load.sample_ids), self._views_for(load.rows, load.image_size)
        images, labels, sample_ids, mask = views.arrays
        decoded = decode_sound(load, decoder, images[:real])
        labels[:real] = load.dataset.labels[decoded.sample_ids]
        sample_ids[:real] = decoded.sample_ids
        mask[:real] = True
        if real < rows:
            images[real:], labels[real:], sample_ids[real:], mask[real:] = 0, 0, -1, False
        batch = Batch(*views.tensors, load.step)
        return Filled(batch, decoded.bad, time.perf_counter() - began, decoder.stages - stages)

    def _views_for(self, rows: int, image_size: int) -> "_Views":
        """This memory as a batch's tensors; those of the last call if they fit: torch takes 0.15 ms for new ones."""
        views = self._views
        if views is None or (views.rows, views.image_size) != (rows, image_size):
            shape = (rows, image_size, image_size, 3)
            pixels = self._pixels[: math.prod(shape)].view(shape)
            tensors = (pixels, self._labels[:rows], self._sample_ids[:rows], self._mask[:rows])
            views = self._views = _Views(rows, image_size, tensors, tuple(each.numpy() for each in tensors))
        return views


@dataclass(frozen=True, eq=False)
class _Views:
    """Images, labels, sample ids and mask of `rows` rows, as tensors and, the same memory, as arrays: torch refuses to
    write to what was made inside the consumer's inference_mode, numpy does not.
    """

    rows: int
    image_size: int
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
    arrays: tuple[NDArray[Any], ...]
