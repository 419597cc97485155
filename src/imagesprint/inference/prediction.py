"""`predict`: the likeliest classes of image files, read by evaluation's decoder, resize and central square."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imagesprint.checkpoints.weights import TrainedModel, load_model
from imagesprint.console import Console, Progress
from imagesprint.errors import CheckpointError, DataError, ImageError
from imagesprint.evaluating.evaluation import evaluation_arithmetic
from imagesprint.images.coding import read_size
from imagesprint.images.crops import evaluation_crops
from imagesprint.images.decoders import open_decoder
from imagesprint.images.decoding import DecodeRequest
from imagesprint.loading.ring import Ring
from imagesprint.recipes.recipe import Recipe
from imagesprint.runs.ranks import open_ranks
from imagesprint.storage.url import Place

_SLOTS: Final = (0, 1)  # batches in being: one is decoded while the model works on the other


@dataclass(frozen=True)
class Candidate:
    """A class that an image may be of: its number, from 0, its words, and its probability, 0..1."""

    label: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of the file `image`, the likeliest first; none where it cannot be read, for `error`."""

    image: Path
    top: tuple[Candidate, ...]
    error: str = ""


def predict_files(model: Place, images: Sequence[Path], top: int, device: str, console: Console) -> list[Prediction]:
    """Predict `images` with the model of a run or checkpoint, or of the URL of one, on `device` (auto, cpu or cuda).

    The arithmetic is that of `evaluate`. Raises as `load_model` and `open_ranks` do.
    """
    with open_ranks(device) as ranks:
        return predict(load_model(model).to(ranks.device), images, top, console)


@torch.inference_mode()
def predict(model: TrainedModel, images: Sequence[Path], top: int, console: Console) -> list[Prediction]:
    """Return the `top` likeliest classes of each of `images`, on the model's device, in batches of `eval_batch_size`.

    Their order is kept. A file that is not there or no image has its error in its place. Raises CheckpointError where
    the model's answer is no number.
    """
    model.eval()
    reader = ImageReader(model.recipe)
    size = model.recipe.eval_batch_size
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    progress = Progress(console, "predicting")
    progress.begin(len(images), 0)
    predictions: list[Prediction] = []
    for paths, pixels, failures in Ring(batches, _SLOTS, lambda paths, _: _read(reader, paths), reader.close):
        with evaluation_arithmetic(model.mean.device):
            probabilities = model(torch.from_numpy(pixels).to(model.mean.device)).softmax(1).cpu()
        for row, path in enumerate(paths):
            if row in failures:
                predictions.append(Prediction(path, (), failures[row]))
            elif not probabilities[row].isfinite().all():
                raise CheckpointError(
                    f"the model gives no numbers for {path}: its weights are beyond what float32 holds",
                    "use another checkpoint",
                )
            else:
                predictions.append(Prediction(path, _candidates(model, probabilities[row], top)))
        if len(batches) > 1:
            progress.add(len(paths))
    progress.end()
    return predictions


def _read(reader: "ImageReader", paths: Sequence[Path]) -> tuple[Sequence[Path], NDArray[np.uint8], dict[int, str]]:
    """The pixels of a batch, and why rows have none."""
    encoded, unread = [], {}
    for row, path in enumerate(paths):
        try:
            encoded.append(path.read_bytes())
        except OSError as error:
            encoded.append(b"")
            unread[row] = error.strerror or str(error)
    pixels, failures = reader.decode(encoded)
    return paths, pixels, {row: error.what for row, error in failures.items()} | unread


def _candidates(model: TrainedModel, probabilities: Tensor, top: int) -> tuple[Candidate, ...]:
    values, labels = probabilities.topk(min(top, len(model.classes)))
    return tuple(
        Candidate(label, model.class_texts[label], value)
        for label, value in zip(labels.tolist(), values.tolist(), strict=True)
    )


class ImageReader:
    """Decodes encoded images as evaluation does: antialiased, to their last row; `image_size` is the side in pixels.

    `threads` decode, by default one a core. Raises UsageError as `open_decoder` does.
    """

    def __init__(self, recipe: Recipe, threads: int | None = None) -> None:
        self.image_size = recipe.eval_image_size
        self._resize = recipe.eval_resize
        self._decoder = open_decoder(threads or len(os.sched_getaffinity(0)))

    def decode(self, encoded: Sequence[bytes]) -> tuple[NDArray[np.uint8], dict[int, DataError]]:
        """Return the pixels, uint8 [N, S, S, 3], of N image files, and the errors of the rows that are none.

        The pixels of such a row are unspecified.
        """
        pixels = np.zeros((len(encoded), self.image_size, self.image_size, 3), np.uint8)
        sizes, failures = _sizes(encoded)
        crops = evaluation_crops(sizes, self._resize, self.image_size)
        request = DecodeRequest(encoded, crops, np.zeros(len(encoded), np.bool_), True, pixels, to_end=True)
        return pixels, self._decoder.load(request) | failures

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sizes(encoded: Sequence[bytes]) -> tuple[NDArray[np.int64], dict[int, DataError]]:
    """Height and width of each image, int64 [N, 2]; 1 × 1 where there is an error."""
    sizes, failures = np.ones((len(encoded), 2), np.int64), dict[int, DataError]()
    for row, data in enumerate(encoded):
        try:
            sizes[row] = read_size(data)
        except ImageError as error:
            failures[row] = error
    return sizes, failures
