from typing import Any

import numpy as np
import pytest
import torch

from imagesprint.errors import RecipeError
from imagesprint.model.batch_norm import BatchNorm2d, batch_norms
from imagesprint.model.building import MODELS, build_model, normalize
from imagesprint.model.resnet import (
    ARCHITECTURES,
    BasicBlock,
    BlurPool2d,
    Bottleneck,
    ChannelAttention,
    MeanPool2d,
    SqueezeExcitation,
)
from imagesprint.recipes.recipe import MODEL_NAMES, Phase, Recipe

PHASE = Phase((0, 1), (0.1, 0.1), "constant", 4, 4, 32)


def recipe(**changes: object) -> Recipe:
    return Recipe(name="test", phases=(PHASE,), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "changes", "parameters"),
    [  # torchvision's counts for 1000 classes; of the variants timm's, which are published in millions
        ("resnet18", {}, 11_689_512),
        ("resnet34", {}, 21_797_672),
        ("resnet50", {}, 25_557_032),
        ("resnet101", {}, 44_549_160),
        ("resnet152", {}, 60_192_808),
        ("resnet18", {"stem": "deep", "shortcut": "pool"}, 11.71),  # resnet18d
        ("resnet50", {"stem": "deep", "shortcut": "pool"}, 25.58),  # resnet50d
        ("resnet50", {"attention": "se"}, 28.09),  # seresnet50
        ("resnet50", {"stem": "deep", "shortcut": "pool", "attention": "eca"}, 25.58),  # ecaresnet50d
        ("resnet152", {"stem": "deep", "shortcut": "pool", "attention": "se"}, 66.84),  # seresnet152d
    ],
)
def test_parameter_counts(name: str, changes: dict[str, Any], parameters: float) -> None:
    with torch.device("meta"):
        model = build_model(recipe(model=name, **changes), 1000)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert parameters in (count, round(count / 1e6, 2))


def test_names_are_those_of_torchvision() -> None:
    keys = build_model(recipe(model="resnet50"), 10).state_dict().keys()
    expected = {
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.num_batches_tracked",
        "layer4.2.conv3.weight",
        "layer4.2.bn3.bias",
        "fc.weight",
        "fc.bias",
    }
    assert expected <= keys
    assert len(keys) == 320
    assert not any("batch_mean" in key or "kernel" in key for key in keys)


NORM = ("bias", "num_batches_tracked", "running_mean", "running_var", "weight")
# Of timm 1.0, timm/models/resnet.py, layers/squeeze_excite.py, layers/eca.py: what no ResNet of torchvision has.
DEEP_STEM = {*(f"conv1.{at}.weight" for at in (0, 3, 6)), *(f"conv1.{at}.{name}" for at in (1, 4) for name in NORM)}


def pooled(block: str) -> set[str]:
    return {f"{block}.downsample.1.weight", *(f"{block}.downsample.2.{name}" for name in NORM)}


def gate(block: str) -> set[str]:
    return {f"{block}.se.fc{number}.{name}" for number in (1, 2) for name in ("weight", "bias")}


BOTTLENECKS = [f"layer{stage}.{index}" for stage, count in enumerate((3, 4, 6, 3), 1) for index in range(count)]


@pytest.mark.parametrize(
    ("changes", "more", "fewer"),
    [
        ({"stem": "deep"}, DEEP_STEM, {"conv1.weight"}),
        (
            {"shortcut": "pool"},
            {key for stage in range(1, 5) for key in pooled(f"layer{stage}.0")},
            {f"layer{stage}.0.downsample.{key}" for stage in range(1, 5)
             for key in ("0.weight", *(f"1.{name}" for name in NORM))},
        ),
        ({"attention": "se"}, {key for block in BOTTLENECKS for key in gate(block)}, set()),
        ({"attention": "eca"}, {f"{block}.se.conv.weight" for block in BOTTLENECKS}, set()),
        ({"stem": "3x3"}, set(), set()),
    ],
    ids=["deep", "pool", "se", "eca", "3x3"],
)  # fmt: skip
def test_names_of_the_variants_are_those_of_timm(changes: dict[str, Any], more: set[str], fewer: set[str]) -> None:
    with torch.device("meta"):
        plain, keys = (set(build_model(recipe(**each), 10).state_dict()) for each in ({}, changes))
    assert keys == (plain - fewer) | more


def test_channels_are_multiples_of_8() -> None:
    found = [build_model(recipe(model="resnet20", width=width), 2) for width in (0.5, 1.0, 1.3, 4.0)]
    widths = [[model.get_submodule(f"layer{stage}.0.conv2").out_channels for stage in (1, 2, 3)] for model in found]
    assert widths == [[8, 16, 32], [16, 32, 64], [24, 40, 80], [64, 128, 256]]
    stems = [model.get_submodule("conv1").out_channels for model in found]
    assert stems == [row[0] for row in widths]


def test_stems_halve_twice_or_not_at_all() -> None:
    images = torch.rand(1, 3, 32, 32)
    sizes = []
    for stem in ("default", "deep", "3x3"):
        model = build_model(recipe(model="resnet18", stem=stem), 2)
        sizes.append(model.get_submodule("maxpool")(model.get_submodule("conv1")(images)).shape[2])
    assert sizes == [8, 8, 32]


def test_a_pooled_shortcut_takes_the_mean_of_what_is_there() -> None:
    pool, x = MeanPool2d(), torch.arange(15.0).reshape(1, 1, 3, 5)
    assert pool(x).tolist() == [[[[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]]]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def test_squeeze_excitation_is_its_formula() -> None:
    module = SqueezeExcitation(40).double()
    x = torch.randn(2, 40, 3, 5, dtype=torch.float64)
    w1, b1, w2, b2 = (parameter.detach().squeeze().numpy() for parameter in module.parameters())
    assert w1.shape == (8, 40)  # a sixteenth is 2.5: 8 at least
    inner = np.maximum(x.numpy().mean((2, 3)) @ w1.T + b1, 0)
    expected = x.numpy() * sigmoid(inner @ w2.T + b2)[:, :, None, None]
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("channels", "size"), [(16, 3), (64, 3), (256, 5), (512, 5), (2048, 7)])
def test_channel_attention_is_its_formula(channels: int, size: int) -> None:
    module = ChannelAttention(channels).double()
    x = torch.randn(2, channels, 3, 2, dtype=torch.float64)
    weights = module.conv.weight.detach().flatten().numpy()
    assert len(weights) == size
    means = np.pad(x.numpy().mean((2, 3)), ((0, 0), (size // 2, size // 2)))
    sums = sum(weights[at] * means[:, at : at + channels] for at in range(size))
    np.testing.assert_allclose(module(x).detach().numpy(), x.numpy() * sigmoid(sums)[:, :, None, None], rtol=1e-12)


@pytest.mark.parametrize(("strides", "first", "second"), [("v1", (2, 2), (1, 1)), ("v1.5", (1, 1), (2, 2))])
def test_where_a_bottleneck_strides(strides: str, first: tuple[int, int], second: tuple[int, int]) -> None:
    block = build_model(recipe(strides=strides), 2).get_submodule("layer2.0")
    assert isinstance(block, Bottleneck)
    assert (block.conv1.stride, block.conv2.stride) == (first, second)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in ARCHITECTURES),
        *((name, {"blurpool": True}) for name in ("resnet18", "resnet20", "resnet50")),
        ("resnet20", {"stem": "deep", "shortcut": "pool", "attention": "se", "blurpool": True}),
        ("resnet18", {"stem": "3x3", "attention": "eca", "blurpool": True, "width": 0.25}),
        ("resnet50", {"stem": "deep", "shortcut": "pool", "attention": "eca", "strides": "v1", "width": 0.25}),
    ],
)
def test_logits_and_gradients_flow_at_odd_sizes(name: str, changes: dict[str, Any]) -> None:
    model = build_model(recipe(model=name, zero_init=False, **changes), 7)
    logits = model(torch.randn(2, 3, 45, 37, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_single_pixel_stays_what_it_is_when_blurred() -> None:
    """Small images come to that in the last stage."""
    x = torch.rand(2, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(BlurPool2d(3)(x), x)


@pytest.mark.parametrize("attention", ["none", "se"])
def test_zero_init_makes_each_block_the_identity_at_first(attention: str) -> None:
    model = build_model(recipe(model="resnet18", zero_init=True, attention=attention), 2)
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock)]
    assert all(block.last_norm.weight.abs().sum() == 0 for block in blocks)
    block = model.get_submodule("layer1.1")
    x = torch.rand(2, 64, 8, 8)
    torch.testing.assert_close(block(x), x)


def test_weights_follow_from_the_seed_and_are_channels_last() -> None:
    first, again, other = (build_model(recipe(model="resnet18", seed=seed), 2) for seed in (1, 1, 2))
    weights = [model.get_parameter("layer1.0.conv1.weight") for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[0].is_contiguous(memory_format=torch.channels_last)


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_model(recipe(model="resnet18"), 2)
    assert torch.equal(torch.rand(1), expected)


def test_unknown_models_are_refused() -> None:
    assert tuple(MODELS) == MODEL_NAMES  # of which a recipe names one; validation refuses any other name
    with pytest.raises(RecipeError, match="timm"):
        build_model(recipe(model="timm:no_such_model"), 2)


def test_batch_norm_normalises_like_torch_but_leaves_running_statistics_to_the_step() -> None:
    ours, reference = BatchNorm2d(5), torch.nn.BatchNorm2d(5, momentum=1.0)
    x = torch.randn(6, 5, 4, 3) * 3 + 1
    torch.testing.assert_close(ours(x), reference(x))
    assert ours.running_mean is not None
    assert ours.running_mean.abs().sum() == 0
    torch.testing.assert_close(ours.batch_mean, reference.running_mean)
    torch.testing.assert_close(ours.batch_var, reference.running_var)
    ours(x * 2)  # a second micro-batch replaces the first
    torch.testing.assert_close(ours.batch_mean, 2 * x.mean((0, 2, 3)))


def test_all_batch_norms_are_found() -> None:
    assert len(batch_norms(build_model(recipe(model="resnet50"), 2))) == 53


def test_normalize() -> None:
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    mean, std = torch.tensor([100.0, 110.0, 120.0]), torch.tensor([50.0, 60.0, 70.0])
    out = normalize(images, mean, std)
    assert out.shape == (2, 3, 4, 5)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out[1, 2, 3, 4], (images[1, 3, 4, 2].float() - 120) / 70)
