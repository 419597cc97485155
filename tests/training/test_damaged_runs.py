"""Runs whose files were damaged, given to what reads them; `benchmarks/damaged_runs.py` does so at random."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagesprint.cli.main import main
from imagesprint.recipes.serialization import to_toml
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.logs import read_scalars, remarks

Run = Callable[..., Any]
SCRIPT = Path(__file__).parents[2] / "benchmarks/damaged_runs.py"


@pytest.fixture(scope="module")
def whole(imagesprint: Run, photo_root: Path, tiny_recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after 8 of its 32 steps and evaluated after 4; its recipe lies beside it."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "tiny.toml").write_text(to_toml(tiny_recipe))
    words = ("train", folder / "tiny.toml", "--data", photo_root, "--output", folder / "run", "--stop-after", 8)
    done = imagesprint(*words, "--checkpoint-every", 4, "--set", "eval_every=1")
    assert done.code == 0, done.stderr
    return folder / "run"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> RunDirectory:
    return RunDirectory(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture
def go_on(imagesprint: Run, photo_root: Path, whole: Path, run: RunDirectory) -> Run:
    """Trains four steps more."""
    where = ("--data", photo_root, "--output", run.path, "--stop-after", 12, "--set", "eval_every=1")
    return lambda recipe=None: imagesprint("train", recipe or whole.with_name("tiny.toml"), *where)


def test_logs_that_were_cut_are_made_whole_with_a_warning(run: RunDirectory, go_on: Run) -> None:
    events = next(run.tensorboard.glob("*tfevents*"))
    events.write_bytes(events.read_bytes()[:700])
    for file in (run.metrics_file, run.evaluations_file, run.commands_file):
        file.write_bytes(file.read_bytes()[:-5])
    done = go_on()
    assert done.code == 0, done.stderr
    for warning in (
        f"{run.metrics_file}: its last line is cut short",
        f"{run.evaluations_file}: its last line is cut short",
        f"{run.commands_file}: its last line is cut short",
        f"{run.metrics_file} has no row for the steps 5 to 8",
        f"{events} the record at byte ",
        f"{run.tensorboard} lacked logged steps: it is made anew from the rows",
    ):
        assert f"warning: {warning}" in done.stderr.replace(f"{events}: ", f"{events} "), (warning, done.stderr)
    assert [row.step for row in run.metrics()] == [4, 10, 12]
    assert [row.step for row in run.evaluations()] == [4, 8, 12]  # what was lost of step 8 is made up for
    assert {tag: [step for step, _, _ in points] for tag, points in read_scalars(run.tensorboard).items()} == {
        tag: [4, 8, 12] if tag.startswith("eval/") else [4, 10, 12] for tag in read_scalars(run.tensorboard)
    }
    assert len(remarks(run)) == 1, "what is lost is said again"


def test_a_recipe_that_is_not_the_checkpoints_own_is_not_trained(run: RunDirectory, go_on: Run, whole: Path) -> None:
    for file, code in ((run.recipe_file, 1), (whole.with_name("other.toml"), 2)):
        file.write_text((whole / "recipe.toml").read_text().replace("seed = 0", "seed = 1"))
        done = go_on(file)
        assert done.code == code, done.stderr
        assert "seed was 0, is 1" in done.stderr
        run.recipe_file.unlink(missing_ok=True)  # the second time the checkpoint alone knows
    assert len(run.checkpoints()) == 2
    assert not run.recipe_file.exists()


def test_a_recipe_that_was_deleted_is_made_anew(
    run: RunDirectory, go_on: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = run.recipe()
    run.recipe_file.write_text(run.recipe_file.read_text().replace("seed = 0", "seed = 1"))
    wrong = f"{run.recipe_file} is not what the run's checkpoints were trained by: seed is 1, was 0"
    for verb in ("report", "doctor"):
        assert main([verb, str(run.path)]) == 1
        said = capsys.readouterr().err
        assert f"error: {wrong}\nhint: delete it and give the same train command again" in said
    done = go_on()
    assert done.code == 1, done.stderr
    assert f"error: {wrong}\n" in done.stderr
    run.recipe_file.unlink()
    done = go_on()
    assert done.code == 0, done.stderr
    assert "resumed after step 8" in done.stderr
    assert run.recipe() == expected


def test_damaged_rows_are_an_error_of_every_command_that_needs_them(
    run: RunDirectory, go_on: Run, photo_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, readers in (
        (run.metrics_file, ("report", "doctor")),
        (run.evaluations_file, ("evaluate", "report", "doctor")),
        (run.commands_file, ("report", "doctor")),
    ):
        content = file.read_bytes()
        file.write_bytes(content.replace(b'"step": 4', b'"step": "4"').replace(b'"step": 0', b'"step": -'))
        for verb in readers:
            assert main([verb, str(run.path), *(["--data", str(photo_root)] if verb == "evaluate" else [])]) == 1
            said = capsys.readouterr().err
            assert f"error: {file} is damaged in line 1: " in said, (verb, said)
            assert "hint: delete that line" in said
        done = go_on()
        assert done.code == 1, done.stderr
        assert f"error: {file} is damaged in line 1: " in done.stderr
        file.write_bytes(content)
    assert [path.name for path in run.checkpoints()] == ["step-0000004.pt", "step-0000008.pt"], "nothing was trained"


def test_a_few_flipped_bytes() -> None:
    words = ["--flips", "2", "--commands", "doctor,inspect", "--files", "recipe,result,evaluations"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| recipe.toml | error" in done.stdout
    assert "wrong: 0" in done.stdout
