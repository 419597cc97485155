"""ResNets 18/34/50/101/152 (He et al. 2015, arXiv:1512.03385) and the small ResNet-20 of its section 4.2.

Parameter names are torchvision's, so that weights go in and out without a map.
"""

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
class BlockOptions:
    """What all blocks of a network share."""

    stride_in_first: bool  # v1: a bottleneck strides in its first 1×1; v1.5: in its 3×3
    blurpool: bool
    bn_eps: float
    bn_momentum: float

    def norm(self, channels: int) -> BatchNorm2d:
        return BatchNorm2d(channels, eps=self.bn_eps, momentum=self.bn_momentum)

    def conv(self, inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
        """A convolution; with blurpool a strided one runs at full resolution, and `downsample_after` strides."""
        return nn.Conv2d(inputs, outputs, size, 1 if self.blurpool else stride, padding=size // 2, bias=False)

    def downsample_after(self, channels: int, stride: int) -> nn.Module:
        return BlurPool2d(channels) if self.blurpool and stride > 1 else nn.Identity()


class BlurPool2d(nn.Module):
    """Halves height and width behind a fixed 3×3 binomial low-pass filter (Zhang 2019, arXiv:1904.11486)."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(row, row).expand(channels, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.kernel.to(x.dtype), stride=2, groups=x.shape[1])


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, options: BlockOptions) -> None:
        super().__init__()
        self.conv1 = options.conv(inputs, width, 3, stride)
        self.bn1 = options.norm(width)
        self.blur1 = options.downsample_after(width, stride)
        self.conv2 = options.conv(width, width, 3)
        self.bn2 = options.norm(width)
        self.downsample = _shortcut(inputs, width * self.expansion, stride, options)

    @property
    def last_norm(self) -> BatchNorm2d:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        out = self.blur1(self.bn1(self.conv1(x), relu=True))
        out = self.conv2(out)
        added: Tensor = self.bn2(out, residual=self.downsample(x), relu=True)
        return added


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, options: BlockOptions) -> None:
        super().__init__()
        first, second = (stride, 1) if options.stride_in_first else (1, stride)
        self.conv1 = options.conv(inputs, width, 1, first)
        self.bn1 = options.norm(width)
        self.blur1 = options.downsample_after(width, first)
        self.conv2 = options.conv(width, width, 3, second)
        self.bn2 = options.norm(width)
        self.blur2 = options.downsample_after(width, second)
        self.conv3 = options.conv(width, width * self.expansion, 1)
        self.bn3 = options.norm(width * self.expansion)
        self.downsample = _shortcut(inputs, width * self.expansion, stride, options)

    @property
    def last_norm(self) -> BatchNorm2d:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        out = self.blur1(self.bn1(self.conv1(x), relu=True))
        out = self.blur2(self.bn2(self.conv2(out), relu=True))
        out = self.conv3(out)
        added: Tensor = self.bn3(out, residual=self.downsample(x), relu=True)
        return added


def _shortcut(inputs: int, outputs: int, stride: int, options: BlockOptions) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    blur = [BlurPool2d(inputs)] if options.blurpool and stride > 1 else []
    return nn.Sequential(*blur, options.conv(inputs, outputs, 1, stride), options.norm(outputs))


class ResNet(nn.Module):
    """float images [N, 3, H, W] (normalised, channels_last is fastest) → float logits [N, num_classes]."""

    fused: "Callable[[ResNet, Tensor], Tensor] | None" = None  # trains in place of what is below: see fused_resnet.py

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int,
        *,
        strides: str = "v1.5",
        zero_init: bool = True,
        blurpool: bool = False,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        options = BlockOptions(strides == "v1", blurpool, bn_eps, bn_momentum)
        block: type[BasicBlock] | type[Bottleneck] = Bottleneck if architecture.bottleneck else BasicBlock
        channels = architecture.widths[0]
        stem_size, stem_stride = (3, 1) if architecture.small_stem else (7, 2)
        self.conv1 = nn.Conv2d(3, channels, stem_size, stem_stride, padding=stem_size // 2, bias=False)
        self.bn1 = options.norm(channels)
        self.maxpool = nn.Identity() if architecture.small_stem else _max_pool(channels, blurpool)
        self.num_stages = len(architecture.blocks)
        for stage, (blocks, width) in enumerate(zip(architecture.blocks, architecture.widths, strict=True)):
            layers: list[nn.Module] = []
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                layers.append(block(channels, width, stride, options))
                channels = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, num_classes)
        self._initialise(zero_init)

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


def _max_pool(channels: int, blurpool: bool) -> nn.Module:
    if blurpool:
        return nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), BlurPool2d(channels))
    return nn.MaxPool2d(3, stride=2, padding=1)


def resnet(recipe: Recipe, num_classes: int) -> ResNet:
    """The ResNet that the recipe names, as it has it."""
    return ResNet(
        ARCHITECTURES[recipe.model],
        num_classes,
        strides=recipe.strides,
        zero_init=recipe.zero_init,
        blurpool=recipe.blurpool,
        bn_eps=recipe.bn_eps,
        bn_momentum=recipe.bn_momentum,
    )
