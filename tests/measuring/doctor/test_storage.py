import os
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imagesprint.measuring.doctor.check import FAILURE, OK, WARNING
from imagesprint.measuring.doctor.storage import disk, open_files, shared_memory
from imagesprint.records.dataset import Root, open_root
from imagesprint.records.manifest import Manifest, ShardInfo


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("this user or container may not mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_is_written_to_and_left_as_it_was(tmp_path: Path) -> None:
    found = disk(tmp_path)
    assert found.status in (OK, WARNING)  # how fast and how full is the machine's
    assert f"{tmp_path}: " in found.detail
    assert " MiB/s" in found.detail
    assert not list(tmp_path.iterdir())


def test_a_full_disk(small_disk: Path) -> None:
    found = disk(small_disk)
    assert found.status == FAILURE
    assert found.detail == f"{small_disk} cannot be written: No space left on device"
    assert "free some space" in found.hint
    assert "--output" in found.hint


def test_a_limit_of_file_sizes(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        found = disk(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (found.status, "File too large" in found.detail) == (FAILURE, True)


def test_a_folder_that_others_own() -> None:
    found = disk(Path("/proc"))
    assert found.status in (FAILURE, WARNING)
    assert "/proc cannot be written" in found.detail
    assert "--output" in found.hint


def test_without_shared_memory_several_gpus_cannot_work(tmp_path: Path) -> None:
    missing = tmp_path / "shm"
    assert shared_memory(8, missing).status == FAILURE
    assert "--shm-size=1g" in shared_memory(8, missing).hint
    alone = shared_memory(1, missing)
    assert alone.status == WARNING
    assert alone.detail == f"{missing} cannot be used: No such file or directory"
    assert "only several GPUs" in alone.hint
    assert shared_memory(0, tmp_path).status == OK


def test_little_shared_memory(small_disk: Path) -> None:
    (small_disk / "taken").write_bytes(bytes(600_000))
    assert "No space left" in shared_memory(0, small_disk).detail
    (small_disk / "taken").unlink()
    assert shared_memory(2, small_disk).status in (WARNING, FAILURE)


@pytest.fixture
def many_shards(photo_root: Path, tmp_path: Path) -> Root:
    """A root of 1,024 training shards, all but three of them empty."""
    folder = tmp_path / "root" / "full"
    folder.mkdir(parents=True)
    manifest = Manifest.read(photo_root / "full")
    split = manifest.splits["train"]
    empty = tuple(ShardInfo(f"train-{number:05d}-of-01024", 0, 0, 0) for number in range(3, 1024))
    splits = manifest.splits | {"train": replace(split, shards=split.shards + empty)}
    replace(manifest, splits=splits).write(folder)
    return open_root(folder.parent)


def test_more_shards_than_may_stay_open(many_shards: Root) -> None:
    many = open_files(many_shards, 1024, 2048)
    assert many.status == WARNING
    assert many.detail.startswith("at most 1,024, ")
    assert "1,024 shards do not stay open" in many.detail
    assert "ulimit nofile=4096" in many.hint


def test_enough_files_for_the_shards(photo_root: Path, many_shards: Root) -> None:
    assert "the 3 shards stay open" in open_files(open_root(photo_root), 1024, 1024).detail
    assert open_files(many_shards, 1024, 4096).status == OK  # reading raises it
    assert open_files(None, 1024, 1024).status == OK
