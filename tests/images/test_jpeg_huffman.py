"""The decoder's own Huffman decoding: libjpeg's (`portable`) is what it must come to, bit by bit."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from imagesprint.errors import ImageError
from imagesprint.images.native_batches import Batch, Pool
from imagesprint.images.native_images import own_entropy_seconds
from imagesprint.images.native_library import LIBRARY, Status

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the native decoder is not built")

PHOTO = Image.fromarray(load_sample_images().images[0]).resize((240, 181))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (75, 90, 3), np.uint8))
STEPS = Image.fromarray((np.random.default_rng(1).integers(0, 2, (80, 80, 3)) * 255).astype(np.uint8))
FLAT = Image.new("RGB", (100, 60), (10, 200, 90))
IMAGES = {"photo": PHOTO, "grey": PHOTO.convert("L"), "noise": NOISE, "steps": STEPS, "flat": FLAT}
KINDS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:2:0": {"subsampling": "4:2:0"},
    "optimised": {"optimize": True},
}
LEFT_TO_LIBJPEG: dict[str, dict[str, Any]] = {
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
}


def encode(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def pools() -> Iterator[tuple[Pool, Pool]]:
    opened = Pool(1), Pool(1, portable=True)
    yield opened
    for each in opened:
        each.close()


def outcomes(
    pools: tuple[Pool, Pool], data: bytes, box: tuple[int, int, int, int], to_end: bool = False
) -> list[tuple[Status, str, NDArray[np.uint8]]]:
    """How both pools decode a crop, of one size in pixels for all: its status, the message, and the pixels."""
    found = []
    for pool in pools:
        out = np.zeros((1, 48, 48, 3), np.uint8)
        batch = Batch(np.array([box], np.int32), np.zeros(1, np.bool_), True, out, to_end)
        outcome = pool.decode([data], batch)
        status = Status(outcome.status[0])
        found.append((status, outcome.message(0) if status else "", out))
    return found


def assert_alike(pools: tuple[Pool, Pool], data: bytes, box: tuple[int, int, int, int], to_end: bool = False) -> Status:
    ours, theirs = outcomes(pools, data, box, to_end)
    assert ours[:2] == theirs[:2]
    if ours[0] == Status.OK:
        np.testing.assert_array_equal(ours[2], theirs[2])
    return ours[0]


@pytest.mark.parametrize("kind", [*KINDS, *LEFT_TO_LIBJPEG])
@pytest.mark.parametrize("name", IMAGES)
def test_pixels_are_those_by_libjpeg(pools: tuple[Pool, Pool], kind: str, name: str) -> None:
    image = IMAGES[name]
    for quality in (1, 30, 75, 96, 100):
        data = encode(image, quality=quality, **(KINDS | LEFT_TO_LIBJPEG)[kind])
        width, height = image.size
        # In pieces that are not made smaller, so that each pixel counts.
        boxes = [(x, y, min(x + 48, width), min(y + 48, height)) for x in range(0, width, 48) for y in (0, height - 40)]
        for box in [*boxes, (0, 0, width, height)]:
            for to_end in (False, True):
                assert assert_alike(pools, data, box, to_end) == Status.OK
        assert (own_entropy_seconds(data, height) is not None) == (kind in KINDS)


def test_codes_longer_than_are_looked_up_and_stuffed_bytes(pools: tuple[Pool, Pool]) -> None:
    data = encode(NOISE, quality=100, subsampling="4:4:4", optimize=True)
    table = data[data.index(b"\xff\xc4") + 4 :]
    lengths = [i + 1 for i in range(16) if table[table.index(b"\x10", 1) + 1 :][i]]
    assert max(lengths) > 10
    assert data.count(b"\xff\x00") > 50
    assert assert_alike(pools, data, (0, 0, 48, 48), True) == Status.OK


def test_damage_is_judged_by_libjpeg(pools: tuple[Pool, Pool]) -> None:
    data = encode(PHOTO, quality=85)
    scan = data.index(b"\xff\xda") + 14
    rng = np.random.default_rng(4)
    found = set()
    for number in range(600):
        bad = bytearray(data)
        for place in rng.integers(scan, len(data), 1 + number % 3).tolist():
            bad[place] = int(rng.integers(256)) if number % 5 else 0xFF
        bad = bad[: rng.integers(scan, len(data))] if number % 4 == 0 else bad
        bottom = int(rng.integers(1, 182))
        found.add(assert_alike(pools, bytes(bad), (0, 0, 240, bottom), number % 2 == 0))
    assert found == {Status.OK, Status.DAMAGED}
    with pytest.raises(ImageError, match="cannot be decoded"):
        own_entropy_seconds(data[: len(data) // 2], 181)


@pytest.mark.parametrize("behind", [b"", b"\xff", b"\xff\xff", b"\x00", b"\xff\x00" * 9, b"\xff" * 40, b"x" * 40])
def test_files_cut_at_the_crops_last_bytes(pools: tuple[Pool, Pool], behind: bytes) -> None:
    """libjpeg reads up to eight bytes ahead, and where that is beyond the file calls it cut short."""
    data = encode(PHOTO.crop((0, 0, 64, 64)), quality=85)
    found = {assert_alike(pools, data[:end] + behind, (0, 0, 64, 8)) for end in range(len(data) - 900, len(data))}
    assert found == {Status.OK, Status.DAMAGED}


def test_tables_follow_the_file(pools: tuple[Pool, Pool]) -> None:
    files = [encode(image, quality=quality, optimize=True) for image in (PHOTO, NOISE, FLAT) for quality in (20, 90)]
    for data in files * 2:
        assert assert_alike(pools, data, (3, 5, 50, 50)) == Status.OK
