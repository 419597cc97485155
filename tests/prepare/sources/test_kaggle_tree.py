import shutil
from pathlib import Path

import pytest

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources.kaggle_tree import KaggleTree

IMAGES = "ILSVRC/Data/CLS-LOC"


@pytest.fixture
def tree(miniature: Path, tmp_path: Path) -> Path:
    """A copy of the miniature that a test may change."""
    return Path(shutil.copytree(miniature / "kaggle", tmp_path / "tree"))


def test_labels_and_boxes(miniature: Path) -> None:
    source = KaggleTree(miniature / "kaggle")
    listing = source.scan()
    assert [(entry.synset, entry.text) for entry in listing.classes] == [
        ("n01440764", "tench, Tinca tinca"),
        ("n02012849", "crane, wading bird"),
        ("n03126707", "crane"),
    ]
    assert listing.notes == ()
    samples = {sample.name: sample for split in ("train", "validation") for sample in listing.splits[split]}
    assert len(samples) == 18
    assert samples["ILSVRC2012_val_00000002.JPEG"].label == 2
    two = samples["n03126707_10033.JPEG"]
    assert two.boxes == ((20 / 60, 0.125, 50 / 60, 0.875), (0.0, 0.0, 1.0, 1.0))
    assert sum(bool(sample.boxes) for sample in samples.values()) == 5
    assert source.read(two) == (miniature / "kaggle" / IMAGES / "train/n03126707/n03126707_10033.JPEG").read_bytes()


def test_without_annotations(tree: Path) -> None:
    shutil.rmtree(tree / "ILSVRC/Annotations/CLS-LOC/val")
    listing = KaggleTree(tree).scan()
    assert [sample for sample in listing.splits["validation"] if sample.boxes] == []
    assert listing.notes == ("there is no ILSVRC/Annotations/CLS-LOC/val, so its images have no bounding boxes",)


def test_without_validation_images(tree: Path) -> None:
    shutil.rmtree(tree / IMAGES / "val")
    shutil.rmtree(tree / "ILSVRC/Annotations/CLS-LOC/val")
    (tree / "LOC_val_solution.csv").unlink()
    listing = KaggleTree(tree).scan()
    assert (set(listing.splits), listing.notes) == ({"train"}, ())


@pytest.mark.parametrize("name", ["LOC_synset_mapping.txt", "LOC_val_solution.csv"])
def test_missing_table(tree: Path, name: str) -> None:
    (tree / name).unlink()
    with pytest.raises(UsageError, match=f"there is no {name} in {tree}"):
        KaggleTree(tree).scan()


def test_tables_that_were_edited_on_windows(tree: Path) -> None:
    expected = KaggleTree(tree).scan()
    for name, end in (("LOC_synset_mapping.txt", " \r\n"), ("LOC_val_solution.csv", "\r\n")):
        lines = (tree / name).read_text().splitlines()
        (tree / name).write_bytes("".join(["\ufeff", *(f"{line}{end}" for line in lines)]).encode())
    assert KaggleTree(tree).scan() == expected


def test_the_folder_ilsvrc_itself(tree: Path) -> None:
    assert KaggleTree.fits(tree / "ILSVRC")
    with pytest.raises(UsageError, match="is the folder ILSVRC itself") as caught:
        KaggleTree(tree / "ILSVRC").scan()
    assert f"give {tree}, which" in caught.value.hint


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("ILSVRC2012_val_00000003,", "ILSVRC2012_val_00000009,", "has no row for .*val/ILSVRC2012_val_00000003.JPEG"),
        ("00000003,n02012849", "00000003,n09999999", "the row 'ILSVRC2012_val_00000003,n09999999 .*', which names no"),
        ("ImageId,", "Id,", "which names no class"),
        ("\nILSVRC2012_val_00000003,n02012849", "\nILSVRC2012_val_00000003", "which names no class"),
        ("PredictionString\n", "PredictionString\nILSVRC2012_val_00000007,n01440764\n", "has 7 rows, but .* 6 images"),
    ],
)
def test_solution_that_does_not_fit(tree: Path, before: str, after: str, error: str) -> None:
    table = tree / "LOC_val_solution.csv"
    assert before in table.read_text()
    table.write_text(table.read_text().replace(before, after))
    with pytest.raises(DataError, match=error):
        KaggleTree(tree).scan()


def test_synsets_that_do_not_fit_and_empty_ones(tree: Path) -> None:
    (tree / IMAGES / "train/n09999999").mkdir()
    with pytest.raises(DataError, match=r"n09999999 is in .*train but not in LOC_synset_mapping.txt"):
        KaggleTree(tree).scan()
    with (tree / "LOC_synset_mapping.txt").open("a") as file:
        file.write("n09999999 something\nn08888888 other\n")
    with pytest.raises(DataError, match=r"n08888888 is in LOC_synset_mapping.txt but not in .*train"):
        KaggleTree(tree).scan()
    (tree / IMAGES / "train/n08888888").mkdir()
    with pytest.raises(DataError, match=r"class 'n08888888' has no images in .*train \(and 1 more"):
        KaggleTree(tree).scan()


def test_broken_annotation(tree: Path) -> None:
    path = tree / "ILSVRC/Annotations/CLS-LOC/train/n03126707/n03126707_10033.xml"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"the boxes in ILSVRC/Annotations/.*/n03126707_10033\.xml cannot"):
        KaggleTree(tree).scan()
