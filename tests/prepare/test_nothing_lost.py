"""Prepare is killed, runs out of disk, meets another one and a source that changes: nothing is lost or damaged."""

import os
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from imagesprint.console import Console
from imagesprint.errors import DataError, UsageError
from imagesprint.prepare.preparing import prepare

ReadTree = Callable[[Path], dict[str, bytes]]
KILLS = 20
FLAGS = ["--variants", "full,32", "--shards", "12", "--workers", "2", "--max-rejected", "0.1"]


@pytest.fixture(scope="module")
def source(large_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with one training image that is in validation too, so that a shard is written twice."""
    source = Path(shutil.copytree(large_photos, tmp_path_factory.mktemp("source") / "source"))
    shutil.copy(source / "val/china/val-0.jpg", source / "train/china/copy.jpg")
    return source


@pytest.fixture(scope="module")
def expected(
    command: list[str], source: Path, tmp_path_factory: pytest.TempPathFactory, read_tree: ReadTree
) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("expected") / "root"
    finish(start(command, source, root))
    return read_tree(root)


def start(command: list[str], source: Path, root: Path, **options: Any) -> subprocess.Popen[str]:
    words = [*command, "prepare", str(source), str(root), *FLAGS]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )


def test_twenty_kills_at_random_moments(
    command: list[str], source: Path, tmp_path: Path, expected: dict[str, bytes], read_tree: ReadTree
) -> None:
    """A root that is done before the next kill is compared and begun anew; in the end one runs undisturbed."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # pytest shows it when the test fails
    draw = random.Random(seed)
    kills, root = 0, tmp_path / "root-0"
    while kills < KILLS:
        process = start(command, source, root)
        try:
            process.wait(timeout=draw.uniform(0.1, 1.5))
        except subprocess.TimeoutExpired:
            kills += 1
            if draw.random() < 0.5:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()  # its workers find out by themselves, maybe after the next has begun
            process.communicate()
        else:
            finish(process)
            assert read_tree(root) == expected
            root = tmp_path / f"root-{kills}"
    finish(start(command, source, root))
    assert read_tree(root) == expected


def finish(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def test_full_disk(
    command: list[str], source: Path, tmp_path: Path, expected: dict[str, bytes], read_tree: ReadTree
) -> None:
    """No file may grow beyond 300 kB, which a shard of full does."""
    root = tmp_path / "root"
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (300_000, 300_000))
    process = start(command, source, root, preexec_fn=limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"error: cannot write {root}" in err
    assert "File too large" in err
    assert "goes on where it stopped" in err
    assert "Traceback" not in err
    assert not list(root.glob("*/dataset.json"))
    finish(start(command, source, root))
    assert read_tree(root) == expected


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small file system")
def test_small_file_system(
    command: list[str], source: Path, tmp_path: Path, expected: dict[str, bytes], read_tree: ReadTree
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        process = start(command, source, disk / "root")
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "No space left on device" in err
        assert "Traceback" not in err
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        finish(start(command, source, disk / "root"))
        assert read_tree(disk / "root") == expected
    finally:
        subprocess.run(["umount", disk], check=True)


def test_second_prepare_in_the_same_root(command: list[str], source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    first = start(command, source, root)
    while not list(root.glob(".parts/*-of-*.json")):
        assert first.poll() is None
    with pytest.raises(UsageError, match="another `imagesprint prepare` is at work in") as caught:
        prepare(source, root, console=Console(quiet=True), variants=("full", "32"), shards=12)
    assert "wait for it" in caught.value.hint
    finish(first)


class _Meddling(Console):
    """Does something to the source between its listing and its reading: when the warning of the listing is shown."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        super().__init__(quiet=True)
        self._meddle = meddle

    def warn(self, text: str) -> None:  # noqa: ARG002
        self._meddle()


@pytest.mark.parametrize(
    ("change", "match", "workers"),
    [
        (lambda path: path.unlink(), r"cannot read .*flower/03\.jpg: No such file", 1),
        (
            lambda path: path.write_bytes(b"another"),
            r"flower/03\.jpg changed while it was prepared: \d+ bytes before",
            2,
        ),
    ],
    ids=["vanished", "replaced"],
)
def test_source_that_changes_underneath(
    photos: Path, photo_root: Path, tmp_path: Path, read_tree: ReadTree, change: Any, match: str, workers: int
) -> None:
    source = Path(shutil.copytree(photos, tmp_path / "source"))
    (source / "train/stray.txt").touch()  # for the warning
    path = source / "train/flower/03.jpg"
    before = path.read_bytes()
    options: dict[str, Any] = {"variants": ("full", "32"), "shards": 3, "workers": workers}
    with pytest.raises(DataError, match=match):
        prepare(source, tmp_path / "root", console=_Meddling(lambda: change(path)), **options)
    assert not (tmp_path / "root/32/dataset.json").exists()
    path.write_bytes(before)
    prepare(source, tmp_path / "root", console=Console(quiet=True), **options)
    assert read_tree(tmp_path / "root") == read_tree(photo_root)
