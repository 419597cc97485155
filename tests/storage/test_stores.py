"""What every store does: against real servers."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imagesprint.errors import StorageError
from imagesprint.storage.store import PIECE, open_store
from imagesprint.storage.url import Url

ODD_KEYS = (
    "a/b",
    "ab",
    "a b/c d",
    "%41",
    "100%",
    "x+y",
    "x#y",
    "x?y=z",
    "x&y=z;",
    ".hidden/.file",
    "grüße/花",
    "quote'\"",
    "a=b/c",
    "tilde~(x)[y]{z}!*",
)


def test_what_is_written_is_read(place: Url) -> None:
    store = open_store(place)
    data = os.urandom(100_000)
    store.write("folder/file", data)
    found = store.stat("folder/file")
    assert found is not None
    assert (found.key, found.num_bytes) == ("folder/file", len(data))
    assert found.modified > 1_600_000_000
    assert store.read("folder/file") == data
    assert store.read("folder/file", 5, 10) == data[5:15]
    assert store.read("folder/file", 99_000) == data[99_000:]
    assert store.read("folder/file", 7, 0) == b""
    assert open_store(place / "folder/file").read("") == data
    store.write("folder/file", b"new")
    assert store.read("folder/file") == b"new"
    store.write("empty", b"")
    assert store.read("empty") == b""
    assert store.stat("empty") is not None


def test_a_range_that_is_not_there(place: Url) -> None:
    store = open_store(place)
    store.write("file", b"0123456789")
    for start, num_bytes in ((5, 6), (10, 1), (99, 1)):
        with pytest.raises(StorageError, match="it ends before those bytes"):
            store.read("file", start, num_bytes)


def test_what_is_not_there(place: Url, tmp_path: Path) -> None:
    store = open_store(place)
    assert store.stat("none") is None
    assert list(store.list()) == []
    assert list(store.list("none")) == []
    assert list(store.folders()) == []
    store.delete("none")
    for call in (store.read, lambda key: store.download(key, tmp_path / "file")):
        with pytest.raises(StorageError) as caught:
            call("none")
        assert caught.value.what == f"cannot read {place}/none: there is no such file"
    assert not list(tmp_path.glob("*"))
    store.write("folder/file", b"x")
    assert store.stat("folder") is None  # no file


def test_odd_names(place: Url) -> None:
    store = open_store(place)
    expected = ODD_KEYS if place.scheme == "hdfs" else (*ODD_KEYS, "a")  # HDFS has no file beside a folder of its name
    with ThreadPoolExecutor(8) as pool:  # HDFS takes 0.4 s each
        list(pool.map(lambda key: store.write(key, key.encode()), expected))
    assert sorted(stored.key for stored in store.list()) == sorted(expected)
    for key in expected:
        assert store.read(key) == key.encode()
        found = store.stat(key)
        assert found is not None
        assert found.num_bytes == len(key.encode())
    assert [stored.key for stored in store.list("a b")] == ["c d"]
    assert "grüße" in store.folders()
    for key in expected:
        store.delete(key)
    assert list(store.list()) == []


def test_files_in_folders_are_listed(place: Url) -> None:
    """Our HDFS gives 20 at once."""
    store = open_store(place)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.write(f"f{number % 2}/{number}", bytes(number % 7)), range(42)))
    found = {stored.key: stored.num_bytes for stored in store.list()}
    assert found == {f"f{number % 2}/{number}": number % 7 for number in range(42)}
    assert store.folders() == ["f0", "f1"]


def test_of_two_that_create_one_does(place: Url) -> None:
    store = open_store(place)
    if place.scheme == "gs":  # where the stand-in for Google's store does not keep to ifGenerationMatch=0
        with pytest.raises(StorageError, match="writes over a file that is there"):
            store.create("lock", b"x")
        return
    for number in range(2):
        barrier = threading.Barrier(3)

        def create(who: int, number: int = number, barrier: threading.Barrier = barrier) -> bool:
            mine = open_store(place)
            barrier.wait()
            return mine.create(f"lock{number}", b"%d" % who)

        with ThreadPoolExecutor(3) as pool:
            created = list(pool.map(create, range(3)))
        assert created.count(True) == 1
        assert store.read(f"lock{number}") == b"%d" % created.index(True)
    assert not store.create("lock0", b"late")


def test_large_files_go_in_pieces(place: Url, tmp_path: Path) -> None:
    if place.scheme == "gs":
        pytest.skip("the stand-in for Google's store has no uploads in pieces")
    store = open_store(place)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(2 * PIECE + 12_345))
    store.upload(source, "large")
    store.download("large", target)
    assert target.read_bytes() == source.read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted({source, target, *tmp_path.glob("cache")})
    small = tmp_path / "small"
    small.write_bytes(b"")
    store.upload(small, "large")
    store.download("large", target)
    assert target.read_bytes() == b""
    assert [stored.num_bytes for stored in store.list()] == [0]
    store.write("large", source.read_bytes())
    assert store.read("large") == source.read_bytes()
