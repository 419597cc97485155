from dataclasses import replace

import pytest
from torch import nn

from imagesprint.diagnosis import roofline
from imagesprint.diagnosis.roofline import count_work
from imagesprint.model import flops
from imagesprint.model.batch_norm import batch_norms
from imagesprint.model.building import build_model
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Recipe


def test_resnet50_at_224_pixels_takes_what_the_design_counts() -> None:
    recipe = replace(load_recipe("minutes104"), precision="bf16")
    work = count_work(recipe, recipe.phases[2], 1000)
    assert work.flops == pytest.approx(24.3e9, rel=1e-3)
    assert work.traffic.eager == pytest.approx(481e6, rel=2e-3)
    assert work.traffic.fused_norm == pytest.approx(370e6, rel=0.03)
    assert work.traffic.convolutions == pytest.approx(142e6, rel=0.02)
    assert work.traffic.fused_norm < work.traffic.norm_kernels < work.traffic.eager


def test_grouped_convolutions_are_counted_as_what_they_are() -> None:
    recipe = replace(load_recipe("small"), model="efficientnet_lite0")
    phase = replace(recipe.phases[0], image_size=224, batch_size=2, micro_batch=2)
    published = 407e6  # multiply-adds forward, with those that are no convolution's: tensorflow/tpu, efficientnet/lite
    assert count_work(recipe, phase, 1000).flops == pytest.approx(3 * 2 * published, rel=0.07)


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


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_the_kernels_of_batch_norm_move_what_is_counted(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted from their arguments; both passes read two activations again, see model/fused_kernels.py."""
    pytest.importorskip("triton", reason="there is no Triton for this platform")
    from imagesprint.model.fused_norm import fused_norm

    recipe = replace(load_recipe("minutes104"), model=model, precision="bf16")
    phase = replace(recipe.phases[2], micro_batch=32)
    derived = count_work(recipe, phase, 10).traffic.norm_kernels

    def build_fused(recipe: Recipe, num_classes: int) -> nn.Module:
        network = build_model(recipe, num_classes)
        for norm in batch_norms(network):
            norm.fused = fused_norm
        return network

    monkeypatch.setattr(flops, "build_model", build_fused)
    monkeypatch.setattr(
        roofline, "_READ_AGAIN", {**roofline._READ_AGAIN, "norm_forward": (0,), "norm_backward": (0, 1)}
    )
    assert count_work(recipe, phase, 10).traffic.eager == pytest.approx(derived, rel=1e-3)
