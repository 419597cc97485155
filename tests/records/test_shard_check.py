"""What only some kinds of variants have; `test_verify.py` has the rest."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from imagesprint.console import Console
from imagesprint.records.image_record import ImageRecord
from imagesprint.records.manifest import INDEXED, Manifest
from imagesprint.records.verify import verify

WriteVariant = Callable[..., None]

RAW = ImageRecord(bytes(5 * 7 * 3), 5, 7, 0, "n0", "n0", "a.jpg", image_format="raw")
OTHER = replace(RAW, encoded=bytes([1]) * len(RAW.encoded))


def refuse(_: bytes) -> tuple[int, int]:
    raise AssertionError("raw pixels are not decoded")


def whats(root: Path) -> list[str]:
    return [problem.what for problem in verify(root, Console(quiet=True)).problems]


def test_raw_pixels_are_as_many_as_the_size_says(write_variant: WriteVariant, tmp_path: Path) -> None:
    write_variant(tmp_path / "sound" / "160", [RAW, replace(RAW, label=1, synset="n1")], [OTHER], "raw")
    assert verify(tmp_path / "sound", Console(quiet=True), refuse).is_sound
    write_variant(tmp_path / "short" / "160", [RAW, replace(RAW, encoded=RAW.encoded[1:])], [OTHER], "raw")
    assert whats(tmp_path / "short") == ["a.jpg has 104 bytes, not those of 7 × 5 pixels"]


def test_records_that_others_wrote_may_lack_a_synset(write_variant: WriteVariant, tmp_path: Path) -> None:
    write_variant(tmp_path / "full", [replace(RAW, synset="n1")], [replace(OTHER, synset="")])
    assert len(whats(tmp_path)) == 2
    folder = tmp_path / "full"
    replace(Manifest.read(folder), made_by=INDEXED).write(folder)
    assert whats(tmp_path) == ["a.jpg is of synset n1, its label stands for n0"]
