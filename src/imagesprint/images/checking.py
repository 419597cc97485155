"""Whether an image is sound down to its last row: for `verify --decode`."""

import threading

from imagesprint.images.coding import open_image
from imagesprint.images.decoders import use_native
from imagesprint.images.native_images import shrink_jpeg


class ImageCheck:
    """Decodes whole images, natively where that is possible, else by Pillow; any number of threads may call it.

    The verdict is that of `coding.load_image`. Natively, `num_stray` counts images with stray bytes before a marker,
    which harm no pixel. Raises UsageError as `use_native` does.
    """

    def __init__(self) -> None:
        self.num_stray = 0
        self._natively = use_native()
        self._lock = threading.Lock()

    def __call__(self, encoded: bytes) -> tuple[int, int]:
        """Return height and width in pixels. Raises ImageError with the reason where the image is damaged."""
        decoded = shrink_jpeg(encoded, (), 0) if self._natively else None
        if decoded is None:
            image = open_image(encoded)
            return image.height, image.width
        if decoded.num_stray:
            with self._lock:
                self.num_stray += 1
        return decoded.info.height, decoded.info.width
