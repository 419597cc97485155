"""`index --index-dir`: a ROOT of links beside data in which one cannot write, or would not."""

import codecs
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagesprint.console import Console
from imagesprint.errors import DataError, RecordError, UsageError
from imagesprint.prepare.foreign.indexing import Indexing, index_shards
from imagesprint.records.dataset import open_dataset
from imagesprint.records.verify import verify

WriteForeign = Callable[..., Path]
AssertSound = Callable[..., None]

FOLDERS = {
    "train": ["train/train-00000-of-00002", "train/train-00001-of-00002"],
    "validation": ["validation/validation-00000-of-00001"],
}


def run(path: Path, index_dir: str | Path | None = None) -> Indexing:
    return index_shards(path, console=Console(quiet=True), index_dir=index_dir, workers=1)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that other users may enter, too: pytest's own ones are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may write everywhere: be nobody for a while."""
    user = os.geteuid()
    if user == 0:
        # zipfile's: nobody may not be let to Python's own files, and what is not found once is never looked for again.
        codecs.lookup("cp437")
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", ["data", "full"])
def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_read(
    write_foreign: WriteForeign, open_place: Path, name: str
) -> None:
    data = write_foreign(open_place / name)
    os.truncate(data / "train-00000-of-00002", 2000)
    data.chmod(0o555)
    with without_privileges(), pytest.raises(UsageError, match=f"cannot write in {data}: Permission denied") as caught:
        run(data)
    assert "--index-dir DIR" in caught.value.hint


def test_read_only_data_is_indexed_elsewhere(
    write_foreign: WriteForeign, open_place: Path, tmp_path: Path, assert_sound: AssertSound
) -> None:
    data = write_foreign(open_place / "data", **FOLDERS)
    write_foreign(data / "320")
    for folder in (data, *(entry for entry in data.rglob("*") if entry.is_dir())):
        folder.chmod(0o555)
    (open_place / "mine").mkdir(mode=0o777)
    (open_place / "mine").chmod(0o777)
    before = snapshot(data)
    with without_privileges():
        found = run(data, index_dir=open_place / "mine" / "root")
    assert snapshot(data) == before
    assert found.root == open_place / "mine" / "root"
    assert [(variant.name, variant.is_linked, variant.is_new) for variant in found.variants] == [
        ("full", True, True),
        ("320", True, True),
    ]
    assert_sound(found.root)
    assert_sound(found.root, "320")
    found.root.rename(tmp_path / "moved")  # the links are absolute
    assert_sound(tmp_path / "moved")
    assert not run(data, index_dir=tmp_path / "moved").variants[0].is_new


def test_an_index_elsewhere_may_be_given_relative_and_by_variant(
    write_foreign: WriteForeign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_sound: AssertSound
) -> None:
    write_foreign(tmp_path / "data/full")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(Path("../data/full"), index_dir="a/b").root == tmp_path / "here/a/b"
    monkeypatch.chdir(tmp_path)
    assert_sound(Path("here/a/b"))
    assert [path.name for path in (tmp_path / "data/full").iterdir() if "index" in path.name] == []


def test_an_index_dir_that_is_the_data_itself(
    write_foreign: WriteForeign, tmp_path: Path, assert_sound: AssertSound
) -> None:
    write_foreign(tmp_path / "data/full")
    (tmp_path / "alias").symlink_to("data")
    assert not run(tmp_path / "data", index_dir=tmp_path / "alias").variants[0].is_linked
    assert_sound(tmp_path / "data")


def test_an_index_dir_that_is_no_folder(write_foreign: WriteForeign, tmp_path: Path) -> None:
    data = write_foreign(tmp_path / "data")
    with pytest.raises(UsageError, match=r"cannot write in .*train-00000-of-00002: File exists"):
        run(data, index_dir=data / "train-00000-of-00002")


def test_data_that_moved_from_under_its_index(
    write_foreign: WriteForeign, tmp_path: Path, assert_sound: AssertSound
) -> None:
    data, root = write_foreign(tmp_path / "data"), tmp_path / "root"
    run(data, index_dir=root)
    moved = data.rename(tmp_path / "moved")
    link = root / "full" / "train-00000-of-00002"
    with pytest.raises(RecordError) as caught:
        open_dataset(root, "full", "train")
    assert caught.value.what == f"shard {link} is a link to {data}/train-00000-of-00002, which is not there"
    assert f"delete {root}/full and index" in caught.value.hint
    assert f"imagesprint index DATA --index-dir {root}" in caught.value.hint
    what = f"shard {link} is a link to {data}/train-00000-of-00002, which is not there"
    assert what in [problem.what for problem in verify(root, Console(quiet=True)).problems]
    with pytest.raises(DataError, match=f"{link} is no link to {moved}/train-00000-of-00002") as caught_again:
        run(moved, index_dir=root)
    assert f"delete the folder {root}/full, which holds links" in caught_again.value.hint
    shutil.rmtree(root / "full")
    run(moved, index_dir=root)
    assert_sound(root)


def test_an_index_dir_that_holds_something_else(write_foreign: WriteForeign, photo_root: Path, tmp_path: Path) -> None:
    data, other = write_foreign(tmp_path / "data"), write_foreign(tmp_path / "other")
    with pytest.raises(UsageError, match=f"{photo_root}/full was prepared from images") as caught:
        run(data, index_dir=photo_root)
    assert caught.value.hint == "give --index-dir DIR, another folder"
    run(data, index_dir=tmp_path / "root")
    with pytest.raises(DataError, match=f"train-00000-of-00002 is no link to {other}") as caught_again:
        run(other, index_dir=tmp_path / "root")
    assert "or give --index-dir DIR, another folder" in caught_again.value.hint
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "full").symlink_to("nowhere")
    with pytest.raises(UsageError, match="mine/full is no folder"):
        run(data, index_dir=tmp_path / "mine")
