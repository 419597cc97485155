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
from imagesprint.images.decoders import Pool
from imagesprint.images.decoding import DecodeRequest
from imagesprint.images.native import LIBRARY, Status, own_entropy_seconds

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
    "restarts": {"restart_marker_blocks": 3},
}
LEFT_TO_LIBJPEG: dict[str, dict[str, Any]] = {"progressive": {"progressive": True}}


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
        outcome = pool.run(DecodeRequest([data], np.array([box], np.int32), np.zeros(1, np.bool_), True, out, to_end))
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


@pytest.mark.parametrize("restarts", [0, 5])
def test_damage_is_judged_by_libjpeg(pools: tuple[Pool, Pool], restarts: int) -> None:
    data = encode(PHOTO, quality=85, restart_marker_blocks=restarts)
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
    with pytest.raises(ImageError, match="damaged: "):
        own_entropy_seconds(data[: len(data) // 2], 181)


@pytest.mark.parametrize("behind", [b"", b"\xff", b"\xff\xff", b"\x00", b"\xff\x00" * 9, b"\xff" * 40, b"x" * 40])
def test_files_cut_at_the_crops_last_bytes(pools: tuple[Pool, Pool], behind: bytes) -> None:
    """libjpeg reads ahead, but not beyond the end marker: without one the file is cut short, wherever the crop ends."""
    data = encode(PHOTO.crop((0, 0, 64, 64)), quality=85)
    for end_marker, expected in ((b"", {Status.DAMAGED}), (b"\xff\xd9", {Status.OK, Status.DAMAGED})):
        cut = [data[:end] + behind + end_marker for end in range(len(data) - 900, len(data) - 1)]
        assert {assert_alike(pools, each, (0, 0, 64, 8)) for each in cut} == expected


def test_tables_follow_the_file(pools: tuple[Pool, Pool]) -> None:
    files = [encode(image, quality=quality, optimize=True) for image in (PHOTO, NOISE, FLAT) for quality in (20, 90)]
    for data in files * 2:
        assert assert_alike(pools, data, (3, 5, 50, 50)) == Status.OK


def segments(data: bytes) -> tuple[bytes, bytes, bytes]:
    """A JPEG's headers, its start of scan, and the scan."""
    scan = data.index(b"\xff\xda")
    length = 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    return data[:scan], data[scan : scan + length], data[scan + length : -2]


def in_two_scans(behind: bytes) -> bytes:
    """A JPEG that is not progressive, with a scan of its first channel and one of all."""
    image = PHOTO.crop((0, 0, 64, 64))
    headers, start, scan = segments(encode(image, subsampling="4:4:4", quality=80))
    _, _, grey = segments(encode(image.convert("L"), quality=80))
    alone = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    return headers + alone + grey + start + scan + behind + b"\xff\xd9"


@pytest.mark.parametrize("lengths", [b"\xff" + bytes(15), bytes(9) + b"\xff" + bytes(6), bytes(15) + b"\xff"])
def test_a_table_behind_the_last_scan_is_not_used(pools: tuple[Pool, Pool], lengths: bytes) -> None:
    """libjpeg has read all scans before it gives the first row, and checks no table that it does not use."""
    table = b"\xff\xc4" + (2 + 17 + 255).to_bytes(2, "big") + b"\x10" + lengths + b"\x11" * 255
    for behind in (b"", table):
        assert assert_alike(pools, in_two_scans(behind), (0, 0, 64, 64), True) == Status.OK
        assert own_entropy_seconds(in_two_scans(behind), 64) is None


def test_a_lossless_image_has_no_such_coefficients(pools: tuple[Pool, Pool]) -> None:
    """libjpeg-turbo decodes these from version 3 on."""
    codes = b"\xff\xc4" + (2 + 17 + 12).to_bytes(2, "big") + bytes([0, 0, 1, 5, *[1] * 6, *[0] * 7, *range(12)])
    frame = b"\xff\xc3" + (8 + 9).to_bytes(2, "big") + b"\x08\x00\x10\x00\x10\x03" + b"R\x11\x00G\x11\x00B\x11\x00"
    start = b"\xff\xda" + (6 + 6).to_bytes(2, "big") + b"\x03R\x00G\x00B\x00\x01\x00\x00"
    assert_alike(pools, b"\xff\xd8" + codes + frame + start + bytes(1000) + b"\xff\xd9", (0, 0, 16, 16), True)
