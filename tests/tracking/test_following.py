"""Rows are sent once, whatever happens to the tracker, the run or `track` meanwhile; by a tracker in a file."""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagesprint.cli.main import main
from imagesprint.console import Console
from imagesprint.errors import RunError, TrackerError, UsageError
from imagesprint.files import append_row, read_rows
from imagesprint.runs import watching
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.logs import EVALUATION_TAGS, EVALUATOR, EventFile
from imagesprint.runs.watching import WatchedRun
from imagesprint.tracking import TRACKERS
from imagesprint.tracking.following import Sender, alone, keep_sending
from imagesprint.tracking.points import Key, Point, Setting, best, identify, outcome, points, settings


class FileTracker:
    """A tracker whose server is a file: `dies` says after how many points it fails, which are there all the same."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.dies: int | None = None

    @property
    def where(self) -> str:
        return str(self.file)

    def sent(self) -> set[Key]:
        return {(name, row["step"]) for row in read_rows(self.file) for name in row["figures"]}

    def send(self, points: Sequence[Point]) -> None:
        for number, point in enumerate(points):
            if number == self.dies:
                raise TrackerError("the tracker is gone", "")
            append_row(self.file, {"step": point.step, "time": point.time, "figures": dict(point.figures)})

    def finish(self, outcome: str, facts: Mapping[str, Setting], files: Sequence[Path]) -> None:
        append_row(self.file, {"step": 0, "figures": {}, "outcome": outcome, "facts": dict(facts), "files": len(files)})

    def steps(self, name: str) -> list[int]:
        """Those of a figure, as they came."""
        return [row["step"] for row in read_rows(self.file) if name in row["figures"]]


def test_what_was_cut_short_goes_on_without_gaps_or_doubles(logged_run: Callable[..., Any], tmp_path: Path) -> None:
    run, tracker = logged_run(20), FileTracker(tmp_path / "tracker")
    tracker.dies = 7
    for _ in range(2):  # each time as a new process would: nothing is kept but the tracker
        with pytest.raises(TrackerError):
            Sender(tracker, RunDirectory(run.path)).send_new()
    tracker.dies = None
    sender = Sender(tracker, RunDirectory(run.path))
    assert sender.send_new() == 25 - 14
    assert sender.send_new() == 0
    assert tracker.steps("train/loss") == list(range(1, 21))
    assert tracker.steps("eval/top1") == [4, 8, 12, 16, 20]


def test_rows_that_a_resumed_training_writes_again_are_sent_once(
    logged_run: Callable[..., Any], tmp_path: Path
) -> None:
    run, tracker = logged_run(10), FileTracker(tmp_path / "tracker")
    sender = Sender(tracker, RunDirectory(run.path))
    assert sender.send_new() == 12
    run.train(6, 14)
    assert sender.send_new() == 4 + 1
    assert tracker.steps("train/loss") == list(range(1, 15))
    assert Counter(tracker.steps("eval/top1")) == Counter([4, 8, 12])


def test_a_late_evaluation_and_half_a_row_come_when_they_are_there(
    logged_run: Callable[..., Any], tmp_path: Path
) -> None:
    run, tracker = logged_run(8), FileTracker(tmp_path / "tracker")
    lines = (run.path / "evaluations.jsonl").read_text().splitlines()
    (run.path / "evaluations.jsonl").write_text(lines[1] + "\n" + lines[0][:20])
    sender = Sender(tracker, RunDirectory(run.path))
    assert sender.send_new() == 9
    of_before = {key: value for key, value in json.loads(lines[0]).items() if key != "mean_class_accuracy"}
    (run.path / "evaluations.jsonl").write_text(f"{lines[1]}\n{json.dumps(of_before)}\n")
    assert sender.send_new() == 1
    assert tracker.steps("eval/loss") == [8, 4]
    assert tracker.steps("eval/mean_class_accuracy") == [8]
    assert best(RunDirectory(run.path), run.path)["best_mean_class_accuracy"] == 40.08


def test_following_ends_with_the_training_and_waits_for_its_tracker(
    logged_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching.WatchedRun, "poll_seconds", 0.01)
    run, tracker = logged_run(4), FileTracker(tmp_path / "tracker")
    tracker.dies = 2
    watched = WatchedRun(RunDirectory(run.path))
    sender, console = Sender(tracker, watched.run), Console()
    thread = threading.Thread(target=keep_sending, args=(watched, sender, console))
    thread.start()
    while not console.warnings:
        thread.join(0.01)
    tracker.dies = None
    run.train(4, 8)
    run.finish()
    thread.join(60)
    assert not thread.is_alive()
    assert tracker.steps("train/loss") == list(range(1, 9))
    assert "warning: the tracker is gone: it is asked again" in capsys.readouterr().err


def test_points_have_the_time_at_which_they_were_logged(logged_run: Callable[..., Any]) -> None:
    run = logged_run(8)
    directory = RunDirectory(run.path)
    told = {point.step: point.time for point in points(directory) if "train/loss" in point.figures}
    assert sorted(told.values()) == [told[step] for step in range(1, 9)]
    for file in directory.tensorboard.iterdir():
        file.unlink()
    EventFile(directory.tensorboard / EVALUATOR).scalars({EVALUATION_TAGS["top1"]: 50.0}, 4, 5e8)
    told = {point.step: point.time for point in points(directory) if "train/loss" in point.figures}
    last = directory.metrics_file.stat().st_mtime
    assert [told[step] for step in range(1, 9)] == pytest.approx([last - 0.2 * (8 - step) for step in range(1, 9)])
    late = {point.step: point.time for point in points(directory) if "eval/loss" in point.figures}
    assert late == {4: 5e8, 8: last}


def test_a_run_is_the_same_wherever_it_lies_and_no_other(logged_run: Callable[..., Any], tmp_path: Path) -> None:
    run, other = logged_run(4), logged_run(4, "other")
    first = identify(RunDirectory(run.path), run.path)
    assert identify(RunDirectory(other.path), other.path).id != first.id
    run.train(4, 8)
    moved = run.path.rename(tmp_path / "moved")
    assert identify(RunDirectory(moved), moved) == replace(first, name="moved", place=str(moved))


def test_settings_and_outcome(logged_run: Callable[..., Any]) -> None:
    run = logged_run(8)
    directory = RunDirectory(run.path)
    known = settings(directory)
    assert known["phases.1.batch_size"] == 16
    assert known["phases.0.lr"] == "[0.02, 0.1]"
    assert known["run.ranks"] == 2
    assert best(directory, run.path)["best_checkpoint"] == str(run.path / "checkpoints" / "step-0000008.pt")
    assert outcome(directory) == "stopped"
    run.train(8, 9, "RunError: the loss is nan")
    assert outcome(directory) == "failed"
    append_row(directory.commands_file, {"began": "2026-11-21T14:00:00", "step": 9})
    assert outcome(directory) == "running"
    run.finish()
    assert outcome(directory) == "finished"


def test_two_processes_do_not_send_the_same_rows(
    logged_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGESPRINT_CACHE", str(tmp_path / "cache"))
    run = logged_run(4)
    identity = identify(RunDirectory(run.path), run.path)
    with alone(identity, "mlflow"), alone(identity, "wandb"):
        with pytest.raises(UsageError, match="to mlflow is in use by process") as caught:
            alone(identity, "mlflow").__enter__()
        assert "not sent again" in caught.value.hint


def test_bad_input(
    logged_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMAGESPRINT_CACHE", str(tmp_path / "cache"))
    for module in ("mlflow", "wandb", "trackio.remote_client"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed

    def said(*words: object) -> str:
        assert main(["track", *map(str, words)]) == 2
        return capsys.readouterr().err

    assert "nothing holds no run\n" in said(tmp_path / "nothing", "--to", "mlflow")
    assert "choose one of mlflow, wandb, trackio" in said(tmp_path, "--to", "clearml")
    run = logged_run(4)
    for kind in TRACKERS:
        assert f"hint: pip install 'imagesprint[{kind}]'\n" in said(run.path, "--to", kind)
    (run.path / "commands.jsonl").unlink()
    assert "no training that has begun" in said(run.path, "--to", "mlflow")
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5}) + "\n")
    with pytest.raises(RunError, match="line 5"):
        points(RunDirectory(run.path))


def test_no_torch_is_loaded() -> None:
    code = "import sys, imagesprint.tracking.following; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
