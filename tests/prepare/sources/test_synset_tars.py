import shutil
from pathlib import Path

import pytest

from imagesprint.console import Console
from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.preparing import prepare
from imagesprint.prepare.sources.synset_tars import SynsetTars


def test_one_tar_a_class(miniature: Path) -> None:
    source = SynsetTars(miniature / "synset-tars")
    listing = source.scan()
    assert [entry.synset for entry in listing.classes] == ["n01440764", "n02012849", "n03126707"]
    assert set(listing.splits) == {"train"}
    sample = next(sample for sample in listing.splits["train"] if sample.name == "n01440764_10026.JPEG")
    assert (sample.location, sample.label) == ("n01440764.tar/n01440764_10026.JPEG", 0)
    path = miniature / "class-folders/train/n01440764/n01440764_10026.JPEG"
    assert source.read(sample) == path.read_bytes()


def test_needs_val_fraction_or_val(miniature: Path, tmp_path: Path) -> None:
    quiet = Console(quiet=True)
    with pytest.raises(UsageError, match="no validation split") as caught:
        prepare(miniature / "synset-tars", tmp_path / "root", variants=("full",), workers=1, console=quiet)
    assert "--val-fraction" in caught.value.hint
    done = prepare(
        miniature / "synset-tars", tmp_path / "root", variants=("full",), workers=2, val_fraction=0.25, console=quiet
    )
    assert done.images == {"train": 9, "validation": 3}
    shutil.copytree(miniature / "synset-tars", tmp_path / "both/train")
    (tmp_path / "both/val").mkdir()
    shutil.copy(miniature / "synset-tars/n02012849.tar", tmp_path / "both/val")
    listing = SynsetTars(tmp_path / "both").scan()
    assert {sample.label for sample in listing.splits["validation"]} == {1}
    assert listing.splits["validation"][0].location.startswith("val/n02012849.tar/n02012849_")
    shutil.copy(miniature / "synset-tars/n02012849.tar", tmp_path / "both/val/n5.tar")
    with pytest.raises(DataError, match=r"n5.tar is in .*val but not in .*train"):
        SynsetTars(tmp_path / "both").scan()


def test_tar_without_images(miniature: Path, tmp_path: Path) -> None:
    shutil.copytree(miniature / "synset-tars", tmp_path, dirs_exist_ok=True)
    (tmp_path / "n00000001.tar").write_bytes(bytes(1024))
    with pytest.raises(DataError, match=r"class 'n00000001' has no images in"):
        SynsetTars(tmp_path).scan()
