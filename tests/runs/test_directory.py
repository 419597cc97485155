import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagesprint.errors import RecipeError, RunError, UsageError
from imagesprint.files import append_row
from imagesprint.recipes.recipe import Recipe
from imagesprint.runs.directory import RunDirectory, check_run, create_run, resolve_precision, run_lock
from imagesprint.runs.rows import Began, RunResult

HOLDER = """
import sys, time
from pathlib import Path
from imagesprint.runs.directory import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_of_the_first_until_that_dies(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, run], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"in use by process {holder.pid} on {os.uname().nodename}"), run_lock(run):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with run_lock(run):
        assert (run / ".lock").read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"), run_lock(tmp_path / "file" / "run"):
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    said = f"^cannot lock {tmp_path}/.lock: Function not implemented$"
    with pytest.raises(UsageError, match=said) as raised, run_lock(tmp_path):
        pass
    assert "choose a place on another disk" in raised.value.hint


def test_precision_auto_stays_what_the_run_began_with(tmp_path: Path, tiny_recipe: Recipe) -> None:
    run, auto = RunDirectory(tmp_path / "run"), replace(tiny_recipe, precision="auto")
    assert resolve_precision(auto, run, "bf16").precision == "bf16"
    create_run(run, replace(auto, precision="fp32"))
    assert resolve_precision(auto, run, "bf16").precision == "fp32"
    assert resolve_precision(tiny_recipe, run, "bf16").precision == "fp64"


def test_a_run_is_found_again_and_another_recipe_is_not_let_in(tmp_path: Path, tiny_recipe: Recipe) -> None:
    run = RunDirectory(tmp_path / "deep" / "run")
    check_run(run.path, tiny_recipe, "auto")
    assert not run.path.exists()  # checking changes nothing
    create_run(run, tiny_recipe)
    assert run.recipe() == tiny_recipe
    changed = replace(tiny_recipe, seed=1, weight_decay=0.1)
    check_run(run.path, changed, "auto")  # nothing was trained yet
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / "step-0000001.pt").touch()
    check_run(run.path, tiny_recipe, "require")
    with pytest.raises(UsageError, match=r"seed was 0, is 1; weight_decay was 0\.0001, is 0\.1"):
        check_run(run.path, changed, "auto")
    passing_over = replace(tiny_recipe, bad_records="substitute")
    check_run(run.path, passing_over, "auto")  # what was trained would be the same
    create_run(run, passing_over)
    with pytest.raises(UsageError, match="bad_records was 'substitute', is 'stop'"):
        check_run(run.path, tiny_recipe, "auto")


METRICS: dict[str, Any] = {
    "step": 10, "epoch": 2.5, "phase": 0, "loss": 2.0, "cross_entropy": 1.5, "l2": 0.5, "top1": 50.0, "top5": 100.0,
    "lr": 0.1, "batch_size": 16, "image_size": 24, "images_per_second": 32.0, "data_wait": 0.1, "seconds": 5.0,
}  # fmt: skip
EVALUATION: dict[str, Any] = {
    "step": 10, "epoch": 2.5, "num_images": 18, "top1": 50.0, "top5": 100.0, "loss": 1.0, "checkpoint": None,
}  # fmt: skip
RESULT: dict[str, Any] = {"steps": 10, "epochs": 2.5, "images_per_second": 32, "wall_seconds": 6.0, "plan": None}
BEGAN: dict[str, Any] = {"began": "2026-11-29T01:02:03", "step": 0}


def test_rewinding_drops_what_is_computed_again(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step in (5, 10, 15):
        append_row(run.metrics_file, METRICS | {"step": step, "of a later version": [1]})
    append_row(run.evaluations_file, EVALUATION | {"top1": 1.0})
    append_row(run.evaluations_file, EVALUATION | {"top1": 2.0})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 20, "lo')
    assert [(row.step, row.top1) for row in run.evaluations()] == [(10, 2.0)]
    assert (run.top1(), run.first_top1()) == ({10: 2.0}, {10: 1.0})
    first = run.metrics_file.read_text().splitlines(keepends=True)[0]
    run.rewind(9)
    assert run.metrics_file.read_text() == first  # as it was, to what this version does not know
    assert run.evaluations() == []


def test_rows_of_earlier_versions_are_read(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    append_row(run.metrics_file, METRICS)
    clocks = {"stages": {"load": 1.0, "jpeg": -1e-4}, "ranks": {"own": [-1e-6], "data_wait": [0.0]}}
    append_row(run.metrics_file, METRICS | clocks | {"step": 20})
    append_row(run.evaluations_file, EVALUATION)
    append_row(run.commands_file, BEGAN)
    (evaluation,) = run.evaluations()
    assert (evaluation.precision, evaluation.mean_class_accuracy) == ("fp32", None)
    assert (run.metrics()[0].overflows, run.metrics()[0].stages) == (0, None)
    assert run.commands() == [Began("2026-11-29T01:02:03", 0, 1)]
    assert run.result() is None
    run.result_file.write_text(json.dumps(RESULT))
    assert run.result() == RunResult(10, 2.5, 32.0, 6.0)


def test_an_evaluation_may_have_a_loss_that_is_no_number(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for loss in ("NaN", "Infinity", "1"):
        run.evaluations_file.write_text(json.dumps(EVALUATION).replace('"loss": 1.0', f'"loss": {loss}') + "\n")
        assert len(run.evaluations()) == 1


@pytest.mark.parametrize(
    ("row", "change", "what"),
    [
        (METRICS, {"loss": float("nan")}, "loss: nan is not in 0"),
        (METRICS, {"loss": "2.0"}, "loss: expected a number, found '2.0'"),
        (METRICS, {"seconds": 0.0}, "seconds: 0.0 is not in 1e-09"),
        (METRICS, {"images_per_second": float("inf")}, "images_per_second: inf"),
        (METRICS, {"step": 10.0}, "step: expected a whole number, found 10.0"),
        (METRICS, {"step": True}, "step: expected a whole number, found True"),
        (METRICS, {"step": -1}, "step: -1"),
        (METRICS, {"step": 10**30}, "step: 1000000000"),
        (METRICS, {"step": 5}, "step 5 of phase 0 follows step 5 of 0"),
        (METRICS, {"step": 4}, "step 4 of phase 0 follows step 5 of 0"),
        (METRICS, {"phase": 2}, "phase 2 is not in recipe.toml"),
        (METRICS, {"batch_size": 0}, "batch_size: 0"),
        (METRICS, {"top1": 100.1}, "top1: 100.1 is not in 0..100"),
        (METRICS, {"lr": [[[[0.1]]]]}, "lr: expected a number"),
        (METRICS, {"lr": 10**400}, "lr: inf"),
        (METRICS, {"stages": {}}, "stages.load is missing"),
        (METRICS, {"stages": {"load": 1.0, "threads": 0}}, "stages.threads: 0"),
        (METRICS, {"ranks": {"own": [1.0, "x"], "data_wait": [0.0, 0.0]}}, "ranks.own.1: expected a number, found 'x'"),
        (METRICS, {"ranks": {"own": [1.0], "data_wait": []}}, "own has 1 figures, data_wait 0"),
        (EVALUATION, {"num_images": 0}, "num_images: 0"),
        (EVALUATION, {"checkpoint": 3}, "checkpoint: expected text, found 3"),
        (EVALUATION, {"mean_class_accuracy": 101}, "mean_class_accuracy: 101.0 is not in 0..100"),
        (EVALUATION, {"top5": None}, "top5: expected a number, found None"),
        (BEGAN, {"ranks": "2"}, "ranks: expected a whole number"),
        (BEGAN, {"host": None}, "host: expected text"),
        ({"ended": "now", "step": 3, "reason": "done"}, {"reason": 3}, "reason: expected text"),
        ({"ended": "now", "step": 3}, {}, "reason is missing"),
    ],
)
def test_a_damaged_row_is_an_error_with_file_and_line(
    tmp_path: Path, tiny_recipe: Recipe, row: dict[str, Any], change: dict[str, Any], what: str
) -> None:
    run = RunDirectory(tmp_path)
    create_run(run, tiny_recipe)
    read: Callable[[], object]
    file, read = {
        "loss": (run.metrics_file, run.metrics),
        "num_images": (run.evaluations_file, run.evaluations),
    }.get("loss" if "lr" in row else "num_images" if "num_images" in row else "", (run.commands_file, run.commands))
    append_row(file, (METRICS | {"step": 5} if "lr" in row else EVALUATION if "num_images" in row else BEGAN))
    read()
    append_row(file, row | change)
    with pytest.raises(RunError, match=re.escape(f"{file} is damaged in line 2: ")) as caught:
        read()
    assert what in caught.value.what
    assert caught.value.hint.startswith("delete that line")


@pytest.mark.parametrize(
    "line", [b"3", b"[]", b"null", b"{", b"x", b'{"step": 1}{"step": 2}', b"\xff\xfe{}", b"\0", b"[" * 100_000, b"  "]
)
def test_lines_that_are_no_rows(tmp_path: Path, line: bytes) -> None:
    run = RunDirectory(tmp_path)
    for file, read in ((run.evaluations_file, run.evaluations), (run.commands_file, run.commands)):
        file.write_bytes(line + b"\n")
        with pytest.raises(RunError, match="is damaged in line 1: "):
            read()
        file.write_bytes(line)  # the writer was killed
        assert read() == []


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "3", "[]", "[" * 100_000, json.dumps(RESULT | {"steps": "10"}), json.dumps({"steps": 10}),
        json.dumps(RESULT | {"interruptions": [3]}), json.dumps(RESULT | {"top1": 1e9}),
        json.dumps(RESULT | {"top5": 1.0, "loss": 1.0}),
        json.dumps(RESULT | {"plan": 3}), json.dumps(RESULT | {"checkpoint": None}),
    ],
)  # fmt: skip
def test_a_damaged_result_is_made_anew(tmp_path: Path, content: str) -> None:
    run = RunDirectory(tmp_path)
    run.result_file.write_text(content)
    with pytest.raises(RunError, match=r"result\.json is damaged: ") as caught:
        run.result()
    assert "made anew" in caught.value.hint


@pytest.mark.parametrize("damage", [b"\xff", b"\0", b"seed = 1e999999\n", b"[[[", b"x" * 10_000])
def test_a_damaged_recipe_is_made_anew_once_it_is_deleted(tmp_path: Path, tiny_recipe: Recipe, damage: bytes) -> None:
    run = RunDirectory(tmp_path)
    create_run(run, tiny_recipe)
    run.recipe_file.write_bytes(damage + run.recipe_file.read_bytes())
    with pytest.raises(RecipeError) as caught:
        run.recipe()
    assert str(run.recipe_file) in caught.value.what
    assert len(caught.value.what) < 500
    assert "may be deleted" in caught.value.hint


def test_a_recipe_with_a_byte_order_mark_and_line_ends_of_windows_is_read(tmp_path: Path, tiny_recipe: Recipe) -> None:
    run = RunDirectory(tmp_path)
    create_run(run, tiny_recipe)
    run.recipe_file.write_bytes(b"\xef\xbb\xbf" + run.recipe_file.read_bytes().replace(b"\n", b"\r\n"))
    assert run.recipe() == tiny_recipe


def test_what_a_command_left_that_did_not_come_to_its_lock_is_no_obstacle(tmp_path: Path, tiny_recipe: Recipe) -> None:
    """Where rank 0 cannot make the lock, the other ranks, which lose it, have the directory to log that in."""
    for name in ("log.txt", ".lock", ".recipe.toml.1.tmp"):
        (tmp_path / name).touch()
    check_run(tmp_path, tiny_recipe, "auto")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        check_run(tmp_path, tiny_recipe, "auto")
