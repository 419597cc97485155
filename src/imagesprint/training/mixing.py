"""The batch transforms that mix images with their neighbours, or put a box over them: mixup, CutMix, random erasing.

A neighbour is the image before in the micro-batch: that order is a random one already. What is mixed, how much and
where follows from the draws of the image that is changed. A micro-batch of one image is its own neighbour.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imagesprint.recipes.recipe import Recipe

# Values in a table that a draw chooses one of, all equally likely. A power of two: the choice is then exact on any
# device, and no logarithm or power is needed there.
_CHOICES = 4096

# Of random erasing: the share of the image that is erased, and height over width, uniform in its logarithm. As
# torchvision's RandomErasing has them, but that it writes the third as 0.33; the paper has 0.4 there.
_ERASED = (0.02, 1 / 3)
_ASPECTS = (0.3, 3.3)


class Mixup(nn.Module):
    """mixup (Zhang et al. 2018): of each image λ, of its neighbour 1 − λ, in pixels as in targets.

    λ is a sample of Beta(alpha, alpha), one for each image; of λ and 1 − λ the greater, so that each image is mainly
    itself. The mixtures are those of the paper, which has one λ for all; but with many, and small ones among them, some
    images would be there twice and others hardly (fastai takes the greater for that reason, too).
    """

    shares: Tensor

    def __init__(self, _: Recipe, alpha: float) -> None:
        super().__init__()
        self.register_buffer("shares", torch.from_numpy(beta_quantiles(alpha)[: _CHOICES // 2]))

    def forward(self, images: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """As `transforms.TRANSFORMS` has it, with one draw."""
        share = _chosen(self.shares, draws[:, 0])  # of the neighbour
        mixed = images.lerp(images.roll(1, 0), share[:, None, None, None])
        return mixed, targets.lerp(targets.roll(1, 0), share[:, None])


class CutMix(nn.Module):
    """CutMix (Yun et al. 2019): a box of each image's neighbour in its place, and in the targets the share it covers.

    The box has the image's shape and the area 1 − λ, where λ is a sample of Beta(alpha, alpha). Its centre may lie
    anywhere: what is beyond the image's edge is cut off and does not count.
    """

    sides: Tensor

    def __init__(self, _: Recipe, alpha: float) -> None:
        super().__init__()
        self.register_buffer("sides", torch.from_numpy(np.sqrt(beta_quantiles(alpha))))

    def forward(self, images: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """As `transforms.TRANSFORMS` has it, with three draws: size, centre down and across."""
        size = images.shape[-1]
        length = (_chosen(self.sides, draws[:, 0]) * size).long()
        rows, columns = (_between((draws[:, axis] * size).long() - length // 2, length, size) for axis in (1, 2))
        share = (rows.sum(1) * columns.sum(1)).to(targets.dtype) / size**2
        mixed = torch.where(_box(rows, columns), images.roll(1, 0), images)
        return mixed, targets.lerp(targets.roll(1, 0), share[:, None])


class OneOf(nn.Module):
    """Each image and its targets as one of several transforms makes them, all with the same probability.

    All take the same images, so that a neighbour is never mixed itself. torchvision's RandomChoice and timm choose for
    a whole batch; by the image each batch has some of both.
    """

    def __init__(self, transforms: Sequence[nn.Module], counts: Sequence[int]) -> None:
        """`counts` are those of each transform's draws."""
        super().__init__()
        self._transforms = nn.ModuleList(transforms)
        self._counts = [1, *counts]

    def forward(self, images: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """As `transforms.TRANSFORMS` has it; before the transforms' own draws stands the one that chooses."""
        draw, *of_each = draws.split_with_sizes(self._counts, 1)
        chosen = (draw * len(self._transforms)).long()
        made = images, targets
        for number, (transform, own) in enumerate(zip(self._transforms, of_each, strict=True)):
            mixed = transform(images, targets, own)
            its = chosen == number
            made = torch.where(its[:, :, None, None], mixed[0], made[0]), torch.where(its, mixed[1], made[1])
        return made


class Erasing(nn.Module):
    """Random erasing (Zhong et al. 2017): with a probability, a box somewhere in the image is set to the mean pixel.

    The mean is the recipe's, which the network sees as zero. What would be larger than the image is cut to its size.
    """

    roots: Tensor
    fill: Tensor

    def __init__(self, recipe: Recipe, probability: float) -> None:
        super().__init__()
        self._probability = probability
        middles = (np.arange(_CHOICES) + 0.5) / _CHOICES
        low, high = map(math.log, _ASPECTS)
        self.register_buffer("roots", torch.from_numpy(np.exp((low + middles * (high - low)) / 2)))
        self.register_buffer("fill", mean_pixel(recipe))

    def forward(self, images: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """As `transforms.TRANSFORMS` has it, with five draws: whether, area, aspect, place down and across."""
        size, (least, most) = images.shape[-1], _ERASED
        root = _chosen(self.roots, draws[:, 2])
        side = size * (least + (most - least) * draws[:, 1].to(root.dtype)).sqrt()
        sides = [length.round().clamp(1, size).long() for length in (side * root, side / root)]
        places = [(draws[:, 3 + axis] * (size - length + 1)).long() for axis, length in enumerate(sides)]
        rows, columns = (_between(place, length, size) for place, length in zip(places, sides, strict=True))
        erased = _box(rows & (draws[:, 0] < self._probability)[:, None], columns)
        return torch.where(erased, self.fill, images), targets


def mean_pixel(recipe: Recipe) -> Tensor:
    """The pixel that stands where there is no image: the recipe's mean, cut to 0..255, float64 [3, 1, 1]."""
    return torch.tensor(recipe.mean, dtype=torch.float64).clamp(0, 255)[:, None, None]


def beta_quantiles(alpha: float) -> NDArray[np.float64]:
    """Return the quantiles of Beta(alpha, alpha) at (i + ½) / 4096 for i = 0, 1, …: float64 [4096] in 0..1, rising.

    The density x^(α − 1) · (1 − x)^(α − 1) is integrated by trapezoids, over v where x = ½ · v^(1/α): below α = 1 that
    takes the pole at 0 away. The half above ½ mirrors the one below.
    """
    power = max(1.0, 1 / alpha)
    v = np.linspace(0, 1, 2**16 + 1)
    density = v ** max(alpha - 1, 0.0) * (1 - v**power / 2) ** (alpha - 1)
    mass = np.concatenate(([0.0], np.cumsum(density[1:] + density[:-1])))
    halves = (np.arange(_CHOICES // 2) + 0.5) / (_CHOICES // 2)
    below = np.interp(halves * mass[-1], mass, v) ** power / 2
    return np.concatenate((below, 1 - below[::-1]))


def _chosen(table: Tensor, draws: Tensor) -> Tensor:
    """The values of `table`, as many as a power of two, that `draws`, [M] in [0, 1), choose."""
    return table[(draws * len(table)).long()]


def _between(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Which of `size` places lie in start .. start + length, for each of int64 [M]: bool [M, size]."""
    places = torch.arange(size, device=start.device)
    return (places >= start[:, None]) & (places < (start + length)[:, None])


def _box(rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels in rows and columns, bool [M, S] each: bool [M, 1, S, S]."""
    return (rows[:, :, None] & columns[:, None, :])[:, None]
