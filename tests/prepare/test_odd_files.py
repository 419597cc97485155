"""What lies among people's images: made for real, told by its bytes, repaired or rejected with its reason."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image, ImageChops
from sklearn.datasets import load_sample_images

from imagesprint.console import Console
from imagesprint.prepare.preparing import Summary, prepare
from imagesprint.records.dataset import open_dataset
from imagesprint.records.image_record import ImageRecord

PHOTO = Image.fromarray(load_sample_images().images[1]).resize((90, 60))
GREY = PHOTO.convert("L").convert("RGB")


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def without_adobe_marker(data: bytes) -> bytes:
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


def huge_png() -> bytes:
    """A PNG whose header claims 60,000 × 60,000 pixels: 10 GB."""
    data = bytearray(encode(PHOTO, "PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


CMYK = PHOTO.convert("CMYK")
KEPT = {
    "progressive": encode(PHOTO, progressive=True, quality=95),
    "grey": encode(PHOTO.convert("L"), quality=95),
    "rotated": encode(PHOTO, exif=rotated(), quality=95),
    "bytes after the end": encode(PHOTO, quality=95) + b"\n",
}
CONVERTED = {  # the file, what it is called, and how far its pixels may be from the photo's on average
    "adobe": (encode(CMYK, quality=95), "CMYK JPEG", 6.0),
    "plain": (without_adobe_marker(encode(ImageChops.invert(CMYK), quality=95)), "CMYK JPEG", 6.0),
    "png": (encode(PHOTO, "PNG"), "PNG", 4.0),
    "gif": (encode(PHOTO, "GIF"), "GIF", 12.0),
    "webp": (encode(PHOTO, "WEBP", lossless=True), "WEBP", 4.0),
}
REJECTED = {
    "zero": (b"", "empty: the file has 0 bytes"),
    "page": (b"<!DOCTYPE html><title>404</title>", "no image: it begins with b'<!DOCTYPE html><'"),
    "truncated": (encode(PHOTO)[:-300], "damaged: "),
    "stub": (encode(PHOTO)[:100], "damaged: "),
    "huge": (huge_png(), "too large: Image size (3600000000 pixels)"),
}


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Path]:
    """A root of the photos and, in train/china, all odd files; every one has a name that says JPEG."""
    folder = tmp_path_factory.mktemp("odd")
    source = Path(shutil.copytree(photos, folder / "source"))
    files = {**KEPT, **{name: data for name, (data, _, _) in CONVERTED.items()}}
    files.update({name: data for name, (data, _) in REJECTED.items()})
    for name, data in files.items():
        (source / f"train/china/{name}.JPEG").write_bytes(data)
    done = prepare(
        source, folder / "root", console=Console(quiet=True), variants=("full", "30"), workers=2, max_rejected=0.1
    )
    return done, folder / "root"


@pytest.fixture(scope="module")
def records(made: tuple[Summary, Path]) -> Callable[[str], dict[str, ImageRecord]]:
    def read(variant: str) -> dict[str, ImageRecord]:
        dataset = open_dataset(made[1], variant, "train")
        found = [dataset.read_record(i) for i in range(len(dataset))]
        return {record.filename.removesuffix(".JPEG"): record for record in found}

    return read


def distance(record: ImageRecord, image: Image.Image) -> float:
    found = Image.open(io.BytesIO(record.encoded))
    assert (found.format, found.mode) in (("JPEG", "RGB"), ("JPEG", "L"))
    assert (found.height, found.width) == (record.height, record.width)
    return float(np.abs(np.asarray(found.convert("RGB")).astype(int) - np.asarray(image.resize(found.size))).mean())


def test_what_decoders_read_keeps_its_bytes(records: Callable[[str], dict[str, ImageRecord]]) -> None:
    full, small = records("full"), records("30")
    for name, data in KEPT.items():
        assert full[name].encoded == data
        assert (full[name].width, full[name].height) == (90, 60)  # whatever EXIF says
        assert (small[name].width, small[name].height) == (45, 30)
        assert distance(small[name], GREY if name == "grey" else PHOTO) < 12


def test_what_they_do_not_becomes_a_jpeg_in_rgb(records: Callable[[str], dict[str, ImageRecord]]) -> None:
    full = records("full")
    for name, (_, _, tolerance) in CONVERTED.items():
        assert distance(full[name], PHOTO) < tolerance


def test_what_was_converted_is_listed_and_counted(made: tuple[Summary, Path]) -> None:
    done, root = made
    assert done.converted == {"CMYK JPEG": 2, "PNG": 1, "GIF": 1, "WEBP": 1}
    listed = {(row["split"], row["file"], row["was"]) for row in read_rows(root / "30/converted.jsonl")}
    assert listed == {("train", f"train/china/{name}.JPEG", was) for name, (_, was, _) in CONVERTED.items()}


def test_what_is_rejected_has_its_reason_and_is_counted(made: tuple[Summary, Path]) -> None:
    done, root = made
    assert done.rejected == {"empty": 1, "no image": 1, "damaged": 2, "too large": 1}
    reasons = {row["file"]: row["reason"] for row in read_rows(root / "full/rejected.jsonl")}
    assert len(reasons) == len(REJECTED)
    for name, (_, reason) in REJECTED.items():
        assert reasons[f"train/china/{name}.JPEG"].startswith(reason)
        assert "0x" not in reasons[f"train/china/{name}.JPEG"]


def test_counts_are_told_again(imagesprint: Callable[..., Any], made: tuple[Summary, Path]) -> None:
    root = made[1]
    done = imagesprint("prepare", root.parent / "source", root, "--variants", "full")
    assert "rejected: 2 damaged, 1 " in done.stdout
    assert "converted to JPEG or pixels in RGB: 2 CMYK JPEG, 1 " in done.stdout
    again = imagesprint("prepare", root.parent / "source", root, "--variants", "full", "--json").json
    assert again["rejected"] == 5
    assert again["rejected_kinds"] == made[0].rejected
    assert again["converted"] == made[0].converted


def read_rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
