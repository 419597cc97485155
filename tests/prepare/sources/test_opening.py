import os
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from imagesprint.console import Console
from imagesprint.errors import DataError, UsageError
from imagesprint.prepare import SOURCES
from imagesprint.prepare.preparing import prepare
from imagesprint.prepare.sources import open_source


@pytest.mark.parametrize("kind", SOURCES)
def test_chosen_by_what_is_there(miniature: Path, kind: str) -> None:
    assert open_source(miniature / kind).kind == kind
    assert open_source(miniature / kind, kind).kind == kind


def test_tars_left_over_beside_class_folders_and_the_other_way_round(miniature: Path, tmp_path: Path) -> None:
    shutil.copytree(miniature / "class-folders", tmp_path / "photos")
    for name in ("train.tar", "val.tar", "test.tar", "train/bad.tar"):
        (tmp_path / "photos" / name).touch()
    assert open_source(tmp_path / "photos").kind == "class-folders"
    assert open_source(tmp_path / "photos/val").kind == "class-folders"
    (tmp_path / "photos/train/bad.tar").unlink()
    for name in ("bbox.tar", "devkit.tar", "papers/x.tar"):  # more tars than folders
        make_tree(tmp_path / "photos", [name])
    assert open_source(tmp_path / "photos").kind == "class-folders"
    for kind in ("ilsvrc", "kaggle"):  # where the images came from
        (tmp_path / "photos/downloads").symlink_to(miniature / kind)
        assert open_source(tmp_path / "photos").kind == "class-folders"
        (tmp_path / "photos/downloads").unlink()
    shutil.copytree(miniature / "synset-tars", tmp_path / "tars")
    (tmp_path / "tars/meta").mkdir()
    assert open_source(tmp_path / "tars").kind == "synset-tars"


def test_forced_kind_that_does_not_fit(imagesprint: Callable[..., Any], miniature: Path, tmp_path: Path) -> None:
    done = imagesprint("prepare", miniature / "kaggle", tmp_path / "root", "--source", "ilsvrc")
    assert done.code == 2
    assert f"error: {miniature / 'kaggle'} does not look like a source of the kind ilsvrc" in done.stderr
    assert "ILSVRC2012_img_train.tar" in done.stderr
    for kind in set(SOURCES) - {"class-folders"}:
        with pytest.raises(UsageError, match=f"of the kind {kind}"):
            open_source(miniature / "class-folders", kind)


def test_forced_kind_that_fits_too(miniature: Path, tmp_path: Path) -> None:
    shutil.copytree(miniature / "class-folders", tmp_path, dirs_exist_ok=True)
    shutil.copytree(miniature / "ilsvrc", tmp_path, dirs_exist_ok=True)
    assert open_source(tmp_path).kind == "ilsvrc"
    assert len(open_source(tmp_path, "class-folders").scan().splits["validation"]) == 6


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not look like a source") as caught:
        open_source(tmp_path)
    for words in ("ILSVRC2012_img_train.tar", "LOC_synset_mapping.txt", "parquet", "one tar a class", "class folders"):
        assert words in caught.value.hint
    with pytest.raises(UsageError, match="no kind of source 'zip'"):
        open_source(tmp_path, "zip")


def make_tree(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.mark.parametrize(
    ("names", "inner"),
    [
        (["data/train/a/1", "data/train/b/1", "data/val/a/1", "README.md", ".git/x", "__MACOSX/data/._x"], "data"),
        (["photos/a/1", "photos/b/1"], "photos"),
        (["one/two/a/1", "one/two/b/1"], "one/two"),
        (["train/train/a/1", "train/train/b/1"], "train"),
        (["train/train/a/1", "train/val/a/1"], "train"),
        (["images/train/a/1", "images/val/a/1", "labels/train/a/1.txt", "labels/val/a/1.txt"], "images"),
        (["my_train_data/train/a/1", "my_train_data/val/a/1"], "my_train_data"),
        (["images/pie/1", "images/rice/1", "meta/train.txt", "meta/classes.txt"], "images"),
        (["101_Objects/ant/1.jpg", "101_Objects/bass/1.jpg", "Annotations/ant/1.mat", "empty/.keep"], "101_Objects"),
    ],
)
def test_one_folder_too_many_is_seen_through(tmp_path: Path, names: list[str], inner: str) -> None:
    make_tree(tmp_path, names)
    source = open_source(tmp_path)
    assert (source.kind, source.path) == ("class-folders", tmp_path / inner)
    assert open_source(tmp_path / inner).scan() == source.scan()  # a ROOT can be extended by either command


@pytest.mark.parametrize("names", [["train/a/1", "train/b/1"], ["a/1", "b/x/1"], ["a/1"], ["data/1.jpg"], ["train/1"]])
def test_what_is_no_folder_too_many(tmp_path: Path, names: list[str]) -> None:
    assert open_source(make_tree(tmp_path, names)).path == tmp_path


def test_a_link_beside_to_the_newest_version_is_seen_through(tmp_path: Path) -> None:
    make_tree(tmp_path, ["v2/train/a/1", "v2/train/b/1", "v2/val/a/1"])
    (tmp_path / "latest").symlink_to("v2")
    assert open_source(tmp_path).path == tmp_path / "v2"


def test_what_lies_beside_the_splits_is_not_looked_into(tmp_path: Path) -> None:
    make_tree(tmp_path, ["train/a/1", "train/b/1", "val/a/1", "old/x"])
    (tmp_path / "old/gone").symlink_to("nowhere")
    assert set(open_source(tmp_path).scan().splits) == {"train", "validation"}


def test_folder_beside_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tree(tmp_path, ["train/a/1", "train/b/1", "val/a/1", "private/x"])
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "private").chmod(0)
    really = os.scandir

    def refuse(path: str | Path) -> object:  # root may read all
        if Path(path).name == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return really(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="loop is a broken link"):
        open_source(tmp_path)
    (tmp_path / "loop").unlink()
    assert set(open_source(tmp_path).scan().splits) == {"train", "validation"}


def test_other_kinds_in_a_folder_of_their_own(miniature: Path, tmp_path: Path) -> None:
    for kind in SOURCES:
        if (miniature / kind).exists():
            (tmp_path / kind).mkdir()
            (tmp_path / kind / "download").symlink_to(miniature / kind)
            assert open_source(tmp_path / kind).kind == kind


def test_folder_of_images_is_one_class(tmp_path: Path) -> None:
    make_tree(tmp_path, ["a/1.jpg", "a/2.png"])
    with pytest.raises(UsageError, match="holds 2 images, but no class folders") as caught:
        open_source(tmp_path / "a")
    assert f"give {tmp_path}; if not" in caught.value.hint


@pytest.mark.parametrize("name", ["n01.tar", "train.parquet"])
def test_one_file_of_a_source(tmp_path: Path, name: str) -> None:
    make_tree(tmp_path, [name])
    with pytest.raises(UsageError, match="is no folder") as caught:
        open_source(tmp_path / name)
    assert caught.value.hint == f"give the folder it lies in: {tmp_path}"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("a b.ZIP", "unzip '{0}/a b.ZIP' -d {0}"),
        ("images.tar.xz", "tar -xf {0}/images.tar.xz -C {0}"),
        ("images.7z", "7z x {0}/images.7z -o{0}"),
        ("images.rar", "unrar x {0}/images.rar {0}/"),
    ],
)
def test_archive_that_is_not_unpacked(tmp_path: Path, name: str, command: str) -> None:
    make_tree(tmp_path, [name, "readme.txt"])
    with pytest.raises(UsageError, match=f"holds {name}, which is not unpacked") as caught:
        open_source(tmp_path)
    assert caught.value.hint == f"unpack it first: {command.format(tmp_path)}"
    with pytest.raises(UsageError, match="is no folder") as caught:
        open_source(tmp_path / name)
    assert caught.value.hint == "unpack it, and give the folder"


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["./a/1.jpg", "./b/1.jpg"], "unpack it first: tar -xf {0} -C {1}"),
        (["./n01_1.JPEG", "./n01_2.JPEG"], "undo its compression, but leave the tar: gunzip {0}"),
        (["shard/1.jpg", "shard/1.cls"], "undo its compression, but leave the tar: gunzip {0}"),
    ],
)
def test_a_lone_tar_that_is_compressed(tmp_path: Path, names: list[str], hint: str) -> None:
    archive = tmp_path / "train-0000.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(UsageError, match=r"holds train-0000\.tar\.gz, which is not unpacked") as caught:
        open_source(tmp_path)
    assert caught.value.hint == hint.format(archive, tmp_path)


def test_the_source_that_is_taken_is_named(miniature: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, above = miniature / "class-folders", tmp_path / "above"
    above.mkdir()
    (above / "photos").symlink_to(photos)
    for source, variants in ((above, ("full",)), (photos, ("full", "30"))):  # the same ROOT
        prepare(source, tmp_path / "root", variants=variants, workers=1, console=Console(quiet=True))
    assert capsys.readouterr().err == f"warning: {above} is not the source itself: {above}/photos is taken\n"
