import io
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from imagesprint.errors import ImageError
from imagesprint.images.checking import ImageCheck
from imagesprint.images.native_library import is_available

PHOTO = Image.fromarray(load_sample_images().images[0]).resize((90, 60))


def encode(image: Image.Image, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture(params=["pillow", "native"])
def check(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ImageCheck:
    if request.param == "native" and not is_available():
        pytest.skip("the native decoder is not built")
    monkeypatch.setenv("IMAGESPRINT_DECODER", request.param)
    return ImageCheck()


def test_sizes_of_sound_images(check: ImageCheck) -> None:
    for image, kind in ((PHOTO, "JPEG"), (PHOTO.convert("L"), "JPEG"), (PHOTO.convert("CMYK"), "JPEG"), (PHOTO, "PNG")):
        assert check(encode(image, kind)) == (60, 90)
    assert check.num_stray == 0


def test_a_cut_file_is_damaged(check: ImageCheck) -> None:
    for data in (encode(PHOTO)[:-20], encode(PHOTO, "PNG")[:-200], b"", b"<html>"):
        with pytest.raises(ImageError):
            check(data)


@pytest.mark.skipif(not is_available(), reason="the native decoder is not built")
def test_libjpegs_warnings_are_damage_and_stray_bytes_are_counted() -> None:
    good, check = encode(PHOTO), ImageCheck()
    stray = good[:-2] + b"abc" * 9 + good[-2:]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(check, [good, stray] * 20)) == [(60, 90)] * 40
    assert check.num_stray == 20
    middle = bytearray(good)
    middle[len(good) // 2 : len(good) // 2 + 12] = b"\xff\x00" * 6  # a JPEG still, but with codes that do not exist
    with pytest.raises(ImageError):
        check(bytes(middle))
