"""Figures from rows as `train` logs them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from imagesprint.errors import UsageError
from imagesprint.files import append_row
from imagesprint.measuring.limits.run_figures import Window, phase_figures, read_figures
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.rows import MetricsRow, RankSeconds, StageSeconds


def window(own: list[float], data_wait: list[float], is_first: bool = False, **stages: float) -> Window:
    """Ten steps of 64 images in 2 s."""
    parts: dict[str, Any] = {"read": 0.2, "crc": 0.1, "jpeg": 0.5, "resize": 0.2, "copy": 0.1, "threads": 3} | stages
    ranks = RankSeconds(tuple(own), tuple(data_wait))
    return Window(10, 2.0, 320.0, data_wait[0] / 2.0, StageSeconds(1.0, **parts), ranks, is_first)


def row(step: int, phase: int) -> MetricsRow:
    """What is logged of such a window, on one rank."""
    made = window([1.0], [0.5])
    figures = (made.images_per_second, made.data_wait, made.seconds)
    return MetricsRow(step, 1.0, phase, 1, 1, 0, 50, 100, 0.1, 64, 32, *figures, 0, made.stages, made.ranks)


def test_a_rank_that_comes_late_every_time_straggles_and_one_that_does_now_and_then_does_not() -> None:
    late = phase_figures(0, [window([1.0, 1.8, 1.1], [0.0, 0.0, 0.0]), window([1.2, 1.8, 1.1], [0.0, 0.0, 0.0])])
    assert late.world_size == 3
    assert late.figures.straggling_rank == 1
    assert late.figures.straggler == pytest.approx((3.6 - 2.2) / 20)
    assert late.figures.reduction == pytest.approx((4.0 - 3.6) / 20)
    by_turns = phase_figures(0, [window([1.0, 1.8], [0.0, 0.0]), window([1.8, 1.0], [0.0, 0.0])]).figures
    assert by_turns.straggler == 0
    assert by_turns.reduction == pytest.approx((4.0 - 2.8) / 20)


def test_waits_are_divided_by_what_the_host_waited_for() -> None:
    figures = phase_figures(0, [window([1.9], [1.2], copy=1.5, copy_wait=0.4)]).figures
    assert figures.step == pytest.approx(0.2)
    assert figures.images == pytest.approx(64)
    assert figures.data_wait == pytest.approx(0.12 * 1.2 / 1.6)
    assert figures.copy_wait == pytest.approx(0.12 * 0.4 / 1.6)
    assert figures.copy == pytest.approx(0.15)
    assert (figures.load, figures.read_share, figures.jpeg_share) == pytest.approx((0.1, 0.3, 0.5))
    assert figures.compute == pytest.approx(0.07)


def test_first_rows_and_rows_of_other_ranks_do_not_count() -> None:
    rows = [
        window([9.0, 9.0], [8.0, 8.0]),
        window([9.0], [8.0], is_first=True),
        window([1.0], [0.5], checkpoint=0.4, checkpoint_writing=2.0),
        window([1.0], [0.5]),
    ]
    found = phase_figures(0, rows)
    assert (found.steps, found.world_size, found.threads, found.decoder) == (20, 1, 3, "native")
    assert found.figures.data_wait == pytest.approx(0.05)
    assert (found.figures.checkpoint, found.figures.checkpoint_writing) == pytest.approx((0.02, 0.1))
    assert phase_figures(0, rows[1:2]).steps == 10  # the only one there is
    assert phase_figures(0, [window([1.0], [0.5], resize=0.0)]).decoder == "pillow"


def test_phases_of_a_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with pytest.raises(UsageError, match="holds no logged steps yet"):
        read_figures(run)
    append_row(run.commands_file, {"began": "now", "step": 0})
    for step, phase in ((10, 0), (20, 0), (25, 1)):
        append_row(run.metrics_file, asdict(row(step, phase)))
    found = read_figures(run)
    assert [(each.phase, each.steps) for each in found] == [(0, 10), (1, 5)]
    assert found[1].figures.step == pytest.approx(0.4)


def test_a_run_without_stages_says_so(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    later = ("overflows", "stages", "ranks")
    append_row(run.metrics_file, {key: value for key, value in asdict(row(10, 0)).items() if key not in later})
    with pytest.raises(UsageError, match="a version that noted no stages"):
        read_figures(run)
