"""From image files to what a model sees: evaluation's decoder, resize and central square."""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import ImageError
from imagesprint.images.coding import read_size
from imagesprint.images.crops import evaluation_crops
from imagesprint.images.decoders import open_decoder
from imagesprint.images.decoding import BatchImageError
from imagesprint.recipes.recipe import Recipe


class ImageReader:
    """Decodes encoded images as evaluation does: antialiased, to their last row; `image_size` is the side in pixels.

    `threads` decode, by default one a core. Raises UsageError as `open_decoder` does.
    """

    def __init__(self, recipe: Recipe, threads: int | None = None) -> None:
        self.image_size = recipe.eval_image_size
        self._resize = recipe.eval_resize
        self._decoder = open_decoder(threads or len(os.sched_getaffinity(0)))

    def decode(self, encoded: Sequence[bytes]) -> tuple[NDArray[np.uint8], dict[int, ImageError]]:
        """Return the pixels, uint8 [N, S, S, 3], of N image files, and the errors of the rows that are none.

        The pixels of such a row are unspecified.
        """
        pixels = np.zeros((len(encoded), self.image_size, self.image_size, 3), np.uint8)
        sizes, failures = _sizes(encoded)
        crops = evaluation_crops(sizes, self._resize, self.image_size)
        if not failures:
            try:
                self._decode(encoded, crops, pixels)
                return pixels, failures
            except BatchImageError:
                pass  # it names the first only: see which they are one by one
        for row in range(len(encoded)):
            one = slice(row, row + 1)
            if row not in failures:
                try:
                    self._decode(encoded[one], crops[one], pixels[one])
                except BatchImageError as error:
                    failures[row] = error
        return pixels, failures

    def _decode(self, encoded: Sequence[bytes], crops: NDArray[np.int32], out: NDArray[np.uint8]) -> None:
        self._decoder.decode(encoded, crops, np.zeros(len(encoded), np.bool_), True, out, to_end=True)

    def close(self) -> None:
        """End the threads; a second call does nothing."""
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _sizes(encoded: Sequence[bytes]) -> tuple[NDArray[np.int64], dict[int, ImageError]]:
    """Height and width of each image, int64 [N, 2]; 1 × 1 where there is an error."""
    sizes, failures = np.ones((len(encoded), 2), np.int64), {}
    for row, data in enumerate(encoded):
        try:
            sizes[row] = read_size(data)
        except ImageError as error:
            failures[row] = error
    return sizes, failures
