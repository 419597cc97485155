from pathlib import Path

import pytest

from imagesprint.measuring.doctor.cgroups import core_limit, memory_limit


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
