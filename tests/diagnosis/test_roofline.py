import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from imagesprint.diagnosis import roofline
from imagesprint.diagnosis.roofline import (
    ETHERNET_100G,
    NDR,
    NVLINK4,
    Link,
    all_reduce,
    count_work,
    efficiency,
    ring_all_reduce,
)
from imagesprint.model.batch_norm import batch_norms
from imagesprint.model.resnet import build_model
from imagesprint.recipes.library import load_recipe
from imagesprint.recipes.recipe import Recipe
from imagesprint.training.state import TrainingState


def test_resnet50_at_224_pixels_takes_what_the_design_counts() -> None:
    recipe = replace(load_recipe("minutes104"), precision="bf16")
    work = count_work(recipe, recipe.phases[2], 1000)
    assert work.flops == pytest.approx(24.3e9, rel=1e-3)
    assert work.traffic.eager == pytest.approx(481e6, rel=2e-3)
    assert work.traffic.fused_norm == pytest.approx(370e6, rel=0.03)
    assert work.traffic.convolutions == pytest.approx(142e6, rel=0.02)
    assert work.traffic.fused_norm < work.traffic.norm_kernels < work.traffic.eager


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
    """Counted from their arguments; both passes read two activations again, see model/fused_norm.py."""
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

    monkeypatch.setattr(roofline, "build_model", build_fused)
    monkeypatch.setattr(
        roofline, "_READ_AGAIN", {**roofline._READ_AGAIN, "norm_forward": (0,), "norm_backward": (0, 1)}
    )
    assert count_work(recipe, phase, 10).traffic.eager == pytest.approx(derived, rel=1e-3)


DOCUMENT = (Path(__file__).parents[2] / "docs/scaling.md").read_text(encoding="utf-8")
FULL = 102_440_624
LINK = Link("test", 1e9, 1e-3)


def test_a_ring_sends_twice_all_but_one_share() -> None:
    assert ring_all_reduce(10**9, 1, LINK) == 0
    assert ring_all_reduce(10**9, 2, LINK) == pytest.approx(1.0 + 2e-3)
    assert ring_all_reduce(10**9, 4, LINK) == pytest.approx(1.5 + 6e-3)


def test_nodes_send_a_share_between_them() -> None:
    fast = Link("fast", 1e12, 0.0)
    assert all_reduce(8 * 10**9, 8, LINK, fast) == ring_all_reduce(8 * 10**9, 8, LINK)
    assert all_reduce(8 * 10**9, 16, fast, LINK) == pytest.approx(0.014 + 1.002)


def test_only_what_the_backward_pass_does_not_hide_costs() -> None:
    assert efficiency(3.0, 1.0) == 0.75
    assert efficiency(3.0, 1.0, hidden=2.0) == 1.0
    assert efficiency(3.0, 2.0, hidden=1.0) == 0.75


def test_the_flat_tensor_is_as_large_as_the_document_says() -> None:
    sums = TrainingState(load_recipe("minutes104"), tuple(map(str, range(1000))), torch.device("cpu")).sums
    assert sums.metrics.untyped_storage().nbytes() == FULL
    assert f"{FULL:,} bytes" in DOCUMENT


def test_the_table_of_the_document_is_what_the_model_gives() -> None:
    rows = re.findall(
        r"^\| (NVLink 4.*?) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+%) \| ([\d.]+%) \|$", DOCUMENT, re.MULTILINE
    )
    assert [row[1] for row in rows] == ["8", "64", "1,024", "64", "1,024"]
    compute = 256 / 5500
    for links, ranks, milliseconds, plain, hidden in rows:
        outer = ETHERNET_100G if ETHERNET_100G.name in links else NDR
        seconds = all_reduce(FULL, int(ranks.replace(",", "")), NVLINK4, outer)
        assert milliseconds == f"{1e3 * seconds:.2f}"
        assert (plain, hidden) == (
            f"{efficiency(compute, seconds):.1%}",
            f"{efficiency(compute, seconds, 2 / 3 * compute):.1%}",
        )
