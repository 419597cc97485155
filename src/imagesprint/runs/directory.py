"""The run directory: what a training leaves behind, who may write to it, and who may go on in it."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from imagesprint.checkpoints.naming import list_checkpoints
from imagesprint.errors import CheckpointError, RecipeError, RunError, UsageError
from imagesprint.files import TEMPORARY_PATTERN, naming, no_lock, parse_rows, remove, write_atomically, write_text
from imagesprint.recipes.library import Difference, differences, load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.runs.rows import Command, EvaluationRow, MetricsRow, RunResult, from_json, read_command

LOCK: Final = ".lock"  # in the run directory; it says who holds, or last held, the lock
_IN_USE: Final = "wait for it, stop it (a SIGTERM saves first), or choose another --output"


class RunDirectory:
    """Paths inside one run, and reading and writing of its small files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.toml"  # the resolved recipe
        self.metrics_file = path / "metrics.jsonl"  # one object a logged step, written by training alone
        self.evaluations_file = path / "evaluations.jsonl"  # one object an evaluated checkpoint, by any evaluator
        self.commands_file = path / "commands.jsonl"  # two objects a `train` command: when it began, when it ended
        self.result_file = path / "result.json"  # written once, when the run is finished
        self.log_file = path / "log.txt"
        self.tensorboard = path / "tensorboard"

    def recipe(self) -> Recipe | None:
        """The resolved recipe of the run in this directory; None where there is no run yet.

        Raises RecipeError, FileError.
        """
        with naming("read", self.recipe_file):
            if not self.recipe_file.exists():
                return None
        try:
            return load_recipe(self.recipe_file)
        except RecipeError as error:
            hint = "once a run has a checkpoint, its recipe.toml may be deleted: the same train command makes it anew"
            raise RecipeError(error.what, hint) from error

    def result(self) -> RunResult | None:
        """What a finished run came to; None where it is not finished. Raises RunError, FileError."""
        with naming("read", self.result_file):
            if not self.result_file.exists():
                return None
            content = self.result_file.read_bytes()
        try:
            return from_json(RunResult, json.loads(content.decode()))
        except (ValueError, RecursionError) as error:
            raise RunError(
                f"{self.result_file} is damaged: {error}", "delete it and run the same command again: it is made anew"
            ) from error

    def write_result(self, result: RunResult) -> None:
        write_text(self.result_file, json.dumps(asdict(result), indent=2) + "\n")

    def checkpoints(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        return list_checkpoints(self.path)

    def metrics(self) -> list[MetricsRow]:
        """Rows of metrics.jsonl, by step. Raises RunError where one is damaged, or not of this run's recipe."""
        recipe, rows = self.recipe(), [MetricsRow(0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1)]

        def parse(value: Any) -> MetricsRow:
            row, before = from_json(MetricsRow, value), rows[-1]
            if row.step <= before.step or row.phase < before.phase:
                raise ValueError(f"step {row.step} of phase {row.phase} follows step {before.step} of {before.phase}")
            if recipe is not None and row.phase >= len(recipe.phases):
                raise ValueError(f"phase {row.phase} is not in recipe.toml")
            rows.append(row)
            return row

        return parse_rows(self.metrics_file, parse, "delete that line: what it says of its steps is lost, no more")

    def evaluations(self) -> list[EvaluationRow]:
        """Rows of evaluations.jsonl by step; of several evaluations of one checkpoint the last. Raises RunError."""
        latest = {row.step: row for row in self._all_evaluations()}
        return [latest[step] for step in sorted(latest)]

    def top1(self) -> dict[int, float]:
        """The top-1 of each step that was evaluated. Raises RunError."""
        return {row.step: row.top1 for row in self.evaluations()}

    def first_top1(self) -> dict[int, float]:
        """As `top1`, but of several evaluations of one step by the first, which was training's own."""
        return {row.step: row.top1 for row in reversed(self._all_evaluations())}

    def _all_evaluations(self) -> list[EvaluationRow]:
        hint = "delete that line: imagesprint evaluate makes it anew"
        return parse_rows(self.evaluations_file, lambda value: from_json(EvaluationRow, value), hint)

    def commands(self) -> list[Command]:
        """Rows of commands.jsonl, oldest first. Raises RunError."""
        hint = "delete that line: what it says of interruptions is lost, no more"
        return parse_rows(self.commands_file, read_command, hint)

    def rewind(self, step: int) -> None:
        """Drop logged rows after `step`: the steps behind it are about to be computed again. Raises RunError."""
        _keep_lines(self.metrics_file, [row.step <= step for row in self.metrics()])
        _keep_lines(self.evaluations_file, [row.step <= step for row in self._all_evaluations()])


def _keep_lines(path: Path, kept: Sequence[bool]) -> None:
    """Leave those of the whole lines of a .jsonl file that are `kept`, as they are."""
    if path.exists():
        content = path.read_bytes()
        lines = [line for line in content.split(b"\n")[:-1] if line]
        left = b"".join(line + b"\n" for line, is_kept in zip(lines, kept, strict=True) if is_kept)
        if left != content:
            write_atomically(path, lambda file: file.write(left))


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
    begun = bool(run.checkpoints())
    stored = run.recipe() or trained_recipe(run)
    if resume == "require" and not begun:
        raise UsageError(f"--resume require: {path} holds no checkpoint", "leave --resume away to start a run")
    if stored is None and not begun:
        if path.exists() and not all(_is_leftover(file) for file in path.iterdir()):
            raise UsageError(f"{path} is not empty and holds no run", "choose a new directory for --output")
        return
    if resume == "never":
        raise UsageError(
            f"--resume never: {path} already holds a run", "choose a new directory for --output, or leave --resume away"
        )
    if begun and stored is not None and recipe_changes(stored, recipe):
        trained = trained_recipe(run)
        if trained is not None and not recipe_changes(trained, recipe):
            raise wrong_recipe_file(run, recipe_changes(trained, stored))
        check_same_recipe(path, stored, recipe)


def trained_recipe(run: RunDirectory) -> Recipe | None:
    """The recipe that the newest whole checkpoint of `run` was trained by; None where there is none."""
    from imagesprint.checkpoints.format import read_training_checkpoint  # imports torch

    for path in reversed(run.checkpoints()):
        with suppress(CheckpointError):
            return read_training_checkpoint(path).recipe
    return None


def wrong_recipe_file(run: RunDirectory, changed: Sequence[Difference]) -> RunError:
    """The error for a recipe.toml that has `changed` from what was trained."""
    first = changed[0]
    return RunError(
        f"{run.recipe_file} is not what the run's checkpoints were trained by: {first.key} is {first.b!r}, was "
        f"{first.a!r}",
        "delete it and give the same train command again: it is made anew",
    )


def check_same_recipe(run: Path, stored: Recipe, recipe: Recipe) -> None:
    """Raise UsageError where `recipe` would not go on with what was trained by `stored` in the directory `run`."""
    changed = recipe_changes(stored, recipe)
    if changed:
        listed = "; ".join(f"{change.key} was {change.a!r}, is {change.b!r}" for change in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise UsageError(
            f"{run} holds a run of another recipe: {listed}{more}",
            "choose another --output, or give the recipe and the --set of that run "
            f"(imagesprint recipes show {run}/recipe.toml)",
        )


def recipe_changes(stored: Recipe, recipe: Recipe) -> list[Difference]:
    """What differs, but for what changes nothing of what was trained before."""
    # A run that would have stopped at a bad record met none so far: to go on with substitutes changes nothing before.
    allowed = Difference("bad_records", "stop", "substitute")
    return [change for change in differences(stored, recipe) if change != allowed]


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
    return file.match(TEMPORARY_PATTERN) or file.name in (LOCK, "log.txt") or is_mark(file)


def is_mark(file: Path) -> bool:
    """Whether `file` is none of ours but one by which SageMaker marks, for a while, that the file before it is sent."""
    return file.suffix in (".sagemaker-uploading", ".sagemaker-uploaded")


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


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold the lock of the run directory `run`, which is made if need be.

    Raises UsageError where another process holds it, naming that one, where nothing can be written there, or where the
    file system has no locks.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(
            f"--output {run} cannot be written: {error.filename}: {error.strerror}", "choose another --output"
        ) from error
    with _held(file, run / LOCK, run):
        yield


@contextmanager
def hold_lock(path: Path, what: object, hint: str = _IN_USE) -> Iterator[None]:
    """Hold the lock that is the file at `path`. Raises UsageError where another process does, saying that of `what`."""
    with naming("write", path):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with _held(file, path, what, hint):
        yield


@contextmanager
def _held(file: int, path: Path, what: object, hint: str = _IN_USE) -> Iterator[None]:
    try:
        _take(file, path, what, hint)
        yield
    finally:
        with suppress(OSError):  # the lock is gone all the same, and in the file is nothing that a run needs
            os.close(file)


def is_locked(run: Path) -> bool:
    """Whether a process writes `run`, as far as the kernel of this machine knows; tried by taking it for an instant."""
    try:
        with (run / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


def _take(file: int, path: Path, what: object, hint: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            refused = no_lock(path, error)
            raise UsageError(refused.what, refused.hint) from error
        with naming("read", path):
            holder = os.pread(file, 1000, 0).decode(errors="replace").strip() or "another process"
        raise UsageError(f"{what} is in use by {holder}", hint) from error
    with naming("write", path), os.fdopen(os.dup(file), "w") as out:
        os.ftruncate(file, 0)
        out.write(f"process {os.getpid()} on {socket.gethostname()}\n")
