from dataclasses import replace
from pathlib import Path

import pytest

from imagesprint.errors import UsageError
from imagesprint.files import append_row, read_rows
from imagesprint.recipes.recipe import Recipe
from imagesprint.runs.directory import RunDirectory, check_run, create_run, resolve_precision


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


def test_rewinding_drops_what_is_computed_again(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step in (5, 10, 15):
        append_row(run.metrics_file, {"step": step})
    append_row(run.evaluations_file, {"step": 10, "top1": 1.0})
    append_row(run.evaluations_file, {"step": 10, "top1": 2.0})
    assert run.evaluations() == [{"step": 10, "top1": 2.0}]
    run.rewind(9)
    assert read_rows(run.metrics_file) == [{"step": 5}]
    assert run.evaluations() == []


def test_what_a_command_left_that_did_not_come_to_its_lock_is_no_obstacle(tmp_path: Path, tiny_recipe: Recipe) -> None:
    """Where rank 0 cannot make the lock, the other ranks, which lose it, have the directory to log that in."""
    for name in ("log.txt", ".lock", ".recipe.toml.1.tmp"):
        (tmp_path / name).touch()
    check_run(tmp_path, tiny_recipe, "auto")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        check_run(tmp_path, tiny_recipe, "auto")
