import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from imagesprint.errors import ImageError
from imagesprint.prepare.shard_writing import CpuMeter, StoredImage, store

PHOTO = Image.fromarray(load_sample_images().images[1])  # 640 × 427
VARIANTS = ("full", "320", "160")


def encode(image: Image.Image, kind: str) -> bytes:
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def store_jpeg(data: bytes, variants: tuple[str, ...], quality: int) -> dict[str, StoredImage]:
    return store(data, variants, quality, "jpeg", CpuMeter())[0]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_full_keeps_the_bytes_of_a_plain_jpeg(mode: str) -> None:
    data = encode(PHOTO.convert(mode), "JPEG")
    stored = store_jpeg(data, VARIANTS, 90)
    assert stored["full"].encoded == data
    assert [(image.width, image.height) for image in stored.values()] == [(640, 427), (480, 320), (240, 160)]
    for image in stored.values():
        assert Image.open(io.BytesIO(image.encoded)).size == (image.width, image.height)
    assert Image.open(io.BytesIO(stored["160"].encoded)).mode == "RGB"


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "GIF"), ("RGBA", "WEBP")])
def test_full_encodes_anything_else(mode: str, kind: str) -> None:
    stored = store_jpeg(encode(PHOTO.convert(mode), kind), ("full",), 95)["full"]
    found = Image.open(io.BytesIO(stored.encoded))
    assert (found.format, found.mode, found.size) == ("JPEG", "RGB", (640, 427))
    assert np.abs(np.asarray(found).astype(int) - np.asarray(PHOTO)).mean() < 12  # GIF has 256 colours


def test_nothing_is_enlarged_and_small_jpegs_keep_their_bytes() -> None:
    data = encode(PHOTO.resize((200, 160)), "JPEG")
    stored = store_jpeg(data, VARIANTS, 50)
    assert [image.encoded == data for image in stored.values()] == [True, True, True]
    png = store_jpeg(encode(PHOTO.resize((20, 10)), "PNG"), VARIANTS, 90)
    assert {(image.width, image.height) for image in png.values()} == {(20, 10)}
    assert len({image.encoded for image in png.values()}) == 1


@pytest.mark.parametrize("variants", [("full",), ("160",), VARIANTS])
@pytest.mark.parametrize("data", [b"", b"GIF89a", encode(PHOTO, "JPEG")[:9000]])
def test_rejection_does_not_depend_on_the_variants(variants: tuple[str, ...], data: bytes) -> None:
    with pytest.raises(ImageError):
        store_jpeg(data, variants, 90)
