"""The two ways to a batch's pixels: natively from the shards, and by Pillow."""

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagesprint.errors import ImageError, RecordError
from imagesprint.images.decoders import NativeDecoder
from imagesprint.images.decoding import PillowDecoder
from imagesprint.images.native import is_available
from imagesprint.loading.batch import Load, decode_load
from imagesprint.records.dataset import open_dataset
from imagesprint.records.image_record import ImageRecord

pytestmark = pytest.mark.skipif(not is_available(), reason="the native decoder is not built")

WriteRoot = Callable[..., Path]


def whole(root: Path) -> Load:
    dataset = open_dataset(root, "full", "train")
    ids = np.arange(len(dataset))
    height, width = dataset.sizes[ids].T
    crops = np.stack([0 * width, 0 * width, width, height], axis=1).astype(np.int32)
    return Load(dataset, ids, crops, ids % 2 == 0, np.empty((len(ids), 0), np.float32), True, len(ids), (24, 24), 0)


def pixels(load: Load, decoder: NativeDecoder | PillowDecoder) -> np.ndarray:
    out = np.zeros((load.rows, *load.shape, 3), np.uint8)
    for error in decode_load(load, decoder, out).values():
        raise error
    return out


def test_native_and_pillow_agree(write_root: WriteRoot, train_records: list[ImageRecord]) -> None:
    load = whole(write_root(train_records))
    found, expected = pixels(load, NativeDecoder(2)), pixels(load, PillowDecoder(1))
    assert found.any()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1)


def test_what_libjpeg_cannot_do_goes_to_pillow_and_is_counted(
    write_root: WriteRoot, train_records: list[ImageRecord], tmp_path: Path
) -> None:
    for number, (mode, name) in {3: ("RGB", "a.png"), 7: ("CMYK", "b.jpg")}.items():
        Image.effect_noise((train_records[number].width, train_records[number].height), 50).convert(mode).save(
            tmp_path / name
        )
        train_records[number] = replace(train_records[number], encoded=(tmp_path / name).read_bytes())
    load = whole(write_root(train_records))
    decoder = NativeDecoder(2)
    np.testing.assert_allclose(pixels(load, decoder), pixels(load, PillowDecoder(1)), rtol=0, atol=1)
    assert decoder.fallbacks == 2


def test_little_memory_makes_no_bad_record(
    write_root: WriteRoot, train_records: list[ImageRecord], with_little_memory: Callable[[str, str], str]
) -> None:
    for row, kind in ((3, "PNG"), (5, "JPEG")):  # of which the native decoder leaves one to Pillow
        file = io.BytesIO()
        Image.new("L", (9000, 6000)).save(file, kind, progressive=True)  # 54 MB of pixels, 108 MB of coefficients
        train_records[row] = replace(train_records[row], encoded=file.getvalue())
    before = f"""
import os
import numpy as np
from imagesprint.images.decoding import PillowDecoder
from imagesprint.images.decoders import NativeDecoder
from imagesprint.loading.batch import Load, decode_load
from imagesprint.records.dataset import open_dataset
dataset = open_dataset({str(write_root(train_records))!r}, "full", "train")
crops, flips, draws = np.array([[0, 0, 8, 8]], np.int32), np.array([False]), np.empty((1, 0), np.float32)
kinds = (NativeDecoder, 1), (PillowDecoder, 1), (PillowDecoder, 2)
for (kind, threads), row in [(kind, row) for kind in kinds for row in (3, 5)]:
    if not (child := os.fork()):  # each alone with little memory, and torch imported once
        break
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"not {{kind.__name__}}({{threads}}) on row {{row}}")
else:
    raise SystemExit("each a MemoryError")
decoder, load = kind(threads), Load(dataset, np.array([row]), crops, flips, draws, True, 1, (8, 8), 0)
"""
    code = """
try:
    decode_load(load, decoder, np.empty((1, 8, 8, 3), np.uint8))
except MemoryError:
    os._exit(0)
os._exit(1)
"""
    assert with_little_memory(before, code) == "each a MemoryError"


def test_a_file_that_is_no_image(write_root: WriteRoot, train_records: list[ImageRecord]) -> None:
    train_records[5] = replace(train_records[5], encoded=b"<html>not found</html>")
    load = whole(write_root(train_records))
    with pytest.raises(ImageError, match=r"train-00000-of-00002, record 5, image5\.jpg: .*no image: "):
        pixels(load, NativeDecoder(2))


def test_damage_below_the_crop_is_found_to_the_end_alone(
    write_root: WriteRoot, train_records: list[ImageRecord]
) -> None:
    good = train_records[0].encoded
    train_records[0] = replace(train_records[0], encoded=good[: len(good) * 9 // 10] + good[-2:])
    load = whole(write_root(train_records))
    load = replace(load.part(0, 1), crops=np.array([[0, 0, 8, 4]], np.int32))
    assert pixels(load, NativeDecoder(1)).any()
    with pytest.raises(ImageError, match="record 0"):
        pixels(replace(load, to_end=True), NativeDecoder(1))


def test_a_flipped_bit(write_root: WriteRoot, train_records: list[ImageRecord]) -> None:
    root = write_root(train_records)
    path = root / "full/train-00000-of-00002"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(
        RecordError, match=r"/train-00000-of-00002, record \d: the record at byte \d+ does not match its CRC"
    ):
        pixels(whole(root), NativeDecoder(2))


@pytest.mark.parametrize("name", ["native", "pillow"])
def test_bad_rows_are_told_in_order_and_the_others_decoded(
    write_root: WriteRoot, train_records: list[ImageRecord], name: str
) -> None:
    decoder = NativeDecoder(2) if name == "native" else PillowDecoder(2)
    load = whole(write_root(train_records))
    expected = pixels(load, decoder)
    root = load.dataset.path.parent
    shutil.rmtree(str(root))
    for number, encoded in {4: train_records[4].encoded[:200], 9: b"<html>", 13: b""}.items():
        train_records[number] = replace(train_records[number], encoded=encoded)
    out = np.zeros_like(expected)
    failures = decode_load(whole(write_root(train_records)), decoder, out)
    decoder.close()  # the errors' tracebacks hold it, and its threads would go on
    assert list(failures) == [4, 9, 13]
    for row, error in failures.items():
        assert f"image{row}.jpg: " in error.what
    sound = [row for row in range(16) if row not in failures]
    np.testing.assert_array_equal(out[sound], expected[sound])
