"""One verdict on one file, by either decoder and whoever asks: `verify`, `prepare`, the loader, `predict`."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from imagesprint.errors import ImageError
from imagesprint.images.coding import check_image, open_image, read_size
from imagesprint.images.decoders import ImageCheck, open_decoder
from imagesprint.images.decoding import DecodeRequest, open_rgb
from imagesprint.images.native import is_available
from imagesprint.prepare.storing import Stopwatch, store

PHOTO = Image.fromarray(load_sample_images().images[0]).resize((90, 60))


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


GOOD = encode(PHOTO, quality=90)
GREY, CMYK = encode(PHOTO.convert("L"), quality=90), encode(PHOTO.convert("CMYK"), quality=90)
RGB = encode(PHOTO, quality=90, keep_rgb=True)
PROGRESSIVE = encode(PHOTO, quality=90, progressive=True)
RESTARTS = encode(PHOTO, quality=90, restart_marker_blocks=4)


def put(data: bytes, marker: bytes, at: int, new: bytes) -> bytes:
    """Overwrite bytes, counted from a marker, or from its segment's end where negative."""
    start = data.index(marker)
    place = start + at if at >= 0 else start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") + at
    return data[:place] + new + data[place + len(new) :]


def adobe(data: bytes, transform: int, version: int = 100, jfif: bool = False) -> bytes:
    """The file with an Adobe marker, its only one, and a JFIF marker or none."""
    segment = b"\xff\xee\x00\x0eAdobe" + version.to_bytes(2, "big") + bytes(4) + bytes([transform])
    return data[: 20 if jfif else 2] + segment + data[data.index(b"\xff\xdb") :]


def insert(data: bytes, new: bytes, marker: bytes = b"\xff\xdb") -> bytes:
    place = data.index(marker)
    return data[:place] + new + data[place:]


def in_scans(grey: bytes, channels: str) -> bytes:
    """A JPEG in RGB, each of `channels` in a scan of its own, with the pixels of a grey one."""
    frame, scan = grey.index(SOF), grey.index(SOS)
    planes = b"\x03" + b"".join(ord(name).to_bytes() + b"\x11\x00" for name in "RGB")
    head = (
        grey[:2] + grey[20:frame] + SOF + b"\x00\x11" + grey[frame + 4 : frame + 9] + planes + grey[frame + 13 : scan]
    )
    return head + b"".join(put(grey[scan:-2], SOS, 5, name.encode()) for name in channels) + grey[-2:]


SOS, JFIF, SOF = b"\xff\xda", b"\xff\xe0", b"\xff\xc0"
REMARKS = {  # a file that libjpeg has a remark on or none, and one with the same pixels
    "Se 0": (put(GOOD, SOS, -2, b"\x00"), GOOD),
    "Ss 1": (put(GOOD, SOS, -3, b"\x01"), GOOD),
    "Ah Al": (put(GOOD, SOS, -1, b"\x11"), GOOD),
    "all of them": (put(GOOD, SOS, -3, b"\x05\x09\x31"), GOOD),
    "grey": (put(GREY, SOS, -2, b"\x00"), GREY),
    "CMYK with SOS": (put(CMYK, SOS, -2, b"\x00"), CMYK),
    "restarts": (put(RESTARTS, SOS, -1, b"\x01"), RESTARTS),
    "JFIF 0.00": (put(GOOD, JFIF, 9, b"\x00\x00"), GOOD),
    "JFIF 2.01": (put(GOOD, JFIF, 9, b"\x02\x01"), GOOD),
    "JFIF 255.255": (put(GOOD, JFIF, 9, b"\xff\xff"), GOOD),
    "JFIF of 7 bytes": (GOOD[:2] + b"\xff\xe0\x00\x07JFIF\x00" + GOOD[20:], GOOD),
    "JFIF of 5 bytes": (GOOD[:2] + b"\xff\xe0\x00\x07JFIF " + GOOD[20:], GOOD),
    "Adobe of 5 bytes": (insert(GOOD, b"\xff\xee\x00\x07Adobe"), GOOD),
    "Adobe 1, version 101": (adobe(GOOD, 1, 101), GOOD),
    "Adobe 2 of YCbCr": (adobe(GOOD, 2), GOOD),
    "Adobe 77 of YCbCr": (adobe(GOOD, 77), GOOD),
    "Adobe 0 and JFIF": (adobe(GOOD, 0, jfif=True), GOOD),
    "Adobe 0 of RGB": (adobe(RGB, 0, 101), RGB),
    "Adobe 5 of YCCK": (adobe(CMYK, 5), adobe(CMYK, 2)),
    "Exif without end": (insert(GOOD, b"\xff\xe1\x00\x0aExif\0\0II"), GOOD),
    "empty MPF and ICC": (insert(GOOD, b"\xff\xe2\x00\x06MPF\0\xff\xe2\x00\x0eICC_PROFILE\0"), GOOD),
    "Photoshop": (insert(GOOD, b"\xff\xed\x00\x16Photoshop 3.0\x008BIM\x03\xed"), GOOD),
    "stray bytes in the headers": (insert(GOOD, b"stray\x00"), GOOD),
    "stray bytes first": (GOOD[:2] + b"\x00\x01" + GOOD[2:], GOOD),
    "filled up": (insert(GOOD, b"\xff\xff\xff"), GOOD),
    "stray bytes last": (GOOD[:-2] + b"abc" + GOOD[-2:], GOOD),
    "behind the end": (GOOD + b"\0\n" * 9, GOOD),
    "no length": (insert(GOOD, b"\xff\xe1\x00\x00\xff\xfe\x00\x01"), GOOD),
    "three scans": (in_scans(GREY, "RGB"), GREY),
    "three scans in another order": (in_scans(GREY, "BRG"), GREY),
    "behind the end a scan": (GOOD + GOOD[:-2], GOOD),
    "a thumbnail": (insert(GOOD, b"\xff\xe1" + (2 + len(GREY)).to_bytes(2, "big") + GREY), GOOD),
}


def without_restart(data: bytes, number: int) -> bytes:
    marker = b"\xff" + bytes([0xD0 + number])
    assert data.count(marker) == 1
    return data.replace(marker, b"")


def middle(data: bytes, new: bytes, at: float = 0.5) -> bytes:
    scan = data.index(SOS) + 14
    place = int(scan + (len(data) - scan) * at)
    return data[:place] + new + data[place + len(new) :]


DAMAGED = {
    "half": GOOD[: len(GOOD) // 2],
    "without its end marker": GOOD[:-2],
    "half an end marker": GOOD[:-1],
    "cut in the headers": GOOD[:200],
    "zeros instead of its end": GOOD[:-100] + bytes(100),
    "ended too early": GOOD[: len(GOOD) // 2] + GOOD[-2:],
    "half a CMYK": CMYK[: len(CMYK) // 2],
    "CMYK ended too early": CMYK[: len(CMYK) // 2] + CMYK[-2:],
    "half a progressive": PROGRESSIVE[: len(PROGRESSIVE) // 2],
    "progressive ended too early": PROGRESSIVE[: len(PROGRESSIVE) - 80] + PROGRESSIVE[-2:],
    "codes that do not exist": middle(GOOD, b"\xff\x00" * 6),
    "a marker in the scan": middle(GOOD, b"\xff\xd9"),
    "a restart marker is missing": without_restart(RESTARTS, 3),
    "the last restart marker is missing": without_restart(RESTARTS, 4),
    "another restart marker": RESTARTS.replace(b"\xff\xd2", b"\xff\xd6", 1),
    "a first scan that refines": put(PROGRESSIVE, SOS, -1, b"\x10"),
    "a scan is missing": in_scans(GREY, "RG"),
    "the first scan is missing": in_scans(GREY, "GB"),
    "a table is missing": GOOD.replace(b"\xff\xdb", b"\xff\xef"),
}


UNSUPPORTED = {
    "12 bits": put(GOOD, SOF, 4, b"\x0c"),
    "lossless": put(GOOD, SOF, 1, b"\xc3"),
    "hierarchical": put(GOOD, SOF, 1, b"\xc5"),
    "two channels": in_scans(GREY, "RG")
    .replace(b"\x03R\x11\x00G\x11\x00B\x11\x00", b"\x02R\x11\x00G\x11\x00")
    .replace(SOF + b"\x00\x11", SOF + b"\x00\x0e"),
}


@pytest.fixture(params=["pillow", "native", "native-portable"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if not is_available():
        pytest.skip("the native decoder is not built: Pillow does not see all damage")
    monkeypatch.setenv("IMAGESPRINT_DECODER", request.param)
    return str(request.param)


def load(data: bytes) -> NDArray[np.uint8]:
    """What the loader and `predict` have of an image: its largest square, decoded to the end, as 40 × 40."""
    with_decoder, out = open_decoder(1), np.zeros((1, 40, 40, 3), np.uint8)
    try:
        crops, flips = np.array([[0, 0, 60, 60]], np.int32), np.zeros(1, np.bool_)
        for error in with_decoder.load(DecodeRequest([data], crops, flips, True, out, to_end=True)).values():
            raise error
    finally:
        with_decoder.close()
    return out.reshape(40, 40, 3)


def prepared(data: bytes) -> dict[str, Any]:
    return store(data, ("full", "30"), 90, "jpeg", Stopwatch())[0]


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("name", REMARKS)
def test_remarks_on_headers_change_nothing(name: str) -> None:
    data, same = REMARKS[name]
    assert data != same
    assert read_size(data) == ImageCheck()(data) == (60, 90)
    check_image(data)
    np.testing.assert_array_equal(np.asarray(open_rgb(data)), np.asarray(open_rgb(same)))
    np.testing.assert_array_equal(load(data), load(same))
    assert prepared(data)["30"].encoded == prepared(same)["30"].encoded


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("name", DAMAGED)
def test_lost_pixels_are_damage_to_all(name: str) -> None:
    asked: list[Callable[[bytes], Any]] = [ImageCheck(), open_image, check_image, load, prepared]
    for ask in asked:
        with pytest.raises(ImageError, match=r"^damaged: "):
            ask(DAMAGED[name])


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_libjpeg_does_not_decode_is_unsupported_to_all(name: str) -> None:
    asked: list[Callable[[bytes], Any]] = [read_size, ImageCheck(), open_image, check_image, load, prepared]
    for ask in asked:
        with pytest.raises(ImageError, match=r"^unsupported: a .*JPEG"):
            ask(UNSUPPORTED[name])


def test_cuts_are_damage_to_pillow_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagesprint.images.coding.is_available", lambda: False)
    monkeypatch.setenv("IMAGESPRINT_DECODER", "pillow")
    for data, _ in REMARKS.values():
        assert load(data).any()
    for good in (GOOD, GREY, CMYK, PROGRESSIVE, RESTARTS):
        for end in (2, 30, len(good) // 2, len(good) - 40, len(good) - 2, len(good) - 1):
            with pytest.raises(ImageError, match=r"^damaged: "):
                open_image(good[:end])
            with pytest.raises(ImageError, match=r"^damaged: "):
                open_image(good[:end] + bytes(len(good) - end))


@pytest.mark.usefixtures("decoder")
def test_sizes_of_sound_images() -> None:
    check = ImageCheck()
    for image, kind in ((PHOTO, "JPEG"), (PHOTO.convert("L"), "JPEG"), (PHOTO.convert("CMYK"), "JPEG"), (PHOTO, "PNG")):
        assert check(encode(image, kind)) == (60, 90)
    assert check.num_stray == 0
    for data in (encode(PHOTO, "PNG")[:-200], b"", b"<html>"):
        with pytest.raises(ImageError):
            check(data)


@pytest.mark.skipif(not is_available(), reason="the native decoder is not built")
def test_stray_bytes_are_counted() -> None:
    check = ImageCheck()
    stray = GOOD[:-2] + b"abc" * 9 + GOOD[-2:]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(check, [GOOD, stray] * 20)) == [(60, 90)] * 40
    assert check.num_stray == 20
