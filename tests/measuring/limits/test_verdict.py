"""The verdict on figures in which the narrowest stage was planted."""

from dataclasses import replace

import pytest

from imagesprint.measuring.limits.figures import STAGES, Figures
from imagesprint.measuring.limits.verdict import find_limits, saved_by

# A healthy GPU: 100 ms of work a step of 512 images, loading in 60 ms and copying in 10 beside it.
HEALTHY = Figures(images=512, step=0.1, load=0.06, read_share=0.1, jpeg_share=0.7, copy=0.01, checkpoint=0.001)

PLANTED = {
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
