"""`evaluate` over the checkpoints of a run, by real processes."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagesprint.cli.main import main
from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.evaluating.checkpoints import evaluate_checkpoints, watch_runs
from imagesprint.evaluating.places import find_checkpoints
from imagesprint.evaluating.views import PLAIN, chosen_views
from imagesprint.files import read_rows


def test_checkpoints_are_found_in_order_and_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    files = [tmp_path / "checkpoints" / f"step-{step:07d}.pt" for step in (8, 40, 100)]
    for file in reversed(files):
        file.touch()
    assert find_checkpoints([tmp_path]) == files
    assert find_checkpoints([files[1], tmp_path]) == [files[1], files[0], files[2]]


def test_a_queue_over_two_ranks_a_watch_and_one_process_agree(
    imagesprint: Callable[..., Any],
    command: list[str],
    photo_root: Path,
    tmp_path: Path,
    write_checkpoint: Callable[..., Path],
) -> None:
    run, views = tmp_path / "run", ("--flip", "--sizes", "20,32", "--rectangular", "--recalibrate", "32")
    write_checkpoint(run, 4)
    watch = subprocess.Popen(
        [*command, "evaluate", str(run), "--data", str(photo_root), "--watch", *views, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (run / "evaluated").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    write_checkpoint(run, 8)  # they come while it watches
    write_checkpoint(run, 12)
    (run / "result.json").write_text("{}")
    out, err = watch.communicate(timeout=60)
    assert watch.returncode == 0, err
    rows = read_rows(run / "evaluations.jsonl")
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert len({row["loss"] for row in rows}) == 3
    assert list((run / "tensorboard" / "evaluate").glob("events*"))
    # Three checkpoints are one each for two ranks, and one that they share.
    shutil.rmtree(run / "evaluated")
    many = imagesprint("evaluate", run, "--data", photo_root, "--processes", 2, *views, "--json")
    assert many.code == 0, many.stderr
    assert many.stdout == out
    shutil.rmtree(run / "evaluated")
    asked = chosen_views(recalibrate=32, flip=True, sizes=(20, 32), rectangular=True)
    alone = evaluate_checkpoints(find_checkpoints([run]), photo_root, asked, "cpu", Console(quiet=True))
    for one, same in zip(alone, many.json["checkpoints"], strict=True):
        for key in ("path", "step", "epoch", "num_images", "top1", "top5", "mean_class_accuracy"):
            assert getattr(one, key) == same[key]
        assert [view.top1 for view in one.views] == [view["top1"] for view in same["views"]]
        assert len(one.views) == 5
    assert read_rows(run / "evaluations.jsonl") == rows  # the same again is not written again


def test_the_same_question_is_answered_from_what_is_kept(
    photo_root: Path, tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    path = write_checkpoint(tmp_path, 4)
    first = evaluate_checkpoints([path], photo_root, PLAIN, "cpu", Console(quiet=True))
    kept = next((tmp_path / "evaluated").iterdir())
    content = json.loads(kept.read_text()) | {"step": 444}  # so it can be seen where the answer is from
    del content["sha256"]  # which versions before did not write
    kept.write_text(json.dumps(content))
    again = evaluate_checkpoints([path], photo_root, chosen_views(flip=True), "cpu", Console(quiet=True))
    assert (first[0].step, again[0].step) == (4, 444)
    assert len(again[0].views) == 1


def test_the_mean_of_classes_is_a_column_where_it_says_something(
    photo_root: Path, tmp_path: Path, write_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(tmp_path, 4)
    words = ["evaluate", str(tmp_path), "--data", str(photo_root)]
    assert main(words) == 0
    assert "mean of classes" not in capsys.readouterr().out  # nine images each
    (kept,) = (tmp_path / "evaluated").iterdir()
    content = json.loads(kept.read_text()) | {"mean_class_accuracy": 12.5}
    del content["sha256"]
    kept.write_text(json.dumps(content))
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "top-1 %  mean of classes %  top-5 %" in lines[0]
    assert lines[2].endswith(", mean of classes 12.50% in fp32")
    assert read_rows(tmp_path / "evaluations.jsonl")[-1]["mean_class_accuracy"] == 12.5


@pytest.mark.parametrize("there", [True, False])
def test_only_runs_can_be_watched(photo_root: Path, tmp_path: Path, there: bool) -> None:
    path = tmp_path / "run"
    if there:
        path.mkdir()
    with pytest.raises(UsageError, match="holds no run"):
        watch_runs([path], photo_root, PLAIN, "cpu", Console(quiet=True))


def test_classes_are_shown(
    imagesprint: Callable[..., Any], photo_root: Path, tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    write_checkpoint(tmp_path, 4)
    done = imagesprint("evaluate", tmp_path, "--data", photo_root, "--per-class", "--flip")
    assert done.code == 0, done.stderr
    for text in ("worst of 2 classes", "taken for", "calibration error", "with its mirror image"):
        assert text in done.stdout
    assert imagesprint("evaluate", tmp_path, "--data", photo_root, "--sizes", "24,x").code == 2
