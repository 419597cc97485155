"""What each variant stores of one source image: decoded once, natively where that is possible, else by Pillow.

Both give the same JPEGs but for pixels that are rounded otherwise.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from imagesprint.images.coding import encode_jpeg, is_plain_jpeg, kind_of, open_image, shrink
from imagesprint.images.decoders import use_native
from imagesprint.images.decoding import to_rgb
from imagesprint.images.native import shrink_jpeg
from imagesprint.records.dataset import FULL, variant_size

DECODE = "decode"  # what CPU seconds are spent on beside the variants: reading, hashing and decoding


@dataclass(frozen=True)
class StoredImage:
    """An image as a variant stores it: a JPEG or raw pixels, its height and its width."""

    encoded: bytes
    height: int
    width: int


class Stopwatch:
    """Sums up the CPU seconds of a thread by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.thread_time()

    def lap(self, name: str) -> None:
        """Count what was spent since the lap before as spent on `name`."""
        self.split({name: 1.0})

    def split(self, shares: Mapping[str, float]) -> None:
        """Count what was spent since the lap before in these proportions, which are positive."""
        now = time.thread_time()
        each = (now - self._last) / sum(shares.values())
        for name, share in shares.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + share * each
        self._last = now


def coder() -> str:
    """Return what shrinks JPEGs on this machine, on which their bytes depend: "native" or "pillow"."""
    return "native" if use_native() else "pillow"


def store(
    data: bytes, variants: tuple[str, ...], quality: int, image_format: str, stopwatch: Stopwatch
) -> tuple[dict[str, StoredImage], str]:
    """Return what each variant stores of a source file and, where that is no JPEG in RGB or grey, what it is.

    An image that is no larger than a variant is stored as in "full": the original bytes of a JPEG in RGB or grey (one
    more encoding would only lose), anything else encoded. A larger one is shrunk from the original pixels and encoded.
    As "raw" the pixels are stored instead. Raises ImageError with the reason if the file is rejected, which does not
    depend on the variants.
    """
    stored = _store_natively(data, variants, quality, image_format, stopwatch)
    return (stored, "") if stored else _store_by_pillow(data, variants, quality, image_format, stopwatch)


def _store_natively(
    data: bytes, variants: tuple[str, ...], quality: int, image_format: str, stopwatch: Stopwatch
) -> dict[str, StoredImage] | None:
    """Do the work of `store`; None where the file is not one for the native decoder, or that is not there."""
    if coder() != "native":
        return None
    anew = [variant for variant in variants if variant != FULL or image_format == "raw"]
    sides = [int(variant_size(variant)) for variant in anew]
    made = shrink_jpeg(data, sides, 0 if image_format == "raw" else quality)
    if made is None:
        return None
    info = made.info
    stored = dict.fromkeys(variants, StoredImage(data, info.height, info.width))
    for variant, version in zip(anew, made.versions, strict=True):
        if version.encoded:
            stored[variant] = StoredImage(version.encoded, version.height, version.width)
    seconds = {variant: version.seconds for variant, version in zip(anew, made.versions, strict=True)}
    stopwatch.split({DECODE: made.decode_seconds, **seconds})
    return stored


def _store_by_pillow(
    data: bytes, variants: tuple[str, ...], quality: int, image_format: str, stopwatch: Stopwatch
) -> tuple[dict[str, StoredImage], str]:
    image = open_image(data)
    former = "" if is_plain_jpeg(image) else kind_of(image)
    rgb = to_rgb(image)
    stopwatch.lap(DECODE)
    unchanged = None
    stored = {}
    for variant in variants:
        smaller = shrink(rgb, variant_size(variant))
        if smaller is not rgb:
            stored[variant] = _encode(smaller, quality, image_format)
        else:
            if unchanged is None:
                keep = image_format == "jpeg" and not former
                unchanged = StoredImage(data, rgb.height, rgb.width) if keep else _encode(rgb, quality, image_format)
            stored[variant] = unchanged
        stopwatch.lap(variant)
    return stored, former


def _encode(rgb: Image.Image, quality: int, image_format: str) -> StoredImage:
    encoded = encode_jpeg(rgb, quality) if image_format == "jpeg" else rgb.tobytes()
    return StoredImage(encoded, rgb.height, rgb.width)
