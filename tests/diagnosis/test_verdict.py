from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from imagesprint.diagnosis.verdict import STAGES, Figures, Window, find_limits, phase_figures, read_figures, saved_by
from imagesprint.errors import UsageError
from imagesprint.files import append_row
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.rows import MetricsRow, RankSeconds, StageSeconds

# A healthy GPU: 100 ms of work a step of 512 images, loading in 60 ms and copying in 10 beside it.
HEALTHY = Figures(images=512, step=0.1, load=0.06, read_share=0.1, jpeg_share=0.7, copy=0.01, checkpoint=0.001)

PLANTED = {
    "storage": replace(HEALTHY, step=0.3, load=0.3, storage_share=0.8, data_wait=0.2),
    "compute": HEALTHY,
    "decode": replace(HEALTHY, step=0.3, load=0.3, data_wait=0.2),
    "read": replace(HEALTHY, step=0.3, load=0.3, read_share=0.9, data_wait=0.2),
    "copy": replace(HEALTHY, step=0.25, copy=0.25, copy_wait=0.15),
    "straggler": replace(HEALTHY, step=0.2, straggler=0.1, straggling_rank=3),
    "reduction": replace(HEALTHY, step=0.2, reduction=0.1),
    "checkpoint": replace(HEALTHY, checkpoint=0.1),
    "evaluation": replace(HEALTHY, evaluation=0.1),
}


def names(figures: Figures) -> list[str]:
    return [limit.name for limit in find_limits([(figures, 1)])]


@pytest.mark.parametrize("stage", STAGES)
def test_what_was_planted_is_named_first(stage: str) -> None:
    assert names(PLANTED[stage])[0] == stage


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("noise", [-0.03, 0.03])
def test_neither_the_unit_nor_a_little_noise_matters(factor: float, noise: float) -> None:
    for stage, figures in PLANTED.items():
        seconds = {
            name: getattr(figures, name) * factor * (1 + noise * (-1) ** index)
            for index, name in enumerate(("step", "load", "copy", "data_wait", "copy_wait", "straggler", "reduction"))
        }
        assert names(replace(figures, **seconds, **_pauses(figures, factor)))[0] == stage  # type: ignore[arg-type]


def _pauses(figures: Figures, factor: float) -> dict[str, float]:
    return {"checkpoint": figures.checkpoint * factor, "evaluation": figures.evaluation * factor}


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (replace(HEALTHY, step=0.5, load=0.5, read_share=0.7, data_wait=0.4), ["read", "decode"]),
        (replace(HEALTHY, step=0.5, load=0.5, read_share=0.3, data_wait=0.4), ["decode", "read"]),
        (replace(HEALTHY, step=0.3, load=0.3, data_wait=0.2, copy=0.25), ["decode", "copy"]),
        (replace(HEALTHY, step=0.3, load=0.25, copy=0.3, copy_wait=0.2), ["copy", "decode"]),
        (replace(HEALTHY, step=0.3, load=0.3, data_wait=0.02), ["decode", "compute"]),
        (replace(HEALTHY, step=0.3, load=0.28), ["compute", "decode"]),
        (replace(HEALTHY, step=0.3, straggler=0.2, checkpoint=0.15), ["straggler", "checkpoint"]),
        (replace(HEALTHY, step=0.25, straggler=0.15, checkpoint=0.2), ["checkpoint", "straggler"]),
        (replace(HEALTHY, step=0.3, load=0.3, data_wait=0.2, checkpoint=0.15), ["decode", "checkpoint"]),
    ],
)
def test_of_two_the_narrower_comes_first(figures: Figures, expected: list[str]) -> None:
    assert names(figures)[:2] == expected


def test_gains_are_those_of_a_pipeline() -> None:
    starved = PLANTED["decode"]
    gains = {limit.name: limit.gain for limit in find_limits([(starved, 1)])}
    # Without decoding, 100 ms of work set the pace; without reading a tenth less is loaded; faster work is no help.
    assert gains["decode"] == pytest.approx(0.301 / 0.101 - 1)
    assert gains["read"] == pytest.approx(0.301 / 0.271 - 1)
    assert gains["compute"] == gains["straggler"] == 0
    # Twice the threads load in 150 ms, which is still more than the work.
    freed = {"read": starved.read / 2, "decode": starved.decode / 2}
    assert saved_by(starved, freed) == pytest.approx(0.15)


def test_nothing_saves_more_than_it_takes() -> None:
    for figures in PLANTED.values():
        for limit in find_limits([(figures, 1)]):
            assert 0 <= limit.saved <= limit.seconds


def test_what_shares_its_cores_with_loading_is_faster_without_it() -> None:
    on_cpu = Figures(images=64, step=2.0, load=1.5)
    assert saved_by(on_cpu, {"decode": 1.5}) == 0
    assert saved_by(replace(on_cpu, undisturbed=1.2), {"decode": 1.5}) == pytest.approx(0.8)
    assert saved_by(replace(on_cpu, undisturbed=1.2), {"decode": 0.75}) == pytest.approx(0.4)


def test_phases_count_by_their_time() -> None:
    parts = [(PLANTED["decode"], 100), (PLANTED["compute"], 5000)]
    assert find_limits(parts)[0].name == "compute"
    assert find_limits([(PLANTED["decode"], 1000), (PLANTED["compute"], 100)])[0].name == "decode"
    total = find_limits([(PLANTED["decode"], 2), (PLANTED["checkpoint"], 3)])
    assert {limit.name: limit.seconds for limit in total}["checkpoint"] == pytest.approx(2 * 0.001 + 3 * 0.1)


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


def test_waiting_for_a_store_is_no_work_of_this_machine() -> None:
    figures = Figures(images=512, step=1.0, load=1.0, storage_share=0.6, read_share=0.25, undisturbed=0.4)
    assert (figures.storage, figures.read, figures.decode) == pytest.approx((0.6, 0.1, 0.3))
    assert saved_by(figures, {"storage": 0.6}) == 0  # the step takes as long, for loading still goes on beside it
    assert saved_by(figures, {"storage": 0.6, "decode": 0.3, "read": 0.1}) == pytest.approx(0.6)
    (limit,) = [limit for limit in find_limits([(figures, 1)]) if limit.name == "storage"]
    assert limit.images_per_second is None
    assert phase_figures(0, [window([1.0], [0.5], storage=0.6)]).figures.storage_share == pytest.approx(0.6)
