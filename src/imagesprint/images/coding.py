"""One image at a time, for `prepare`: opening with every check, shrinking, encoding."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageFile, UnidentifiedImageError

from imagesprint.errors import ImageError
from imagesprint.images.decoding import FORMATS

_MAX_JPEG_SIDE = 65_500  # libjpeg's JPEG_MAX_DIMENSION
# Of a pixel, padded to whole blocks of 4:2:0: 2.5 times what noise of the extreme colours takes at quality 100.
_MAX_JPEG_BYTES = 4
_JPEG_BLOCK = 16  # pixels a side
_JPEG_FORMATS = ("JPEG", "MPO")  # MPO: a JPEG with further pictures after it, as some cameras write it


def open_image(data: bytes) -> Image.Image:
    """Return the image in `data`, decoded to its last row, in its own mode; its EXIF orientation is ignored.

    Raises ImageError with the reason, which begins with its kind and a colon: empty; no image; damaged, which includes
    cut short; too large, which is more pixels than Pillow's limit (178,956,970: half a gigabyte) or a side longer than
    a JPEG's can be.
    """
    if not data:
        raise ImageError("empty: the file has 0 bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's opinions on EXIF, palettes and sizes that are still accepted here
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if max(image.size) > _MAX_JPEG_SIDE:
                raise ImageError(
                    f"too large: {image.width} × {image.height} pixels, but a JPEG's side is at most {_MAX_JPEG_SIDE:,}"
                )
            image.load()
        except UnidentifiedImageError:
            raise ImageError(f"no image: it begins with {data[:16]!r}") from None
        except (ImageError, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(f"too large: {error}") from None
        except Exception as error:  # Pillow's decoders raise whatever damaged bytes lead to
            raise ImageError(f"damaged: {error}") from error
    return image


def read_size(data: bytes) -> tuple[int, int]:
    """Return height and width of the image in `data` in pixels, from its header alone. Raises ImageError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.height, image.width
        except MemoryError:  # the machine's fault, not the image's
            raise
        except Exception as error:  # Pillow's parsers raise whatever damaged bytes lead to
            raise ImageError(f"no image whose header can be read: it begins with {data[:16]!r}") from error


def is_plain_jpeg(image: Image.Image) -> bool:
    """Return whether an image of `open_image` was a JPEG in RGB or grey, whose bytes can be kept as they are."""
    return image.format in _JPEG_FORMATS and image.mode in ("RGB", "L")


def kind_of(image: Image.Image) -> str:
    """Return what an image of `open_image` was, for people: its format, of a JPEG with its mode, as "CMYK JPEG"."""
    return f"{image.mode} JPEG" if image.format in _JPEG_FORMATS else str(image.format)


def shrunk_size(size: tuple[int, int], shorter_side: float) -> tuple[int, int]:
    """Return height and width of an image of that `size` with its shorter side at most `shorter_side` pixels."""
    if min(size) <= shorter_side:
        return size
    scale = shorter_side / min(size)
    height, width = (max(int(shorter_side), round(side * scale)) for side in size)
    return height, width


def shrink(image: Image.Image, shorter_side: float) -> Image.Image:
    """Return the image with its shorter side at `shorter_side` pixels, antialiased; itself if that is no smaller."""
    height, width = shrunk_size((image.height, image.width), shorter_side)
    if (width, height) == image.size:
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """Return the RGB image as a baseline JPEG, 4:2:0, with optimised Huffman tables and without metadata.

    Raises ImageError if Pillow cannot encode it.
    """
    data = io.BytesIO()
    width, height = (-(-side // _JPEG_BLOCK) * _JPEG_BLOCK for side in image.size)
    try:
        with _buffer_of(width * height * _MAX_JPEG_BYTES):
            # comment="": Pillow would otherwise take over the comment of the JPEG that the image came from.
            image.save(data, "JPEG", quality=quality, subsampling="4:2:0", optimize=True, progressive=False, comment="")
    except OSError as error:
        raise ImageError(f"cannot be encoded: {image.width} × {image.height} pixels as JPEG: {error}") from error
    return data.getvalue()


_buffer_lock = threading.Lock()


@contextmanager
def _buffer_of(size: int) -> Iterator[None]:
    """Have Pillow encode into at least `size` bytes: with optimised tables libjpeg needs room for the whole file.

    Left to itself Pillow takes one byte a pixel below quality 95, which is too little for noise.
    """
    with _buffer_lock:
        before = ImageFile.MAXBLOCK
        ImageFile.MAXBLOCK = max(before, size)
        try:
            yield
        finally:
            ImageFile.MAXBLOCK = before
