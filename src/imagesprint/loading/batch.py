"""The batch that loaders yield, and how it is read and decoded into a reused buffer."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from imagesprint.errors import ImageError, RecordError
from imagesprint.images.decoding import BatchImageError, Decoder, Encoded
from imagesprint.records.dataset import Dataset


@dataclass(frozen=True, eq=False)
class Batch:
    """Images and what belongs to them; row i of each tensor is one sample. Valid until the next batch is asked for.

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
class Load:
    """One batch to be made: `rows` rows of which the first len(sample_ids) are samples and the rest padding.

    sample_ids int64[N], crops int32[N, 4] and flips bool[N] are as `images.decoding` takes them.
    """

    dataset: Dataset
    sample_ids: NDArray[np.int64]
    crops: NDArray[np.int32]
    flips: NDArray[np.bool_]
    antialias: bool
    rows: int
    image_size: int
    step: int


class Buffer:
    """Memory for one batch of up to `rows` rows and `values` pixel values; `pin` locks the pages for fast copies."""

    def __init__(self, rows: int, values: int, pin: bool) -> None:
        self._pixels = torch.empty(values, dtype=torch.uint8, pin_memory=pin)
        self._labels = torch.empty(rows, dtype=torch.int64, pin_memory=pin)
        self._sample_ids = torch.empty(rows, dtype=torch.int64, pin_memory=pin)
        self._mask = torch.empty(rows, dtype=torch.bool, pin_memory=pin)

    def fill(self, load: Load, decoder: Decoder) -> Batch:
        """Read and decode `load` into this buffer; the batch's tensors are views of it.

        Raises RecordError for a damaged record, ImageError for an image that cannot be decoded; both say which.
        """
        rows, size, real = load.rows, load.image_size, len(load.sample_ids)
        batch = Batch(
            images=self._pixels[: rows * size * size * 3].view(rows, size, size, 3),
            labels=self._labels[:rows],
            sample_ids=self._sample_ids[:rows],
            mask=self._mask[:rows],
            step=load.step,
        )
        encoded = [_read(load.dataset, sample_id) for sample_id in load.sample_ids.tolist()]
        try:
            decoder.decode(encoded, load.crops, load.flips, load.antialias, batch.images[:real].numpy())
        except BatchImageError as error:
            raise _located(error, load) from error
        # Through numpy: torch refuses to write to buffers that were made inside the consumer's inference_mode.
        images, labels, mask = batch.images.numpy(), batch.labels.numpy(), batch.mask.numpy()
        sample_ids = batch.sample_ids.numpy()
        labels[:real] = load.dataset.labels[load.sample_ids]
        sample_ids[:real] = load.sample_ids
        mask[:real] = True
        images[real:], labels[real:], sample_ids[real:], mask[real:] = 0, 0, -1, False
        return batch


def _read(dataset: Dataset, sample_id: int) -> Encoded:
    data = dataset.read(sample_id)
    if dataset.image_format != "raw":
        return data
    height, width = dataset.sizes[sample_id].tolist()
    if len(data) != height * width * 3:
        raise RecordError(
            f"{dataset.describe(sample_id)}: {len(data)} bytes are not {width} × {height} raw pixels",
            f"`imagesprint verify {dataset.path}` lists all damage",
        )
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _located(error: BatchImageError, load: Load) -> ImageError:
    where = load.dataset.describe(int(load.sample_ids[error.position]))
    hint = error.hint or "`imagesprint prepare` leaves images out that cannot be decoded: prepare the dataset again"
    return ImageError(f"{where}: {error.what}", hint)
