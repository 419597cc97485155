"""The count of work is that of DESIGN.md, section 7, for the network whose figures are there."""

from dataclasses import replace

import pytest

from imagesprint.measuring.traffic import count_work
from imagesprint.recipes.library import load_recipe


def test_resnet50_at_224_pixels_takes_what_the_design_counts() -> None:
    recipe = replace(load_recipe("minutes104"), precision="bf16")
    work = count_work(recipe, recipe.phases[2], 1000)
    assert work.flops == pytest.approx(24.3e9, rel=1e-3)
    assert work.traffic.eager == pytest.approx(481e6, rel=2e-3)
    assert work.traffic.fused_norm == pytest.approx(370e6, rel=0.03)
    assert work.traffic.convolutions == pytest.approx(142e6, rel=0.02)


def test_traffic_follows_dtype_and_batch() -> None:
    recipe = replace(load_recipe("demo"), precision="fp32")
    phase = recipe.phases[0]
    one, two = (count_work(replace(recipe, precision=precision), phase, 10) for precision in ("bf16", "fp32"))
    assert one.flops == two.flops
    assert two.traffic.eager == pytest.approx(2 * one.traffic.eager, rel=0.02)
    # The weights are read and their gradients written once a micro-batch: the smaller it is, the more an image bears.
    small = count_work(recipe, replace(phase, micro_batch=2), 10)
    weights = 3 * 4 * 269_000 * (1 / 2 - 1 / phase.micro_batch)
    assert small.traffic.eager - two.traffic.eager == pytest.approx(weights, rel=0.02)
