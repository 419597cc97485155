import ctypes
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from imagesprint.errors import RecordError
from imagesprint.images import decoders
from imagesprint.images.decoders import NativeDecoder, Outcome, Pool
from imagesprint.images.decoding import DecodeRequest, PillowDecoder, Records
from imagesprint.images.native import LIBRARY, Status, shrink_jpeg
from imagesprint.records.tfrecord import FRAME_BYTES, HEADER_BYTES, frame

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the native decoder is not built")

PHOTOS = [Image.fromarray(array) for array in load_sample_images().images]  # two of 640 × 427
Box = tuple[int, int, int, int]
Pixels = NDArray[np.uint8]


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_pillow(data: bytes, box: Box, size: int, flip: bool, antialias: bool) -> Pixels:
    image = Image.open(io.BytesIO(data)).convert("RGB").crop(box)
    if antialias:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    else:
        extent = (0, 0, box[2] - box[0], box[3] - box[1])
        image = image.transform((size, size), Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[:, ::-1] if flip else pixels


def request_of(
    images: Any, boxes: list[Box], size: int, flips: list[bool] | None = None, **options: Any
) -> DecodeRequest:
    out = np.full((len(boxes), size, size, 3), 77, np.uint8)
    mirrored, antialias = np.array(flips or [False] * len(boxes), np.bool_), options.pop("antialias", True)
    return DecodeRequest(images, np.array(boxes, np.int32).reshape(-1, 4), mirrored, antialias, out, **options)


def decode(
    pool: Pool, images: Any, boxes: list[Box], size: int, flips: list[bool] | None = None, **options: Any
) -> Pixels:
    request = request_of(images, boxes, size, flips, **options)
    outcome = pool.run(request)
    assert not outcome.status.any(), [outcome.message(row) for row in np.flatnonzero(outcome.status).tolist()]
    return request.out


def decode_one(pool: Pool, data: bytes, box: Box = (0, 0, 8, 8), **options: Any) -> tuple[Status, str]:
    outcome = pool.run(request_of([data], [box], 8, **options))
    return Status(outcome.status[0]), outcome.message(0) if outcome.status[0] else ""


def boxes_in(width: int, height: int, rng: np.random.Generator) -> list[Box]:
    """The whole image, a pixel in each corner, strips along each edge, and two anywhere."""
    w, h = max(1, width // 3), max(1, height // 3)
    found = [(0, 0, width, height), (0, 0, 1, 1), (width - 1, height - 1, width, height)]
    found += [(0, height - 1, 1, height), (width - 1, 0, width, 1)]
    found += [(0, 0, w, height), (width - w, 0, width, height), (0, 0, width, h), (0, height - h, width, height)]
    for _ in range(2):
        left, top = int(rng.integers(width)), int(rng.integers(height))
        found.append((left, top, int(rng.integers(left, width)) + 1, int(rng.integers(top, height)) + 1))
    return found


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    opened = Pool(2)
    yield opened
    opened.close()


@pytest.mark.parametrize("antialias", [True, False], ids=["antialias", "plain"])
def test_pixels_are_pillows(pool: Pool, encode_kind: Callable[[Image.Image], bytes], antialias: bool) -> None:
    rng = np.random.default_rng(0)
    errors = []
    for number, (width, height) in enumerate([(2, 1), (7, 5), (16, 16), (33, 47), (130, 97), (301, 200), (640, 427)]):
        data = encode_kind(PHOTOS[number % 2].resize((width, height)))
        width, height = Image.open(io.BytesIO(data)).size
        boxes = boxes_in(width, height, rng)
        flips = (rng.integers(0, 2, len(boxes)) == 1).tolist()
        for size in (1, 13, 64):
            result = decode(pool, [data] * len(boxes), boxes, size, flips, antialias=antialias)
            for pixels, box, flip in zip(result, boxes, flips, strict=True):
                errors.append(np.abs(pixels.astype(int) - with_pillow(data, box, size, flip, antialias)).ravel())
    flat = np.concatenate(errors)
    assert flat.max() <= 1
    assert flat.mean() <= (0.05 if antialias else 0.3)


@pytest.mark.parametrize("portable", [False, True])
def test_outputs_may_be_wider_or_higher(portable: bool) -> None:
    pool, box = Pool(1, portable), (11, 20, 611, 400)
    data, pixels = encode(PHOTOS[0], quality=95), np.asarray(PHOTOS[1])
    for images in ([data], [pixels]):
        whole = Image.open(io.BytesIO(data)) if images[0] is data else PHOTOS[1]
        for height, width in ((30, 77), (64, 40), (1, 13)):
            request = replace(request_of(images, [box], 8, [True]), out=np.zeros((1, height, width, 3), np.uint8))
            assert not pool.run(request).status.any()
            expected = np.asarray(whole.crop(box).resize((width, height), Image.Resampling.BILINEAR))[:, ::-1]
            assert np.abs(request.out[0].astype(int) - expected).max() <= 1
            PillowDecoder(1).load(request)
            assert np.array_equal(request.out[0], expected)
    pool.close()


def test_extreme_reductions_keep_the_brightness(pool: Pool) -> None:
    for width, height in ((4000, 3000), (1, 3000), (4000, 1)):
        image = PHOTOS[0].resize((width, height))
        data = encode(image, quality=95)
        for size in (1, 3, 224):
            result = decode(pool, [data], [(0, 0, width, height)], size)[0].astype(int)
            assert np.abs(result - with_pillow(data, (0, 0, width, height), size, False, True)).max() <= 1
    white = encode(Image.new("RGB", (3000, 5), (255, 255, 255)))
    assert (decode(pool, [white], [(0, 0, 3000, 5)], 2) == 255).all()


def mixed(count: int) -> tuple[list[bytes], list[Box], list[bool]]:
    rng = np.random.default_rng(3)
    encoded, boxes = [], []
    for i in range(count):
        width, height = (int(side) for side in rng.integers(1, 300, 2))
        subsampling = ("4:4:4", "4:2:2", "4:2:0")[i % 3]
        encoded.append(encode(PHOTOS[i % 2].resize((width, height)), quality=90, subsampling=subsampling))
        boxes.append(boxes_in(width, height, rng)[-1])
    return encoded, boxes, (rng.integers(0, 2, count) == 1).tolist()


@pytest.mark.parametrize("antialias", [True, False])
def test_bytes_do_not_depend_on_threads_or_processor(pool: Pool, antialias: bool) -> None:
    encoded, boxes, flips = mixed(60)
    raw = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded]
    for size in (1, 30, 31, 96):
        expected = decode(pool, encoded, boxes, size, flips, antialias=antialias)
        for other in (Pool(1), Pool(4), Pool(1, portable=True)):
            np.testing.assert_array_equal(decode(other, encoded, boxes, size, flips, antialias=antialias), expected)
            of_pixels = decode(other, raw, boxes, size, flips, antialias=antialias)
            assert np.abs(of_pixels.astype(int) - expected).max() <= 1
            other.close()
    assert Pool(1, portable=True).resizer == "portable"


def test_raw_pixels_are_resized_alike(pool: Pool, tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (90, 70, 3), np.uint8)
    boxes = boxes_in(70, 90, np.random.default_rng(1))
    for size in (5, 64, 128):
        for portable in (False, True):
            found = decode(Pool(1, portable), [pixels] * len(boxes), boxes, size)
            for result, box in zip(found, boxes, strict=True):
                expected = Image.fromarray(pixels).crop(box).resize((size, size), Image.Resampling.BILINEAR)
                assert np.abs(result.astype(int) - np.asarray(expected)).max() <= 1
    shard = Shard(tmp_path / "shard", [pixels.tobytes()] * 2, np.array([(90, 70), (91, 70)], np.int32))
    outcome, _ = shard.load(pool, [(0, 0, 71, 9), (0, 0, 70, 90)], 8)
    os.close(shard.fd)
    assert outcome.status.tolist() == [Status.OUTSIDE, Status.DAMAGED]


@pytest.mark.parametrize(("side", "size"), [(48, 176), (7, 299), (221, 299), (273, 299)])
def test_enlarging_where_rounding_counts_a_pixel_too_many(side: int, size: int) -> None:
    """At one output the triangle seems to reach three pixels, for which there is no room: it once overran its table."""
    pixels = np.random.default_rng(2).integers(0, 256, (side, side, 3), np.uint8)
    expected = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    for portable in (False, True):
        found = decode(Pool(1, portable), [pixels], [(0, 0, side, side)], size)[0]
        assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1


GOOD = encode(PHOTOS[0].resize((200, 150)), quality=90)
WHOLE = (0, 0, 200, 150)


@pytest.mark.parametrize("to_end", [False, True])
def test_a_cut_is_found_wherever_the_crop_ends(pool: Pool, to_end: bool) -> None:
    for length in (*range(2, 700, 37), *range(700, len(GOOD), 501), len(GOOD) - 40):
        status, message = decode_one(pool, GOOD[:length], WHOLE, to_end=to_end)
        assert status == Status.DAMAGED
        assert message
    top_rows = (0, 0, 200, 16)
    assert decode_one(pool, GOOD, top_rows, to_end=to_end)[0] == Status.OK
    for cut in (GOOD[: len(GOOD) // 2], GOOD[:-2], GOOD[:-50] + bytes(50)):  # without its end marker, wherever
        assert decode_one(pool, cut, top_rows, to_end=to_end)[0] == Status.DAMAGED
    expected = Status.DAMAGED if to_end else Status.OK
    assert decode_one(pool, GOOD[: len(GOOD) // 2] + GOOD[-2:], top_rows, to_end=to_end)[0] == expected
    assert decode_one(pool, GOOD + bytes(50), top_rows, to_end=to_end)[0] == Status.OK


CMYK, PNG = encode(PHOTOS[0].convert("CMYK")), encode(PHOTOS[0].resize((64, 48)), "PNG")


def test_what_is_left_to_pillow(pool: Pool) -> None:
    twelve_bits = bytearray(GOOD)
    twelve_bits[GOOD.index(b"\xff\xc0") + 4] = 12
    arithmetic = GOOD.replace(b"\xff\xc0", b"\xff\xc9", 1)
    for data in (CMYK, PNG, bytes(twelve_bits), arithmetic, b"", b"GIF89a"):
        assert decode_one(pool, data)[0] == Status.UNSUPPORTED


def test_bad_images_have_a_status(pool: Pool) -> None:
    huge = bytearray(GOOD)
    place = GOOD.index(b"\xff\xc0") + 5
    huge[place : place + 4] = b"\x80\x00\x80\x00"  # 32,768 × 32,768
    assert decode_one(pool, bytes(huge)) == (
        Status.TOO_LARGE,
        "32768 × 32768 pixels, but at most 178956970 are decoded",
    )
    huge[place : place + 4] = b"\xff\xff\xff\xff"  # beyond libjpeg's own limit
    assert decode_one(pool, bytes(huge))[0] == Status.TOO_LARGE
    header_only = GOOD[: GOOD.index(b"\xff\xda")]
    assert decode_one(pool, header_only)[0] == Status.DAMAGED
    limits = [(0, 0, 201, 10), (0, 0, 10, 151), (-1, 0, 10, 10), (5, 5, 5, 10), (9, 9, 8, 10), (2**31 - 1,) * 4]
    for box in limits:
        status, message = decode_one(pool, GOOD, box)
        assert status == Status.OUTSIDE
        assert message == f"an image of 200×150 pixels cannot be cropped to {box}"


def in_scans(image: Image.Image, repeats: int) -> bytes:
    """A JPEG that is not progressive, with a scan for each channel, the last of them repeated."""
    channels = [encode(channel, quality=80) for channel in image.convert("YCbCr").split()]
    first = channels[0]
    frame_at, tables_at = first.index(b"\xff\xc0"), first.index(b"\xff\xc4")
    components = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    header = b"\xff\xc0\x00\x11" + first[frame_at + 4 : frame_at + 9] + b"\x03" + components
    scans = [data[data.index(b"\xff\xda") + 10 : -2] for data in channels]
    numbered = [b"\xff\xda\x00\x08\x01" + bytes((i + 1, 0, 0, 63, 0)) + scan for i, scan in enumerate(scans)]
    tables = first[tables_at : first.index(b"\xff\xda")]
    return first[:frame_at] + header + tables + b"".join(numbered) + numbered[2] * repeats + b"\xff\xd9"


def test_scans_one_by_one_but_not_without_end(pool: Pool) -> None:
    data = in_scans(PHOTOS[0].resize((130, 97)), 3)
    for box in boxes_in(130, 97, np.random.default_rng(0)):
        [result] = decode(pool, [data], [box], 20)
        assert np.abs(result.astype(int) - with_pillow(data, box, 20, False, True)).max() <= 1
    bomb = in_scans(PHOTOS[0].resize((8, 8)), 600)
    assert decode_one(pool, bomb) == (Status.TOO_LARGE, "more than 500 scans")


@pytest.mark.parametrize("scans", range(1, 11))
def test_crops_of_a_progressive_image_without_all_scans_are_cut_out_of_the_whole(pool: Pool, scans: int) -> None:
    """libjpeg smooths such an image, each block by those around it."""
    data = encode(PHOTOS[0].resize((150, 101)), quality=60, progressive=True)
    parts = data.split(b"\xff\xda")
    if len(parts) > scans + 1:  # what precedes the next start of scan are its tables
        data = b"\xff\xda".join(parts[: scans + 1]) + b"\xff\xd9"
    made = shrink_jpeg(data, [1000], 0)  # Pillow's libjpeg may be of another version, which smooths otherwise
    assert made is not None
    whole = np.frombuffer(made.versions[0].encoded, np.uint8).reshape(101, 150, 3)
    boxes = [(x, y, x + 32, y + 32) for x in (0, 7, 61, 118) for y in (0, 9, 40, 69)]
    for (left, top, right, bottom), found in zip(boxes, decode(pool, [data] * 16, boxes, 32), strict=True):
        np.testing.assert_array_equal(found, whole[top:bottom, left:right])


def test_tables_of_another_image_are_not_taken() -> None:
    one = Pool(1)
    without_tables = bytearray(GOOD)
    place = GOOD.index(b"\xff\xdb")
    end = GOOD.index(b"\xff\xc0")
    del without_tables[place:end]
    assert decode_one(one, GOOD)[0] == Status.OK
    assert decode_one(one, bytes(without_tables))[0] == Status.DAMAGED
    assert decode_one(one, GOOD)[0] == Status.OK


def test_rows_fail_one_by_one(pool: Pool) -> None:
    encoded = [GOOD, b"", GOOD[:900], CMYK, GOOD]
    batch = request_of(encoded, [WHOLE] * 5, 20)
    outcome = pool.run(batch)
    assert outcome.status.tolist() == [Status.OK, Status.UNSUPPORTED, Status.DAMAGED, Status.UNSUPPORTED, Status.OK]
    np.testing.assert_array_equal(batch.out[0], batch.out[4])
    np.testing.assert_array_equal(batch.out[0], decode(pool, [GOOD], [WHOLE], 20)[0])


class Shard:
    """Records in a file, and where the index would have them."""

    def __init__(self, path: Path, images: list[bytes], raw_sizes: NDArray[np.int32] | None = None) -> None:
        payloads = [b"before" + image + b"behind it" for image in images]
        lengths = np.array([len(payload) for payload in payloads], np.int64)
        self.path = path
        self.path.write_bytes(b"".join(frame(payload) for payload in payloads))
        self.fd = os.open(path, os.O_RDONLY)
        ends = np.cumsum(lengths + FRAME_BYTES)
        self.records = Records(
            np.full(len(images), self.fd, np.int32),
            ends - lengths - FRAME_BYTES,
            lengths,
            np.full(len(images), len(b"before"), np.int64),
            lengths - len(b"beforebehind it"),
            raw_sizes,
            read=lambda row: images[row],
            damaged=lambda row, what: RecordError(f"record {row} {what}"),
        )

    def load(
        self, pool: Pool, boxes: list[Box], size: int, stages: NDArray[np.int64] | None = None
    ) -> tuple[Outcome, Pixels]:
        request = request_of(self.records, boxes, size)
        return pool.run(request, stages), request.out

    def flip_bit(self, offset: int) -> None:
        data = bytearray(self.path.read_bytes())
        data[offset] ^= 1
        self.path.write_bytes(data)  # the same file: the descriptor stays good


@pytest.fixture
def shard(tmp_path: Path) -> Any:
    encoded, boxes, _ = mixed(20)
    made = Shard(tmp_path / "shard", encoded)
    yield made, encoded, boxes
    os.close(made.fd)


def test_records_are_read_checked_and_decoded(pool: Pool, shard: Any) -> None:
    made, encoded, boxes = shard
    stages = np.zeros(4, np.int64)
    outcome, pixels = made.load(pool, boxes, 40, stages=stages)
    assert not outcome.status.any()
    np.testing.assert_array_equal(pixels, decode(pool, encoded, boxes, 40))
    assert (stages > 0).all()


def test_damaged_records_have_a_status(pool: Pool, shard: Any) -> None:
    made, _, boxes = shard
    starts = made.records.offsets.tolist()
    made.flip_bit(starts[1])  # in the length
    made.flip_bit(starts[2] + 9)  # in its CRC
    made.flip_bit(starts[3] + HEADER_BYTES + 3)
    made.flip_bit(starts[5] - 1)  # in the CRC of record 4's payload
    made.records.offsets[6] += 1
    made.records.payload_lengths[7] -= 1
    made.records.fds[8] = 1_000_000
    made.records.encoded_offsets[9] = 1 << 40
    made.records.payload_lengths[10] = -5
    outcome, _ = made.load(pool, boxes, 8)
    expected = [Status.BAD_HEADER] * 2 + [Status.BAD_PAYLOAD] * 2 + [Status.OK, Status.BAD_HEADER]
    expected += [Status.OTHER_LENGTH, Status.UNREADABLE, Status.OTHER_LENGTH, Status.MEMORY]
    assert outcome.status[1:11].tolist() == expected
    assert not outcome.status[11:].any()
    assert outcome.message(3) == "does not match its CRC-32C"
    length = int(made.records.payload_lengths[7])
    assert outcome.message(7) == f"is {length + 1} bytes long, not {length} as the index has it"


def test_a_shard_that_is_cut_short(pool: Pool, shard: Any) -> None:
    made, _, boxes = shard
    os.truncate(made.path, made.path.stat().st_size - 3)
    outcome, _ = made.load(pool, boxes, 8)
    assert outcome.status[-1] == Status.CUT_SHORT
    assert outcome.message(19).startswith("is cut short: ")
    assert not outcome.status[:-1].any()


def test_what_is_left_to_pillow_and_what_is_an_error() -> None:
    decoder = NativeDecoder(2)
    view = memoryview(b"before" + GOOD + b"after")[6 : 6 + len(GOOD)]
    boxes = [(0, 0, 40, 40)] * 4
    request = request_of([GOOD, view, CMYK, PNG], boxes, 16, [False, False, True, False])
    assert decoder.load(request) == {}
    out = request.out
    np.testing.assert_array_equal(out[0], out[1])
    np.testing.assert_array_equal(out[2], with_pillow(CMYK, (0, 0, 40, 40), 16, True, True))
    np.testing.assert_array_equal(out[3], with_pillow(PNG, (0, 0, 40, 40), 16, False, True))
    assert decoder.fallbacks == 2
    for encoded, reason in (
        ([GOOD, GOOD, GOOD[:500], b""], "damaged: Prem"),
        ([GOOD, GOOD, b"text", b""], "no image: "),
    ):
        failures = decoder.load(request_of(encoded, boxes, 16))
        assert list(failures) == [2, 3]
        assert failures[2].what.startswith(reason)
    assert decoder.fallbacks == 2
    failures = decoder.load(request_of([GOOD], [(0, 0, 300, 300)], 16))
    assert re.search(r"200×150 .* cannot be cropped", failures[0].what)
    assert "verify" in failures[0].hint
    assert decoder.load(request_of([], [], 8)) == {}
    decoder.close()
    decoder.close()
    with pytest.raises(ValueError, match="closed"):
        decoder.load(request_of([GOOD], boxes[:1], 16))


def test_arrays_of_another_form_are_refused(pool: Pool) -> None:
    good = request_of([GOOD], [WHOLE], 8)
    wrong: list[dict[str, Any]] = [
        {"crops": good.crops.astype(np.int64)},
        {"crops": good.crops[:, :3]},
        {"flips": np.zeros(2, np.bool_)},
        {"out": np.empty((1, 8, 16, 3), np.uint8)[:, :, ::2]},
        {"out": np.empty((1, 8, 9, 4), np.uint8)},
    ]
    for change in wrong:
        with pytest.raises(ValueError, match="instead of contiguous"):
            pool.run(replace(good, **change))


def test_the_structs_are_as_large_as_in_c() -> None:
    assert ctypes.sizeof(decoders._Batch) == 8 + 4 * 4 + 6 * 8
    assert ctypes.sizeof(decoders._Records) == 6 * 8
