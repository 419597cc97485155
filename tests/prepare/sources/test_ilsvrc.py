import io
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources.ilsvrc import IlsvrcTars
from imagesprint.prepare.sources.kaggle_tree import KaggleTree
from imagesprint.prepare.sources.source import SourceImage

TRAIN = "ILSVRC2012_img_train.tar"
VALIDATION = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TRAIN_BOXES = "ILSVRC2012_bbox_train_v2.tar.gz"
VALIDATION_BOXES = "ILSVRC2012_bbox_val_v3.tgz"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


@pytest.fixture
def files(miniature: Path, tmp_path: Path) -> Path:
    """A copy of the miniature that a test may change."""
    return Path(shutil.copytree(miniature / "ilsvrc", tmp_path / "files"))


def repack(path: Path, change: Callable[[str, bytes], bytes | None], prefix: str = "") -> None:
    """Write a tar again, gzipped if it was: with what `change` makes of each file, None leaves it out."""
    with tarfile.open(path) as tar:
        members = [(info.name, tar.extractfile(info)) for info in tar.getmembers()]
        files = {name: change(name, content.read()) for name, content in members if content is not None}
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as tar:
        for name, data in files.items():
            if data is not None:
                info = tarfile.TarInfo(prefix + name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def facts(samples: Sequence[SourceImage]) -> list[tuple[object, ...]]:
    return sorted((sample.name, sample.label, sample.num_bytes, sample.boxes) for sample in samples)


def test_same_samples_as_in_the_kaggle_tree(miniature: Path) -> None:
    source, kaggle = IlsvrcTars(miniature / "ilsvrc"), KaggleTree(miniature / "kaggle")
    listing, expected = source.scan(), kaggle.scan()
    assert listing.classes == expected.classes
    assert listing.notes == ()
    for split, samples in expected.splits.items():
        assert facts(listing.splits[split]) == facts(samples)
        by_name = {sample.name: sample for sample in samples}
        for sample in listing.splits[split]:
            assert source.read(sample) == kaggle.read(by_name[sample.name])


def test_locations(miniature: Path) -> None:
    splits = IlsvrcTars(miniature / "ilsvrc").scan().splits
    assert f"{TRAIN}/n01440764.tar/n01440764_10026.JPEG" in {sample.location for sample in splits["train"]}
    assert f"{VALIDATION}/ILSVRC2012_val_00000001.JPEG" in {sample.location for sample in splits["validation"]}


def test_what_follows_an_end_mark_is_read_too(files: Path) -> None:
    expected = facts(IlsvrcTars(files).scan().splits["validation"])
    data = (files / VALIDATION).read_bytes()
    repack(files / VALIDATION, lambda name, data: data if name < "ILSVRC2012_val_00000004" else None)
    first = (files / VALIDATION).read_bytes()
    (files / VALIDATION).write_bytes(data)
    repack(files / VALIDATION, lambda name, data: None if name < "ILSVRC2012_val_00000004" else data)
    (files / VALIDATION).write_bytes(first + (files / VALIDATION).read_bytes())
    listing = IlsvrcTars(files).scan()
    assert facts(listing.splits["validation"]) == expected
    assert listing.notes == (f"{VALIDATION} is several tars, one after the other: the files of all are used",)


def test_annotations_may_lie_deeper_and_be_missing(miniature: Path, files: Path) -> None:
    expected = facts(IlsvrcTars(miniature / "ilsvrc").scan().splits["train"])
    repack(files / TRAIN_BOXES, lambda _, data: data, prefix="./bbox/Annotation/")
    (files / VALIDATION_BOXES).unlink()
    listing = IlsvrcTars(files).scan()
    assert facts(listing.splits["train"]) == expected
    assert [sample for sample in listing.splits["validation"] if sample.boxes] == []
    assert listing.notes == (f"there is no {VALIDATION_BOXES}, so its images have no bounding boxes",)


def test_missing_archives(files: Path) -> None:
    (files / DEVKIT).rename(files / "devkit")
    with pytest.raises(UsageError, match=f"there is no {DEVKIT} in {files}"):
        IlsvrcTars(files).scan()
    (files / VALIDATION).rename(files / "val")
    listing = IlsvrcTars(files).scan()
    assert set(listing.splits) == {"train"}
    assert listing.classes[0].text == "n01440764"
    assert listing.notes == (
        f"there is no {DEVKIT}, so classes are described by their synsets alone",
        f"of {files}, devkit, val are left out",
    )
    (files / "devkit").rename(files / DEVKIT)
    assert IlsvrcTars(files).scan().classes[0].text == "tench, Tinca tinca"
    (files / "val").rename(files / VALIDATION)
    (files / TRAIN).unlink()
    assert IlsvrcTars.fits(files)
    with pytest.raises(UsageError, match=f"there is no {TRAIN} in {files}"):
        IlsvrcTars(files).scan()


def test_synsets_that_do_not_fit(files: Path) -> None:
    repack(files / TRAIN, lambda name, data: data if name != "n02012849.tar" else None)
    with pytest.raises(DataError, match=f"synset n02012849 is in {DEVKIT} but not in {TRAIN}"):
        IlsvrcTars(files).scan()
    repack(files / TRAIN, lambda _, data: data, prefix="x")
    with pytest.raises(DataError, match=r"synset n01440764 is in .* but not in .* \(and 2 more\)"):
        IlsvrcTars(files).scan()


def test_train_tar_of_another_form(files: Path) -> None:
    shutil.copy(files / VALIDATION, files / TRAIN)
    with pytest.raises(DataError, match=rf"{TRAIN} holds ILSVRC2012_val_\d+.JPEG, which is not the tar of a synset"):
        IlsvrcTars(files).scan()
    (files / TRAIN).write_bytes(bytes(10240))
    with pytest.raises(DataError, match=f"{TRAIN} is an empty tar"):
        IlsvrcTars(files).scan()


def test_truncated_archives(files: Path) -> None:
    size = (files / TRAIN).stat().st_size
    with (files / TRAIN).open("r+b") as file:
        file.truncate(size * 2 // 3)
    with pytest.raises(DataError, match=f"{TRAIN} is damaged, cut short or no tar"):
        IlsvrcTars(files).scan()
    (files / DEVKIT).write_bytes((files / DEVKIT).read_bytes()[:300])
    with pytest.raises(DataError, match=r"is damaged, cut short or no tar"):
        IlsvrcTars(files).scan()


def test_damaged_inner_tar(files: Path) -> None:
    repack(files / TRAIN, lambda name, data: data[:3000] if name == "n02012849.tar" else data)
    with pytest.raises(DataError, match=f"^{TRAIN}/n02012849.tar is damaged, cut short or no tar"):
        IlsvrcTars(files).scan()


def test_counts_of_validation_that_do_not_fit(files: Path) -> None:
    repack(files / VALIDATION, lambda name, data: None if name.endswith("4.JPEG") else data)
    with pytest.raises(DataError, match=f"{VALIDATION} holds 5 images, but {DEVKIT} has labels for 6"):
        IlsvrcTars(files).scan()


@pytest.mark.parametrize("line", ["4", "0", "-1", "crane"])  # 4 is of a synset above the classes
def test_ground_truth_out_of_range(files: Path, line: str) -> None:
    def change(name: str, data: bytes) -> bytes:
        return data.replace(b"3", line.encode(), 1) if name.endswith(GROUND_TRUTH) else data

    repack(files / DEVKIT, change)
    with pytest.raises(
        DataError, match=f"line 3 of {DEVKIT}/.*{GROUND_TRUTH} is '{line}', which is the id of no class"
    ):
        IlsvrcTars(files).scan()


def test_devkit_that_is_damaged_or_lacks_a_file(files: Path) -> None:
    repack(files / DEVKIT, lambda name, data: b"no mat file" if name.endswith("meta.mat") else data)
    with pytest.raises(DataError, match=f"{DEVKIT}/ILSVRC2012_devkit_t12/data/meta.mat cannot be understood"):
        IlsvrcTars(files).scan()
    repack(files / DEVKIT, lambda name, data: None if name.endswith("meta.mat") else data)
    with pytest.raises(DataError, match=r"holds no data/meta\.mat"):
        IlsvrcTars(files).scan()


def test_broken_annotation_is_named(files: Path) -> None:
    repack(files / TRAIN_BOXES, lambda name, data: data[:50] if "10033" in name else data)
    with pytest.raises(DataError, match=f"the boxes in {TRAIN_BOXES}/n03126707/n03126707_10033.xml cannot be read"):
        IlsvrcTars(files).scan()


def test_archive_that_changes_after_the_listing(files: Path) -> None:
    source = IlsvrcTars(files)
    sample = source.scan().splits["train"][0]
    with (files / TRAIN).open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(DataError, match=rf"{TRAIN} changed while it was prepared: \d+ bytes before, \d+ now"):
        source.read(sample)
