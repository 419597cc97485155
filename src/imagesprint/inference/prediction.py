"""`predict`: the likeliest classes of image files, read by evaluation's decoder, resize and central square."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from imagesprint.console import Console, Progress
from imagesprint.errors import CheckpointError, DataError, ImageError
from imagesprint.images.coding import read_size
from imagesprint.images.crops import evaluation_crops, evaluation_shapes
from imagesprint.images.decoders import open_decoder
from imagesprint.images.decoding import DecodeRequest
from imagesprint.inference.opening import OpenModel
from imagesprint.loading.ring import Ring

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

    def as_object(self) -> dict[str, object]:
        """The form of `predict --json`, for JSON."""
        if self.error:
            return {"image": self.image, "error": self.error}
        top = [{"class": one.label, "name": one.name, "probability": one.probability} for one in self.top]
        return {"image": self.image, "top": top}


def predict(model: OpenModel, images: Sequence[Path], top: int, console: Console) -> list[Prediction]:
    """Return the `top` likeliest classes of each of `images`, in batches of the model's `batch_size`.

    Their order is kept. A file that is not there or no image has its error in its place. Raises as `candidates` does.
    """
    reader = ImageReader(model.image_size, model.resize, shape=model.shape)
    batches = [images[start : start + model.batch_size] for start in range(0, len(images), model.batch_size)]
    progress = Progress(console, "predicting")
    progress.begin(len(images), 0)
    predictions: list[Prediction] = []
    for paths, pixels, failures in Ring(batches, _SLOTS, lambda paths, _: _read(reader, paths), reader.close):
        found = iter(candidates(model.infer(pixels), model, top))
        for row, (path, best) in enumerate(zip(paths, found, strict=True)):
            error = failures.get(row, "")
            predictions.append(Prediction(path, () if error else best, error))
        if len(batches) > 1:
            progress.add(len(paths))
    progress.end()
    return predictions


def candidates(logits: NDArray[np.float32], model: OpenModel, top: int) -> list[tuple[Candidate, ...]]:
    """Return the `top` likeliest classes, the likeliest first, of each row of `logits` [N, C], as `model` gave them.

    Raises CheckpointError where they are no numbers.
    """
    if not np.isfinite(logits).all():
        raise CheckpointError(
            f"{model.checkpoint} gives no numbers for an image: its weights are beyond what float32 holds",
            "use another checkpoint",
        )
    values, labels = torch.from_numpy(logits).softmax(1).topk(min(top, len(model.classes)))
    return [
        tuple(Candidate(label, model.class_texts[label], value) for label, value in zip(*row, strict=True))
        for row in zip(labels.tolist(), values.tolist(), strict=True)
    ]


def _read(
    reader: "ImageReader", paths: Sequence[Path]
) -> tuple[Sequence[Path], list[NDArray[np.uint8]], dict[int, str]]:
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


class ImageReader:
    """Decodes encoded images as evaluation does: antialiased, to their last row.

    The shorter side is made `resize` pixels long, and the centre of `shape` cut out (`evaluation_shapes` of
    `image_size`). `threads` decode, by default one a core. An image of more than `most_pixels` pixels is too large.
    Raises UsageError as `open_decoder` does.
    """

    def __init__(
        self,
        image_size: int,
        resize: int,
        threads: int | None = None,
        most_pixels: int | None = None,
        shape: str = "square",
    ) -> None:
        self._image_size = image_size
        self._resize = resize
        self._shape = shape
        self._most_pixels = most_pixels
        self._decoder = open_decoder(threads or len(os.sched_getaffinity(0)))

    def decode(self, encoded: Sequence[bytes]) -> tuple[list[NDArray[np.uint8]], dict[int, DataError]]:
        """Return the pixels of N image files, each uint8 [H, W, 3], and the errors of the rows that are none.

        The pixels of such a row are unspecified.
        """
        sizes, failures = _sizes(encoded, self._most_pixels)
        crops = evaluation_crops(sizes, self._resize, self._image_size, self._shape)
        files = [b"" if row in failures else data for row, data in enumerate(encoded)]  # which costs nothing to refuse
        shapes = list(map(tuple, evaluation_shapes(sizes, self._image_size, self._shape).tolist()))
        pixels: dict[int, NDArray[np.uint8]] = {}
        for height, width in dict.fromkeys(shapes):
            rows = [row for row, shape in enumerate(shapes) if shape == (height, width)]
            out, alike = np.zeros((len(rows), height, width, 3), np.uint8), [files[row] for row in rows]
            request = DecodeRequest(alike, crops[rows], np.zeros(len(rows), np.bool_), True, out, to_end=True)
            failures = {rows[number]: error for number, error in self._decoder.load(request).items()} | failures
            pixels |= dict(zip(rows, out, strict=True))
        return [pixels[row] for row in range(len(files))], failures

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _sizes(encoded: Sequence[bytes], most_pixels: int | None) -> tuple[NDArray[np.int64], dict[int, DataError]]:
    """Height and width of each image, int64 [N, 2]; 1 × 1 where there is an error."""
    sizes, failures = np.ones((len(encoded), 2), np.int64), dict[int, DataError]()
    for row, data in enumerate(encoded):
        try:
            height, width = read_size(data)
            if most_pixels is not None and height * width > most_pixels:
                raise ImageError(f"too large: {width} × {height} pixels, and {most_pixels:,} in all are taken")
        except ImageError as error:
            failures[row] = error
        else:
            sizes[row] = height, width
    return sizes, failures
