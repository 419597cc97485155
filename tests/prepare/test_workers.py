"""Real processes that are killed."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from imagesprint.console import Console
from imagesprint.prepare.preparing import prepare

ReadTree = Callable[[Path], dict[str, bytes]]
VARIANTS = ("full", "200", "100")
SHARDS = 20  # and two of validation


@pytest.fixture(scope="module")
def expected(large_photos: Path, tmp_path_factory: pytest.TempPathFactory, read_tree: ReadTree) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("expected") / "root"
    prepare(large_photos, root, variants=VARIANTS, shards=SHARDS, workers=1, console=Console(quiet=True))
    return read_tree(root)


def start(command: list[str], source: Path, root: Path, workers: int = 2) -> subprocess.Popen[str]:
    flags = ["--variants", ",".join(VARIANTS), "--shards", str(SHARDS), "--workers", str(workers)]
    return subprocess.Popen(
        [*command, "prepare", str(source), str(root), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_shards(root: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list((root / ".parts").glob("*-of-*.json"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def assert_ended(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive


@pytest.mark.parametrize(("shards", "workers"), [(0, 2), (1, 1), (5, 2), (12, 2)])
def test_kill_and_restart_end_with_the_same_bytes(
    command: list[str],
    large_photos: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    read_tree: ReadTree,
    shards: int,
    workers: int,
) -> None:
    root = tmp_path / "root"
    process = start(command, large_photos, root, workers)
    wait_for_shards(root, shards)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    assert not (root / "full" / "dataset.json").exists()
    assert_ended(children)
    again = start(command, large_photos, root)
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert "60 train, 6 validation images" in out
    assert ("going on" in err) == (shards > 0)
    assert read_tree(root) == expected


def test_killed_worker_is_one_clear_error(command: list[str], large_photos: Path, tmp_path: Path) -> None:
    process = start(command, large_photos, tmp_path / "root")
    wait_for_shards(tmp_path / "root", 1)
    children = psutil.Process(process.pid).children()
    worker = next(child for child in children if "spawn_main" in " ".join(child.cmdline()))
    worker.kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: a worker process of prepare ended unexpectedly (exit code -9)" in err
    assert "hint: " in err
    assert "Traceback" not in err
    assert_ended(children)


@pytest.mark.parametrize("shards", [0, 2])
def test_ctrl_c_ends_all_and_the_restart_goes_on(
    command: list[str], large_photos: Path, tmp_path: Path, expected: dict[str, bytes], read_tree: ReadTree, shards: int
) -> None:
    root = tmp_path / "root"
    process = start(command, large_photos, root)
    while len(children := psutil.Process(process.pid).children()) < 3:  # two workers and multiprocessing's tracker
        time.sleep(0.001)
    wait_for_shards(root, shards)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all of them
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in err
    assert_ended(children)
    assert start(command, large_photos, root).wait(timeout=60) == 0
    assert read_tree(root) == expected
