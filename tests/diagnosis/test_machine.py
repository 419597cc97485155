import os
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imagesprint.diagnosis.check import FAILURE, OK, WARNING
from imagesprint.diagnosis.machine import (
    GIB,
    core_limit,
    cores,
    disk,
    memory,
    memory_limit,
    open_files,
    processor_check,
    shared_memory,
    threads,
)
from imagesprint.records.dataset import Root, open_root
from imagesprint.records.manifest import Manifest, ShardInfo


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def test_the_tightest_group_of_version_2_counts(tmp_path: Path, own: Path) -> None:
    own.write_text("0::/outer/inner\n")
    write(tmp_path / "outer", cpu__max="150000 100000\n", memory__max="4000\n", memory__current="3900\n")
    write(tmp_path / "outer" / "inner", cpu__max="max 100000\n", memory__max="2000\n", memory__current="500\n")
    write(tmp_path / "outer", memory__stat="anon 3800\ninactive_file 60\n")
    assert core_limit(tmp_path, own) == 1.5
    assert memory_limit(tmp_path, own) == (4000, 160)


def test_version_1_has_a_folder_a_controller(tmp_path: Path, own: Path) -> None:
    own.write_text("3:cpu,cpuacct:/job\n2:memory:/job\n1:name=systemd:/\n")
    write(tmp_path / "cpu,cpuacct" / "job", cpu__cfs_quota_us="250000\n", cpu__cfs_period_us="100000\n")
    write(tmp_path / "memory" / "job", memory__limit_in_bytes="1000\n", memory__usage_in_bytes="400\n")
    write(tmp_path / "memory", memory__limit_in_bytes="9223372036854771712\n", memory__usage_in_bytes="900\n")
    assert core_limit(tmp_path, own) == 2.5
    assert memory_limit(tmp_path, own) == (1000, 600)


def test_a_container_that_sees_its_own_group_at_the_top(tmp_path: Path, own: Path) -> None:
    own.write_text("0::/docker/0123/of-the-host\n")
    write(tmp_path, cpu__max="50000 100000\n", memory__max="1000\n", memory__current="300\n")
    assert core_limit(tmp_path, own) == 0.5
    assert memory_limit(tmp_path, own) == (1000, 700)


def test_no_limit(tmp_path: Path, own: Path) -> None:
    assert (core_limit(tmp_path, own), memory_limit(tmp_path, own)) == (None, None)
    own.write_text("4:memory:/\n0::/\n")
    write(tmp_path / "cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    write(tmp_path, cpu__max="max 100000\n", memory__max="max\n", memory__current="1\n")
    assert (core_limit(tmp_path, own), memory_limit(tmp_path, own)) == (None, None)


def test_a_quota_below_the_cores_is_told_with_the_number_of_threads_that_fits() -> None:
    allowed = len(os.sched_getaffinity(0))
    assert cores(None).status == cores(float(allowed)).status == OK
    found = cores(0.5)
    assert (found.status, "the time of 0.5" in found.detail) == (WARNING, True)
    assert "OMP_NUM_THREADS=1 " in found.hint


@pytest.mark.parametrize(
    ("value", "status", "detail"),
    [
        ("", OK, "4 a rank; OMP_NUM_THREADS is not set"),
        ("4", OK, "OMP_NUM_THREADS is 4"),
        ("9", OK, "4 a rank"),
        ("1", WARNING, "OMP_NUM_THREADS=1 leaves 3 of 4 cores idle"),
        ("many", WARNING, "'many'"),
        ("0", WARNING, "'0'"),
    ],
)
def test_omp_num_threads(value: str, status: str, detail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    found = threads(8, 2)
    assert found.status == status
    assert detail in found.detail
    assert ("set it to 4" in found.hint) == (status == WARNING)


def test_what_a_group_leaves_of_the_memory_counts() -> None:
    little = memory((3 * GIB, GIB // 2))
    assert little.status == WARNING
    assert little.detail.startswith("the cgroup allows 3.0 GiB, of which 0.5 are left; ")
    assert "micro_batch" in little.hint
    assert "cgroup" not in memory((1 << 50, 1 << 50)).detail


def test_the_processor_is_named() -> None:
    assert "core" not in processor_check().detail.rpartition(", ")[2]
    assert len(processor_check().detail) > 3


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
