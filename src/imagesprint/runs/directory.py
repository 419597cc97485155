"""The run directory: what a training leaves behind, and whether the next command may go on in it."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagesprint.errors import RunError, UsageError
from imagesprint.files import TEMPORARY_PATTERN, naming, read_rows, remove, write_rows, write_text
from imagesprint.model.weights import list_checkpoints
from imagesprint.recipes.compare import Difference, differences
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.toml_format import from_toml, to_toml
from imagesprint.runs.run_lock import LOCK


@dataclass(frozen=True)
class RunDirectory:
    """Paths inside one run, and reading and writing of its small files."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def metrics_file(self) -> Path:
        """One object a logged step, written by training alone."""
        return self.path / "metrics.jsonl"

    @property
    def evaluations_file(self) -> Path:
        """One object an evaluated checkpoint, by any evaluator."""
        return self.path / "evaluations.jsonl"

    @property
    def commands_file(self) -> Path:
        """Two objects a `train` command: when it began and when it ended (`runs.history`)."""
        return self.path / "commands.jsonl"

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def result_file(self) -> Path:
        """Written once, when the run is finished."""
        return self.path / "result.json"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def recipe(self) -> Recipe | None:
        """The resolved recipe of the run in this directory; None where there is no run yet."""
        with naming("read", self.recipe_file):
            if not self.recipe_file.exists():
                return None
            text = self.recipe_file.read_text(encoding="utf-8")
        return from_toml(text, origin=str(self.recipe_file))

    def result(self) -> dict[str, Any] | None:
        """What a finished run came to, as `train --json` prints it; None where it is not finished."""
        with naming("read", self.result_file):
            if not self.result_file.exists():
                return None
            content = self.result_file.read_bytes()
        try:
            result: dict[str, Any] = json.loads(content)
        except ValueError as error:
            raise RunError(
                f"{self.result_file} is damaged: {error}", "delete it and run the same command again: it is made anew"
            ) from error
        return result

    def write_result(self, result: dict[str, Any]) -> None:
        write_text(self.result_file, json.dumps(result, indent=2) + "\n")

    def checkpoints(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        with naming("read", self.path / "checkpoints"):
            return list_checkpoints(self.path)

    def evaluations(self) -> list[dict[str, Any]]:
        """Rows of evaluations.jsonl by step; of several evaluations of one checkpoint the last."""
        latest = {row["step"]: row for row in read_rows(self.evaluations_file)}
        return [latest[step] for step in sorted(latest)]

    def rewind(self, step: int) -> None:
        """Drop logged rows after `step`: the steps behind it are about to be computed again."""
        for file in (self.metrics_file, self.evaluations_file):
            rows = read_rows(file)
            if file.exists():
                write_rows(file, [row for row in rows if row["step"] <= step])


def resolve_precision(recipe: Recipe, run: RunDirectory, precision: str) -> Recipe:
    """`recipe` with precision auto settled: as the run began where there is one, else as `precision` says."""
    if recipe.precision != "auto":
        return recipe
    stored = run.recipe()
    return replace(recipe, precision=stored.precision if stored is not None else precision)


def check_run(path: Path, recipe: Recipe, resume: str) -> None:
    """Check that `recipe` may be trained in the directory `path`: it is empty or new, or holds a run of that recipe.

    Changes nothing. Raises UsageError where the directory cannot be written, holds other things, holds checkpoints of
    another recipe (naming the differences), holds a run although `resume` is never, or no checkpoint although it is
    require.
    """
    run = RunDirectory(path)
    if run.result() is None:
        _check_writable(path)
    stored, begun = run.recipe(), bool(run.checkpoints())
    if resume == "require" and not begun:
        raise UsageError(f"--resume require: {path} holds no checkpoint", "leave --resume away to start a run")
    if stored is None:
        if path.exists() and not all(_is_leftover(file) for file in path.iterdir()):
            raise UsageError(f"{path} is not empty and holds no run", "choose a new directory for --output")
        return
    if resume == "never":
        raise UsageError(
            f"--resume never: {path} already holds a run", "choose a new directory for --output, or leave --resume away"
        )
    # A run that would have stopped at a bad record met none so far: to go on with substitutes changes nothing before.
    allowed = Difference("bad_records", "stop", "substitute")
    changed = [change for change in differences(stored, recipe) if change != allowed]
    if changed and begun:
        listed = "; ".join(f"{change.key} was {change.a!r}, is {change.b!r}" for change in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise UsageError(
            f"{path} holds a run of another recipe: {listed}{more}",
            "choose another --output, or give the recipe and the --set of that run "
            f"(imagesprint recipes show {path}/recipe.toml)",
        )


def create_run(run: RunDirectory, recipe: Recipe) -> None:
    """Make the directory with its recipe.toml, or take it over from a run that has no checkpoint yet.

    Removes what a killed process left half-written.
    """
    with naming("write", run.path):
        run.path.mkdir(parents=True, exist_ok=True)
    for folder in (run.path, run.path / "checkpoints"):
        with naming("read", folder):
            leftovers = list(folder.glob(TEMPORARY_PATTERN))
        for leftover in leftovers:
            remove(leftover)
    if run.recipe() != recipe:
        write_text(run.recipe_file, to_toml(recipe))


def _is_leftover(file: Path) -> bool:
    # The log: of ranks that lost the first one while that took the lock.
    return file.match(TEMPORARY_PATTERN) or file.name in (LOCK, "log.txt")


def _check_writable(path: Path) -> None:
    nearest = path
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UsageError(f"--output {path}: {nearest} is a file, not a directory", "choose another --output")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(
            f"--output {path}: {nearest} is not writable", "choose another --output or fix its permissions"
        )
