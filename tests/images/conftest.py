"""JPEGs of every kind that the native decoder reads."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image


def encode(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def upright_422(image: Image.Image) -> bytes:
    """A JPEG in 4:4:0: one in 4:2:2 whose luma is declared to be twice as high instead of twice as wide.

    Of each MCU's two luma blocks the second then lies below the first; so the picture is another one, as good as any.
    """
    data = bytearray(encode(image, subsampling="4:2:2"))
    place = data.index(b"\xff\xc0") + 11  # the sampling factors of the first component
    assert data[place] == 0x21
    data[place] = 0x12
    width, height = image.size
    data[place - 6 : place - 2] = (height * 2).to_bytes(2, "big") + (width // 2).to_bytes(2, "big")
    return bytes(data)


_KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "4:4:4": lambda image: encode(image, subsampling="4:4:4"),
    "4:2:2": lambda image: encode(image, subsampling="4:2:2"),
    "4:2:0": lambda image: encode(image, subsampling="4:2:0"),
    "4:4:0": upright_422,
    "grey": lambda image: encode(image.convert("L")),
    "progressive": lambda image: encode(image, progressive=True),
    "restarts": lambda image: encode(image, restart_marker_blocks=5),
    "RGB": lambda image: encode(image, keep_rgb=True),
}


@pytest.fixture(params=_KINDS)
def encode_kind(request: pytest.FixtureRequest) -> Callable[[Image.Image], bytes]:
    """Encodes an image as one kind of JPEG; a test is done with each."""
    return _KINDS[request.param]
