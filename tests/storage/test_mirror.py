import os
import secrets
import shutil
import threading
import time
from pathlib import Path

import pytest

from fault_proxy import FaultProxy
from imagesprint.console import Console
from imagesprint.errors import DataError, StorageError
from imagesprint.storage.mirror import check_names, fetch_checked, mirror, mirrored, read_present
from imagesprint.storage.store import Store, Stored, open_store
from imagesprint.storage.url import Url
from s3_server import S3

QUIET = Console(quiet=True)
FILES = {"train/a.jpg": b"image", "train/b c.tar": b"t" * 100, "val/é+%.tar": b"v" * 5_000_000, "empty.tar": b""}


@pytest.fixture
def store(s3: S3) -> Store:
    store = open_store(s3.url)
    for key, data in FILES.items():
        store.write(key, data)
    return store


def is_tar(key: str) -> bool:
    return key.endswith(".tar")


def test_wanted_files_are_there_and_others_are_holes(store: Store, tmp_path: Path) -> None:
    mirror(store, list(store.list()), tmp_path, is_tar, QUIET)
    found = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    assert found.keys() == FILES.keys()
    for key, path in found.items():
        assert path.read_bytes() == (FILES[key] if is_tar(key) else bytes(len(FILES[key])))
    assert found["train/a.jpg"].stat().st_mtime == next(
        stored.modified for stored in store.list() if stored.key == "train/a.jpg"
    )


def test_what_is_there_is_not_fetched_again_and_leftovers_go(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = list(store.list())
    mirror(store, entries, tmp_path, is_tar, QUIET)
    (tmp_path / "train/b c.tar").unlink()
    (tmp_path / "train/.b c.tar.123.tmp").write_bytes(b"half")
    fetched: list[str] = []

    def read(key: str, **_: object) -> bytes:
        fetched.append(key)
        return FILES[key]

    monkeypatch.setattr(store, "read", read)
    mirror(store, entries, tmp_path, is_tar, QUIET)
    assert fetched == ["train/b c.tar"]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("key", ["train/b c.tar", "val/é+%.tar"], ids=["small", "large"])
def test_file_that_is_written_after_the_listing_is_refused(store: Store, tmp_path: Path, key: str) -> None:
    entries = list(store.list())
    store.write(key, FILES[key][::-1][1:] + b"x")
    with pytest.raises((DataError, StorageError), match="changed"):
        mirror(store, entries, tmp_path, is_tar, QUIET)
    assert not (tmp_path / key).exists()


def test_too_small_a_disk_is_said_before_anything_is_fetched(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=(256 << 20) + 1_000_000))
    with pytest.raises(DataError, match=r"3 files of s3://.* take 5,000,100 bytes, but 1,000,000 are free") as raised:
        mirror(store, list(store.list()), tmp_path, is_tar, QUIET)
    assert "--cache DIR" in raised.value.hint
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "key", ["../x", "a/../../x", "a//b", "/etc/passwd", "a/./b", "a/", "x" * 256, "é" * 128, "a\0"]
)
def test_keys_that_no_file_can_have(key: str) -> None:
    with pytest.raises(DataError, match="cannot be a file's name"):
        check_names(Url("s3://b"), [Stored("fine", 1, 0, ""), Stored(key, 1, 0, "")])


def test_limit_of_the_cache_holds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGESPRINT_CACHE_LIMIT", "4MB")
    with (
        pytest.raises(DataError, match=r"take 5,000,100 bytes, but 4,000,000 are free") as raised,
        mirrored(store, list(store.list()), "photos", is_tar, QUIET),
    ):
        pass
    assert raised.value.hint.endswith("a larger --cache-limit than 4,000,000 bytes")


def test_file_that_is_a_folder_too() -> None:
    with pytest.raises(DataError, match="s3://b/a/b is a file, and a folder of others, too"):
        check_names(Url("s3://b"), [Stored(key, 1, 0, "") for key in ("a/b", "a/b/c", "a/c", "d")])


def test_mirror_of_an_older_listing_goes_unless_it_is_used(store: Store) -> None:
    with mirrored(store, list(store.list()), "photos", is_tar, QUIET) as first:
        assert first.name == "photos"
        with mirrored(store, list(store.list()), "photos", is_tar, QUIET) as again:
            assert again == first
        store.write("new.jpg", b"x")
        with mirrored(store, list(store.list()), "photos", is_tar, QUIET) as second:
            assert second != first
            assert first.exists()
            assert (second / "new.jpg").exists()
    with mirrored(store, list(store.list()), "photos", is_tar, QUIET):
        assert not first.exists()
        assert len(os.listdir(first.parents[1])) == 3  # the folder and its locks


SUM = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("etag", "fetched", "times"),
    [
        (f'"{SUM}"', [SUM], 1),
        (SUM, ["another", SUM], 2),
        (SUM, ["another", "another"], 2),  # an encrypted file's etag is no MD5 sum
        (f'"{SUM}-3"', ["another"], 1),  # nor is that of one sent in parts
        ("", ["another"], 1),
    ],
)
def test_content_is_held_against_the_etag(etag: str, fetched: list[str], times: int) -> None:
    left = list(fetched)
    bucket = open_store(Url(f"s3://bucket-{secrets.token_hex(4)}"))
    fetch_checked(bucket, Stored("a", 1, 0, etag), lambda: left.pop(0), str)
    assert len(fetched) - len(left) == times
    if fetched == ["another", "another"]:  # and is not looked at again
        fetch_checked(bucket, Stored("b", 1, 0, SUM), iter(["another"]).__next__, str)


def test_content_that_is_another_each_time(store: Store) -> None:
    with pytest.raises(StorageError, match=f"{store.url}/a comes with other bytes each time"):
        fetch_checked(store, Stored("a", 1, 0, SUM), iter("abcd").__next__, str)


def test_what_is_written_meanwhile_is_read_as_one_of_its_contents(s3: S3, fault_proxy: FaultProxy) -> None:
    store, contents = open_store(s3.url), [b"row\n" * 100 * i for i in range(1, 11)]
    store.write("rows", contents[0])
    fault_proxy.faults.corrupt_share = 0.05

    def grow() -> None:
        for content in contents:
            open_store(s3.url).write("rows", content)
            time.sleep(0.1)

    writer = threading.Thread(target=grow)
    writer.start()
    while writer.is_alive():
        assert read_present(store, "rows") in contents
    writer.join()
    assert read_present(store, "rows") == contents[-1]
    assert read_present(store, "none") is None
