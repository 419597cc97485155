"""The logs of a run after damage: what is said of it, and what is made anew."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.logs import EVALUATION_TAGS, EVALUATOR, METRIC_TAGS, RunLogs, mend_tensorboard, remarks
from imagesprint.runs.rows import EvaluationRow, MetricsRow

ROW = len(METRIC_TAGS) + len(EVALUATION_TAGS)  # seconds that a row takes: see `run`


def metrics(step: int) -> MetricsRow:
    """Of the one step that ends at `step`."""
    return MetricsRow(step, step / 4, 0, 2 / step, 1 / step, 1 / step, 50, 90, 0.1, 16, 24, 32, 0.1, 0.5)


def evaluation(step: int) -> EvaluationRow:
    return EvaluationRow(step, step / 4, 18, 50, 90, 1 / step, None, "fp32", 45)


def points(run: RunDirectory, tag: str, folder: str = "") -> list[Any]:
    """What TensorBoard shows, by its own reader."""
    events = EventAccumulator(str(run.tensorboard / folder), size_guidance={"scalars": 0})
    events.Reload()
    return list(events.Scalars(tag)) if tag in events.Tags()["scalars"] else []


def shown(run: RunDirectory, tag: str, folder: str = "") -> list[int]:
    return [point.step for point in points(run, tag, folder)]


def times(run: RunDirectory, tag: str) -> dict[int, float]:
    return {point.step: point.wall_time for point in points(run, tag)}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run of eight logged steps, evaluated after 4 by the training and after 8 by another program, in two files.

    A second passes from each point to the next.
    """
    seconds = itertools.count(1_000_000.0)
    monkeypatch.setattr("imagesprint.runs.logs.time", SimpleNamespace(time=lambda: next(seconds)))
    run = RunDirectory(tmp_path)
    with RunLogs(run) as logs:
        for step in range(1, 5):
            logs.metrics(metrics(step))
        logs.evaluation(evaluation(4))
    with RunLogs(run, purge_after=4) as logs:
        for step in range(5, 9):
            logs.metrics(metrics(step))
    with RunLogs(run, EVALUATOR) as logs:
        logs.evaluation(evaluation(8))
    return run


def files(run: RunDirectory) -> list[Path]:
    return sorted(run.tensorboard.glob("*tfevents*"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def test_whole_logs_are_left_alone(run: RunDirectory) -> None:
    before = {file: file.read_bytes() for file in files(run)}
    assert remarks(run) == remarks(run, 8) == []
    assert not mend_tensorboard(run, 8)
    assert not mend_tensorboard(run, 6)
    assert not mend_tensorboard(RunDirectory(run.path / "new"), 0)
    assert {file: file.read_bytes() for file in files(run)} == before


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_damaged_event_file_is_made_anew(run: RunDirectory, damage: Callable[[Path], None], which: int) -> None:
    before = {tag: times(run, tag) for tag in ("loss/total", "data_wait", "eval/loss")}
    damage(files(run)[which])
    lost = {tag: sorted(before[tag].keys() - times(run, tag).keys()) for tag in before}
    assert any(lost.values())
    found = remarks(run)
    assert len(found) == (damage is not Path.unlink), found
    assert all(str(files(run)[which]) in what and "TensorBoard shows nothing behind it" in what for what in found)
    assert mend_tensorboard(run, 8)
    for tag in ("loss/total", "image_size", "train/top1"):
        assert shown(run, tag) == list(range(1, 9))
    for tag in EVALUATION_TAGS.values():
        assert (shown(run, tag), shown(run, tag, EVALUATOR)) == ([4], [8])
    assert len(files(run)) == 1
    for tag, former in before.items():
        after = times(run, tag)
        assert list(after.values()) == sorted(after.values())
        assert all(abs(after[step] - former[step]) <= ROW for step in former if step not in lost[tag])
    assert not mend_tensorboard(run, 8)


def test_what_is_computed_again_is_not_made_anew(run: RunDirectory) -> None:
    cut(files(run)[1])
    assert not mend_tensorboard(run, 6)  # the damage lies behind the step from which the run goes on
    with RunLogs(run, purge_after=6) as logs:
        logs.metrics(metrics(7))
    assert shown(run, "loss/total") == list(range(1, 8))


def test_lines_cut_short_and_rows_that_are_missing_are_said(run: RunDirectory) -> None:
    lines = run.metrics_file.read_text().splitlines(keepends=True)
    run.metrics_file.write_text("".join([*lines[:2], *lines[4:7]]) + lines[7][:40])
    run.commands_file.write_text('{"began": "20')
    assert remarks(run) == [
        f"{run.metrics_file}: its last line is cut short and is passed over",
        f"{run.commands_file}: its last line is cut short and is passed over",
        f"{run.metrics_file} has no row for the steps 3 to 4",
    ]
    assert remarks(run, 8)[2:] == [
        f"{run.metrics_file} has no row for the steps {steps}" for steps in ("3 to 4", "8 to 8")
    ]
    assert remarks(run, 7)[2:] == remarks(run)[2:]
