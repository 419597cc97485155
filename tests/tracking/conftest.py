"""A run as a training leaves it, with its TensorBoard files and commands, for trackers to be told of."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imagesprint.files import append_row, write_text
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.logs import DONE, RunLogs
from imagesprint.runs.rows import EvaluationRow, MetricsRow, RunResult


class LoggedRun:
    """The run at `path`, as far as it was trained: `train` goes on with it."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path = path
        self._run = RunDirectory(path)
        path.mkdir(parents=True)
        write_text(self._run.recipe_file, to_toml(recipe))

    def train(self, start: int, end: int, reason: str = DONE) -> None:
        """Log the steps from `start` to `end`, each fourth evaluated; what was logged behind `start` is dropped."""
        began = {"began": "2026-11-21T14:00:00", "step": start, "ranks": 2, "process": 7, "host": self.path.name}
        append_row(self._run.commands_file, {**began, "device": "cpu", "threads": 1, "decoder": "native"})
        self._run.rewind(start)
        with RunLogs(self._run, purge_after=start) as logs:
            for step in range(start + 1, end + 1):
                logs.metrics(
                    MetricsRow(step, step / 4, 0, 2 / step, 1.5 / step, 0.5 / step, 50, 90, 0.1, 16, 32, 80, 0, 0.2)
                )
                if step % 4 == 0:
                    checkpoint = f"checkpoints/step-{step:07d}.pt"
                    row = (step, step / 4, 18, 50 + step / 100, 90, 1 / step, checkpoint, "fp32", 40 + step / 100)
                    logs.evaluation(EvaluationRow(*row))
        append_row(self._run.commands_file, {"ended": "2026-11-21T14:10:00", "step": end, "reason": reason})

    def finish(self) -> None:
        """Write the result: all steps are done."""
        last = self._run.metrics()[-1]
        self._run.write_result(RunResult(last.step, last.epoch, 80, 300))


@pytest.fixture
def logged_run(tmp_path: Path, tiny_recipe: Recipe) -> Callable[..., LoggedRun]:
    """Makes a run in `tmp_path`, trained for some steps."""

    def make(steps: int, name: str = "run") -> LoggedRun:
        run = LoggedRun(tmp_path / name, tiny_recipe)
        run.train(0, steps)
        return run

    return make
