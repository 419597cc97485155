"""Real processes that are killed."""

import errno
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import spawn
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from imagesprint.console import Console
from imagesprint.errors import DataError
from imagesprint.prepare.parts import Parts
from imagesprint.prepare.plan import make_plan
from imagesprint.prepare.preparing import prepare
from imagesprint.prepare.shard_writing import ShardJob, write_shard
from imagesprint.prepare.sources.class_folders import ClassFolders
from imagesprint.prepare.sources.source import Listing, Source, SourceImage
from imagesprint.prepare.workers import _outcome, run_jobs

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
    assert "error: a worker process ended unexpectedly (exit code -9)" in err
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


@pytest.fixture
def jobs(large_photos: Path, tmp_path: Path) -> list[ShardJob]:
    """Four shards to be written."""
    source = ClassFolders(large_photos)
    plan = make_plan(source.scan(), source.kind, 3, 90, None, 0)
    parts = Parts(tmp_path, ("32",), "jpeg")
    parts.folder.mkdir()
    parts.begin(plan.made_by, own=())
    return [ShardJob(source, shard, plan.classes, parts, 90) for shard in plan.shards]


def test_worker_that_is_gone_when_it_should_get_its_next_job(jobs: list[ShardJob]) -> None:
    def kill_all(_: object) -> None:
        for process in multiprocessing.active_children():
            process.kill()
            process.join()

    with pytest.raises(DataError, match=r"ended unexpectedly \(exit code -9\)") as caught:
        run_jobs(write_shard, jobs, 2, lambda _: None, kill_all)
    assert "give the same command again" in caught.value.hint


def test_worker_that_does_not_start(jobs: list[ShardJob]) -> None:
    before = spawn.get_executable()
    multiprocessing.set_executable("/bin/false")
    try:
        with pytest.raises(DataError, match=r"a worker process (ended unexpectedly \(exit code 1\)|did not)"):
            run_jobs(write_shard, jobs, 2, lambda _: None, lambda _: None)
    finally:
        multiprocessing.set_executable(before)


class Unreadable(Source):
    """A source with a fault: its files cannot be read, which should have been a DataError."""

    @staticmethod
    def fits(path: Path) -> bool:
        raise NotImplementedError

    def _scan(self) -> Listing:
        raise NotImplementedError

    def read(self, sample: SourceImage) -> bytes:
        raise OSError(f"cannot read {sample.name}")


def test_fault_in_a_worker_is_not_taken_for_the_end_of_its_pipe(jobs: list[ShardJob]) -> None:
    outcome = _outcome(write_shard, replace(jobs[0], source=Unreadable(Path("unreadable"))), lambda _: None)
    assert isinstance(outcome, RuntimeError)
    assert "OSError: cannot read" in str(outcome)


def test_what_the_system_refuses_in_a_worker_is_told_as_it_is(
    jobs: list[ShardJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = OSError(errno.EIO, "Input/output error", "/source/a.jpg")

    def read(*_: object) -> NoReturn:
        raise refused

    monkeypatch.setattr(Unreadable, "read", read)
    assert _outcome(write_shard, replace(jobs[0], source=Unreadable(Path("unreadable"))), lambda _: None) is refused
