"""ResNets 18/34/50/101/152 (He et al. 2015, arXiv:1512.03385) and the small ResNet-20 of its section 4.2.

Their variants are fields of the recipe: the stem and the shortcut of ResNet-D (He et al. 2018, arXiv:1812.01187),
squeeze-and-excitation (Hu et al. 2017, arXiv:1709.01507), ECA (Wang et al. 2019, arXiv:1910.03151), low-pass filters,
other widths. Parameter names are torchvision's, those of the variants timm's (`resnet50d`, `seresnet50`,
`ecaresnet50d`), so that weights go in and out without a map.
"""

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagesprint.model.batch_norm import BatchNorm2d
from imagesprint.recipes.recipe import Recipe


@dataclass(frozen=True)
class Architecture:
    """`blocks` a stage, whether they are bottlenecks, `widths` a stage, and the stem: 7×7/2 + max pooling, or 3×3."""

    blocks: tuple[int, ...]
    bottleneck: bool
    widths: tuple[int, ...] = (64, 128, 256, 512)
    small_stem: bool = False


ARCHITECTURES = {
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet20": Architecture((3, 3, 3), bottleneck=False, widths=(16, 32, 64), small_stem=True),
    "resnet34": Architecture((3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3), bottleneck=True),
    "resnet101": Architecture((3, 4, 23, 3), bottleneck=True),
    "resnet152": Architecture((3, 8, 36, 3), bottleneck=True),
}


@dataclass(frozen=True)
class Variant:
    """What a recipe says of a ResNet beside its architecture: its fields of the same names, all blocks share them."""

    strides: str = "v1.5"  # v1: a bottleneck strides in its first 1×1; v1.5: in its 3×3
    zero_init: bool = True
    blurpool: bool = False
    stem: str = "default"
    shortcut: str = "conv"
    attention: str = "none"
    width: float = 1.0
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1

    def widths(self, architecture: Architecture) -> list[int]:
        if self.width == 1:
            return list(architecture.widths)
        return [_multiple_of_8(width * self.width) for width in architecture.widths]

    def norm(self, channels: int) -> BatchNorm2d:
        return BatchNorm2d(channels, eps=self.bn_eps, momentum=self.bn_momentum)

    def conv(self, inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
        """A convolution; with blurpool a strided one runs at full resolution, and `downsample_after` strides."""
        return _conv(inputs, outputs, size, 1 if self.blurpool else stride)

    def downsample_after(self, channels: int, stride: int) -> nn.Module:
        return BlurPool2d(channels) if self.blurpool and stride > 1 else nn.Identity()

    def downsample(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        """What a block adds its result to is its input by way of this."""
        if stride == 1 and inputs == outputs:
            return nn.Identity()
        if self.shortcut == "pool":  # a low-pass filter by itself, also with blurpool; of an odd side all is used
            pool = MeanPool2d() if stride > 1 else nn.Identity()
            return nn.Sequential(pool, _conv(inputs, outputs, 1), self.norm(outputs))
        blur = [BlurPool2d(inputs)] if self.blurpool and stride > 1 else []
        return nn.Sequential(*blur, self.conv(inputs, outputs, 1, stride), self.norm(outputs))

    def attention_on(self, channels: int) -> nn.Module | None:
        """What weighs the channels of a block's result, if anything does."""
        if self.attention == "none":
            return None
        return SqueezeExcitation(channels) if self.attention == "se" else ChannelAttention(channels)


PLAIN = Variant()


def _multiple_of_8(number: float) -> int:
    """The multiple of 8 nearest to `number`, 8 at least: what half-precision matrix units multiply at full speed."""
    return max(8, int(number / 8 + 0.5) * 8)


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class BlurPool2d(nn.Module):
    """Halves height and width behind a fixed 3×3 binomial low-pass filter (Zhang 2019, arXiv:1904.11486)."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(row, row).expand(channels, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mode = "reflect" if min(x.shape[2:]) > 1 else "replicate"  # one pixel has no other to be mirrored
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), self.kernel.to(x.dtype), stride=2, groups=x.shape[1])


class MeanPool2d(nn.Module):
    """The mean of each 2×2 pixels; at the end of an odd side of the two, or the one, that are there."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # which cannot tell that a side rounded up is the one of the convolutions
            return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2)
        return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


class SqueezeExcitation(nn.Module):
    """Each channel times a gate, which a small network makes of the means of all (Hu et al. 2017, arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = _multiple_of_8(channels / 16)  # section 4: a sixteenth
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.fc2 = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)), inplace=True)))


class ChannelAttention(nn.Module):
    """Each channel times a gate, a convolution over its neighbours' means (ECA; Wang et al. 2019, arXiv:1910.03151)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = max(3, int((math.log2(channels) + 1) / 2) | 1)  # equation 12, with γ = 2 and b = 1; odd
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gates = torch.sigmoid(self.conv(x.mean((2, 3)).unsqueeze(1)))
        return x * gates.transpose(1, 2).unsqueeze(3)


class DeepStem(nn.Sequential):
    """Three 3×3 convolutions, the first with stride 2, in place of the 7×7 (He et al. 2018, arXiv:1812.01187, C).

    The names are those that timm's has with the ReLUs between them; the batch norm behind it is the network's.
    """

    def __init__(self, outputs: int, variant: Variant) -> None:
        half = outputs // 2
        layers = {
            "0": _conv(3, half, 3, 2),
            "1": variant.norm(half),
            "3": _conv(half, half, 3),
            "4": variant.norm(half),
            "6": _conv(half, outputs, 3),
        }
        super().__init__(OrderedDict(layers))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's own name)
        first, first_norm, second, second_norm, third = self
        out: Tensor = third(second_norm(second(first_norm(first(input), relu=True)), relu=True))
        return out


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, variant: Variant) -> None:
        super().__init__()
        self.conv1 = variant.conv(inputs, width, 3, stride)
        self.bn1 = variant.norm(width)
        self.blur1 = variant.downsample_after(width, stride)
        self.conv2 = variant.conv(width, width, 3)
        self.bn2 = variant.norm(width)
        self.se = variant.attention_on(width)
        self.downsample = variant.downsample(inputs, width * self.expansion, stride)

    @property
    def last_norm(self) -> BatchNorm2d:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        out = self.blur1(self.bn1(self.conv1(x), relu=True))
        return _added(self, self.conv2(out), x)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, variant: Variant) -> None:
        super().__init__()
        first, second = (stride, 1) if variant.strides == "v1" else (1, stride)
        self.conv1 = variant.conv(inputs, width, 1, first)
        self.bn1 = variant.norm(width)
        self.blur1 = variant.downsample_after(width, first)
        self.conv2 = variant.conv(width, width, 3, second)
        self.bn2 = variant.norm(width)
        self.blur2 = variant.downsample_after(width, second)
        self.conv3 = variant.conv(width, width * self.expansion, 1)
        self.bn3 = variant.norm(width * self.expansion)
        self.se = variant.attention_on(width * self.expansion)
        self.downsample = variant.downsample(inputs, width * self.expansion, stride)

    @property
    def last_norm(self) -> BatchNorm2d:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        out = self.blur1(self.bn1(self.conv1(x), relu=True))
        out = self.blur2(self.bn2(self.conv2(out), relu=True))
        return _added(self, self.conv3(out), x)


def _added(block: BasicBlock | Bottleneck, out: Tensor, x: Tensor) -> Tensor:
    """What `block` gives: its last convolution's `out`, normalised and weighed, and its input `x` added to that."""
    residual = block.downsample(x)
    if block.se is None:
        added: Tensor = block.last_norm(out, residual=residual, relu=True)
        return added
    return F.relu(block.se(block.last_norm(out)) + residual, inplace=True)


class ResNet(nn.Module):
    """float images [N, 3, H, W] (normalised, channels_last is fastest) → float logits [N, num_classes]."""

    fused: "Callable[[ResNet, Tensor], Tensor] | None" = None  # trains in place of what is below: see fused_resnet.py

    def __init__(self, architecture: Architecture, num_classes: int, variant: Variant = PLAIN) -> None:
        super().__init__()
        block: type[BasicBlock] | type[Bottleneck] = Bottleneck if architecture.bottleneck else BasicBlock
        widths = variant.widths(architecture)
        channels = widths[0]
        self.conv1, self.maxpool = _stem(architecture, channels, variant)
        self.bn1 = variant.norm(channels)
        self.num_stages = len(architecture.blocks)
        for stage, (blocks, width) in enumerate(zip(architecture.blocks, widths, strict=True)):
            layers: list[nn.Module] = []
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(block(channels, width, stride, variant))
                channels = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, num_classes)
        self._initialise(variant.zero_init)

    def _initialise(self, zero_init: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015, arXiv:1502.01852
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock | Bottleneck) and zero_init:
                nn.init.zeros_(module.last_norm.weight)
        nn.init.normal_(self.fc.weight, std=0.01)  # Goyal et al. 2017, arXiv:1706.02677, section 5.1
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.bn1.training and self.fused is not None:  # else it is evaluated, or its first layers are frozen
            return self.fused(self, x)
        x = self.maxpool(self.bn1(self.conv1(x), relu=True))
        for stage in range(self.num_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def _stem(architecture: Architecture, channels: int, variant: Variant) -> tuple[nn.Module, nn.Module]:
    """What comes before the first batch norm, and what between it and the first block."""
    if variant.stem == "3x3" or (variant.stem == "default" and architecture.small_stem):
        return _conv(3, channels, 3), nn.Identity()
    convolutions = DeepStem(channels, variant) if variant.stem == "deep" else _conv(3, channels, 7, 2)
    if variant.blurpool:
        return convolutions, nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), BlurPool2d(channels))
    return convolutions, nn.MaxPool2d(3, stride=2, padding=1)


def resnet(recipe: Recipe, num_classes: int) -> ResNet:
    """The ResNet that the recipe names, as it has it."""
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Variant)}
    return ResNet(ARCHITECTURES[recipe.model], num_classes, Variant(**fields))
