"""The native encoder writes the bytes that Pillow's libjpeg-turbo writes of the same pixels."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from imagesprint.images import native
from imagesprint.images.coding import encode_jpeg
from imagesprint.images.native import shrink_jpeg

pytestmark = pytest.mark.skipif(
    not native.LIBRARY.exists(),
    reason="the native decoder is not built: a C compiler or libjpeg's headers are missing",
)

Pixels = NDArray[np.uint8]

PHOTO = load_sample_images().images[1]  # 427 × 640


def photo(height: int, width: int) -> Pixels:
    return np.asarray(Image.fromarray(PHOTO).resize((width, height)))


def flat(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), (250, 20, 130), np.uint8)


def noise(height: int, width: int) -> Pixels:
    """Blocks of extreme colours, which stay so when they are shrunk to half."""
    colours = np.random.default_rng(height * 1000 + width).integers(0, 2, (height // 2, width // 2, 3), np.uint8) * 255
    return colours.repeat(2, axis=0).repeat(2, axis=1)


def is_as_by_pillow(pixels: Pixels, shorter_side: int, quality: int) -> bool:
    """Return whether the image made smaller is encoded as Pillow encodes it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=100, subsampling="4:4:4")
    encoded, raw = (shrink_jpeg(file.getvalue(), [shorter_side], each) for each in (quality, 0))
    assert encoded is not None
    assert raw is not None
    made, plain = encoded.versions[0], raw.versions[0]
    shrunk = np.frombuffer(plain.encoded, np.uint8).reshape(plain.height, plain.width, 3)
    return made.encoded == encode_jpeg(Image.fromarray(shrunk), quality)


@pytest.mark.parametrize("quality", [1, 50, 90, 100])
@pytest.mark.parametrize("make", [photo, flat, noise])
def test_every_size_about_blocks(make: Callable[[int, int], Pixels], quality: int) -> None:
    sides = [1, 2, 7, 8, 9, 15, 16, 17, 24, 25, 33, 40]
    sizes = [(height, width) for height in sides for width in sides]
    others = [size for size in sizes if not is_as_by_pillow(make(2 * size[0], 2 * size[1]), min(size), quality)]
    assert others == []


@pytest.mark.parametrize("quality", [1, 2, 25, 49, 50, 51, 75, 90, 95, 99, 100])
def test_every_kind_of_quality(quality: int) -> None:
    assert is_as_by_pillow(PHOTO, 320, quality)
    assert is_as_by_pillow(noise(300, 500), 150, quality)


@pytest.mark.parametrize("shape", [(2, 65_500), (65_500, 2), (34, 20_002)])
def test_long_images(shape: tuple[int, int]) -> None:
    assert is_as_by_pillow(noise(*shape), min(shape) // 2, 90)
