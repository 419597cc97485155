import shutil
from pathlib import Path

import pytest

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources import open_source
from imagesprint.prepare.sources.kaggle_tree import KaggleTree

IMAGES = "ILSVRC/Data/CLS-LOC"
OTHERS = f"of {IMAGES}, test is left out"


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
    assert listing.notes == (OTHERS,)
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
    assert listing.notes == ("there is no ILSVRC/Annotations/CLS-LOC/val, so its images have no bounding boxes", OTHERS)


def test_without_validation_images(tree: Path) -> None:
    shutil.rmtree(tree / IMAGES / "val")
    shutil.rmtree(tree / "ILSVRC/Annotations/CLS-LOC/val")
    (tree / "LOC_val_solution.csv").unlink()
    listing = KaggleTree(tree).scan()
    assert (set(listing.splits), listing.notes) == ({"train"}, (OTHERS,))


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


@pytest.mark.parametrize("given", ["ILSVRC", "ILSVRC/Data", IMAGES, ".."])
def test_given_one_of_the_folders_below_or_the_one_above(tree: Path, given: str) -> None:
    (tree.parent / "beside").mkdir()
    (tree.parent / "all.zip").touch()
    source = open_source(tree.parent if given == ".." else tree / given)
    assert (source.kind, source.path) == ("kaggle", tree)
    assert source.scan() == KaggleTree(tree).scan()


def test_above_two_trees(tree: Path) -> None:
    shutil.copytree(tree, tree.parent / "other")
    with pytest.raises(UsageError, match="holds folders alone"):
        open_source(tree.parent).scan()


def sort_val(tree: Path) -> None:
    """Move each image of val into the folder of its class, as valprep.sh does."""
    for row in (tree / "LOC_val_solution.csv").read_text().splitlines()[1:]:
        stem, synset = row.split(" ")[0].split(",")
        folder = tree / IMAGES / "val" / synset
        folder.mkdir(exist_ok=True)
        (tree / IMAGES / "val" / f"{stem}.JPEG").rename(folder / f"{stem}.JPEG")


def test_val_in_class_folders(tree: Path) -> None:
    expected = {sample.name: sample.label for sample in KaggleTree(tree).scan().splits["validation"]}
    sort_val(tree)
    for _ in range(2):  # by the table, and without it by the folders
        samples = KaggleTree(tree).scan().splits["validation"]
        assert {sample.name: sample.label for sample in samples} == expected
        assert sum(bool(sample.boxes) for sample in samples) == 2
        (tree / "LOC_val_solution.csv").unlink(missing_ok=True)
    # The folder of the images alone has all that class folders need, and was such a source always.
    assert open_source(tree / IMAGES).kind == "class-folders"
    (tree / IMAGES / "val/odd.JPEG").touch()
    with pytest.raises(UsageError, match="there is no LOC_val_solution"):
        KaggleTree(tree).scan()


def test_images_alone_with_a_flat_val(tree: Path) -> None:
    (tree / IMAGES).rename(tree / "images")
    with pytest.raises(UsageError, match="val holds no class folders") as caught:
        open_source(tree / "images").scan()
    assert "LOC_val_solution.csv beside it" in caught.value.hint


def test_tables_moved_into_ilsvrc(tree: Path) -> None:
    expected = KaggleTree(tree).scan()
    for name in ("LOC_synset_mapping.txt", "LOC_val_solution.csv"):
        (tree / name).rename(tree / "ILSVRC" / name)
    assert KaggleTree(tree).scan() == expected


def test_ilsvrc_under_another_name(tree: Path) -> None:
    (tree / "ILSVRC").rename(tree / "imagenet")
    with pytest.raises(UsageError, match="is the folder ILSVRC itself, under another name"):
        open_source(tree / "imagenet").scan()


def test_litter_and_links_to_another_class(tree: Path) -> None:
    expected = KaggleTree(tree).scan()
    synsets = sorted(path.name for path in (tree / IMAGES / "train").iterdir())
    for place in ("train/Thumbs.db", f"train/{synsets[0]}/urls.txt", "val/desktop.ini", "val/._ILSVRC2012_val_1.JPEG"):
        (tree / IMAGES / place).touch()
    (tree / IMAGES / "train/@eaDir").mkdir()
    (tree / IMAGES / "train" / synsets[0] / "more").symlink_to(f"../{synsets[1]}")
    listing = KaggleTree(tree).scan()
    assert (listing.classes, listing.splits) == (expected.classes, expected.splits)
    assert len(listing.notes) == 4


def test_what_lies_beside_is_named(tree: Path) -> None:
    expected = KaggleTree(tree).scan().splits
    (tree / "train/cat").mkdir(parents=True)
    (tree / "train/cat/1.jpg").touch()
    (tree / IMAGES / "train/1.JPEG").touch()
    listing = open_source(tree).scan()
    assert listing.splits == expected
    assert listing.notes == (
        f"files of {tree / IMAGES / 'train'} that lie in no class folder are left out: 1.JPEG",
        OTHERS,
        f"of {tree}, ILSVRC is used and train left out",
    )


def test_sorted_val_without_the_tables_is_a_source_of_class_folders(tree: Path) -> None:
    synset = next((tree / IMAGES / "train").iterdir()).name
    for image in sorted((tree / IMAGES / "val").iterdir()):
        (tree / IMAGES / "val" / synset).mkdir(exist_ok=True)
        image.rename(tree / IMAGES / "val" / synset / image.name)
    for table in tree.glob("LOC_*"):
        table.unlink()
    with pytest.raises(UsageError, match=r"there is no LOC_synset_mapping\.txt") as caught:
        open_source(tree).scan()
    assert f"or give {tree / IMAGES} as SOURCE" in caught.value.hint
    assert open_source(tree / IMAGES).scan().splits["validation"]


def test_table_that_is_no_csv(tree: Path) -> None:
    (tree / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "x" * 200_000)
    with pytest.raises(DataError, match=r"LOC_val_solution\.csv cannot be read: field larger"):
        KaggleTree(tree).scan()


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
