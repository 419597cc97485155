import io
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from imagesprint.errors import DataError, ImageError
from imagesprint.images.decoding import THREAD_PREFIX, Decoder, DecodeRequest, PillowDecoder, open_rgb

PHOTOS = [Image.fromarray(array) for array in load_sample_images().images]  # two of 640 × 427


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


Box = tuple[int, int, int, int]


def load(
    decoder: Decoder,
    encoded: list[bytes],
    boxes: list[Box],
    size: int,
    flips: list[bool] | None = None,
    antialias: bool = True,
) -> tuple[NDArray[np.uint8], dict[int, DataError]]:
    out = np.full((len(encoded), size, size, 3), 77, np.uint8)
    mirrored = np.array(flips or [False] * len(encoded))
    return out, decoder.load(DecodeRequest(encoded, np.array(boxes, np.int32), mirrored, antialias, out))


def decode(decoder: Decoder, encoded: list[bytes], boxes: list[Box], size: int, **options: Any) -> NDArray[np.uint8]:
    out, failures = load(decoder, encoded, boxes, size, **options)
    assert not failures
    return out


@pytest.fixture(params=[1, 3])
def decoder(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    opened = PillowDecoder(request.param)
    yield opened
    opened.close()


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREAD_PREFIX)]


def test_equals_pillow_exactly(decoder: Decoder) -> None:
    rng = np.random.default_rng(0)
    encoded, boxes, flips, expected = [], [], [], []
    for i in range(24):
        photo = PHOTOS[i % 2].resize((int(rng.integers(1, 500)), int(rng.integers(1, 400))))
        if i % 5 == 0:
            photo = photo.convert("L")
        data = encode(photo, quality=85, progressive=i % 3 == 0, subsampling=0 if i % 5 == 0 else i % 3)
        left, top = int(rng.integers(0, photo.width)), int(rng.integers(0, photo.height))
        right, bottom = int(rng.integers(left, photo.width)) + 1, int(rng.integers(top, photo.height)) + 1
        plain = Image.open(io.BytesIO(data)).convert("RGB").crop((left, top, right, bottom))
        plain = plain.resize((48, 48), Image.Resampling.BILINEAR)
        encoded.append(data)
        boxes.append((left, top, right, bottom))
        flips.append(i % 4 == 1)
        expected.append(plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flips[-1] else plain)
    result = decode(decoder, encoded, boxes, 48, flips=flips)
    np.testing.assert_array_equal(result, np.stack([np.asarray(image) for image in expected]))


def test_takes_memoryviews(decoder: Decoder) -> None:
    data = encode(PHOTOS[0])
    out = np.empty((1, 8, 8, 3), np.uint8)
    view = memoryview(b"before" + data + b"after")[6 : 6 + len(data)]
    request = DecodeRequest([view], np.array([[0, 0, 640, 427]], np.int32), np.array([False]), True, out)
    assert not decoder.load(request)
    np.testing.assert_array_equal(out, decode(decoder, [data], [(0, 0, 640, 427)], 8))


def test_an_empty_batch_does_nothing(decoder: Decoder) -> None:
    out = np.empty((0, 8, 8, 3), np.uint8)
    assert not decoder.load(DecodeRequest([], np.empty((0, 4), np.int32), np.empty(0, np.bool_), True, out))


def test_without_antialiasing_four_pixels_are_blended() -> None:
    array = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    left, top, right, bottom = 10, 5, 110, 85
    [result] = decode(
        PillowDecoder(1), [encode(Image.fromarray(array), "PNG")], [(left, top, right, bottom)], 16, antialias=False
    )
    crop = array[top:bottom, left:right].astype(np.float64)
    y = (np.arange(16) + 0.5) * 80 / 16 - 0.5
    x = (np.arange(16) + 0.5) * 100 / 16 - 0.5
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    fy, fx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    upper = crop[y0][:, x0] * (1 - fx) + crop[y0][:, x0 + 1] * fx
    lower = crop[y0 + 1][:, x0] * (1 - fx) + crop[y0 + 1][:, x0 + 1] * fx
    assert np.abs(result - (upper * (1 - fy) + lower * fy)).max() <= 1


def test_enlarging_without_antialiasing_repeats_the_edge() -> None:
    data = encode(Image.fromarray(np.full((3, 3, 3), 200, np.uint8)), "PNG")
    assert (decode(PillowDecoder(1), [data], [(1, 1, 2, 3)], 9, antialias=False) == 200).all()


def test_every_mode_becomes_rgb() -> None:
    photo = PHOTOS[0].resize((64, 48))
    expected = np.asarray(photo).astype(int)
    grey = np.asarray(photo.convert("L"))
    transparent = photo.copy()
    transparent.putalpha(photo.convert("L"))
    sixteen = Image.fromarray(grey.astype(np.uint16) * 256 + 255)
    palette = photo.quantize(255)
    cases: list[tuple[bytes, NDArray[Any], float]] = [
        (encode(photo, "PNG"), expected, 0),
        (encode(photo, "BMP"), expected, 0),
        (encode(photo, "WEBP", lossless=True), expected, 0),
        (encode(transparent, "PNG"), expected, 0),
        (encode(photo.convert("L"), "PNG"), grey[..., None], 0),
        (encode(transparent.convert("LA"), "PNG"), grey[..., None], 0),
        (encode(sixteen, "PNG"), grey[..., None], 0),
        (encode(sixteen, "TIFF"), grey[..., None], 0),
        (encode(photo.convert("1"), "PNG"), np.asarray(photo.convert("1").convert("RGB")), 0),
        (encode(palette, "PNG"), np.asarray(palette.convert("RGB")), 0),
        (encode(palette, "PNG", transparency=bytes(range(255))), np.asarray(palette.convert("RGB")), 0),
        (encode(palette, "GIF"), np.asarray(palette.convert("RGB")), 0),
        (encode(photo.convert("CMYK"), quality=98, subsampling=0), expected, 4),
        (encode(photo.convert("L"), quality=98), grey[..., None], 2),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data, pixels, tolerance in cases:
            image = open_rgb(data)
            assert image.mode == "RGB"
            assert np.abs(np.asarray(image).astype(int) - pixels).mean() <= tolerance


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: rotate by 90°
    data = encode(PHOTOS[0], exif=exif)
    assert open_rgb(data).size == (640, 427)


GOOD = encode(PHOTOS[0].resize((200, 150)), quality=90)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image at all, only some text that goes on for a while",
        GOOD[:2],
        GOOD[:300],
        GOOD[: len(GOOD) // 2],
        GOOD[: -len(GOOD) // 10],
        encode(PHOTOS[0], "PNG")[:5000],
        encode(PHOTOS[0], "GIF")[:5000],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    ],
    ids=["empty", "text", "2 bytes", "headers", "half", "nine tenths", "PNG", "GIF", "PostScript"],
)
def test_damaged_images_have_errors_and_harm_no_other(decoder: Decoder, data: bytes) -> None:
    good = decode(decoder, [GOOD], [(0, 0, 150, 150)], 32)[0]
    out, failures = load(decoder, [GOOD, GOOD, data, GOOD, b""], [(0, 0, 150, 150)] * 5, 32)
    assert list(failures) == [2, 4]  # in order, whatever the threads
    assert isinstance(failures[2], ImageError)
    assert failures[2].what.partition(": ")[0] in ("empty", "no image", "damaged", "unsupported")
    assert "0x" not in failures[2].what
    for row in (0, 1, 3):
        np.testing.assert_array_equal(out[row], good)
    assert (decode(decoder, [GOOD], [(0, 0, 150, 150)], 32) != 77).any()  # and the decoder is as good as before


def test_a_huge_image_raises() -> None:
    header = bytearray(encode(Image.new("L", (1, 1)), "PNG"))
    header[16:24] = (20_000).to_bytes(4, "big") * 2  # 400 million pixels
    from zlib import crc32

    header[29:33] = crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(ImageError, match="400000000 pixels"):
        open_rgb(bytes(header))


@pytest.mark.parametrize("box", [(0, 0, 201, 10), (0, 0, 10, 151), (-1, 0, 10, 10), (5, 5, 5, 10), (9, 9, 8, 10)])
def test_a_box_outside_the_image_is_an_error(box: tuple[int, int, int, int]) -> None:
    _, failures = load(PillowDecoder(1), [GOOD], [box], 8)
    assert re.search(r"200×150 .* cannot be cropped", failures[0].what)
    assert "verify" in failures[0].hint


def test_a_bug_is_no_bad_image(decoder: Decoder) -> None:
    with pytest.raises(AttributeError):
        decoder.load(DecodeRequest([GOOD], np.zeros((1, 4), np.int32), np.array([False]), True, None))  # type: ignore[arg-type]


def test_closing_ends_the_threads() -> None:
    decoder = PillowDecoder(3)
    assert decoder.name == "pillow"
    decode(decoder, [GOOD] * 9, [(0, 0, 150, 150)] * 9, 32)
    assert decoding_threads()
    decoder.close()
    decoder.close()
    assert not decoding_threads()
