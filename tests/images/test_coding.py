import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFile
from sklearn.datasets import load_sample_images

from imagesprint.errors import ImageError
from imagesprint.images.coding import check_image, encode_jpeg, is_plain_jpeg, open_image, read_size, shrink
from imagesprint.images.decoding import to_rgb

PHOTO = Image.fromarray(load_sample_images().images[0])  # 640 × 427


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind", "plain"),
    [
        ("RGB", "JPEG", True),
        ("L", "JPEG", True),
        ("CMYK", "JPEG", False),
        ("RGB", "PNG", False),
        ("P", "PNG", False),
        ("RGBA", "PNG", False),
        ("P", "GIF", False),
        ("RGB", "WEBP", False),
        ("RGB", "BMP", False),
        ("1", "PNG", False),
    ],
)
def test_plain_jpegs_are_told_by_their_bytes(mode: str, kind: str, plain: bool) -> None:
    image = open_image(encode(PHOTO.resize((64, 43)).convert(mode), kind))
    assert image.size == (64, 43)
    assert is_plain_jpeg(image) is plain
    assert to_rgb(image).mode == "RGB"


def test_grey_of_16_bits_keeps_the_upper_8() -> None:
    grey = np.asarray(PHOTO.convert("L"))
    image = open_image(encode(Image.fromarray(grey.astype(np.uint16) * 256 + 77), "PNG"))
    assert np.array_equal(np.asarray(to_rgb(image))[..., 1], grey)


def test_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = open_image(encode(PHOTO, "JPEG", exif=exif))
    assert image.size == PHOTO.size


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "empty: the file has 0 bytes"),
        (b"<!DOCTYPE html><html>404", "no image: it begins with b'<!DOCTYPE html><"),
        (b"\xff\xd8\xff", "no image|damaged"),
        (encode(PHOTO, "JPEG")[:5000], "damaged: (image file is truncated|Premature end)"),
        (encode(PHOTO, "JPEG")[:-200], "damaged: (image file is truncated|Premature end)"),
        (encode(PHOTO, "PNG")[:5000], "damaged: "),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported: it is PostScript, and of images JPEG"),
        (encode(Image.new("1", (65501, 2)), "PNG"), "too large: 65501 × 2 pixels, but a JPEG's side is at most 65,500"),
        (encode(Image.new("1", (13400, 13400)), "PNG"), r"179560000 pixels\) exceeds limit of 178956970"),
        (encode(Image.new("1", (20000, 20000)), "PNG"), "exceeds limit"),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(data: bytes, match: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=match):
            open_image(data)


def too_large_jpeg() -> bytes:
    data = bytearray(encode(PHOTO, "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = (20_000).to_bytes(2, "big") * 2
    return bytes(data)


FLOATS = Image.fromarray(np.asarray(PHOTO.convert("L"), np.float32) / 255)
WHOLE = Image.fromarray(np.asarray(PHOTO.convert("L"), np.int32) << 16)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            encode(Image.new("1", (70_000, 3)), "PNG"),
            "too large: 70000 × 3 pixels, but a JPEG's side is at most 65,500",
        ),
        (
            encode(Image.new("1", (20_000, 20_000)), "PNG"),
            r"too large: .*400000000 pixels\) exceeds .* 178956970 pixels$",
        ),
        (too_large_jpeg(), "too large: .*(400000000|20000 × 20000) pixels.* 178956970"),
        (encode(FLOATS, "TIFF"), "unsupported: TIFF of 32 bits a channel, for which there is no usual range"),
        (encode(WHOLE, "TIFF"), "unsupported: TIFF of 32 bits a channel"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "unsupported: it is AVIF, and of images JPEG, PNG, .* are read"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported: it is HEIC"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "unsupported: it is JPEG 2000"),
        (b'<?xml version="1.0"?>\n<!-- drawn --><svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported: it is SVG"),
        (b"%PDF-1.4\n%x\n", "unsupported: it is PDF"),
        (encode(PHOTO.resize((16, 16)), "ICO"), "unsupported: it is ICO"),
        (encode(PHOTO.resize((16, 16)), "TGA"), "unsupported: it is TGA"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "no image: it begins with b'RIFF"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "damaged: "),
        (b"<html>404</html>", "no image: it begins with b'<html>404</html>'"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "damaged: "),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "damaged: "),
        (b"", "empty: the file has 0 bytes"),
    ],
)
def test_headers_alone_tell_what_is_refused(data: bytes, reason: str) -> None:
    for read in (read_size, open_image):
        with pytest.raises(ImageError, match=f"^{reason}"):
            read(data)


def chunk(kind: bytes, content: bytes, checksum: int = 0) -> bytes:
    checksum ^= zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


TINY = PHOTO.resize((60, 44))
PNG = encode(TINY, "PNG")
FIRST = PNG.index(b"IDAT") - 4


@pytest.mark.parametrize(
    "beside",
    [
        chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(bytes(80 << 20))),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iCCP", b"profile\0\0none"),
        chunk(b"tEXt", b"Title\0none", checksum=1),
        chunk(b"acTL", b"\0"),
    ],
)
def test_what_is_beside_the_pixels_of_a_png_harms_none(beside: bytes) -> None:
    data = PNG[:FIRST] + beside + PNG[FIRST:]
    assert read_size(data) == (44, 60)
    np.testing.assert_array_equal(np.asarray(open_image(data)), np.asarray(TINY))


def stored_png(colour: int, rows: bytes, *before: bytes) -> bytes:
    """A PNG whose pixels can be found in its bytes."""
    head = PNG[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 60, 44, 8, colour, 0, 0, 0))
    return head + b"".join(before) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")


ROWS = b"".join(b"\0" + row.tobytes() for row in np.asarray(TINY))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (stored_png(2, ROWS).replace(ROWS[3000:3010], bytes(10), 1), "damaged: the checksum of its IDAT is wrong"),
        (PNG[:FIRST] + b"\0\0\7" + PNG[FIRST + 3 :], "damaged: (cut short in its IDAT|the checksum of its IDAT)"),
        (PNG[:29] + bytes(4) + PNG[33:], "damaged: the checksum of its IHDR is wrong"),
        (stored_png(3, bytes(61 * 44)), "damaged: its palette is missing"),
        (stored_png(3, bytes(61 * 44), chunk(b"PLTE", bytes(3), checksum=1)), "damaged: the checksum of its PLTE"),
    ],
)
def test_a_damaged_png_is_told_by_its_checksums(data: bytes, reason: str) -> None:
    for ask in (read_size, check_image, open_image):
        with pytest.raises(ImageError, match=f"^{reason}"):
            ask(data)


def test_whole_pngs_by_hand() -> None:
    np.testing.assert_array_equal(np.asarray(open_image(stored_png(2, ROWS))), np.asarray(TINY))
    blue = open_image(stored_png(3, bytes(61 * 44), chunk(b"PLTE", b"\0\0\xff")))
    assert to_rgb(blue).getpixel((30, 20)) == (0, 0, 255)


def tiff(bits: int, pixels: bytes, light: int = 1, samples: int = 1, channels: int = 1) -> bytes:
    tags = {256: 60, 257: 44, 258: bits, 259: 1, 262: light, 273: 0, 277: channels, 278: 44, 279: len(pixels)}
    tags |= {338: 1, 339: samples} if channels == 2 else {339: samples}
    tags[273] = 8 + 2 + 12 * len(tags) + 4  # where the pixels begin
    entries = [
        struct.pack("<HHIHH", tag, 3, channels, value, value) if tag == 258 else struct.pack("<HHII", tag, 4, 1, value)
        for tag, value in tags.items()
    ]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + pixels


LIGHT = np.asarray(TINY.convert("L"))
LIGHT_16 = (LIGHT * np.uint16(257)).astype("<u2")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(16, (65535 - LIGHT_16).tobytes(), light=0), "unsupported: TIFF of 16 bits a channel with white as 0"),
        (tiff(12, bytes(90 * 44)), "unsupported: TIFF of 12 bits a channel, which Pillow reads wrongly"),
        (tiff(16, LIGHT_16.tobytes(), samples=2), "unsupported: TIFF of signed 16 bits a channel"),
        (tiff(64, bytes(8 * 60 * 44), samples=3), "unsupported: it is a TIFF of floats"),
    ],
)
def test_what_pillow_would_take_for_other_colours_is_refused(data: bytes, reason: str) -> None:
    for ask in (read_size, check_image, open_image):
        with pytest.raises(ImageError, match=f"^{reason}"):
            ask(data)


def test_tiffs_by_hand() -> None:
    for data in (tiff(16, LIGHT_16.tobytes()), tiff(8, LIGHT.tobytes()), tiff(8, (255 - LIGHT).tobytes(), light=0)):
        np.testing.assert_array_equal(np.asarray(to_rgb(open_image(data)))[..., 0], LIGHT)
    with_alpha = tiff(8, np.stack([LIGHT // 2, np.full_like(LIGHT, 128)], 2).tobytes(), channels=2)
    assert open_image(with_alpha).mode == "La"
    assert np.abs(np.asarray(to_rgb(open_image(with_alpha)))[..., 0].astype(int) - LIGHT).max() <= 2


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_images_the_first_is_read(kind: str) -> None:
    small = PHOTO.resize((64, 43))
    data = encode(small, kind, save_all=True, append_images=[Image.new("RGB", small.size), small.rotate(90)])
    assert read_size(data) == (43, 64)
    assert np.abs(np.asarray(to_rgb(open_image(data))).astype(int) - np.asarray(small)).mean() < 8


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_a_cut_that_loses_pixels_is_damage(kind: str) -> None:
    data = encode(PHOTO.resize((60, 44)), kind)
    whole = np.asarray(open_image(data).convert("RGB"))
    for length in range(1, len(data), max(1, len(data) // 60)):
        try:
            left = np.asarray(open_image(data[:length]).convert("RGB"))
        except ImageError:
            continue
        np.testing.assert_array_equal(left, whole)  # what is missing is a mark of the end


def test_large_but_accepted_image_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(encode(Image.new("1", (10000, 9500)), "PNG")).size == (10000, 9500)


def test_shrink_sets_the_shorter_side_and_keeps_the_shape() -> None:
    assert shrink(PHOTO, 160).size == (240, 160)
    assert shrink(PHOTO.transpose(Image.Transpose.ROTATE_90), 160).size == (160, 240)
    assert shrink(PHOTO.crop((0, 0, 640, 2)), 1).size == (320, 1)
    assert shrink(PHOTO, 427) is PHOTO
    assert shrink(PHOTO, 1000) is PHOTO


def test_shrink_is_antialiased() -> None:
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(shrink(Image.fromarray(stripes), 50)).astype(int)
    assert np.abs(small - 127).max() <= 20  # picking pixels would leave 0 and 255


def test_encoded_jpegs_are_baseline_420_without_metadata() -> None:
    image = Image.open(io.BytesIO(encode(PHOTO, "JPEG", comment=b"a comment", dpi=(300, 300))))
    data = encode_jpeg(image, 90)
    found = open_image(data)
    assert (found.format, found.mode, found.size) == ("JPEG", "RGB", PHOTO.size)
    assert "progressive" not in found.info
    assert "comment" not in found.info
    assert b"\xff\xc0" in data  # SOF0: baseline
    frame = data[data.index(b"\xff\xc0") + 4 :]
    assert [frame[7], frame[10], frame[13]] == [0x22, 0x11, 0x11]  # sampling factors: 4:2:0
    assert len(data) < len(encode(PHOTO, "JPEG", quality=90, subsampling="4:2:0"))  # optimised tables
    assert np.abs(np.asarray(found).astype(int) - np.asarray(PHOTO)).mean() < 6
    assert len(encode_jpeg(PHOTO, 30)) < len(data)


@pytest.mark.parametrize("quality", [50, 90, 94, 100])
@pytest.mark.parametrize("shape", [(400, 400), (1, 40_000), (40_000, 1), (17, 9000)])
def test_noise_is_encoded(shape: tuple[int, int], quality: int) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (*shape, 3), np.uint8) * 255
    before = ImageFile.MAXBLOCK
    assert open_image(encode_jpeg(Image.fromarray(noise), quality)).size == shape[::-1]
    assert before == ImageFile.MAXBLOCK


def test_what_cannot_be_encoded_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="cannot be encoded: 70000 × 1 pixels as JPEG: "):
        encode_jpeg(Image.new("RGB", (70_000, 1)), 90)


def test_little_memory_is_not_the_headers_fault(with_little_memory: Callable[[str, str], str]) -> None:
    before = """
import io, zlib
from PIL import Image
from imagesprint.images.coding import read_size
file = io.BytesIO()
Image.new("RGB", (8, 8)).save(file, "PNG")
data = file.getvalue()
more = b"IDAT" + bytes(64 << 20)
data = data[:-12] + (len(more) - 4).to_bytes(4, "big") + more + zlib.crc32(more).to_bytes(4, "big") + data[-12:]
del more
assert read_size(data) == (8, 8)
"""
    assert with_little_memory(before, "read_size(data)") == "MemoryError"
