"""How large the cache may be, what of it goes first, and what stays."""

import os
import time
from pathlib import Path

import pytest

from imagesprint.cli.parsing import Parser, add_cache_flags
from imagesprint.errors import UsageError
from imagesprint.storage.cache import (
    CacheHold,
    cache_folder,
    cache_limit,
    capacity,
    make_room,
    parse_size,
    size_on_disk,
)


def dataset(folders: Path, name: str, num_bytes: int, age: float) -> Path:
    """A folder of the cache that was last used `age` seconds ago."""
    folder = folders / name
    folder.mkdir(parents=True)
    (folder / "shard").write_bytes(bytes(num_bytes))
    used = time.time() - age
    os.utime(folder, (used, used))
    return folder


def names(folders: Path) -> list[str]:
    return sorted(folder.name for folder in folders.iterdir())


@pytest.mark.parametrize(
    ("text", "num_bytes"), [("500000", 500_000), ("300MB", 300_000_000), ("1.5 TB", 1.5e12), ("2GiB", 2 << 30)]
)
def test_sizes(text: str, num_bytes: float) -> None:
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "much", "-3", "3 XB", "1e9"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text)


def test_the_flags_are_handed_on_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("IMAGESPRINT_CACHE", "IMAGESPRINT_CACHE_LIMIT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that it is undone, whatever the flags set
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (cache_folder(), cache_limit()) == (tmp_path / "imagesprint", None)
    parser = Parser(prog="imagesprint")
    add_cache_flags(parser)
    parser.parse_args(["--cache", str(tmp_path / "given"), "--cache-limit", "3GB"])
    assert (cache_folder(), cache_limit()) == (tmp_path / "given", 3_000_000_000)
    with pytest.raises(UsageError, match="is no size"):
        parser.parse_args(["--cache-limit", "much"])


def test_what_was_used_longest_ago_goes_first_and_what_is_held_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IMAGESPRINT_CACHE_LIMIT", "1000")
    held = CacheHold(dataset(tmp_path, "held", 300, age=900))
    os.utime(held.folder, (1, 1))
    dataset(tmp_path, "old", 300, age=600)
    dataset(tmp_path, "new", 300, age=300)
    assert make_room(tmp_path, 100) == 100
    assert names(tmp_path) == ["held", "new", "old"]
    assert make_room(tmp_path, 350) == 350
    assert names(tmp_path) == ["held", "new"]
    assert make_room(tmp_path, 5000) == 700  # as much as there can be
    assert names(tmp_path) == ["held"]
    assert held.is_valid
    assert capacity(tmp_path) == 1000
    del held
    assert make_room(tmp_path, 1000) == 1000
    assert names(tmp_path) == []


def test_a_sparse_file_reserves_its_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IMAGESPRINT_CACHE_LIMIT", "1000000")
    lease = CacheHold(tmp_path / "dataset")
    with (lease.folder / "shard.part").open("wb") as file:
        file.truncate(900_000)
    assert make_room(tmp_path, 500_000) == 100_000
    assert size_on_disk(lease.folder / "shard.part") == 0
    assert size_on_disk(lease.folder / "none") == 0


def test_a_lease_of_a_folder_that_was_deleted_is_not_valid(tmp_path: Path) -> None:
    lease = CacheHold(tmp_path / "dataset")
    (tmp_path / "dataset").rmdir()
    assert not lease.is_valid
    assert CacheHold(tmp_path / "dataset").is_valid
