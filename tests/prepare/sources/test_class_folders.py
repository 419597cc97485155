import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.sources import open_source
from imagesprint.prepare.sources.class_folders import ClassFolders
from imagesprint.prepare.sources.source import SourceImage


def make_tree(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def locations(samples: list[SourceImage]) -> list[tuple[str, int]]:
    return sorted((sample.location, sample.label) for sample in samples)


def test_train_and_val(tmp_path: Path) -> None:
    names = ["train/b/1.jpg", "train/a/2.jpg", "train/a/deep/er/3.png", "val/b/1.jpg", "train/a/notes.txt"]
    source = ClassFolders(make_tree(tmp_path, [*names, "train/a/.hidden", ".cache/x/y", "train/.git/config"]))
    listing = source.scan()
    assert [entry.name for entry in listing.classes] == ["a", "b"]
    assert locations(listing.splits["train"]) == [
        ("train/a/2.jpg", 0),
        ("train/a/deep/er/3.png", 0),
        ("train/b/1.jpg", 1),
    ]
    assert locations(listing.splits["validation"]) == [("val/b/1.jpg", 1)]
    assert listing.notes == (
        f"images in folders below class folders are taken for those of the classes: {tmp_path}/train/a/deep/er",
        f"files in class folders that are no images by their names are left out: {tmp_path}/train/a/notes.txt",
    )
    sample = listing.splits["validation"][0]
    assert (sample.name, sample.num_bytes, source.read(sample)) == ("1.jpg", 11, b"val/b/1.jpg")


def test_validation_is_another_name_for_val(tmp_path: Path) -> None:
    make_tree(tmp_path, ["train/a/1", "validation/a/1"])
    assert set(ClassFolders(tmp_path).scan().splits) == {"train", "validation"}
    make_tree(tmp_path, ["val/a/1"])
    with pytest.raises(UsageError, match=r"both val(idation)? and val(idation)?"):
        ClassFolders(tmp_path).scan()


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_one_tree(tmp_path: Path, prefix: str) -> None:
    listing = ClassFolders(make_tree(tmp_path, [f"{prefix}a/1", f"{prefix}b/1"])).scan()
    assert set(listing.splits) == {"train"}
    assert locations(listing.splits["train"]) == [(f"{prefix}a/1", 0), (f"{prefix}b/1", 1)]


def test_train_may_be_a_class(tmp_path: Path) -> None:
    listing = ClassFolders(make_tree(tmp_path, ["bus/1", "train/1"])).scan()
    assert [entry.name for entry in listing.classes] == ["bus", "train"]


def test_stray_files_are_named(tmp_path: Path) -> None:
    listing = ClassFolders(make_tree(tmp_path, ["train/a/1", "train/c/1", "train/z.txt", "train/b.csv"])).scan()
    assert listing.notes == (
        f"files of {tmp_path}/train that lie in no class folder are left out: 2, the first of them b.csv",
    )


def test_broken_link_and_vanished_file(tmp_path: Path) -> None:
    source = ClassFolders(make_tree(tmp_path, ["a/1.jpg", "b/2.jpg"]))
    (tmp_path / "a/gone.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=f"a/gone.jpg is a broken link to {tmp_path}/nowhere"):
        source.scan()
    (tmp_path / "a/gone.jpg").unlink()
    (tmp_path / "c").symlink_to("loop")
    (tmp_path / "loop").symlink_to("c")
    with pytest.raises(DataError, match="is a broken link to"):  # a class would be missing
        source.scan()
    (tmp_path / "c").unlink()
    (tmp_path / "loop").unlink()
    sample = source.scan().splits["train"][0]
    (tmp_path / sample.location).unlink()
    with pytest.raises(DataError, match=f"{sample.location}: No such file"):
        source.read(sample)


def test_pipes_and_sockets_are_no_images(tmp_path: Path) -> None:
    make_tree(tmp_path, ["a/1.jpg"])
    os.mkfifo(tmp_path / "a/pipe")
    assert locations(ClassFolders(tmp_path).scan().splits["train"]) == [("a/1.jpg", 0)]


def test_class_in_val_but_not_in_train(tmp_path: Path) -> None:
    make_tree(tmp_path, ["train/a/1", "val/a/1", "val/zebra/1", "val/yak/1"])
    with pytest.raises(DataError, match=r"class 'yak' is in .*val but not in .*train \(and 1 more\)"):
        ClassFolders(tmp_path).scan()


def test_class_without_images(tmp_path: Path) -> None:
    make_tree(tmp_path, ["train/a/1", "train/empty/.keep"])
    with pytest.raises(DataError, match="class 'empty' has no images"):
        ClassFolders(tmp_path).scan()


def test_no_images_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no class folders"):
        ClassFolders(tmp_path).scan()
    make_tree(tmp_path, ["1.jpg"])
    with pytest.raises(UsageError, match="no class folders"):
        ClassFolders(tmp_path).scan()
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="no images"):
        ClassFolders(tmp_path).scan()
    make_tree(tmp_path, ["train/a/1"])
    (tmp_path / "val/a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no images in .*val"):
        ClassFolders(tmp_path).scan()


def test_missing_source_and_source_that_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no source folder"):
        open_source(tmp_path / "none")
    (tmp_path / "file.tar").touch()
    with pytest.raises(UsageError, match="is no folder"):
        open_source(tmp_path / "file.tar")


def test_single_class_and_folders_beside_the_splits_are_named(tmp_path: Path) -> None:
    make_tree(tmp_path, ["train/a/1", "val/a/1", "test/1.jpg", "docs/x"])
    assert ClassFolders(tmp_path).scan().notes == (
        f"of {tmp_path}, train and val are used and docs, test left out",
        f"{tmp_path}/train holds a single class, a: is it the right folder?",
    )


def test_source_that_cannot_be_looked_at() -> None:
    with pytest.raises(DataError, match=r"cannot read .*: File name too long"):
        open_source(Path("x" * 300))


def test_litter_is_neither_class_nor_image(tmp_path: Path) -> None:
    images = [f"{split}/{name}/{i}.jpg" for split in ("train", "val") for name in ("cat", "dog") for i in range(2)]
    silent = [".DS_Store", "train/._cat", "train/cat/._0.jpg", "val/.git/x"]
    noted = ["train/@eaDir/SYNO0.jpg", "train/cat/@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/train/cat/._0.jpg"]
    noted += ["train/$RECYCLE.BIN/R0.jpg", "train/lost+found/.keep", "val/dog/THUMBS.DB", "val/cat/desktop.ini"]
    noted += ["train/.ipynb_checkpoints/x-checkpoint.jpg", "val/dog/.hidden.png"]
    listing = ClassFolders(make_tree(tmp_path, [*images, *silent, *noted])).scan()
    found = [sample.location for split in listing.splits.values() for sample in split]
    assert sorted(found) == images
    assert listing.notes == (
        f"what systems and programs leave behind is passed over: 9, the first of them {tmp_path}/train/$RECYCLE.BIN",
    )


def test_what_is_no_image_by_its_name_is_left_out(tmp_path: Path) -> None:
    tried = ["a/1.JPEG", "a/n01_1", "a/x.JPEG_1", "a/half.jpg.part", "a/photo.heic", "b/2.jfif"]
    left_out = ["a/README", "a/urls.CSV", "a/1.jpg.txt", "b/b.tar.gz", "b/2.json", "b/2.jfif.bak"]
    listing = ClassFolders(make_tree(tmp_path, [*tried, *left_out])).scan()
    assert [location for location, _ in locations(listing.splits["train"])] == sorted(tried)
    assert listing.notes == (
        "files in class folders that are no images by their names are left out: 6, the first of them "
        f"{tmp_path}/a/1.jpg.txt",
    )
    make_tree(tmp_path, ["c/only.txt"])
    with pytest.raises(DataError, match="class 'c' has no images"):
        ClassFolders(tmp_path).scan()


def test_outputs_of_programs_beside_the_classes(tmp_path: Path) -> None:
    make_tree(tmp_path, ["cat/1.jpg", "dog/1.jpg", "runs/exp1/plot0.png", "runs/events.out.tfevents.1"])
    listing = ClassFolders(tmp_path).scan()
    assert [entry.name for entry in listing.classes] == ["cat", "dog"]
    assert listing.notes == (f"of {tmp_path}, runs is left out: no class by its name",)
    make_tree(tmp_path, ["runs/1.jpg"])
    listing = ClassFolders(tmp_path).scan()
    assert [entry.name for entry in listing.classes] == ["cat", "dog", "runs"]
    assert "runs in" in listing.notes[-1]
    make_tree(tmp_path, ["more/exp1/1.jpg"])
    with pytest.raises(UsageError, match="more holds folders alone") as caught:
        ClassFolders(tmp_path).scan()
    assert f"move it out of {tmp_path} if it is no class" in caught.value.hint


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["train/bird/owl/1", "train/bird/hen/1", "train/mammal/cat/1"], "mv {0}/train/*/* {0}/train"),
        (["cat/train/1", "cat/val/1", "dog/train/1", "dog/val/1"], "SOURCE/train/CLASS and SOURCE/val/CLASS"),
        (["cat/train/1", "dog/train/1"], "SOURCE/train/CLASS and SOURCE/val/CLASS"),
        (["cat/old/a/1", "dog/new/b/1"], "mv {0}/*/* {0}"),
        (["cat/data/a/1", "dog/data/b/1"], "put the images straight into them"),
        (
            ["Images/cat/1", "Images/dog/1", "Annotation/cat/1", "Annotation/dog/1"],
            "holds the classes, give that as SOURCE",
        ),
        (["tr/cat/1", "tr/dog/1", "va/cat/1", "va/dog/1"], "if tr and va are splits, name them train and val"),
        (["nette/train/a/1", "woof/train/b/1"], "give {0}/nette or {0}/woof as SOURCE"),
        (["train/a/1", "train/b/x/1"], "move it out of {0}/train if it is no class"),
    ],
)
def test_class_folders_that_hold_folders_alone(tmp_path: Path, names: list[str], hint: str) -> None:
    with pytest.raises(UsageError, match="holds folders alone, no images") as caught:
        ClassFolders(make_tree(tmp_path, names)).scan()
    assert hint.format(tmp_path) in caught.value.hint


@pytest.mark.parametrize("inner", ["images", "img", "2019"])
def test_images_in_one_folder_of_every_class(tmp_path: Path, inner: str) -> None:
    make_tree(tmp_path, [f"train/{name}/{inner}/1.jpg" for name in ("a", "b")] + ["train/a/a_boxes.txt", "val/b/1.jpg"])
    listing = ClassFolders(tmp_path).scan()
    assert locations(listing.splits["train"]) == [(f"train/a/{inner}/1.jpg", 0), (f"train/b/{inner}/1.jpg", 1)]
    assert [note.partition(":")[0] for note in listing.notes] == [
        "files in class folders that are no images by their names are left out"
    ]


def make_tiny(folder: Path) -> Path:
    train = [f"train/{name}/images/{name}_{i}.JPEG" for name in ("n01", "n02", "n03") for i in range(2)]
    make_tree(folder, [*train, *(f"val/images/val_{i}.JPEG" for i in range(3)), "test/images/test_0.JPEG"])
    (folder / "val/val_annotations.txt").write_text(
        "".join(f"val_{i}.JPEG\tn0{3 - i}\t0\t0\t62\t57\n" for i in range(3))
    )
    (folder / "wnids.txt").write_text("n03\nn01\nn02\n")
    (folder / "words.txt").write_text("n00\tnothing\nn01\tgoldfish, Carassius auratus\r\nn02\tbullfrog\n")
    return folder


def test_tiny_imagenet(tmp_path: Path) -> None:
    listing = ClassFolders(make_tiny(tmp_path)).scan()
    assert [(entry.synset, entry.text) for entry in listing.classes] == [
        ("n01", "goldfish, Carassius auratus"),
        ("n02", "bullfrog"),
        ("n03", "n03"),
    ]
    assert len(listing.splits["train"]) == 6
    assert locations(listing.splits["validation"]) == [(f"val/images/val_{i}.JPEG", 2 - i) for i in range(3)]
    assert listing.notes == (
        f"the boxes beside {tmp_path}/train and {tmp_path}/val are left out: they are in pixels",
        f"of {tmp_path}, train and val are used and test left out",
    )


@pytest.mark.parametrize(
    ("name", "before", "after", "error"),
    [
        ("val/val_annotations.txt", "val_1.JPEG\tn02", "val_1.JPEG\tn09", r"the row 'val_1.JPEG\\tn09.*names no class"),
        ("val/val_annotations.txt", "val_1.JPEG\tn02", "val_1.JPEG", r"the row 'val_1.JPEG.*names no class"),
        ("val/val_annotations.txt", "val_1", "val_7", "no row for val/images/val_1.JPEG"),
        ("val/val_annotations.txt", "val_0", "x.JPEG\tn01\nval_0", "has 4 rows, but .*val holds 3 images"),
        ("wnids.txt", "n01", "n01\nn09", "synset n09 is in wnids.txt but not in .*train"),
        ("wnids.txt", "n01\n", "", "synset n01 is in .*train but not in wnids.txt"),
    ],
)
def test_tiny_imagenet_that_does_not_fit(tmp_path: Path, name: str, before: str, after: str, error: str) -> None:
    table = make_tiny(tmp_path) / name
    assert before in table.read_text()
    table.write_text(table.read_text().replace(before, after, 1))
    with pytest.raises(DataError, match=error):
        ClassFolders(tmp_path).scan()


def test_tiny_imagenet_without_its_table(tmp_path: Path) -> None:
    (make_tiny(tmp_path) / "val/val_annotations.txt").unlink()
    with pytest.raises(DataError, match="val/images holds images, but nothing says of which classes") as caught:
        ClassFolders(tmp_path).scan()
    assert "put val_annotations.txt beside it" in caught.value.hint


def test_tiny_imagenet_with_val_sorted_by_hand(tmp_path: Path) -> None:
    make_tiny(tmp_path)
    (tmp_path / "val/images").rename(tmp_path / "old")
    for i in range(3):
        (tmp_path / f"val/n0{3 - i}/images").mkdir(parents=True)
        (tmp_path / f"old/val_{i}.JPEG").rename(tmp_path / f"val/n0{3 - i}/images/val_{i}.JPEG")
    (tmp_path / "old").rename(tmp_path / "val/images")  # empty, as scripts that sort leave it
    listing = ClassFolders(tmp_path).scan()
    assert sorted((sample.name, sample.label) for sample in listing.splits["validation"]) == [
        (f"val_{i}.JPEG", 2 - i) for i in range(3)
    ]
    assert listing.notes == (f"of {tmp_path}, train and val are used and test left out",)


def cats_and_dogs(folder: Path) -> Path:
    return make_tree(
        folder, [f"{split}/{name}/{i}.jpg" for split in ("train", "val") for name in ("cat", "dog") for i in "01"]
    )


@pytest.mark.parametrize("target", ["..", "../..", "../dog", "../../val/cat", ".", "../../.."])
def test_link_to_other_images_of_the_source_is_passed_over(tmp_path: Path, target: str) -> None:
    source = cats_and_dogs(tmp_path / "source")
    before = ClassFolders(source).scan().splits
    (source / "train/cat/up").symlink_to(target)
    listing = ClassFolders(source).scan()
    assert listing.splits == before
    assert len(listing.notes) == 1
    assert f"are passed over: {source}/train/cat/up" in listing.notes[0]


def test_link_to_a_file_of_another_class_is_passed_over(tmp_path: Path) -> None:
    source = cats_and_dogs(tmp_path / "source")
    (source / "train/cat/2.jpg").symlink_to("../dog/0.jpg")
    (source / "train/cat/3.jpg").symlink_to("../../val/cat/0.jpg")
    (source / "train/cat/4.jpg").symlink_to("0.jpg")  # people repeat images of rare classes
    listing = ClassFolders(source).scan()
    assert [location for location, _ in locations(listing.splits["train"])][:3] == [
        f"train/cat/{i}.jpg" for i in (0, 1, 4)
    ]
    assert [note.rpartition(":")[2] for note in listing.notes] == [
        f" 2, the first of them {source}/train/cat/2.jpg -> {source}/train/dog/0.jpg"
    ]


def test_class_of_such_links_alone_has_no_images(tmp_path: Path) -> None:
    make_tree(tmp_path, ["images/1.jpg", "cat/.keep"])
    (tmp_path / "cat/1.jpg").symlink_to("../images/1.jpg")
    with pytest.raises(DataError, match="class 'cat' has no images") as caught:
        ClassFolders(tmp_path).scan()
    assert f"such as {tmp_path}/cat/1.jpg -> {tmp_path}/images/1.jpg" in caught.value.hint


def test_links_that_lead_out_are_followed_and_noted_and_loops_end(tmp_path: Path) -> None:
    source = cats_and_dogs(tmp_path / "source")
    make_tree(tmp_path / "store", ["7.jpg", "more/8.jpg", "more/9.jpg"])
    (tmp_path / "store/more/again").symlink_to(tmp_path / "store/more")
    (source / "train/cat/7.jpg").symlink_to(tmp_path / "store/7.jpg")
    (source / "train/cat/more").symlink_to(tmp_path / "store/more")
    listing = ClassFolders(source).scan()
    found = [location for location, label in locations(listing.splits["train"]) if label == 0]
    assert found == [f"train/cat/{name}.jpg" for name in ("0", "1", "7", "more/8", "more/9")]
    outside, astray = listing.notes[-2:]
    assert f"2, the first of them {source}/train/cat/7.jpg -> {tmp_path}/store/7.jpg" in outside
    assert astray.endswith(f"{source}/train/cat/more/again -> {tmp_path}/store/more")


def test_class_folder_may_be_a_link_elsewhere_but_not_to_another_class(tmp_path: Path) -> None:
    source = cats_and_dogs(tmp_path / "source")
    make_tree(source, ["birds/1.jpg", "birds/owls/2.jpg", "docs/x"])
    (source / "train/bird").symlink_to("../birds")
    listing = ClassFolders(source).scan()
    assert [location for location, _ in locations(listing.splits["train"])][:2] == [
        "train/bird/1.jpg",
        "train/bird/owls/2.jpg",
    ]
    assert f"of {source}, train and val are used and docs left out" in listing.notes
    for name, target in (("owl", Path("../birds/owls")), ("kitten", Path("cat")), ("self", Path(".."))):
        (source / "train" / name).symlink_to(target)
        with pytest.raises(DataError, match="lead to the same images"):
            ClassFolders(source).scan()
        (source / "train" / name).unlink()
    (source / "val").rename(tmp_path / "val")
    (source / "val").symlink_to("train")
    with pytest.raises(DataError, match=r"source/val/bird and .*source/train/bird lead to the same images"):
        ClassFolders(source).scan()


@pytest.mark.parametrize("place", ["loop", "train/loop"])
def test_folder_with_nothing_but_a_link_to_itself(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).symlink_to(".")
    with pytest.raises((DataError, UsageError), match=r"no images in|not look like a source"):
        open_source(tmp_path).scan()
