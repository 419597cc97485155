"""Whether a watched run goes on, by its files alone."""

import io
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from imagesprint.console import Console
from imagesprint.evaluating.checkpoints import watch_runs
from imagesprint.evaluating.views import PLAIN
from imagesprint.files import append_row
from imagesprint.runs import watching
from imagesprint.runs.directory import RunDirectory, run_lock
from imagesprint.runs.logs import DONE, History
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.watching import FINISHED, WatchedRun

ONE_RANK = Ranks(rank=0, world_size=1, local_rank=0, local_world_size=1, device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "GRACE_SECONDS", 0.0)


def test_a_training_ends_by_its_own_words_by_its_lock_or_by_its_result(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    run, history = WatchedRun(directory), History(directory, Console.silent())
    assert run.end() is None  # it has not begun
    with run_lock(tmp_path):
        history.begin(4, ONE_RANK, "native", Path("data"))
        assert run.end() is None
    assert run.end() == f"process {os.getpid()}, its training, was killed"
    history.end(12, "RunError: the loss is nan")
    assert run.end() == "its training ended after step 12 (RunError: the loss is nan)"
    with run_lock(tmp_path):  # it is begun again
        assert run.end() is None
    history.end(16, DONE)
    assert run.end() == "its training ended after step 16 (as it was told to)"
    directory.result_file.write_text("{}")
    assert run.end() == FINISHED


def test_on_another_machine_a_lock_says_nothing(tmp_path: Path) -> None:
    row = {"began": "2026-11-21T14:00:00", "step": 0, "process": 7, "host": f"not-{socket.gethostname()}"}
    append_row(tmp_path / "commands.jsonl", row)
    assert WatchedRun(RunDirectory(tmp_path)).end() is None


def test_a_training_that_was_stopped_may_be_begun_again_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "GRACE_SECONDS", 60.0)
    History(RunDirectory(tmp_path), Console.silent()).end(12, "stopped by SIGTERM")
    assert WatchedRun(RunDirectory(tmp_path)).end() is None


def test_a_watch_ends_with_its_training_and_says_how_that_ended(
    photo_root: Path, tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    path = write_checkpoint(tmp_path, 4)
    History(RunDirectory(tmp_path), Console.silent()).end(4, "stopped by SIGTERM after step 4, which is saved")
    stream = io.StringIO()
    judged = watch_runs([tmp_path], photo_root, PLAIN, "cpu", Console(stream))
    assert [(one.path, one.step) for one in judged] == [(str(path), 4)]
    said = stream.getvalue()
    assert f"warning: {tmp_path} is not finished: its training ended after step 4 (stopped by SIGTERM " in said
    assert "waiting for a checkpoint" not in said


def test_a_run_that_ended_without_a_checkpoint_is_an_error(
    photo_root: Path, tmp_path: Path, write_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from imagesprint.cli.main import main

    write_checkpoint(tmp_path, 4).unlink()
    History(RunDirectory(tmp_path), Console.silent()).end(0, "RunError: the loss is nan")
    assert main(["evaluate", str(tmp_path), "--data", str(photo_root), "--watch", "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["error"] == "there was no checkpoint left to judge"
    assert "is not finished: its training ended after step 0 (RunError: the loss is nan)" in said.err
