import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google_crc32c import value as reference_crc
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from imagesprint.errors import ImageError
from imagesprint.images.coding import encode_jpeg, shrunk_size
from imagesprint.images.native import (
    LIBRARY,
    JpegInfo,
    Shrunk,
    Version,
    crc32c,
    entropy_seconds,
    read_info,
    shrink_jpeg,
)

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the native decoder is not built")

PHOTOS = [Image.fromarray(array) for array in load_sample_images().images]  # two of 640 × 427
Pixels = NDArray[np.uint8]


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


GOOD = encode(PHOTOS[0].resize((200, 150)), quality=90)


def shrink(data: bytes, sides: list[int], quality: int) -> Shrunk:
    made = shrink_jpeg(data, sides, quality)
    assert made is not None
    return made


def pixels_of(version: Version) -> Pixels:
    return np.frombuffer(version.encoded, np.uint8).reshape(version.height, version.width, 3)


def test_what_the_headers_say() -> None:
    assert read_info(encode(PHOTOS[0], progressive=True)) == JpegInfo(427, 640, 3, True)
    assert read_info(encode(PHOTOS[0].convert("L"))) == JpegInfo(427, 640, 1, False)


def test_raw_versions_are_pillows_pixels(encode_kind: Callable[[Image.Image], bytes]) -> None:
    for number, (width, height) in enumerate([(2, 1), (33, 47), (301, 200), (640, 427)]):
        data = encode_kind(PHOTOS[number % 2].resize((width, height)))
        whole = Image.open(io.BytesIO(data)).convert("RGB")
        sides = [1, 13, 160, 10_000]
        made = shrink(data, sides, 0)
        assert (made.info.height, made.info.width) == (whole.height, whole.width)
        for side, version in zip(sides, made.versions, strict=True):
            size = version.height, version.width
            assert size == shrunk_size((whole.height, whole.width), side)
            expected = np.asarray(whole.resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
            assert np.abs(expected - pixels_of(version)).max() <= 1


@pytest.mark.parametrize("size", [(640, 427), (101, 1000), (427, 3), (161, 161), (333, 250), (5, 7)])
def test_sizes_are_those_of_pillows_way(size: tuple[int, int]) -> None:
    data, sides = encode(PHOTOS[0].resize(size)), [1, 2, 5, 100, 160, 161, 249, 250, 426]
    for side, version in zip(sides, shrink(data, sides, 90).versions, strict=True):
        assert (version.height, version.width) == shrunk_size(size[::-1], side)


@pytest.mark.parametrize("quality", [1, 50, 90, 100])
def test_versions_are_encoded_as_pillow_encodes_their_pixels(
    encode_kind: Callable[[Image.Image], bytes], quality: int
) -> None:
    data, sides = encode_kind(PHOTOS[1].resize((330, 220))), [1, 17, 160]
    made, raw = shrink(data, sides, quality), shrink(data, sides, 0)
    for version, plain in zip(made.versions, raw.versions, strict=True):
        assert version.encoded == encode_jpeg(Image.fromarray(pixels_of(plain)), quality)


def test_several_versions_at_once_are_those_made_alone() -> None:
    data, sides = encode(PHOTOS[0]), [160, 320, 17, 160]
    for quality in (0, 90):
        alone = [shrink(data, [side], quality).versions[0].encoded for side in sides]
        assert [version.encoded for version in shrink(data, sides, quality).versions] == alone
    assert shrink(data, [], 90).versions == ()


def test_a_jpeg_that_would_be_no_smaller_is_not_made() -> None:
    made = shrink(GOOD, [149, 150, 151, 10_000], 90)
    assert [bool(version.encoded) for version in made.versions] == [True, False, False, False]
    assert [(version.height, version.width) for version in made.versions[1:]] == [(150, 200)] * 3
    assert made.decode_seconds > 0
    assert made.versions[0].seconds > 0


@pytest.mark.parametrize("progressive", [False, True])
def test_shrinking_finds_what_pillow_finds(progressive: bool) -> None:
    good = encode(PHOTOS[1].resize((90, 70)), quality=80, progressive=progressive, restart_marker_blocks=7)
    rng = np.random.default_rng(0)
    found = {"both": 0, "native": 0, "neither": 0}
    for _ in range(400):
        data = bytearray(good)
        place = int(rng.integers(len(data)))
        if rng.integers(3):
            data[place] = int(rng.integers(256))
        else:
            del data[place : place + int(rng.integers(1, 400))]
        try:
            Image.open(io.BytesIO(data), formats=["JPEG"]).load()
            seen = False
        except Exception:  # as in `open_rgb`
            seen = True
        try:
            sound = shrink_jpeg(bytes(data), [], 0) is not None
            assert not (sound and seen)
            found["neither"] += sound
        except ImageError:
            found["both" if seen else "native"] += 1
    assert all(found.values()), found


def test_damage_raises_and_stray_bytes_are_counted() -> None:
    for data in (GOOD[: len(GOOD) // 2], GOOD[:-2], GOOD[:400]):
        for sides in ([], [40], [40, 20]):
            with pytest.raises(ImageError, match=r"^damaged: .+"):
                shrink_jpeg(data, sides, 90)
    stray = GOOD[:-2] + b"abc" * 9 + GOOD[-2:]  # before the end marker: libjpeg warns, but no pixel is harmed
    found, expected = shrink(stray, [40], 0), shrink(GOOD, [40], 0)
    assert (found.num_stray, expected.num_stray) == (1, 0)
    np.testing.assert_array_equal(pixels_of(found.versions[0]), pixels_of(expected.versions[0]))


def test_what_is_left_to_pillow() -> None:
    for data in (encode(PHOTOS[0].convert("CMYK")), encode(PHOTOS[0].resize((64, 48)), "PNG"), b""):
        assert read_info(data) is None
        assert shrink_jpeg(data, [20], 90) is None
        with pytest.raises(ImageError, match="no JPEG which libjpeg decodes"):
            entropy_seconds(data)


def test_little_memory_is_not_the_images_fault(with_little_memory: Callable[[str, str], str], tmp_path: Path) -> None:
    file = tmp_path / "large.jpg"
    file.write_bytes(encode(Image.new("L", (8000, 6000))))  # 144 MB of pixels
    before = f"""
from imagesprint.images.native import shrink_jpeg
with open({str(file)!r}, "rb") as file:
    data = file.read()
shrink_jpeg(data, [60], 90)
"""
    assert with_little_memory(before, "shrink_jpeg(data, [10_000], 0)") == "MemoryError"


def test_entropy_decoding_takes_part_of_the_time() -> None:
    data = encode(PHOTOS[0], quality=95)
    last = PHOTOS[0].height
    whole, top, all_rows = (min(entropy_seconds(data, rows) for _ in range(5)) for rows in (0, 40, last))
    assert 0 < top < min(whole, all_rows)
    for rows in (0, last):
        with pytest.raises(ImageError):
            entropy_seconds(data[: len(data) // 2], rows)
    assert entropy_seconds(encode(PHOTOS[0].resize((5, 1))), 1) > 0


def test_crc32c() -> None:
    data = np.random.default_rng(0).bytes(20_000)
    for length in (*range(20), 4079, 4080, 4081, 12_345, 20_000):
        for start in (0, 1, 7):
            part = data[start : start + length]
            assert crc32c(part) == crc32c(part, portable=True) == reference_crc(part)
