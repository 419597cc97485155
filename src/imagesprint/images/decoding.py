"""Decoding: a batch of encoded images or raw pixels, cropped, resized and mirrored into one buffer of uint8 pixels.

The reference for every decoder is Pillow's `image.crop(box).resize((S, S), BILINEAR)` on RGB, mirrored afterwards
(`resize(box=…)` differs: its filter reaches beyond the box). EXIF orientation is ignored, as ImageNet practice has it.
"""

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from imagesprint.errors import ImageError
from imagesprint.images.coding import load_image
from imagesprint.images.native import Encoded

STAGES: Final = ("read", "crc", "jpeg", "resize")  # of making a batch's pixels; Pillow's resizing counts as jpeg
READ, CRC, JPEG, RESIZE = range(len(STAGES))

THREAD_PREFIX: Final = "imagesprint-decode"  # of the decoding threads' names


class BatchImageError(ImageError):
    """One image of a batch could not be decoded; `position` is its row."""

    def __init__(self, what: str, hint: str = "", position: int = 0) -> None:
        super().__init__(what, hint)
        self.position = position

    def __reduce__(self) -> tuple[type["BatchImageError"], tuple[str, str, int]]:  # type: ignore[override]
        return type(self), (self.what, self.hint, self.position)


class Decoder(Protocol):
    """Decodes batches. One batch at a time; its threads are the decoder's own."""

    name: str
    fallbacks: int  # images so far that it left to another decoder
    stages: NDArray[np.int64]  # nanoseconds so far, in the proportion in which STAGES took the batches' time

    def decode(
        self,
        encoded: Sequence[Encoded],
        crops: NDArray[np.int32],
        flips: NDArray[np.bool_],
        antialias: bool,
        out: NDArray[np.uint8],
        to_end: bool = False,
    ) -> None:
        """Fill `out`, uint8[N, S, S, 3], RGB: of each of the N images its box in `crops`, int32[N, 4] as left, top,
        right, bottom, resized to S × S and mirrored where `flips`, bool[N], says so.

        `antialias` resizes by a triangle filter as wide as the reduction; without it four pixels are blended at each
        output pixel's centre. `to_end` decodes each image to its last row, as Pillow does anyway, so that damage below
        its box is found too. Raises BatchImageError for the first (lowest) row that cannot be decoded, is cut short,
        or is smaller than its box; the other rows of `out` are then unspecified.
        """
        ...

    def close(self) -> None:
        """End the decoder's threads; a second call does nothing."""
        ...


class PillowDecoder:
    """The reference: Pillow, which lets go of the interpreter's lock while it decodes, in a pool of threads."""

    name: str = "pillow"
    fallbacks: int = 0

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, THREAD_PREFIX) if threads > 1 else None
        self.stages = np.zeros(len(STAGES), np.int64)

    def decode(
        self,
        encoded: Sequence[Encoded],
        crops: NDArray[np.int32],
        flips: NDArray[np.bool_],
        antialias: bool,
        out: NDArray[np.uint8],
        to_end: bool = False,  # noqa: ARG002 (it always does)
    ) -> None:
        batch, began = _Batch(encoded, crops, flips, antialias, out), time.perf_counter_ns()
        if self._pool is None:
            batch.work()
        else:
            workers = [self._pool.submit(batch.work) for _ in range(min(self._threads, len(encoded)))]
            wait(workers)  # for all: whatever one raises, none is to write to `out` after this call
            for worker in workers:
                worker.result()
        self.stages[JPEG] += time.perf_counter_ns() - began
        if batch.failures:
            raise min(batch.failures, key=lambda failure: failure.position)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


class _Batch:
    """One batch on its way: each thread takes the next image until none is left or one has failed.

    Images are handed out in order and each one begun is ended, so the lowest failing row is the same however many
    threads there are.
    """

    def __init__(
        self,
        encoded: Sequence[Encoded],
        crops: NDArray[np.int32],
        flips: NDArray[np.bool_],
        antialias: bool,
        out: NDArray[np.uint8],
    ) -> None:
        self.failures: list[BatchImageError] = []
        self._encoded, self._boxes, self._flips = encoded, crops.tolist(), flips.tolist()
        self._antialias, self._out = antialias, out
        self._next = itertools.count()  # its steps are atomic

    def work(self) -> None:
        while not self.failures and (row := next(self._next)) < len(self._encoded):
            try:
                image = open_rgb(self._encoded[row])
                pixels = np.asarray(_crop_and_resize(image, self._boxes[row], self._out.shape[1], self._antialias))
            except ImageError as error:
                self.failures.append(BatchImageError(error.what, error.hint, row))
                return
            self._out[row] = pixels[:, ::-1] if self._flips[row] else pixels


def open_rgb(encoded: Encoded) -> Image.Image:
    """The whole image in RGB, 8 bits a channel, as `to_rgb` has it. Raises ImageError as `coding.load_image` does."""
    return Image.fromarray(encoded) if isinstance(encoded, np.ndarray) else to_rgb(load_image(bytes(encoded)))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image in RGB, 8 bits a channel: itself if it is that already; grey repeated, palettes looked up, CMYK
    and LAB converted, alpha dropped, of 16 bits the upper eight. Pixels are taken as they are, whatever EXIF says.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow's own conversion would clip at 255
        high_bytes = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
        return Image.fromarray(high_bytes.astype(np.uint8)).convert("RGB")
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every JPEG's CMYK for inverted, which only Adobe's is
    if image.mode == "La":  # with its alpha multiplied in, as a TIFF may be
        image = image.convert("LA")
    if image.mode == "P" and "transparency" in image.info:  # straight to RGB, Pillow would warn
        image = image.convert("RGBA")
    return image.convert("RGB")


def _crop_and_resize(image: Image.Image, box: list[int], size: int, antialias: bool) -> Image.Image:
    left, top, right, bottom = box
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise ImageError(
            f"an image of {image.width}×{image.height} pixels cannot be cropped to ({left}, {top}, {right}, {bottom})",
            "the index and the image disagree about its size: check with `imagesprint verify`",
        )
    cropped = image.crop((left, top, right, bottom))
    if antialias:
        return cropped.resize((size, size), Image.Resampling.BILINEAR)
    extent = (0, 0, right - left, bottom - top)
    return cropped.transform((size, size), Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR)
