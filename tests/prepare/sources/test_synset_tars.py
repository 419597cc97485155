import gzip
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from imagesprint.console import Console
from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.preparing import prepare
from imagesprint.prepare.sources import open_source
from imagesprint.prepare.sources.source import Listing
from imagesprint.prepare.sources.synset_tars import SynsetTars

SYNSETS = ["n01440764", "n02012849", "n03126707"]


@pytest.fixture
def lay(miniature: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the tars of synsets, or of those that are given, to a folder in SOURCE; returns SOURCE."""

    def write(folder: str = "", names: Iterable[str] = SYNSETS, suffix: str = ".tar") -> Path:
        (tmp_path / "source" / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(miniature / f"synset-tars/{name}.tar", tmp_path / "source" / folder / f"{name}{suffix}")
        return tmp_path / "source"

    return write


def listed(path: Path) -> Listing:
    source = open_source(path)
    assert source.kind == "synset-tars"
    listing = source.scan()
    assert [entry.name for entry in listing.classes] == SYNSETS
    for samples in listing.splits.values():
        assert source.read(samples[0]).startswith(b"\xff\xd8")
    return listing


def test_one_tar_a_class(miniature: Path) -> None:
    source = SynsetTars(miniature / "synset-tars")
    listing = source.scan()
    assert [entry.synset for entry in listing.classes] == SYNSETS
    assert set(listing.splits) == {"train"}
    assert listing.notes == ()
    sample = next(sample for sample in listing.splits["train"] if sample.name == "n01440764_10026.JPEG")
    assert (sample.location, sample.label) == ("n01440764.tar/n01440764_10026.JPEG", 0)
    path = miniature / "class-folders/train/n01440764/n01440764_10026.JPEG"
    assert source.read(sample) == path.read_bytes()


def test_needs_val_fraction_or_val(lay: Callable[..., Path], tmp_path: Path) -> None:
    source, quiet = lay(), Console(quiet=True)
    lay("test", SYNSETS[:1])
    with pytest.raises(UsageError, match="no validation split") as caught:
        prepare(source, tmp_path / "root", variants=("full",), workers=1, console=quiet)
    assert "--val-fraction" in caught.value.hint
    assert "rename test to validation" in caught.value.hint
    done = prepare(source, tmp_path / "root", variants=("full",), workers=2, val_fraction=0.25, console=quiet)
    assert done.images == {"train": 9, "validation": 3}


@pytest.mark.parametrize(
    ("train", "validation"),
    [("train", "val"), ("training", "validation"), ("Train", "valid"), ("data/train", "data/dev")],
)
def test_folders_of_splits(lay: Callable[..., Path], train: str, validation: str) -> None:
    lay(train)
    listing = listed(lay(validation, SYNSETS[1:2]))
    assert {sample.label for sample in listing.splits["validation"]} == {1}
    assert listing.splits["validation"][0].location.startswith(f"{validation}/n02012849.tar/n02012849_")
    assert len(listing.splits["train"]) == 12
    source = lay(validation, SYNSETS[1:2])
    shutil.copy(source / validation / "n02012849.tar", source / validation / "n5.tar")
    with pytest.raises(DataError, match=f"{validation}/n5.tar is a class of validation, but not of train"):
        SynsetTars(source).scan()


def test_tars_in_train_alone_and_test_beside(lay: Callable[..., Path]) -> None:
    assert listed(lay("train")).notes == ()
    lay("test", SYNSETS[:1])
    listing = listed(lay("", SYNSETS[:1]))
    assert set(listing.splits) == {"train"}
    assert listing.notes == ("tars of no split, or of another, are left out: n01440764.tar, test/n01440764.tar",)


def test_a_class_twice_or_no_training(lay: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match="there are no tars of train"):
        SynsetTars(lay("val")).scan()
    lay("train")
    with pytest.raises(DataError, match=r"train/n01440764.tar and training/n01440764.tar are of one class"):
        SynsetTars(lay("training", SYNSETS[:1])).scan()


def test_upper_case(lay: Callable[..., Path]) -> None:
    assert len(listed(lay("", suffix=".TAR")).splits["train"]) == 12


def test_one_level_down(lay: Callable[..., Path]) -> None:
    source = lay("winter21_whole")
    (source / "papers").mkdir()
    listing = listed(source)
    assert listing.splits["train"][0].location.startswith("winter21_whole/n01440764.tar/")
    assert listing.notes == (f"of {source}, the .tar files in winter21_whole/ are taken",)
    lay("fall11_whole")
    with pytest.raises(
        UsageError, match=r"several folders of .* hold \.tar files: fall11_whole/, winter21_w"
    ) as caught:
        open_source(source).scan()
    assert caught.value.hint == f"give one of them as SOURCE: {source}/fall11_whole"


def test_folders_of_images_beside_a_folder_of_tars_are_what_is_meant(lay: Callable[..., Path], miniature: Path) -> None:
    source = lay("downloads")
    shutil.copytree(miniature / "class-folders/train", source, dirs_exist_ok=True)
    assert open_source(source).kind == "class-folders"


def unpack(miniature: Path, source: Path, names: Iterable[str]) -> None:
    for name in names:
        shutil.copytree(miniature / "class-folders/train" / name, source / name)


def test_tars_beside_their_folders(lay: Callable[..., Path], miniature: Path) -> None:
    source = lay()
    unpack(miniature, source, SYNSETS[:1])
    assert listed(source).notes == (f"of {source}, the tars are used and the folders n01440764/ left out",)
    unpack(miniature, source, SYNSETS[1:])
    assert open_source(source).kind == "class-folders"


@pytest.mark.parametrize("packed", [SYNSETS[:1], SYNSETS[:2], SYNSETS[1:]])
def test_half_unpacked(lay: Callable[..., Path], miniature: Path, packed: list[str]) -> None:
    source = lay("", packed)
    unpack(miniature, source, set(SYNSETS) - set(packed))
    with pytest.raises(DataError, match="some classes are unpacked and some are not"):
        open_source(source).scan()


@pytest.mark.parametrize("data", [b"", bytes(10240)])
def test_tar_without_images(lay: Callable[..., Path], data: bytes) -> None:
    (lay() / "n00000001.tar").write_bytes(data)
    with pytest.raises(DataError, match=r"n00000001\.tar is (an )?empty"):
        SynsetTars(lay()).scan()


@pytest.mark.parametrize(
    ("suffix", "name", "command"),
    [
        (".tar.gz", "gzip", "gunzip"),
        (".tgz", "gzip", "gunzip"),
        (".tar.xz", "xz", "unxz"),
        (".TAR.ZST", "zstd", "unzstd --rm"),
    ],
)
@pytest.mark.parametrize("folder", ["", "data"])
def test_compressed_tars_are_named_with_the_command(
    lay: Callable[..., Path], suffix: str, name: str, command: str, folder: str
) -> None:
    source = lay(folder, suffix=suffix)
    with pytest.raises(DataError, match=f"n01440764{suffix} is compressed with {name} .as 2 more are.") as caught:
        open_source(source).scan()
    assert caught.value.hint.endswith(f": {command} {source / folder}/*.{suffix.rpartition('.')[2]}")


def test_gzip_under_the_name_of_a_tar(lay: Callable[..., Path]) -> None:
    path = lay() / "n01440764.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"n01440764\.tar is compressed with gzip"):
        open_source(path.parent).scan()


def test_what_is_no_image_is_left_out(lay: Callable[..., Path]) -> None:
    source = lay()
    with tarfile.open(source / "n01440764.tar", "a") as tar:
        for name in ("readme.txt", "n01440764_1.xml", "._x.JPEG"):
            tar.addfile(tarfile.TarInfo(name))
    listing = listed(source)
    assert len(listing.splits["train"]) == 12
    assert listing.notes == (
        "files in the tars that are no images by their names are left out: 2, the first of them "
        "n01440764.tar/readme.txt",
    )


def pack(source: Path, tars: dict[str, list[str]]) -> Path:
    source.mkdir(exist_ok=True)
    for name, members in tars.items():
        with tarfile.open(source / name, "w") as tar:
            for member in members:
                tar.addfile(tarfile.TarInfo(member))
    return source


@pytest.mark.parametrize(
    "tars",
    [
        {"images.tar": ["x/cat/1.jpg", "x/dog/1.jpg"]},
        {"a.tar": ["cat/1.jpg", "dog/1.jpg"], "b.tar": ["./cat/2.jpg", "./dog/2.jpg"]},
    ],
)
def test_tars_with_the_classes_in_them(tmp_path: Path, tars: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError, match=r"^(images|a)\.tar holds images in several folders, (x/)?cat, (x/)?dog"):
        open_source(pack(tmp_path / "source", tars)).scan()


def test_labels_far_from_their_images(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(99)] + [f"{i}.cls" for i in range(99)]
    with pytest.raises(DataError, match=r"shard-0\.tar/0\.cls is a label, as in shards of WebDataset"):
        open_source(pack(tmp_path / "source", {"shard-0.tar": names})).scan()


@pytest.mark.parametrize("others", [["1.jpg", "old/2.jpg"], ["a/1.jpg", "a/b/2.jpg"], ["./b/1.jpg"], ["/b/1.jpg"]])
def test_folders_in_the_tars_of_classes(tmp_path: Path, others: list[str]) -> None:
    source = pack(tmp_path / "source", {"a.tar": others, "b.tar": ["x/1.jpg", "y/1.jpg"]})
    assert len(open_source(source).scan().classes) == 2


def test_a_copy_is_no_class(lay: Callable[..., Path]) -> None:
    source = lay()
    shutil.copy(source / "n01440764.tar", source / "n01440764 (1).tar")
    with pytest.raises(DataError, match=r"n01440764.tar and n01440764 \(1\).tar are one train file twice"):
        open_source(source).scan()


def test_imagenets_own_files_in_a_folder_below(lay: Callable[..., Path], miniature: Path) -> None:
    source = lay("papers", [])
    shutil.copytree(miniature / "ilsvrc", source / "imagenet")
    (source / "papers/figure.png").touch()
    found = open_source(source)
    assert (found.kind, found.path) == ("ilsvrc", source / "imagenet")


def rename(source: Path, names: Iterable[str]) -> None:
    for old, new in zip(SYNSETS, names, strict=False):
        (source / f"{old}.tar").rename(source / f"{new}.tar")


@pytest.mark.parametrize(
    ("names", "doubt"),
    [
        (
            ["shard-000000", "shard-000001", "shard-000002"],
            "named like shards of one set, shard-000000, shard-000001, shard",
        ),
        (["00000", "00001", "00002"], "named like shards of one set"),
        (["00000"], "a single tar, 00000, so a single class"),
        (["cat"], "a single tar, cat, so a single class"),
    ],
)
def test_what_is_taken_for_classes_is_doubted(lay: Callable[..., Path], names: list[str], doubt: str) -> None:
    source = lay("", SYNSETS[: len(names)])
    rename(source, names)
    [note] = open_source(source).scan().notes
    assert doubt in note


@pytest.mark.parametrize("names", [["train", "val", "test"], ["train"], ["imagenet_train_0", "imagenet_val_0"]])
def test_tars_of_whole_splits_are_no_classes(lay: Callable[..., Path], names: list[str]) -> None:
    source = lay("", SYNSETS[: len(names)])
    rename(source, names)
    with pytest.raises(UsageError, match="named like a split, not like a class"):
        open_source(source).scan()
    rename(lay("", SYNSETS), ["bus", "car", "train"])
    assert "train" in [entry.name for entry in open_source(source).scan().classes]


def test_what_is_wrong_with_such_tars_is_said_first(lay: Callable[..., Path]) -> None:
    source = lay("", SYNSETS[:1])
    rename(source, ["train"])
    (source / "train.tar").write_bytes(gzip.compress((source / "train.tar").read_bytes()))
    with pytest.raises(DataError, match=r"train\.tar is compressed with gzip"):
        open_source(source).scan()
