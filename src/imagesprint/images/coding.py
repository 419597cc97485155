"""One image at a time, for `prepare`: opening with every check, shrinking, encoding."""

import io
import re
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from PIL import Image, ImageFile, UnidentifiedImageError

from imagesprint.errors import ImageError
from imagesprint.images.native import check_jpeg, is_available, read_info

# What foreign shards and people's own photos come in. Others stay closed: for PostScript, Pillow starts Ghostscript.
FORMATS: Final = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

# What lies among photos beside them, by the bytes at a place.
_OTHER_FORMATS: Final = (
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"jP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"II*\0", "a TIFF of floats, of many channels, of a camera or cut short"),  # of those Pillow cannot open
    (0, b"MM\0*", "a TIFF of floats, of many channels, of a camera or cut short"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"8BPS", "Photoshop"),
    (-18, b"TRUEVISION-XFILE", "TGA"),
)

_MAX_PIXELS = 178_956_970  # Pillow's: beyond it its own limit is an error as well
_MAX_JPEG_SIDE = 65_500  # libjpeg's JPEG_MAX_DIMENSION
# Of a pixel, padded to whole blocks of 4:2:0: 2.5 times what noise of the extreme colours takes at quality 100.
_MAX_JPEG_BYTES = 4
_JPEG_BLOCK = 16  # pixels a side

_SOI: Final = b"\xff\xd8"  # how a JPEG begins
_EOI, _SOS, _APP0, _APP14, _APP15, _COM = 0xD9, 0xDA, 0xE0, 0xEE, 0xEF, 0xFE  # markers, behind 0xFF
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xCC}  # markers that tell how an image is coded
_DECODED_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # sequential and progressive, by Huffman or arithmetic codes
_NO_SEGMENTS = (0x01, *range(0xD0, 0xD8))  # markers that stand alone
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS: Final = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # without which there is no image; libpng calls them critical

_TIFF_BITS, _TIFF_LIGHT, _TIFF_SAMPLES = 258, 262, 339  # tags
_MARKER = re.compile(rb"\xff+([^\x00\xff])")  # as libjpeg searches for one


def open_image(data: bytes) -> Image.Image:
    """Return the image in `data`, decoded to its last row, in its own mode; its EXIF orientation is ignored, and of
    several images it is the first. Raises ImageError as `load_image` does, and gives no warnings.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's opinions on EXIF, palettes and sizes that are still accepted here
        return load_image(data)


def load_image(data: bytes) -> Image.Image:
    """Do what `open_image` does, in any number of threads; Pillow may warn.

    Raises ImageError with the reason, which begins with its kind and a colon: empty; no image; unsupported; damaged,
    which includes cut short; too large, which is more pixels than Pillow's limit or a side longer than a JPEG's can be.
    Pillow does not see what libjpeg warns of: where the native library is installed, it has the say on a JPEG.
    """
    if data.startswith(_SOI) and is_available():
        check_jpeg(data)
    elif data.startswith(_SOI) and all(code != _EOI for code, _, _ in _segments(data)):  # Pillow looks for no end
        raise ImageError("damaged: no end-of-image marker follows the image")
    image = _open(data)
    with _reasons(data):
        image.load()
    return image


def check_image(data: bytes) -> None:
    """Raise the ImageError that `open_image` would; natively no pixel of a JPEG is computed for that."""
    if not (data.startswith(_SOI) and is_available() and check_jpeg(data)):
        open_image(data)


def read_size(data: bytes) -> tuple[int, int]:
    """Return height and width of the image in `data` in pixels, from its header alone.

    Raises ImageError as `load_image` does, as far as headers tell.
    """
    if data.startswith(_SOI) and is_available():
        with suppress(ImageError):  # of which Pillow, too, says what is wrong
            info = read_info(data)  # in a sixth of the time
            if info is not None and info.height * info.width <= _MAX_PIXELS:
                return info.height, info.width
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(data)
    return image.height, image.width


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("empty: the file has 0 bytes")
    with _reasons(data):
        image = Image.open(io.BytesIO(_essence(data)), formats=FORMATS)
        if max(image.size) > _MAX_JPEG_SIDE:
            raise ImageError(
                f"too large: {image.width} × {image.height} pixels, but a JPEG's side is at most {_MAX_JPEG_SIDE:,}"
            )
        _check_range(image)
    return image


def _check_range(image: Image.Image) -> None:
    """Raise ImageError where it is unknown which values are black and white, or where Pillow takes them wrongly."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    bits = tags.get(_TIFF_BITS, (32,))[0]
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF") or tags.get(_TIFF_SAMPLES, (1,))[0] == 2:
        kind = "signed " if bits < 32 else ""
        raise ImageError(
            f"unsupported: {image.format} of {kind}{bits} bits a channel, for which there is no usual range"
        )
    if image.mode.startswith("I;16") and (bits < 16 or tags.get(_TIFF_LIGHT) == 0):
        white = " with white as 0" if tags.get(_TIFF_LIGHT) == 0 else ""
        raise ImageError(f"unsupported: TIFF of {bits} bits a channel{white}, which Pillow reads wrongly")


@contextmanager
def _reasons(data: bytes) -> Iterator[None]:
    """Turn what Pillow raises into ImageErrors with their kinds."""
    try:
        yield
    except UnidentifiedImageError:
        raise ImageError(_what_else(data)) from None
    except (ImageError, MemoryError):  # the latter is the machine's fault, not the image's
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"too large: {str(error).partition(',')[0]}") from None  # and what it could be
    except Exception as error:  # Pillow's decoders raise whatever damaged bytes lead to
        raise ImageError(f"damaged: {error}") from error


def _what_else(data: bytes) -> str:
    """Why bytes are refused that Pillow cannot identify."""
    start = data[:1000].lstrip()
    found = [name for place, magic, name in _OTHER_FORMATS if data[place:].startswith(magic)]
    if start.startswith((b"<svg", b"<?xml")) and b"<svg" in start:
        found = ["SVG"]
    if found:
        return f"unsupported: it is {found[0]}, and of images {', '.join(FORMATS)} are read"
    if data.startswith((_SOI, b"\x89PNG", b"GIF8", b"BM")) or data[8:12] == b"WEBP":
        return f"damaged: it cannot be opened, and begins with {data[:16]!r}"
    return f"no image: it begins with {data[:16]!r}"


def _essence(data: bytes) -> bytes:
    """An image without what is beside it, at some of which Pillow stops. Raises ImageError where it is damaged."""
    if data.startswith(_SOI):
        return _jpeg_essence(data)
    return _png_essence(data) if data.startswith(_PNG) else data


def _png_essence(data: bytes) -> bytes:
    """A PNG without metadata, of which Pillow refuses long and damaged ones, and further frames.

    Raises ImageError where a checksum of the rest is wrong, at which Pillow does not look. It may lack its end mark.
    """
    kept, place = [_PNG], len(_PNG)
    while place < len(data):
        kind, end = data[place + 4 : place + 8], place + 12 + int.from_bytes(data[place : place + 4], "big")
        if kind in _PNG_CHUNKS and kind != b"IEND":
            if end > len(data):
                raise ImageError(f"damaged: cut short in its {kind.decode()}")
            if zlib.crc32(data[place + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise ImageError(f"damaged: the checksum of its {kind.decode()} is wrong")
        if kind == b"IDAT" and data[25] == 3 and kept[-1][4:8] == b"IHDR":
            raise ImageError("damaged: its palette is missing")  # for which Pillow would take black
        if kind in _PNG_CHUNKS:
            kept.append(data[place:end])
        if kind == b"IEND":
            break
        place = end
    return b"".join(kept)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The markers of a JPEG behind its first, and where their segments begin, with their length, and end.

    As libjpeg goes on: past bytes that are none, fillers and the codes of a scan; a length below 2 counts as 2.
    """
    place = len(_SOI)
    while header := _MARKER.search(data, place):
        code, begin = header[1][0], header.end()
        place = begin
        if code not in _NO_SEGMENTS:
            place += max(2, int.from_bytes(data[begin : begin + 2], "big"))
        yield code, begin, place


def _jpeg_essence(data: bytes) -> bytes:
    """A JPEG without what libjpeg passes over in its headers, at some of which Pillow's own parser stops: metadata,
    markers of other programs with a wrong length, stray bytes. What tells its colours stays.

    Raises ImageError where no image follows them, or one that is coded as libjpeg does not decode it.
    """
    kept = [_SOI]
    for code, begin, end in _segments(data):
        segment = data[begin:end]
        if code == _SOS:
            return b"".join((*kept, b"\xff\xda", data[begin:]))
        if code == _EOI or end > len(data):
            break
        if code in _FRAMES:
            _check_frame(code, segment)
        is_foreign = _APP0 <= code <= _APP15 or code == _COM or code in _NO_SEGMENTS
        if not is_foreign or _tells_colours(code, segment):
            kept += (bytes([0xFF, code]), segment)
    raise ImageError("damaged: its headers end before an image begins")


def _check_frame(code: int, segment: bytes) -> None:
    """Raise ImageError for a JPEG that libjpeg does not decode; `segment` begins with its length."""
    if code not in _DECODED_FRAMES:
        raise ImageError(f"unsupported: a lossless or hierarchical JPEG, as its marker 0xFF{code:X} says")
    if len(segment) > 7 and segment[2] != 8:
        raise ImageError(f"unsupported: a JPEG of {segment[2]} bits a channel, and of JPEGs those of 8 are read")
    if len(segment) > 7 and segment[7] not in (1, 3, 4):
        raise ImageError(f"unsupported: a JPEG of {segment[7]} channels, and of JPEGs those of 1, 3 and 4 are read")


def _tells_colours(code: int, segment: bytes) -> bool:
    """Whether libjpeg takes the colours of a JPEG from this marker, of which `segment` begins with its length."""
    jfif = code == _APP0 and segment[2:7] == b"JFIF\0" and len(segment) >= 16
    return jfif or (code == _APP14 and segment[2:7] == b"Adobe" and len(segment) >= 14)


def is_plain_jpeg(image: Image.Image) -> bool:
    """Return whether an image of `open_image` was a JPEG in RGB or grey, whose bytes can be kept as they are."""
    return image.format == "JPEG" and image.mode in ("RGB", "L")


def kind_of(image: Image.Image) -> str:
    """Return what an image of `open_image` was, for people: its format, of a JPEG with its mode, as "CMYK JPEG"."""
    return f"{image.mode} JPEG" if image.format == "JPEG" else str(image.format)


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
