"""Decoding: a batch of encoded images or raw pixels, cropped, resized and mirrored into one buffer of uint8 pixels.

The reference for every decoder is Pillow's `image.crop(box).resize((W, H), BILINEAR)` on RGB, mirrored afterwards
(`resize(box=…)` differs: its filter reaches beyond the box). EXIF orientation is ignored, as ImageNet practice has it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from imagesprint.errors import DataError, ImageError, RecordError
from imagesprint.images.coding import load_image
from imagesprint.images.native import Encoded

STAGES: Final = ("read", "crc", "jpeg", "resize")  # of making a batch's pixels; Pillow's resizing counts as jpeg
READ, CRC, JPEG, RESIZE = range(len(STAGES))

THREAD_PREFIX: Final = "imagesprint-decode"  # of the decoding threads' names
OTHER_SIZE_HINT: Final = "the index and the image disagree about its size: check with `imagesprint verify`"


@dataclass(frozen=True, eq=False)
class Records:
    """N images in TFRecord shards: open files, where the records lie in them, and the images in their payloads.

    `fds` is int32[N]; the four after it, in bytes, are int64[N]. `raw_sizes`, int32[N, 2] as height and width, is given
    where the images are raw pixels. `read` returns the image of a row, once its record is checked, and raises
    RecordError; `damaged` makes the error of a row out of what is wrong with its record.
    """

    fds: NDArray[np.int32]
    offsets: NDArray[np.int64]
    payload_lengths: NDArray[np.int64]
    encoded_offsets: NDArray[np.int64]
    encoded_lengths: NDArray[np.int64]
    raw_sizes: NDArray[np.int32] | None
    read: Callable[[int], Encoded]
    damaged: Callable[[int, str], RecordError]


@dataclass(frozen=True, eq=False)
class DecodeRequest:
    """What is to be made of N images, which lie in shards or in memory.

    `out`, uint8[N, H, W, 3], RGB, gets of each image its box in `crops`, int32[N, 4] as left, top, right, bottom,
    resized to H × W and mirrored where `flips`, bool[N], says so. `antialias` resizes by a triangle filter as wide as
    the reduction; without it four pixels are blended at each output pixel's centre. `to_end` decodes each image to its
    last row, as Pillow does anyway, so that damage below its box is found too.
    """

    images: Records | Sequence[Encoded]
    crops: NDArray[np.int32]
    flips: NDArray[np.bool_]
    antialias: bool
    out: NDArray[np.uint8]
    to_end: bool = False

    def read(self, row: int) -> Encoded:
        """Return the image of a row. Raises RecordError."""
        return self.images.read(row) if isinstance(self.images, Records) else self.images[row]

    def alone(self, row: int) -> "DecodeRequest":
        """Return the request for one image, read into memory. Raises RecordError."""
        one = slice(row, row + 1)
        return replace(self, images=[self.read(row)], crops=self.crops[one], flips=self.flips[one], out=self.out[one])


class Decoder(Protocol):
    """Decodes batches. One batch at a time; its threads are the decoder's own."""

    name: str
    fallbacks: int  # images so far that it left to another decoder
    stages: NDArray[np.int64]  # nanoseconds so far, in the proportion in which STAGES took the batches' time

    def load(self, request: DecodeRequest) -> dict[int, DataError]:
        """Do what is asked for. Returns the errors of the rows whose records or images are bad, lowest row first: a
        RecordError, or an ImageError where the image cannot be decoded, is cut short, or is smaller than its box. The
        pixels of such a row are unspecified.

        Raises RecordError where a shard cannot be read, for which no record is to blame, and MemoryError.
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

    def load(self, request: DecodeRequest) -> dict[int, DataError]:
        began = time.perf_counter_ns()
        encoded, failures = _read_all(request)
        read = time.perf_counter_ns()
        rows = iter(encoded)  # its steps are atomic: each thread takes the next row until none is left
        if self._pool is None:
            _decode(request, encoded, rows, failures)
        else:
            count = min(self._threads, len(encoded))
            workers = [self._pool.submit(_decode, request, encoded, rows, failures) for _ in range(count)]
            wait(workers)  # for all: whatever one raises, none is to write to `out` after this call
            for worker in workers:
                worker.result()
        self.stages[READ] += read - began
        self.stages[JPEG] += time.perf_counter_ns() - read
        return dict(sorted(failures.items()))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def _read_all(request: DecodeRequest) -> tuple[dict[int, Encoded], dict[int, DataError]]:
    """The images by their rows, and the errors of the others."""
    encoded: dict[int, Encoded] = {}
    failures: dict[int, DataError] = {}
    for row in range(len(request.crops)):
        try:
            encoded[row] = request.read(row)
        except RecordError as error:
            if isinstance(error.__cause__, OSError):  # the disk's fault, not the record's
                raise
            failures[row] = error
    return encoded, failures


def _decode(
    request: DecodeRequest, encoded: dict[int, Encoded], rows: Iterator[int], failures: dict[int, DataError]
) -> None:
    for row in rows:
        try:
            image = _crop_and_resize(open_rgb(encoded[row]), request, row)
        except ImageError as error:
            failures[row] = error
        else:
            request.out[row] = np.asarray(image)[:, ::-1] if request.flips[row] else np.asarray(image)


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


def _crop_and_resize(image: Image.Image, request: DecodeRequest, row: int) -> Image.Image:
    left, top, right, bottom = request.crops[row].tolist()
    height, width = request.out.shape[1:3]
    size = (width, height)
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise ImageError(
            f"an image of {image.width}×{image.height} pixels cannot be cropped to ({left}, {top}, {right}, {bottom})",
            OTHER_SIZE_HINT,
        )
    cropped = image.crop((left, top, right, bottom))
    if request.antialias:
        return cropped.resize(size, Image.Resampling.BILINEAR)
    extent = (0, 0, right - left, bottom - top)
    return cropped.transform(size, Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR)
