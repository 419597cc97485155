import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from imagesprint.errors import DataError
from imagesprint.prepare.sources import open_source
from imagesprint.prepare.sources.source import Listing
from imagesprint.prepare.sources.webdataset import WebDataset


def write(path: Path, files: Mapping[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, text in files.items():
            data = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, names: Mapping[str, list[int]]) -> None:
    """Write shards of images, of the text of their key, with the given labels in .cls and .json."""
    for name, labels in names.items():
        files: dict[str, bytes | str] = {}
        for i, label in enumerate(labels):
            key = f"{Path(name).stem}-{i:04d}"
            files |= {f"{key}.cls": str(label), f"{key}.jpg": key, f"{key}.json": json.dumps({"label": label})}
        write(folder / name, files)


def listed(path: Path) -> Listing:
    source = open_source(path)
    assert source.kind == "webdataset"
    listing = source.scan()
    for samples in listing.splits.values():
        assert [source.read(sample).decode() for sample in samples] == [Path(sample.name).stem for sample in samples]
    return listing


def scanned(folder: Path, files: Mapping[str, bytes | str]) -> Listing:
    write(folder / "train-0000.tar", files)
    return WebDataset(folder).scan()


def labels_of(listing: Listing, split: str = "train") -> list[int]:
    return [sample.label for sample in listing.splits[split]]


@pytest.mark.parametrize(
    "names",
    [
        ["imagenet1k-train-0000.tar", "imagenet1k-train-0001.tar", "imagenet1k-validation-00.tar"],
        ["train/00000.tar", "train/00001.tar", "val/00000.tar"],
        ["data/train/00000.tar", "data/train/00001.tar", "data/valid/00002.tar"],
        ["shards/x-training-0-of-2.tar", "shards/x-training-1-of-2.tar", "shards/x-dev-0-of-1.tar"],
    ],
)
def test_splits(tmp_path: Path, names: list[str]) -> None:
    write_shards(tmp_path, dict(zip(names, ([0, 2, 1], [1], [2, 0]), strict=True)))
    listing = listed(tmp_path)
    assert [entry.name for entry in listing.classes] == ["0", "1", "2"]
    assert labels_of(listing) == [0, 2, 1, 1]
    assert labels_of(listing, "validation") == [2, 0]
    assert listing.splits["train"][0].location == f"{names[0]}/{Path(names[0]).stem}-0000.jpg"


def test_as_img2dataset_writes(tmp_path: Path) -> None:
    write_shards(tmp_path, {"00000.tar": [0, 1], "00001.tar": [1]})
    for name in ("00000.parquet", "00000_stats.json", "00001.parquet", "00001_stats.json"):
        (tmp_path / name).touch()
    listing = listed(tmp_path)
    assert list(listing.splits) == ["train"]
    assert listing.notes == (f"no name of a .tar file in {tmp_path} says its split: all are taken as train",)


def test_test_shards_are_left_out(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a-train-0.tar": [0], "a-test-0.tar": [0]})
    listing = listed(tmp_path)
    assert list(listing.splits) == ["train"]
    assert listing.notes == ("files of other splits are left out: a-test-0.tar",)


def test_missing_shards_are_an_error(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a-0000.tar": [0], "a-0002.tar": [0]})
    with pytest.raises(DataError, match=r"of the train files that a-0000\.tar is one of, 1 is missing: number 1$"):
        open_source(tmp_path).scan()


def test_shards_beside_class_folders_are_by_the_way(tmp_path: Path) -> None:
    write_shards(tmp_path, {"export.tar": [0]})
    assert open_source(tmp_path).kind == "webdataset"
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.jpg").touch()
    assert open_source(tmp_path).kind == "class-folders"
    write_shards(tmp_path, {"x-train-0.tar": [0]})
    assert open_source(tmp_path).kind == "webdataset"


@pytest.mark.parametrize(
    ("files", "label"),
    [
        ({"a.jpg": "", "a.cls": "1\n", "b.jpg": "", "b.cls": "0"}, 1),
        ({"a.JPEG": "", "a.json": '{"label": 1, "width": 5}', "b.png": "", "b.json": '{"label": "0"}'}, 1),
        ({"a.webp": "", "a.json": '{"cls": 1}', "b.webp": "", "b.cls": "0", "a.txt": "a caption"}, 1),
        ({"n/a.jpg": "", "n/a.json": "1", "m/a.jpg": "", "m/a.json": "0"}, 1),
        ({"a.jpg": "", "a.cls": "dog", "b.jpg": "", "b.json": '{"class": "cat"}'}, 1),
        ({"a.mask.png": "", "a.jpg": "", "a.cls": "1", "b.rgb.png": "", "b.cls": "0"}, 1),
        ({"a.image.jpg": "", "a.label.cls": "1", "b.input.jpg": "", "b.target.cls": "0"}, 1),
        ({"a.jpg": "", "a.label": "1", "b.jpg": "", "b.class": "0"}, 1),
        ({"a.jpg": "", "a.cls": "1", "a.coarse.cls": "7", "b.jpg": "", "b.meta.json": '{"label": 0}'}, 1),
        ({"a.jpg": "", "a.cls": "1.0", "b.jpg": "", "b.json": '{"label": 0.0}'}, 1),
        ({"n02_7_n02012849.JPEG": "", "ILSVRC2012_val_00000001_n01440764.JPEG": ""}, 1),
    ],
)
def test_where_labels_are(tmp_path: Path, files: dict[str, str], label: int) -> None:
    write(tmp_path / "train-0.tar", files)
    listing = open_source(tmp_path).scan()
    assert labels_of(listing) == [label, 0]
    assert len(listing.classes) == 2


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"classes.txt": "cat\ndog\n"}, ["cat", "dog"]),
        ({"labels.txt": "0:cat\n1:dog\n\n"}, ["cat", "dog"]),
        ({"labels.txt": "crane\ncrane"}, ["crane (0)", "crane (1)"]),
        ({"classes.txt": "\ufeffcat\r\ndog\r\n"}, ["cat", "dog"]),
    ],
)
def test_names_of_classes_beside(tmp_path: Path, names: dict[str, str], expected: list[str]) -> None:
    write_shards(tmp_path, {"train-0.tar": [0, 1, 0]})
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    assert [entry.name for entry in WebDataset(tmp_path).scan().classes] == expected
    write_shards(tmp_path, {"train-0.tar": [0, 1, 2]})
    with pytest.raises(DataError, match=r"there is a label 2 in the shards of .*, but 2 classes are named"):
        WebDataset(tmp_path).scan()


def test_names_of_classes_above_the_shards(tmp_path: Path) -> None:
    write_shards(tmp_path, {"shards/train-0.tar": [0, 1, 0]})
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert [entry.name for entry in WebDataset(tmp_path).scan().classes] == ["cat", "dog"]


@pytest.mark.parametrize("with_cls", [True, False])
def test_names_of_classes_in_json(tmp_path: Path, with_cls: bool) -> None:
    files: dict[str, bytes | str] = {}
    for key, label, name in (("a", 1, "dog"), ("b", 0, "cat"), ("c", 1, "dog")):
        files |= {f"{key}.jpg": "", f"{key}.json": json.dumps({"label": label, "class_name": name})}
        files |= {f"{key}.cls": str(label)} if with_cls else {}
    assert [entry.name for entry in scanned(tmp_path, files).classes] == ["cat", "dog"]
    write(tmp_path / "train-0001.tar", {"a.jpg": "", "a.json": '{"label": 1, "class_name": "owl"}'})
    with pytest.raises(DataError, match=r"label 1 is 'dog' in train-0000.tar, but 'owl' in train-0001.tar"):
        WebDataset(tmp_path).scan()


def test_samples_without_an_image_are_left_out(tmp_path: Path) -> None:
    listing = scanned(tmp_path, {"a.jpg": "", "a.cls": "0", "b.cls": "0", "c.json": "{}", "README": ""})
    assert labels_of(listing) == [0]
    assert listing.notes == ("3 samples have no image and are left out",)
    assert scanned(tmp_path, {"a.jpg": "", "a.cls": "0", "b.cls": "0"}).notes == (
        "1 sample has no image and is left out",
    )


def test_what_the_first_tars_do_not_tell_the_next_do(tmp_path: Path) -> None:
    for i in range(6):
        write(tmp_path / f"data/test_images_{i}.tar", {"ILSVRC2012_test_00000001.JPEG": ""})
    write(tmp_path / "data/train_images_0.tar", {"n01440764_18_n01440764.JPEG": ""})
    write(tmp_path / "data/val_images.tar", {"ILSVRC2012_val_00000293_n01440764.JPEG": ""})
    listing = open_source(tmp_path).scan()
    assert [entry.name for entry in listing.classes] == ["n01440764"]
    assert {split: len(samples) for split, samples in listing.splits.items()} == {"train": 1, "validation": 1}
    write(tmp_path / "data/train_images_0.tar", {})
    write(tmp_path / "data/train_images_1.tar", {"n01440764_18_n01440764.JPEG": ""})
    with pytest.raises(DataError, match=r"train_images_0\.tar is an empty tar"):
        open_source(tmp_path).scan()


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (
            {"b.jpg": "", "b.txt": "a cat"},
            r"1 of 2 samples have no label, the first of them b \(of jpg, txt\) in train",
        ),
        (
            {"b.jpg": "", "b.json": '{"w": 1}', "c.jpg": ""},
            r"2 of 3 samples have no label, the first of them c \(of jpg\) in",
        ),
        (
            {"b.jpg": "", "b.json": '{"w": 1, "label": null}'},
            r"1 of 2 .* them b.json \(with label, w in it\) in train-0000",
        ),
        ({"b.jpg": "", "b.json": "{"}, r"train-0000.tar/b.json is no JSON"),
        ({"b.jpg": "", "b.json": b"\xff\xfe"}, r"train-0000.tar/b.json is no JSON"),
        ({"b.jpg": "", "b.json": "[" * 200_000}, "is JSON that is nested too deep"),
        ({"b.jpg": "", "b.json": '{"label": -1}'}, "b.json says the label -1"),
        ({"b.jpg": "", "b.json": '{"label": true}'}, "b.json says the label True"),
        ({"b.jpg": "", "b.json": '{"label": [0]}'}, r"b.json says the label \[0\]"),
        ({"b.jpg": "", "b.cls": "-1"}, "b.cls says the label -1"),
        ({"b.jpg": "", "b.cls": " \n"}, "b.cls says the label ''"),
        ({"b.jpg": "", "b.cls": b"\x80\x04K\x01."}, "b.cls says the label "),
        ({"b.jpg": "", "b.cls": "9" * 18}, "there is a label 999,999,999,999,999,999"),
        (
            {"b.jpg": "", "b.cls": "cat"},
            r"some labels are numbers and some are names: 0 of .*a.jpg and 'cat' of .*b.jpg",
        ),
        ({"b.jpg": "", "b.fine.cls": "0", "b.coarse.cls": "1"}, "sample b .* has 2 labels: fine.cls, coarse.cls"),
        ({"b.jpg": "", "b.png": "", "b.cls": "0"}, "sample b in train-0000.tar has 2 images: jpg, png"),
    ],
)
def test_bad_samples(tmp_path: Path, files: dict[str, bytes | str], what: str) -> None:
    with pytest.raises(DataError, match=what):
        scanned(tmp_path, {"a.jpg": "", "a.cls": "0", **files})


def test_labels_that_occur_nowhere_are_noted(tmp_path: Path) -> None:
    listing = scanned(tmp_path, {"a.jpg": "", "a.cls": "2"})
    assert [entry.name for entry in listing.classes] == ["0", "1", "2"]
    assert "2 of the labels 0 to 2 have no images" in listing.notes[0]
    write_shards(tmp_path, {"val-0.tar": [1]})
    with pytest.raises(DataError, match="class 1 has no training images"):
        WebDataset(tmp_path).scan()


@pytest.mark.parametrize("extension", ["index", "target", "npy", "txt", "cls.txt"])
def test_samples_without_a_label_are_no_images_of_one_class(tmp_path: Path, extension: str) -> None:
    write(tmp_path / "shard-000000.tar", {"a.jpg": "", f"a.{extension}": "1"})
    with pytest.raises(DataError, match=f"1 of 1 samples have no label, the first of them a .of .*{extension}"):
        open_source(tmp_path).scan()


@pytest.mark.parametrize(
    "names", [["x_0.jpg", "x_0.xml"], ["x_0.jpg", "README.txt"], ["x.jpg", "x.png", "x"], ["a.cls", "b.json"], []]
)
def test_tars_without_samples_are_not_taken(tmp_path: Path, names: list[str]) -> None:
    write(tmp_path / "x.tar", dict.fromkeys(names, ""))
    assert not WebDataset.fits(tmp_path)


def test_prepared_from_the_command_line(imagesprint: Callable[..., Any], miniature: Path, tmp_path: Path) -> None:
    done = imagesprint("prepare", miniature / "webdataset", tmp_path / "root", "--variants", "full")
    assert done.code == 0
    assert "files of other splits are left out: miniature-test-00.tar" in done.stderr
    assert "12 train, 6 validation images in 3 classes" in done.stdout
